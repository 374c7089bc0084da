"""Answers that are made to break a client: documents over the double, HTTP that is none over raw sockets."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Mapping

import pytest
import trio

from asyncbuild.errors import ImageNotFound, RegistryError, RemoteProtocolError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.registry.transport import Timeouts
from asyncbuild.testing.faults import Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.double import HOST, with_client

A = str(Digest.of(b"a"))
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": A, "size": 1}


def document(**fields: object) -> bytes:
    """A manifest with other fields."""
    return json.dumps({"schemaVersion": 2, "config": LAYER, "layers": [LAYER], **fields}).encode()


BOMBS: Mapping[str, bytes] = {
    "lists in lists": b"[" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "lists in a field": document(layers=1)[:-2] + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a number of a million digits": document()[:-1] + b',"a":' + b"9" * 1_000_000 + b"}",
    "a size of a million digits": document()[:-1] + b',"layers":[{"size":1' + b"0" * 10**6 + b"}]}",
    "more than four MiB": document(annotations={"a": "x" * (5 << 20)}),
    "a size below zero": document(layers=[{**LAYER, "size": -1}]),
    "a size with a point": document(layers=[{**LAYER, "size": 1e300}]),
    "a size that is true": document(layers=[{**LAYER, "size": True}]),
    "an unknown algorithm": document(layers=[{**LAYER, "digest": f"md5:{'0' * 32}"}]),
    "a digest that is a way out": document(layers=[{**LAYER, "digest": "sha256:../../etc/passwd"}]),
    "a short digest": document(config={**LAYER, "digest": "sha256:abcd"}),
    "a digest in capitals": document(config={**LAYER, "digest": A.upper()}),
    "image and index at once": document(manifests=[]),
    "neither image nor index": b'{"schemaVersion":2}',
    "schema 1": b'{"schemaVersion":1,"fsLayers":[]}',
    "an image that calls itself an index": document(
        mediaType="application/vnd.oci.image.index.v1+json"
    ),
    "an index that calls itself an image": json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [],
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        }
    ).encode(),
    "not UTF-8": b'{"schemaVersion":2,"a":"\xff\xfe"}',
    "nothing": b"",
    "null": b"null",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_no_manifest(body: bytes) -> None:
    """Bombs and contradictions are a registry's error, and cost no memory to speak of."""
    double = RegistryDouble()
    kind = "application/vnd.oci.image.manifest.v1+json"
    double.faults.add(Rule(Respond(200, body, {"content-type": kind}), times=None))

    async def pull(client: RegistryClient) -> None:
        await client.get_manifest("a", "1")

    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError) as caught:
            with_client(double, pull)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(caught.value.render()) < 4000
    assert caught.value.render().replace("\n", "").isprintable()
    assert len(double.log) <= 2


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_no_list_of_referrers(body: bytes) -> None:
    """The list of what refers to an image, and the one under its tag: an error, or nothing refers to it."""
    double = RegistryDouble()
    kind = "application/vnd.oci.image.index.v1+json"
    double.faults.add(Rule(Respond(200, body, {"content-type": kind}), times=None))

    async def ask_for(client: RegistryClient) -> None:
        assert await client.referrers("a", Digest.of(b"a"), "application/x") == ()

    with contextlib.suppress(RemoteProtocolError):
        with_client(double, ask_for)
    assert len(double.log) <= 4


@pytest.mark.parametrize(
    "link",
    [
        "</v2/a/referrers/sha256:0?n=1>; rel=next",
        "<https://elsewhere.example/v2/b/referrers/x>; rel=next",
        "<http://169.254.169.254/latest/meta-data>; rel=next",
    ],
)
def test_pages_of_referrers_without_end(link: str) -> None:
    """Some are read, all of them at the registry itself."""
    double = RegistryDouble()
    page = b'{"schemaVersion":2,"manifests":[]}'
    headers = {"content-type": "application/vnd.oci.image.index.v1+json", "link": link}
    double.faults.add(Rule(Respond(200, page, headers), times=None))

    async def ask_for(client: RegistryClient) -> None:
        assert await client.referrers("a", Digest.of(b"a"), "application/x") == ()

    with_client(double, ask_for)
    assert 2 <= len(double.log) <= 16
    assert {entry.host for entry in double.log} == {HOST}


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("body", [BOMBS["objects in objects"], b"x" * (5 << 20), b'{"errors":[1]}'])
def test_errors_that_are_bombs(status: int, body: bytes) -> None:
    """The words of an error are read up to a limit, and never in the way of the error."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(status, body), times=None))

    async def pull(client: RegistryClient) -> None:
        await client.get_manifest("a", "1")

    with pytest.raises(RegistryError) as caught:
        with_client(double, pull)
    assert len(caught.value.render()) < 2000
    assert sum(entry.bytes_out for entry in double.log) < 6 * (128 << 10)


@pytest.mark.parametrize("token", ["a\r\nX-Injected: 1", "a\nb", "\x1b[31m", "ü", "", 5, None])
def test_tokens_that_are_more_than_one_header(token: object) -> None:
    """What a token service hands out becomes a header only if it is plain text."""
    double = RegistryDouble()
    realm = 'Bearer realm="https://auth.example/token"'
    body = json.dumps({"token": token}).encode()
    double.faults.add(
        Rule(Respond(200, body), path="^/token", times=None),
        Rule(Respond(401, headers={"www-authenticate": realm}), times=None),
    )

    async def pull(client: RegistryClient) -> None:
        await client.get_manifest("a", "1")

    with pytest.raises(RemoteProtocolError, match="holds no token"):
        with_client(double, pull)
    assert all("x-injected" not in entry.headers for entry in double.log)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NONSENSE: Mapping[str, bytes] = {
    "a chunk's size that is no number": CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "a chunk's size below zero": CHUNKED + b"-5\r\nabc\r\n0\r\n\r\n",
    "a chunk of an exabyte": CHUNKED + b"fffffffffffffff\r\nabc",
    "a chunk's size of a megabyte": CHUNKED + b"0" * (1 << 20) + b"3\r\nabc\r\n0\r\n\r\n",
    "a chunk that is longer": CHUNKED + b"1\r\nabcdef\r\n0\r\n\r\n",
    "no last chunk": CHUNKED + b"3\r\nabc\r\n",
    "an endless trailer": CHUNKED + b"3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 200_000,
    "two lengths": OK + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "a length and chunks": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "a length below zero": OK + b"Content-Length: -3\r\n\r\nabc",
    "a length of a word": OK + b"Content-Length: many\r\n\r\nabc",
    "a length of an exabyte": OK + b"Content-Length: 1000000000000000000\r\n\r\nabc",
    "an unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "a header of a megabyte": OK + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n",
    "headers without end": OK + b"X: y\r\n" * 200_000,
    "a header that is none": OK + b"no colon here\r\n\r\n",
    "a header with a zero": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a folded header": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a status of six digits": b"HTTP/1.1 200000 OK\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "informational answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    "a change of protocols": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP 0.9": b"<html>hello</html>",
    "HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a split answer": OK + b"X: a\r\n\r\nHTTP/1.1 200 OK\r\nX-Y: z\r\n\r\n",
    "nothing": b"",
    "a gzip that is none": OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
}


async def _serve(answer: bytes, stream: trio.SocketStream) -> None:
    try:
        await stream.receive_some(1 << 16)
        await stream.send_all(answer)
        await stream.send_eof()
        while await stream.receive_some(1 << 16):
            pass
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


def ask(answer: bytes, what: str) -> RegistryError | None:
    """The error of asking a server that always sends ``answer``."""
    blob = Descriptor("application/octet-stream", Digest.of(b"a" * 1000), 1000)
    settings = RegistrySettings(
        others=HostSettings(plain=True),
        policy=RetryPolicy(attempts=2, base=0.001),
        timeouts=Timeouts(5, 2, 5, 5),
    )

    async def main() -> RegistryError | None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, lambda s: _serve(answer, s), [listener])
            host = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            found = None
            async with Registries(settings) as registries:
                client = registries.client(host)
                try:
                    if what == "manifest":
                        await client.get_manifest("a", "1")
                    elif what == "blob":
                        await client.get_blob("a", blob)
                    else:
                        await client.put_manifest("a", "1", document(), "application/x")
                except RegistryError as error:
                    found = error
            nursery.cancel_scope.cancel()
        return found

    return trio.run(main)


@pytest.mark.parametrize("what", ["manifest", "blob", "push"])
@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_no_http(answer: bytes, what: str) -> None:
    """Whatever comes instead of an answer is an error of the registry, soon, in words that are one line."""
    error = ask(answer, what)
    assert error is not None
    assert not isinstance(error, ImageNotFound)
    assert len(error.render()) < 2000
    assert error.render().replace("\n", "").isprintable()
