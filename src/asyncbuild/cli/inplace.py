"""A build in ``/``: the program becomes a copy of itself before anything else, and says what of the
container is not the image's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asyncbuild.build.request import BuildRequest
from asyncbuild.errors import IsolationError, StoreError, UsageError
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.rootfs.isolation import BETTER, Ability, probe
from asyncbuild.rootfs.ownroot import HOME, MARKS, OwnRoot, Surroundings, check_expendable
from asyncbuild.rootfs.refuge import MAIN, is_entered, make_refuge
from asyncbuild.rootfs.reserved import names_of

_PROGRAM = f"{HOME}/program"
_SCRATCH = f"{HOME}/scratch"
_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
"""Mounts in most containers; the program itself reads them, too."""
_KERNEL = ("/proc", "/sys", "/dev")
_HELD = (signal.SIGTERM, signal.SIGINT)
_LOGINS = (".docker", ".aws", ".azure", ".config/gcloud", ".config/containers")
_NAMED = (
    "DOCKER_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_FEDERATED_TOKEN_FILE",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TMPDIR",
)
"""Variables that name what the program reads at some time."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """``--force`` and ``--cleanup``."""

    force: bool
    cleanup: bool

    @classmethod
    def read(cls, words: Sequence[str]) -> _Asked:
        """From a command line of ``build`` or ``kaniko``."""
        if words[0] == "kaniko":
            from asyncbuild.cli.kaniko_flags import EXECUTOR, read_flags  # noqa: PLC0415

            given = read_flags(EXECUTOR, words[1:])
            return cls(given.on("force"), given.on("cleanup"))
        from asyncbuild.cli import arguments  # noqa: PLC0415

        options = arguments.parser().parse_args(words)
        return cls(options.force, options.cleanup)


def enter(words: Sequence[str]) -> None:
    """Become a copy of the program that goes on with the command line ``words``; returns if this is it.

    Nothing is touched before it is clear that this is a container which may be built in. Raises
    `IsolationError` where it may not.
    """
    if is_entered():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        return
    asked = _Asked.read(words)
    if os.geteuid() != 0:
        raise IsolationError("--isolation inplace needs root, and this user is not root")
    check_expendable(Surroundings.look(), forced=asked.force)
    _take_home()
    variables = {} if "TMPDIR" in os.environ else {"TMPDIR": _SCRATCH}
    _check_abilities()
    refuge = make_refuge(Path(_PROGRAM))
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)  # what comes now the copy hears
    refuge.enter(MAIN, ["asyncbuild", *words], variables)


def leave(words: Sequence[str]) -> None:
    """With ``--cleanup`` nothing of ours is left; the last thing that the copy does."""
    if is_entered() and _Asked.read(words).cleanup:
        shutil.rmtree(HOME, ignore_errors=True)


def _take_home() -> None:
    """Make the program's own directory, and hold it as long as this process and what it becomes live."""
    try:
        os.makedirs(HOME, 0o700, exist_ok=True)
        lock = os.open(f"{HOME}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.set_inheritable(lock, True)  # noqa: FBT003 - has no keyword
        for name in os.listdir(HOME):
            if name != "lock":
                shutil.rmtree(f"{HOME}/{name}")
        os.mkdir(_SCRATCH, 0o700)
    except BlockingIOError:
        raise IsolationError(
            "another build in place is under way in this container",
            hint="there is one / for all of them: let one wait for the other",
        ) from None
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):
            raise IsolationError(
                f"--isolation inplace is not possible here: {HOME}: {error.strerror}",
                hint=f"it needs {BETTER[Ability.OWN_ROOT]}",
            ) from error
        raise StoreError.of(f"cannot write {HOME}", error) from error


def _check_abilities() -> None:
    """Whether files may be given to others; that ``/`` can be written to is known by now."""
    place = probe(_new_scratch(), (Ability.OWNERS,))
    if Ability.OWNERS in place.refused:
        raise IsolationError(
            f"--isolation inplace is not possible here: owners: {place.refused[Ability.OWNERS]}",
            hint="it needs root with CAP_CHOWN, CAP_SETUID and CAP_SETGID; see asyncbuild doctor",
        )


def _new_scratch() -> Path:
    path = Path(_SCRATCH) / "probe"
    path.mkdir()
    return path


def with_own_root(
    request: BuildRequest,
    settings: RegistrySettings,
    files: Iterable[str] = (),
    *,
    force: bool = False,
    cleanup: bool = False,
) -> tuple[BuildRequest, RegistrySettings]:
    """The build with what it must know of the container: what it names stays, also its ``files``.

    Registries and devices are configured by what is here now, and not by what an image brings.
    """
    if request.context is not None and os.path.realpath(request.context) == "/":
        raise UsageError("the context is /, and an in-place build replaces everything there")
    directories = tuple(path for path in settings.files.directories if os.path.isdir(path))
    settings = replace(settings, files=replace(settings.files, directories=directories))
    written = [*files, *(item.destination for item in request.outputs if item.destination)]
    written = [path for path in written if path != "-"]
    used = [*_used(request), *_of_registries(settings), *_of_this_place()]
    reserved = [name for path in (*used, *written) for name in names_of(str(path))]
    standing = [os.getcwd(), *(os.path.dirname(os.path.realpath(path)) for path in written)]
    own = OwnRoot((*reserved, *request.ignored_paths), tuple(standing), force, cleanup)
    devices = tuple(path for path in request.run.device_directories if path.is_dir())
    run = replace(request.run, own_root=own, device_directories=devices)
    return replace(request, run=run), settings


def _used(request: BuildRequest) -> Iterator[str | Path]:
    """What the request reads and writes while it is executed."""
    yield request.store
    if request.context is not None:
        yield request.context
    yield request.dockerfile_path
    yield f"{request.dockerfile_path}.dockerignore"
    yield from (place for place in request.contexts.values() if os.path.exists(place))
    yield from (place.path for place in (*request.cache_from, *request.cache_to) if place.path)
    if request.cache_dir is not None:
        yield request.cache_dir
    yield from (path for path in request.run.device_directories if path.is_dir())
    for source in request.run.ssh.values():
        yield from source.keys
        if source.socket is not None:
            yield source.socket


def _of_registries(settings: RegistrySettings) -> Iterator[str]:
    yield from settings.files.directories
    for host in settings.hosts.values():
        yield from host.ca_files
        yield from filter(None, host.client_certificate or ())


def _of_this_place() -> Iterator[str]:
    home = os.path.expanduser("~")
    named = (os.environ.get(name, "") for name in _NAMED)
    there = (*_NETWORK, *(os.path.join(home, name) for name in _LOGINS), *named)
    yield from _KERNEL
    yield from (path for path in there if path and os.path.exists(path))
    yield from (os.path.realpath(mark) for mark in MARKS if os.path.exists(mark))
