"""Agents for RUN: a real ssh-agent behind a socket that permits two things."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from asyncbuild.build.run_options import SshSource
from asyncbuild.build.ssh_agents import SocketOwner, forwarded_agent
from asyncbuild.errors import InputError

pytestmark = pytest.mark.integration

FAILURE = b"\0\0\0\1\5"
LIST = b"\0\0\0\1\x0b"


@pytest.fixture(scope="module")
def key(session_path: Path) -> Path:
    """A private key without a passphrase."""
    return make_key(session_path / "ssh-key", "")


def make_key(path: Path, passphrase: str) -> Path:
    """A new private key, called ``for tests``."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "for tests", "-f"]
    subprocess.run([*command, str(path)], check=True, stdin=subprocess.DEVNULL)
    return path


@pytest.fixture
def work(shm_path: Path) -> Path:
    """A work directory whose path is longer than a socket's name may be."""
    path = shm_path / ("long" * 40)
    path.mkdir()
    return path


def with_agent(
    source: SshSource,
    work: Path,
    use: Callable[[trio.SocketStream, Path], Awaitable[None]],
    owner: SocketOwner | None = None,
) -> None:
    """Forward an agent and connect to the RUN's socket."""

    async def main() -> None:
        async with forwarded_agent(source, owner or SocketOwner(), work) as path:
            directory = os.open(path.parent, os.O_PATH)
            try:
                name = f"/proc/self/fd/{directory}/{path.name}"
                async with await trio.open_unix_socket(name) as stream:
                    await use(stream, path)
            finally:
                os.close(directory)

    trio.run(main)


async def ask(stream: trio.SocketStream, request: bytes) -> bytes:
    """Send a request, cut in two, and read the whole answer."""
    await stream.send_all(request[:3])
    await stream.send_all(request[3:])
    answer = b""
    while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4], "big"):
        chunk = await stream.receive_some(4096)
        assert chunk
        answer += chunk
    return answer


def test_keys_of_files(key: Path, work: Path) -> None:
    """An agent is made for them; it lists them, whoever may read their file."""
    key.chmod(0o644)

    async def use(stream: trio.SocketStream, _: Path) -> None:
        answer = await ask(stream, LIST)
        assert answer[4] == 12  # SSH_AGENT_IDENTITIES_ANSWER
        assert b"for tests" in answer
        assert await ask(stream, LIST) == answer

    with_agent(SshSource(keys=(key,)), work, use)


def test_what_the_socket_belongs_to(key: Path, work: Path) -> None:
    """Mode and owner are the mount's."""

    async def use(_: trio.SocketStream, path: Path) -> None:
        status = path.stat()  # noqa: ASYNC240 - in memory
        assert stat.S_ISSOCK(status.st_mode)
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o741, 100, 102)

    with_agent(SshSource(keys=(key,)), work, use, SocketOwner(0o741, 100, 102))


@pytest.mark.parametrize("kind", [17, 18, 19, 22, 23, 25, 27, 0, 255])
def test_what_is_refused(agent: Path, work: Path, kind: int) -> None:
    """Adding, removing, locking, extensions: the agent never hears of it, and the connection goes on."""

    async def use(stream: trio.SocketStream, _: Path) -> None:
        assert await ask(stream, b"\0\0\0\3" + bytes([kind]) + b"xy") == FAILURE
        assert b"for tests" in await ask(stream, LIST)

    with_agent(SshSource(socket=agent), work, use)


@pytest.fixture
def agent(key: Path, shm_path: Path) -> Iterator[Path]:
    """An agent that runs and has the key."""
    socket = shm_path / "s"
    with subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", "-"], input=key.read_bytes(), env=environment, check=True)
        yield socket
        process.terminate()


@pytest.mark.parametrize("size", [b"\0\0\0\0\x0b", b"\xff\xff\xff\xff\x0b"])
def test_what_is_no_message(agent: Path, work: Path, size: bytes) -> None:
    """A length that cannot be is hung up on."""

    async def use(stream: trio.SocketStream, _: Path) -> None:
        await stream.send_all(size)
        assert await stream.receive_some(10) == b""

    with_agent(SshSource(socket=agent), work, use)


def test_several_connections_at_once(agent: Path, work: Path) -> None:
    """Each has its own, also one that comes and goes without a word."""

    async def use(stream: trio.SocketStream, path: Path) -> None:
        directory = os.open(path.parent, os.O_PATH)
        name = f"/proc/self/fd/{directory}/{path.name}"
        async with await trio.open_unix_socket(name) as other:
            await (await trio.open_unix_socket(name)).aclose()
            assert await ask(other, LIST) == await ask(stream, LIST)
        os.close(directory)

    with_agent(SshSource(socket=agent), work, use)


def test_raw(shm_path: Path, work: Path) -> None:
    """raw=true: whatever listens is forwarded byte for byte, both ways."""

    async def echo(stream: trio.SocketStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk.upper())

    async def main() -> None:
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(shm_path / "raw"))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, [trio.SocketListener(listener)])
            source = SshSource(socket=shm_path / "raw", raw=True)
            async with forwarded_agent(source, SocketOwner(), work) as path:
                directory = os.open(path.parent, os.O_PATH)
                async with await trio.open_unix_socket(
                    f"/proc/self/fd/{directory}/{path.name}"
                ) as s:
                    await s.send_all(b"anything")
                    await s.send_eof()
                    assert b"".join([chunk async for chunk in s]) == b"ANYTHING"
                os.close(directory)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_keys_that_cannot_be_used(shm_path: Path, work: Path) -> None:
    """No key, a passphrase, nothing there: an error that names the file."""

    async def use(_: trio.SocketStream, __: Path) -> None:
        raise AssertionError

    (shm_path / "junk").write_text("junk")
    locked = make_key(shm_path / "locked", "a passphrase")
    for number, path in enumerate((shm_path / "junk", locked, shm_path / "missing")):
        place = work / str(number)
        place.mkdir()
        with pytest.raises(InputError, match=re.escape(str(path))):
            with_agent(SshSource(keys=(path,)), place, use)


def test_what_goes_wrong_in_the_block_comes_out_as_it_is(agent: Path, work: Path) -> None:
    """Not in an exception group."""

    async def use(_: trio.SocketStream, __: Path) -> None:
        raise InputError("of the block")

    with pytest.raises(InputError, match="of the block"):
        with_agent(SshSource(socket=agent), work, use)
