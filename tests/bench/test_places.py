"""Where runs of the bench stand: networks of their own, and registries' storages that are kept."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from perf.network import PORT, enter_own_network
from perf.prepared import fingerprint, prepared, sources_digest


def test_each_thread_has_the_same_port_for_itself() -> None:
    """Two registries listen at one address at once, and each is reached by its own client."""
    both_listen = Barrier(2, timeout=20)

    def heard(word: bytes) -> bytes:
        assert enter_own_network()
        with socket.create_server(("127.0.0.1", PORT)) as server:
            both_listen.wait()
            with socket.create_connection(server.getsockname()) as client:
                client.sendall(word)
                with server.accept()[0] as accepted:
                    return accepted.recv(100)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(heard, (b"one", b"other"))) == [b"one", b"other"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory in which bases are described."""
    monkeypatch.setenv("PERF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/bases.json").write_text("{}")
    return tmp_path / "cache"


def storage(place: Path, text: str) -> Path:
    """A registry's storage with one blob and one small file of a repository."""
    for name in ("blobs/one", "repositories/one"):
        file = place / "docker/registry/v2" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return place


def test_a_storage_is_made_once_for_a_key_and_replaced_for_another(
    cache: Path, tmp_path: Path
) -> None:
    """What was kept for another key is gone."""
    made: list[str] = []

    def make(word: str) -> Path:
        made.append(word)
        return storage(tmp_path / f"made-{len(made)}", word)

    first = prepared("J6-tool", "key", lambda: make("first"))
    assert prepared("J6-tool", "key", lambda: make("again")) == first
    assert (first / "docker/registry/v2/blobs/one").read_text() == "first"
    other = prepared("J6-tool", "other", lambda: make("other"))
    assert made == ["first", "other"]
    assert not first.exists()
    assert (other / "docker/registry/v2/repositories/one").read_text() == "other"


def test_what_could_not_be_made_is_not_kept(cache: Path, tmp_path: Path) -> None:
    """The next one tries again."""

    def fails() -> Path:
        raise SystemExit("no build")

    with pytest.raises(SystemExit):
        prepared("J6-tool", "key", fails)
    kept = prepared("J6-tool", "key", lambda: storage(tmp_path / "made", "second"))
    assert (kept / "docker/registry/v2/blobs/one").read_text() == "second"


def test_a_key_depends_on_its_words_the_bases_and_the_sources(cache: Path, tmp_path: Path) -> None:
    """Nothing of them may change without another key."""
    seen = {
        fingerprint("tool", "address"),
        fingerprint("tool", "other"),
        fingerprint("tooladdress"),
    }
    assert fingerprint("tool", "address") in seen
    (cache / "bases.json").write_text('{"many": []}')
    seen.add(fingerprint("tool", "address"))
    assert len(seen) == 4
    source = tmp_path / "src/room/module.py"
    source.parent.mkdir(parents=True)
    digests = set()
    for text in ("a = 1\n", "a = 2\n"):
        source.write_text(text)
        digests.add(sources_digest(tmp_path / "src"))
    source.rename(source.with_name("other.py"))
    digests.add(sources_digest(tmp_path / "src"))
    assert len(digests) == 3
