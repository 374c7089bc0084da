"""RUN --mount=type=ssh: an agent of this machine, or one made for some keys, at a socket of the RUN.

The RUN gets a socket of its own, so that it can belong to whom the mount says, and an agent that can be
asked for two things: which keys there are, and to sign with one. Like BuildKit
(``session/sshforward/sshprovider``) we refuse the rest: a RUN cannot add, remove or lock keys.

The protocol is that of draft-miller-ssh-agent: messages of a length (4 bytes, big-endian), a type (1 byte)
and a body; each request has one answer, in order.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from asyncbuild.build.run_options import SshSource
from asyncbuild.errors import InputError
from asyncbuild.records import dataclass

REQUEST_IDENTITIES = 11
SIGN_REQUEST = 13
_PERMITTED = (REQUEST_IDENTITIES, SIGN_REQUEST)
_FAILURE = b"\0\0\0\1\5"  # SSH_AGENT_FAILURE
_LARGEST = 256 << 10
"""Bytes of a message, as in OpenSSH; whoever sends more is hung up on."""
_CHUNK = 64 << 10
_SOCKET = "agent"
_PATIENCE = 10.0
"""Seconds for ssh-agent to listen."""


@dataclass(frozen=True, slots=True)
class SocketOwner:
    """Who may use the RUN's socket."""

    mode: int = 0o600
    uid: int = 0
    gid: int = 0


@asynccontextmanager
async def forwarded_agent(source: SshSource, owner: SocketOwner, work: Path) -> AsyncIterator[Path]:
    """The path of a socket behind which ``source`` answers, as long as the block lasts.

    ``work`` is an empty directory. Raises `InputError` if there is no agent, or no such key.
    """
    failure: Exception | None = None
    async with _agent(source, work) as agent:
        async with trio.open_nursery() as nursery:
            path = work / "run"
            listener = await trio.to_thread.run_sync(_listen, path, owner)
            relay = _Relay(agent, raw=source.raw)
            nursery.start_soon(trio.serve_listeners, relay.serve, [listener])
            try:
                yield path
            except Exception as error:  # noqa: BLE001 - goes on below, without the nursery's group
                failure = error
            finally:
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


@asynccontextmanager
async def _agent(source: SshSource, work: Path) -> AsyncIterator[Path]:
    """The socket of the agent that answers: one that runs, or our own with the keys in it."""
    if source.socket is not None:
        yield source.socket
        return
    process = await _start_agent(work)
    assert process.stdout is not None
    try:
        with trio.move_on_after(_PATIENCE):
            await process.stdout.receive_some()  # it says where it listens once it does
        for key in source.keys:
            await _add_key(work, key)
        yield work / _SOCKET
    finally:
        process.terminate()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _PATIENCE):
            await process.wait()
            await process.stdout.aclose()


async def _start_agent(work: Path) -> trio.Process:
    """OpenSSH's, in ``work``: a relative path is never too long for a socket."""
    try:
        return await trio.lowlevel.open_process(
            ["ssh-agent", "-D", "-a", _SOCKET],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=work,
        )
    except FileNotFoundError:
        raise InputError(
            "--ssh with key files needs the program ssh-agent",
            hint="install openssh-client, or forward an agent that runs: --ssh default=SOCKET",
        ) from None


async def _add_key(work: Path, key: Path) -> None:
    """Give a key to our agent, by a pipe: nobody's permissions on the file matter."""
    try:
        data = await trio.to_thread.run_sync(key.read_bytes)
    except OSError as error:
        raise InputError(f"--ssh: cannot read {key}: {error.strerror}") from None
    done = await trio.run_process(
        ["ssh-add", "-q", "-"],
        stdin=data,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        start_new_session=True,
        cwd=work,
        env={**os.environ, "SSH_AUTH_SOCK": _SOCKET, "SSH_ASKPASS_REQUIRE": "never"},
    )
    if done.returncode != 0:
        raise InputError(
            f"--ssh: {key} is no private key that can be used",
            hint="keys with a passphrase cannot: forward an agent that has it, --ssh default=SOCKET",
        )


def _listen(path: Path, owner: SocketOwner) -> trio.SocketListener:
    """A listening socket at ``path``, named by its directory's descriptor: a path may be too long."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.chown(path, owner.uid, owner.gid)
        os.chmod(path, owner.mode & 0o777)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


class _Relay:
    """Carries each connection of the RUN to the agent."""

    def __init__(self, agent: Path, *, raw: bool) -> None:
        self._agent = agent
        self._raw = raw

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection; whatever goes wrong with it ends it, and nothing else."""
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with client, await self._dial() as agent:
                if self._raw:
                    await _carry_both_ways(client, agent)
                else:
                    await _answer_requests(client, agent)

    async def _dial(self) -> trio.SocketStream:
        directory = os.open(self._agent.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            try:
                await connection.connect(f"/proc/self/fd/{directory}/{self._agent.name}")
            except BaseException:
                connection.close()
                raise
            return trio.SocketStream(connection)
        finally:
            os.close(directory)


async def _answer_requests(client: trio.SocketStream, agent: trio.SocketStream) -> None:
    requests, answers = _Messages(client), _Messages(agent)
    while (request := await requests.next()) is not None:
        if request[4] not in _PERMITTED:
            await client.send_all(_FAILURE)
            continue
        await agent.send_all(request)
        answer = await answers.next()
        if answer is None:
            return
        await client.send_all(answer)


class _Messages:
    """The messages that come from one side, with their lengths."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = bytearray()

    async def next(self) -> bytes | None:
        """The next message; None at the end, or if it is no message."""
        if not await self._have(5):
            return None
        size = int.from_bytes(self._data[:4], "big")
        if not 1 <= size <= _LARGEST or not await self._have(4 + size):
            return None
        message = bytes(self._data[: 4 + size])
        del self._data[: 4 + size]
        return message

    async def _have(self, count: int) -> bool:
        while len(self._data) < count:
            chunk = await self._stream.receive_some(_CHUNK)
            if not chunk:
                return False
            self._data += chunk
        return True


async def _carry_both_ways(one: trio.SocketStream, other: trio.SocketStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry, one, other)
        nursery.start_soon(_carry, other, one)


async def _carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
    with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        async for chunk in source:
            await target.send_all(chunk)
        await target.send_eof()
