"""Pushing blobs: in one piece, streamed, mounted, refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import (
    IntegrityError,
    NotAuthorized,
    RegistryError,
    RegistryUnavailable,
    RemoteProtocolError,
    StoreError,
)
from asyncbuild.image.digest import Digest
from asyncbuild.registry.bodies import BytesBody, ChunksBody, FileBody, Reading
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.upload import Mounted, UploadSession
from asyncbuild.testing.faults import (
    Action,
    Drop,
    DropAnswer,
    DropUpload,
    Hang,
    Respond,
    Rule,
    WithHeaders,
)
from asyncbuild.testing.registry import RegistryDouble
from support.double import with_client

DATA = bytes(range(256)) * 10_000
DIGEST = Digest.of(DATA)


class Chunks:
    """An async iterator over a list, that may end with an exception."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self._chunks = list(chunks)
        self._error = error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._chunks:
            return self._chunks.pop(0)
        raise self._error or StopAsyncIteration


async def begin(client: RegistryClient) -> UploadSession:
    """A session in repository ``a``."""
    session = await client.mount_or_start_upload("a")
    assert isinstance(session, UploadSession)
    return session


def trace(double: RegistryDouble) -> list[str]:
    """Every request, as method and status."""
    return [f"{entry.method} {entry.status}" for entry in double.log]


def put(*rules: Rule, body: bytes | FileBody = DATA) -> RegistryDouble:
    """Push `DATA` in one piece to a double with these faults."""
    double = RegistryDouble()
    double.faults.add(*rules)

    async def use(client: RegistryClient) -> None:
        await (await begin(client)).put(body, DIGEST)

    with_client(double, use)
    return double


def test_one_piece() -> None:
    """POST and one PUT with a Content-Length; a blob is there."""
    double = put()
    assert double.blobs["a"] == {DIGEST: DATA}
    assert trace(double) == ["POST 202", "PUT 201"]
    assert double.log[0].headers["content-length"] == "0"
    assert double.log[1].headers["content-length"] == str(len(DATA))
    assert double.log[1].headers["content-type"] == "application/octet-stream"


def test_a_file(shm_path: Path) -> None:
    """A file goes as bytes do, and only as much of it as was said."""
    path = shm_path / "blob"
    path.write_bytes(DATA + b"more")
    double = put(body=FileBody(str(path), len(DATA)))
    assert double.blobs["a"] == {DIGEST: DATA}


def test_a_file_that_is_not_what_it_was(shm_path: Path) -> None:
    """A file that is missing or too short is an error of the disk, not of the registry."""
    path = shm_path / "blob"
    with pytest.raises(StoreError, match="cannot be sent"):
        put(body=FileBody(str(path), len(DATA)))
    path.write_bytes(DATA[:-1])
    with pytest.raises(StoreError, match="is shorter than it was"):
        put(body=FileBody(str(path), len(DATA)))
    with pytest.raises(StoreError, match="cannot be sent"):
        put(body=FileBody(str(shm_path), len(DATA)))


@pytest.mark.parametrize(
    "action",
    [
        Respond(500),
        Respond(429, headers={"retry-after": "3"}),
        Drop(),
        DropUpload(0),
        Hang(),
    ],
)
def test_one_piece_begins_again(action: Action) -> None:
    """After a temporary failure the session is asked what it has; of nothing everything is sent again."""
    double = put(Rule(action, "PUT"))
    assert double.blobs["a"] == {DIGEST: DATA}
    assert [entry.method for entry in double.log] == ["POST", "PUT", "GET", "PUT"]


def test_one_piece_gives_up() -> None:
    """A registry that never takes it is an error after a bounded number of tries."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(502), "PUT", times=None))

    async def use(client: RegistryClient) -> None:
        await (await begin(client)).put(DATA, DIGEST)

    with pytest.raises(RegistryUnavailable, match="push a blob to a failed"):
        with_client(double, use)
    assert len(double.asked("PUT")) == 5


def test_start_is_tried_again() -> None:
    """Beginning a session harms nothing, so it is tried again."""
    assert trace(put(Rule(Respond(503), "POST", times=2)))[:3] == [
        "POST 503",
        "POST 503",
        "POST 202",
    ]


def test_wrong_digest() -> None:
    """Bytes that are not what they are called are an integrity error, and are not sent again."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> None:
        await (await begin(client)).put(DATA, Digest.of(b"other"))

    with pytest.raises(IntegrityError, match="DIGEST_INVALID"):
        with_client(double, use)
    assert trace(double) == ["POST 202", "PUT 400"]


def test_registry_that_kept_something_else() -> None:
    """A registry that names another digest than it was given is not believed."""
    other = str(Digest.of(b"other"))
    with pytest.raises(IntegrityError, match="was meant"):
        put(Rule(WithHeaders({"docker-content-digest": other}), "PUT"))
    put(Rule(WithHeaders({"docker-content-digest": "sha512:" + "0" * 128}), "PUT"))
    put(Rule(WithHeaders({"docker-content-digest": "nonsense"}), "PUT"))


def test_streamed() -> None:
    """One PATCH of bytes while they are made, then the digest; each at the location that came last."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> int:
        session = await begin(client)
        sent = await session.stream(ChunksBody(Chunks(DATA[:1000], b"", DATA[1000:])))
        await session.close(DIGEST)
        await session.abort()
        return sent

    assert with_client(double, use) == len(DATA)
    assert double.blobs["a"] == {DIGEST: DATA}
    assert trace(double) == ["POST 202", "PATCH 202", "PUT 201"]
    assert double.log[1].headers["transfer-encoding"] == "chunked"
    assert "content-length" not in double.log[1].headers
    assert double.log[2].headers["content-length"] == "0"


def test_streamed_with_a_known_size() -> None:
    """A size that is known is declared."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> None:
        session = await begin(client)
        await session.stream(ChunksBody(Chunks(DATA), size=len(DATA)))
        await session.close(DIGEST)

    with_client(double, use)
    assert double.log[1].headers["content-length"] == str(len(DATA))


def test_stream_is_sent_while_it_is_made() -> None:
    """The registry has the first bytes before the last ones exist."""
    double = RegistryDouble()

    class Watching(Chunks):
        async def __anext__(self) -> bytes:
            chunk = await super().__anext__()
            if chunk == b"last":
                assert double.log[1].bytes_in == 5
            return chunk

    async def use(client: RegistryClient) -> None:
        session = await begin(client)
        await session.stream(ChunksBody(Watching(b"first", b"last")))
        await session.close(Digest.of(b"firstlast"))

    with_client(double, use)


def test_stream_is_not_tried_again() -> None:
    """Bytes that are gone cannot be sent twice: the error says that the registry failed."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(500), "PATCH"))

    async def use(client: RegistryClient) -> None:
        await (await begin(client)).stream(ChunksBody(Chunks(DATA)))

    with pytest.raises(RegistryUnavailable):
        with_client(double, use)
    assert trace(double) == ["POST 202", "PATCH 500"]


def test_streamed_close_is_tried_again() -> None:
    """The closing PUT has no body: it can be repeated, if the session has what it had."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(503), "PUT"))

    async def use(client: RegistryClient) -> None:
        session = await begin(client)
        await session.stream(ChunksBody(Chunks(DATA)))
        await session.close(DIGEST)

    with_client(double, use)
    assert trace(double) == ["POST 202", "PATCH 202", "PUT 503", "GET 204", "PUT 201"]


def test_maker_fails() -> None:
    """An exception of the maker comes through as it is, and the session can be aborted."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> None:
        session = await begin(client)
        try:
            await session.stream(ChunksBody(Chunks(DATA, error=ZeroDivisionError("mine"))))
        finally:
            await session.abort()

    with pytest.raises(ZeroDivisionError, match="mine"):
        with_client(double, use)
    assert [entry.method for entry in double.log] == ["POST", "PATCH", "DELETE"]
    assert double.uploads == {}


def test_abort_while_cancelled() -> None:
    """A session is ended at the registry even by a task that is being cancelled, within a few seconds."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> float:
        session = await begin(client)
        started = trio.current_time()
        with trio.move_on_after(1):
            try:
                await trio.sleep_forever()
            finally:
                await session.abort()
        return trio.current_time() - started

    assert with_client(double, use) < 2
    assert double.uploads == {}
    double.faults.add(Rule(Hang(), "DELETE"))
    assert with_client(double, use) == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize("action", [Respond(500), Respond(401), Respond(404), Drop()])
def test_abort_never_fails(action: Action) -> None:
    """Whatever the registry says to the end of a session, it is over for us; a second time is nothing."""
    double = RegistryDouble()
    double.faults.add(Rule(action, "DELETE", times=None))

    async def use(client: RegistryClient) -> None:
        session = await begin(client)
        await session.abort()
        await session.abort()

    with_client(double, use)
    assert len(double.asked("DELETE")) == 1


class Growing:
    """A body of which nobody knows the size before its end, that can be read again."""

    size = None
    replayable = True

    def __init__(self, data: bytes) -> None:
        self._body = BytesBody(data)

    def read(self, start: int = 0) -> Reading:
        """From byte ``start`` on."""
        return self._body.read(start)


def sent(double: RegistryDouble) -> list[str]:
    """Every request with the number of bytes that came in."""
    return [f"{entry.method} {entry.bytes_in}" for entry in double.log]


def push_streamed(*rules: Rule, data: bytes = DATA, resumable: bool = True) -> RegistryDouble:
    """Stream ``data`` to a double with these faults, and close."""
    double = RegistryDouble()
    double.upload_sessions.resumable = resumable
    double.faults.add(*rules)

    async def use(client: RegistryClient) -> None:
        session = await begin(client)
        assert await session.stream(Growing(data)) in (len(data), 0)
        await session.close(Digest.of(data))

    with_client(double, use)
    assert double.blobs["a"] == {Digest.of(data): data}
    assert double.uploads == {}
    return double


def test_resumed_where_it_broke() -> None:
    """A connection that breaks at nine tenths costs what the registry had not taken, and no more."""
    data = bytes(64 << 20)
    double = RegistryDouble()
    double.faults.add(Rule(DropUpload(len(data) * 9 // 10), "PUT"))

    async def use(client: RegistryClient) -> None:
        await (await begin(client)).put(data, Digest.of(data))

    with_client(double, use)
    assert [entry.method for entry in double.log] == ["POST", "PUT", "GET", "PATCH", "PUT"]
    assert sum(entry.bytes_in for entry in double.log) == len(data)
    assert double.log[3].headers["content-range"] == f"{len(data) * 9 // 10}-{len(data) - 1}"
    assert double.blobs["a"] == {Digest.of(data): data}


def test_stream_is_resumed_where_it_broke() -> None:
    """So does a stream whose bytes can be read again; several breaks too."""
    double = push_streamed(
        Rule(DropUpload(1_000_000), "PATCH"), Rule(DropUpload(1_400_000), "PATCH", nth=2)
    )
    assert sent(double)[1:] == [
        "PATCH 1000000",
        "GET 0",
        "PATCH 1400000",
        "GET 0",
        "PATCH 160000",
        "PUT 0",
    ]


def test_session_that_is_forgotten() -> None:
    """A registry that forgets a session that broke is sent everything again."""
    double = push_streamed(Rule(DropUpload(1_000_000), "PATCH"), resumable=False)
    assert [f"{entry.method} {entry.status}" for entry in double.log[2:]] == [
        "GET 404",
        "POST 202",
        "PATCH 202",
        "PUT 201",
    ]


def test_answers_that_are_lost() -> None:
    """Where the answer to a request is lost, the registry is asked what it has done; nothing goes twice."""
    double = push_streamed(Rule(DropAnswer(), "PATCH"))
    assert sent(double)[1:] == [f"PATCH {len(DATA)}", "GET 0", "PATCH 0", "PUT 0"]
    double = push_streamed(Rule(DropAnswer(), "PUT"))
    assert trace(double)[2:] == ["PUT 201", "GET 404", "HEAD 200"]
    double = put(Rule(DropAnswer(), "PUT"))
    assert trace(double) == ["POST 202", "PUT 201", "GET 404", "HEAD 200"]


@pytest.mark.parametrize("status", [404, 416])
def test_session_that_is_denied(status: int) -> None:
    """A registry that does not know a session, once, is given another one; for good it is an error."""
    push_streamed(Rule(Respond(status), "PATCH"))
    push_streamed(Rule(Respond(status), "PUT"))
    with pytest.raises(RegistryError):
        push_streamed(Rule(Respond(status), "PATCH", times=None))


def test_state_that_lies() -> None:
    """Bytes spliced at a place that the registry told wrongly are found out, and everything goes again."""
    told = WithHeaders({"range": "0-1500000"})
    double = push_streamed(Rule(DropUpload(1_000_000), "PATCH"), Rule(told, "GET"))
    assert len(double.asked("POST")) == 2


def test_breaks_are_counted_anew() -> None:
    """Breaks are counted from the last MiB that got there: a large blob survives many of them."""
    data = bytes(12 << 20)
    double = push_streamed(Rule(DropUpload(1_100_000), "PATCH", times=None), data=data[: 11 << 20])
    assert len(double.asked("PATCH")) == 11


@pytest.mark.parametrize("status", [400, 405, 411, 501])
def test_only_whole(status: int) -> None:
    """A registry that takes no PATCH gets streamed blobs whole, at their end; the second at once."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(status), "PATCH", times=None))

    async def use(client: RegistryClient) -> None:
        for text in (b"one", b"two"):
            session = await begin(client)
            await session.stream(BytesBody(text))
            await session.close(Digest.of(text))

    with_client(double, use)
    assert [entry.method for entry in double.log] == [
        "POST",
        "PATCH",
        "DELETE",
        "POST",
        "PUT",
        "POST",
        "PUT",
    ]


@pytest.mark.parametrize("status", [400, 405, 411])
def test_only_in_chunks(status: int) -> None:
    """A registry that takes no blob with its closing PUT gets it by PATCH; the second one at once."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(status), "PUT"))

    async def use(client: RegistryClient) -> None:
        for text in (b"one", b"two"):
            await (await begin(client)).put(text, Digest.of(text))

    with_client(double, use)
    methods = [entry.method for entry in double.log]
    assert methods == ["POST", "PUT", "DELETE", "POST", "PATCH", "PUT", "POST", "PATCH", "PUT"]


def test_few_bytes_at_a_time() -> None:
    """Behind a proxy that lets 4 MiB through, blobs go in pieces of that; smaller ones as ever."""
    data = bytes(9 << 20)
    double = RegistryDouble()
    double.faults.add(Rule(Respond(413), "PUT"))

    async def use(client: RegistryClient) -> None:
        await (await begin(client)).put(data, Digest.of(data))
        await (await begin(client)).put(b"small", Digest.of(b"small"))
        session = await begin(client)
        await session.stream(Growing(data + b"x"))
        await session.close(Digest.of(data + b"x"))

    with_client(double, use)
    four = 4 << 20
    assert sent(double)[4:9] == [
        f"PATCH {four}",
        f"PATCH {four}",
        f"PATCH {1 << 20}",
        "PUT 0",
        "POST 0",
    ]
    assert sent(double)[9:11] == ["PUT 5", "POST 0"]
    assert sent(double)[11:] == [
        f"PATCH {four}",
        f"PATCH {four}",
        f"PATCH {(1 << 20) + 1}",
        "PUT 0",
    ]
    ranges = [entry.headers.get("content-range") for entry in double.asked("PATCH")][:3]
    assert ranges == [f"0-{four - 1}", f"{four}-{2 * four - 1}", f"{2 * four}-{len(data) - 1}"]


def test_mount() -> None:
    """One request, and the blob is in the other repository."""
    double = RegistryDouble()
    blob = double.add_blob("base", DATA)

    async def use(client: RegistryClient) -> object:
        return await client.mount_or_start_upload("a", blob.digest, "base")

    assert with_client(double, use) == Mounted(DIGEST)
    assert double.blobs["a"] == {DIGEST: DATA}
    assert trace(double) == ["POST 201"]


def test_mount_from_itself_asks_whether_it_is_there() -> None:
    """Without a source the repository is asked for its own blob: a check and a session in one request."""
    double = RegistryDouble()
    double.add_blob("a", DATA)

    async def use(client: RegistryClient) -> list[object]:
        there = await client.mount_or_start_upload("a", DIGEST)
        absent = await client.mount_or_start_upload("a", Digest.of(b"absent"))
        return [there, absent]

    there, absent = with_client(double, use)
    assert there == Mounted(DIGEST)
    assert isinstance(absent, UploadSession)
    assert trace(double) == ["POST 201", "POST 202"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_mount_that_is_refused(status: int) -> None:
    """A registry that refuses to mount is asked for a plain session."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(status), "POST"))

    async def use(client: RegistryClient) -> object:
        return await client.mount_or_start_upload("a", DIGEST, "base")

    assert isinstance(with_client(double, use), UploadSession)
    assert trace(double) == [f"POST {status}", "POST 202"]
    assert double.log[1].query == ""


def test_push_that_is_refused() -> None:
    """A refusal of the push itself stays one."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(403, b'{"errors":[{"code":"DENIED"}]}'), "POST", times=None))

    async def use(client: RegistryClient) -> None:
        await client.mount_or_start_upload("a", DIGEST, "base")

    with pytest.raises(NotAuthorized, match="push a blob to a"):
        with_client(double, use)
    assert len(double.log) == 2


@pytest.mark.parametrize("location", [None, "ftp://x/", "http://elsewhere.example/x"])
def test_session_without_a_place(location: str | None) -> None:
    """A session needs a location on the web, and never one over plain http."""
    with pytest.raises(RemoteProtocolError):
        put(Rule(WithHeaders({"location": location}), "POST"))


def test_session_at_another_host() -> None:
    """A location on another host gets the bytes, but no authorization (see test_authorize)."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> None:
        session = await begin(client)
        path = session.location.partition("registry.example")[2]
        double.faults.add(
            Rule(WithHeaders({"location": f"https://up.example{path}"}), "POST", nth=1)
        )
        second = await begin(client)
        with pytest.raises(RegistryError):
            await second.put(DATA, Digest.of(b"other"))
        await session.abort()

    with_client(double, use)
    hosts = [(entry.method, entry.host, entry.authorization) for entry in double.log]
    assert ("PUT", "up.example", "") in hosts
