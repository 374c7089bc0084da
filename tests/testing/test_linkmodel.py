"""The far link's arithmetic against hand-made tables and properties, on times given as arguments."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.testing.linkmodel import (
    INITIAL_WINDOW,
    Flow,
    LinkShape,
    Wire,
    fetch_seconds,
    transfer,
)

MIB = 1024 * 1024


def _flow(shape: LinkShape) -> Flow:
    return Flow(shape, Wire(shape.bandwidth))


def test_one_byte_takes_one_way() -> None:
    """A byte on an idle link arrives after half a round trip."""
    flow = _flow(LinkShape(rtt=0.1))
    assert flow.opens_at(5.0) == 5.0
    assert flow.send(1, 5.0) == pytest.approx(5.05)


@pytest.mark.parametrize(
    ("size", "rounds"),
    [
        (1, 1),
        (INITIAL_WINDOW, 1),
        (INITIAL_WINDOW + 1, 2),
        (3 * INITIAL_WINDOW, 2),
        (3 * INITIAL_WINDOW + 1, 3),
        (127 * INITIAL_WINDOW, 7),
        (127 * INITIAL_WINDOW + 1, 8),
    ],
)
def test_slow_start_doubles_each_round(size: int, rounds: int) -> None:
    """Without a bandwidth limit n rounds carry (2^n - 1) initial windows."""
    shape = LinkShape(rtt=0.1, window=1 << 40)
    assert transfer(_flow(shape), 0.05, size, 0.0) == pytest.approx(0.1 * (rounds - 1) + 0.05)


def test_window_over_rtt_bounds_one_stream() -> None:
    """Once the window is full grown a stream moves one window per round trip: 3 MiB at 100 ms, 31 MB/s."""
    shape = LinkShape(rtt=0.1, bandwidth=125e6, window=3 * MIB)
    flow = _flow(shape)
    begun = transfer(flow, 0.05, 20 * MIB, 0.0)
    rate = 60 * MIB / (transfer(flow, 0.05, 60 * MIB, begun) - begun)
    assert rate == pytest.approx(3 * MIB / 0.1, rel=0.04)


def test_bandwidth_bounds_a_link_without_delay() -> None:
    """At RTT 0 nothing but the bandwidth counts."""
    shape = LinkShape(rtt=0.0, bandwidth=10e6)
    assert transfer(_flow(shape), 0.0, 50_000_000, 1.0) == pytest.approx(6.0)


def test_connection_has_its_own_bandwidth() -> None:
    """The rate of one connection holds although the link could carry more."""
    shape = LinkShape(rtt=0.02, bandwidth=125e6, per_connection=5e6)
    assert transfer(_flow(shape), 0.01, 50_000_000, 0.0) == pytest.approx(10.0, rel=0.03)


def test_connections_share_the_link() -> None:
    """What two flows send at once leaves the wire one after the other."""
    shape = LinkShape(rtt=0.1, bandwidth=1e6)
    wire = Wire(shape.bandwidth)
    first, second = Flow(shape, wire), Flow(shape, wire)
    assert first.send(10_000, 0.0) == pytest.approx(0.06)
    assert second.send(10_000, 0.0) == pytest.approx(0.07)


def test_measured_figures_of_the_intent() -> None:
    """100 MB at 1 Gb/s and 100 ms on one connection: 4.2 s; 2 MB: 1.1 s with TLS, 0.1 s when warm."""
    shape = LinkShape(rtt=0.1, bandwidth=125e6)
    assert fetch_seconds(shape, 100_000_000) == pytest.approx(4.2, rel=0.1)
    assert fetch_seconds(shape, 2_000_000, round_trips=2) == pytest.approx(1.1, rel=0.1)
    flow = _flow(shape)
    warm = transfer(flow, 0.05, 20_000_000, 0.0)
    assert transfer(flow, 0.05, 2_000_000, warm + 0.1) - warm < 0.2


def test_idle_window_is_halved_per_timeout() -> None:
    """One time-out is a round trip and 200 ms; each that passes halves the window, not below the initial one."""
    shape = LinkShape(rtt=0.1, window=64 * INITIAL_WINDOW)
    flow = _flow(shape)
    done = transfer(flow, 0.05, 1000 * INITIAL_WINDOW, 0.0) + 0.05
    assert flow.opens_at(done) == done
    assert flow.room(done) == 64 * INITIAL_WINDOW
    assert flow.room(done + 0.71) == 16 * INITIAL_WINDOW
    assert flow.room(done + 60) == INITIAL_WINDOW


def test_window_is_kept_where_asked() -> None:
    """With collapses_when_idle off a warm window stays warm."""
    shape = LinkShape(rtt=0.1, window=8 * INITIAL_WINDOW, collapses_when_idle=False)
    flow = _flow(shape)
    done = transfer(flow, 0.05, 100 * INITIAL_WINDOW, 0.0)
    assert flow.opens_at(done + 100) == done + 100
    assert flow.room(done + 100) == 8 * INITIAL_WINDOW


def test_unused_window_does_not_grow() -> None:
    """Small requests, however many, do not open the window."""
    flow = _flow(LinkShape(rtt=0.1))
    at = 0.0
    for _ in range(50):
        opens = flow.opens_at(at)
        assert opens == at
        flow.delivered(500, flow.send(500, at))
        at += 0.1
    assert flow.window == INITIAL_WINDOW


def test_full_window_waits_for_delivery() -> None:
    """A receiver that takes nothing stops the sender after one window; taking opens it one way later."""
    flow = _flow(LinkShape(rtt=0.1))
    flow.send(INITIAL_WINDOW, 0.0)
    assert flow.opens_at(0.0) is None
    flow.delivered(100, 7.0)
    assert flow.opens_at(0.0) == pytest.approx(7.05)


def test_new_connection_opens_after_its_handshake() -> None:
    """What is there earlier waits until the connection is open."""
    flow = Flow(LinkShape(rtt=0.1), Wire(0), opened_at=3.0)
    assert flow.opens_at(2.9) == 3.0


@given(
    rtt=st.floats(0.001, 0.3),
    bandwidth=st.floats(1e5, 1e9),
    window=st.integers(1, 256).map(lambda n: n * INITIAL_WINDOW),
    size=st.integers(1, 3_000_000),
)
def test_no_transfer_beats_physics(rtt: float, bandwidth: float, window: int, size: int) -> None:
    """No transfer is faster than delay plus bytes over bandwidth, or than its windows; a larger is not faster."""
    shape = LinkShape(rtt=rtt, bandwidth=bandwidth, window=window)
    took = transfer(_flow(shape), rtt / 2, size, 0.0)
    assert took >= rtt / 2 + size / bandwidth - 1e-9
    assert took >= rtt / 2 + (math.ceil(size / window) - 1) * rtt - 1e-6
    assert transfer(_flow(shape), rtt / 2, size + 1000, 0.0) >= took - 1e-9


@given(
    sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=30),
    window=st.integers(1, 16).map(lambda n: n * INITIAL_WINDOW),
)
def test_bytes_in_flight_stay_within_the_window(sizes: list[int], window: int) -> None:
    """However the sender cuts what it has, no more than the largest window is under way."""
    flow = _flow(LinkShape(rtt=0.1, bandwidth=1e6, window=window))
    at = 0.0
    for size in sizes:
        left = size
        while left:
            opens = flow.opens_at(at)
            assert opens is not None
            at = opens
            count = min(left, flow.room(at))
            flow.delivered(count, flow.send(count, at))
            assert 0 < flow.in_flight <= flow.window <= window
            left -= count
