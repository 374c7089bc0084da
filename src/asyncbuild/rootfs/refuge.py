"""A copy of this program that runs while everything around it is replaced.

For a build in ``/`` (``--isolation inplace``): an image is unpacked over the files that this process was
started from, and whatever Python has not loaded by then would come from the image, or be missing. So the
interpreter, its loader, every shared library that any of its modules may ask for, the standard library and
the installed packages are copied into a directory, and the program goes on from there. Nothing of the copy
names a file outside: the loader is called by its path, with its own library path and without the system's
cache, also for children (`asyncbuild.rootfs.interpreter`).

What a C library loads while it runs is the rest: of the name service only the files and DNS are asked,
which it has built in (before glibc 2.34 their modules are copied), whatever nsswitch.conf says then.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import ssl
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from asyncbuild.errors import IsolationError, StoreError
from asyncbuild.records import dataclass

_INTERPRETER_HEADER = 3  # PT_INTERP of elf(5)
_UNUSED = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "config-*")
_ON_DEMAND = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
"""What glibc opens by name when a thread ends or a host is looked up."""
_RESOLVED = re.compile(r"^\s*(?P<name>\S+) => (?P<path>/.*) \(0x[0-9a-f]+\)$", re.MULTILINE)

_BOOT = """\
import sys
before, packages = {before!r}, {packages!r}
sys.path += packages
sys.argv[:] = sys.argv[1:]
from asyncbuild.rootfs import interpreter, refuge
interpreter.start_by(before)
refuge.settle()
"""
"""What runs first in the copy: nothing is looked for in the system's places."""
MAIN = "from asyncbuild.cli import main\nsys.exit(main())\n"
"""Goes on with a command line."""
_ENTERED: list[bool] = []


@dataclass(frozen=True, slots=True)
class Refuge:
    """A whole copy. ``loader`` is empty for an interpreter that needs none; ``packages`` are in the order
    of ``sys.path``; ``certificates`` is a file of authorities, if the system has one.
    """

    directory: Path
    loader: tuple[str, ...]
    packages: tuple[Path, ...]
    certificates: Path | None

    @property
    def python(self) -> Path:
        """The interpreter's copy."""
        return self.directory / "bin/python3"

    def command(self, code: str, called: str, *words: str) -> list[str]:
        """The words that run ``code`` there, with ``called`` and ``words`` as its ``sys.argv``."""
        packages = [str(path) for path in self.packages]
        boot = _BOOT.format(before=list(self.loader), packages=packages)
        options = ["-I", "-S", "-B", "-X", "utf8", "-c", boot + code]
        return [*self.loader, str(self.python), *options, called, *words]

    def environment(self) -> dict[str, str]:
        """What this process's environment lacks there."""
        if self.certificates is None or os.environ.get("SSL_CERT_FILE"):
            return {}
        return {"SSL_CERT_FILE": str(self.certificates)}

    def enter(
        self,
        code: str = MAIN,
        line: Sequence[str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Become the copy, with the command line ``line`` (by default this process's), and more variables;
        never returns.
        """
        command = self.command(code, *(sys.argv if line is None else line))
        sys.stdout.flush()
        sys.stderr.flush()
        environment = {**os.environ, **self.environment(), **(variables or {})}
        os.execve(command[0], command, environment)  # noqa: S606


def make_refuge(directory: Path) -> Refuge:
    """Copy this program into the new directory. Blocks for a second or so: some 120 MB are copied.

    Raises `IsolationError` if that cannot be done, `StoreError` if there is no room.
    """
    try:
        return _make(directory)
    except (OSError, shutil.Error, subprocess.SubprocessError) as error:
        if os.strerror(errno.ENOSPC) in str(error):  # of a tree shutil tells in words alone
            full = OSError(errno.ENOSPC, "")
            raise StoreError.of(f"the program cannot be copied to {directory}", full) from error
        raise IsolationError(
            f"the program cannot be copied to {directory}: {error}",
            hint="an in-place build needs room for a copy of itself",
        ) from error


def settle() -> None:
    """In the copy: whatever the image says, hosts are looked up in /etc/hosts and by DNS only. A RUN, which
    sees all processes, cannot look into this one.
    """
    import ctypes  # noqa: PLC0415 - only where it is needed

    from asyncbuild.rootfs import syscalls  # noqa: PLC0415

    _ENTERED[:] = [True]
    syscalls.hide_from_ptrace()
    with suppress(AttributeError):  # musl knows nothing else anyway
        ctypes.CDLL(None)["__nss_configure_lookup"](b"hosts", b"files dns")


def is_entered() -> bool:
    """Whether this process runs from a copy."""
    return bool(_ENTERED)


def _make(directory: Path) -> Refuge:
    (directory / "bin").mkdir(parents=True)
    program = Path(os.path.realpath(sys.executable))
    copy = directory / "bin/python3"
    shutil.copy(program, copy)
    standard = Path(sysconfig.get_path("stdlib"))
    place = directory / "lib" / standard.name
    ignored = shutil.ignore_patterns("site-packages", "dist-packages", *_UNUSED)
    shutil.copytree(standard, place, symlinks=False, ignore=ignored, ignore_dangling_symlinks=True)
    packages = _copy_packages(directory, standard)
    loader = _loader_of(program)
    before: tuple[str, ...] = ()
    if loader is not None:
        _copy_libraries(directory / "libraries", loader, program, standard)
        own = directory / "libraries" / loader.name
        shutil.copy(loader, own)
        quiet = () if "musl" in loader.name else ("--inhibit-cache",)
        library_path = ("--library-path", str(directory / "libraries"))
        before = (str(own), *quiet, *library_path, "--argv0", str(copy))
    return Refuge(directory, before, packages, _copy_certificates(directory))


def _copy_packages(directory: Path, standard: Path) -> tuple[Path, ...]:
    """Everything that can be imported beside the standard library, in its order."""
    made = []
    for number, path in enumerate(dict.fromkeys(map(os.path.realpath, filter(None, sys.path)))):
        inside = Path(path).is_relative_to(standard)
        if Path(path).is_dir() and (not inside or path.endswith("-packages")):
            place = directory / "packages" / str(number)
            unneeded = shutil.ignore_patterns("pip", "setuptools")
            shutil.copytree(path, place, ignore=unneeded, ignore_dangling_symlinks=True)
            made.append(place)
    return tuple(made)


def _loader_of(program: Path) -> Path | None:
    """The loader that a program names (elf(5), 64 bits, this byte order); None for a static one."""
    with open(program, "rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            raise OSError(f"{program} is no 64-bit program")
        table, size, count = (
            *struct.unpack_from("=Q", head, 32),
            *struct.unpack_from("=HH", head, 54),
        )
        file.seek(table)
        headers = file.read(size * count)
        for number in range(count):
            kind, _, offset, _, _, length = struct.unpack_from("=IIQQQQ", headers, size * number)
            if kind == _INTERPRETER_HEADER:
                file.seek(offset)
                return Path(os.fsdecode(file.read(length).rstrip(b"\0")))
    return None


def _copy_libraries(place: Path, loader: Path, program: Path, standard: Path) -> None:
    """Every shared library that the program and what it can import need, by its name."""
    place.mkdir()
    found: dict[str, Path] = {}
    roots = [standard, *(Path(path) for path in sys.path if path)]
    for file in [program, *_shared_objects(roots)]:
        for match in _RESOLVED.finditer(_listed(loader, file)):
            found.setdefault(Path(match["name"]).name, Path(match["path"]))
    for beside in {path.parent for path in found.values()}:
        for name in _ON_DEMAND:
            if (beside / name).exists():
                found.setdefault(name, beside / name)
    for name, path in found.items():
        shutil.copy(path, place / name)


def _shared_objects(roots: list[Path]) -> Iterator[Path]:
    seen = set()
    for root in roots:
        for path in sorted(root.rglob("*.so*")) if root.is_dir() else ():
            if path not in seen and path.is_file():
                seen.add(path)
                yield path


def _listed(loader: Path, file: Path) -> str:
    """The loader's own answer to what ``file`` needs; nothing for what it cannot load."""
    done = subprocess.run(
        [str(loader), "--list", str(file)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        errors="surrogateescape",
    )
    return done.stdout if done.returncode == 0 else ""


def _copy_certificates(directory: Path) -> Path | None:
    """The system's authorities, which Python looks for by a path that the image has too, or has not."""
    file = ssl.get_default_verify_paths().cafile
    if file is None or not os.path.exists(file):
        return None
    return Path(shutil.copy(file, directory / "authorities.pem"))
