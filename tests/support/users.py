"""Running the command line as an ordinary user, with subordinate ids or without any.

The user exists for as long as a test needs one, in a mount namespace of its commands alone: there
/etc/passwd, /etc/subuid and /etc/subgid are other files, and this machine's stay as they are. The directory
of the interpreter may be one that others cannot enter; there it is opened by a mount as well.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.commands import COMMAND, environment

UID = 41_777
FIRST = 2_000_000
COUNT = 65_536

_ENTER = r"""
set -e
mount --make-rprivate /
for file in passwd subuid subgid; do mount --bind "$USER_ETC/$file" /etc/$file; done
if [ -n "$CLOSED" ]; then
  mkdir -p "$USER_ETC/opened"
  mount --bind "$PREFIX" "$USER_ETC/opened"
  mount -t tmpfs -o mode=755 opened "$CLOSED"
  mkdir -p "$PREFIX"
  mount --bind "$USER_ETC/opened" "$PREFIX"
fi
if [ -n "$FUSE" ]; then
  mkdir -p "$USER_ETC/fuse"
  mount -t tmpfs -o mode=755 fuse "$USER_ETC/fuse"
  mknod -m 666 "$USER_ETC/fuse/fuse" c 10 229
  mount --bind "$USER_ETC/fuse/fuse" /dev/fuse
fi
unset USER_ETC CLOSED PREFIX FUSE
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --inh-caps=-all -- "$@"
"""


@dataclass(frozen=True, slots=True)
class User:
    """An ordinary user with a home; ``subordinate`` says whether ids are granted to them. ``kernel`` are words
    that start what it does (`support.refusing`); with ``fuse`` everyone may open /dev/fuse, as on most machines.
    """

    directory: Path
    subordinate: bool = True
    kernel: tuple[str, ...] = ()
    fuse: bool = False

    @classmethod
    def below(cls, directory: Path, *, subordinate: bool = True) -> User:
        """A user whose home, and whose entries of /etc, are below ``directory``."""
        directory.chmod(0o755)
        home, etc = directory / "home", directory / "etc"
        for path in (home, etc):
            path.mkdir()
        os.chown(home, UID, UID)
        passwd = Path("/etc/passwd").read_text()
        (etc / "passwd").write_text(f"{passwd}builder:x:{UID}:{UID}::{home}:/bin/sh\n")
        line = f"builder:{FIRST}:{COUNT}\n" if subordinate else ""
        for name in ("subuid", "subgid"):
            (etc / name).write_text(line)
        return cls(directory, subordinate)

    @property
    def home(self) -> Path:
        """Where the user may write."""
        return self.directory / "home"

    @property
    def store(self) -> Path:
        """Where the user's builds keep things if nothing is said."""
        return self.home / ".cache/asyncbuild"

    def words(self, *words: str | Path) -> list[str]:
        """What runs ``words`` as this user."""
        return [*self.kernel, "unshare", "-m", "sh", "-c", _ENTER, "sh", *map(str, words)]

    def environment(self, **more: str) -> dict[str, str]:
        """What `words` needs, and ``more``."""
        closed = _closed(Path(sys.base_prefix))
        return environment(
            HOME=str(self.home),
            USER_ID=str(UID),
            USER_ETC=str(self.directory / "etc"),
            CLOSED=closed,
            PREFIX=str(sys.base_prefix),
            FUSE="yes" if self.fuse else "",
            **more,
        )

    def start(self, *words: str | Path, **more: str) -> subprocess.Popen[bytes]:
        """Start asyncbuild as this user, with ``more`` in its environment."""
        return subprocess.Popen(
            self.words(*COMMAND, *words),
            env=self.environment(**more),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def asyncbuild(
        self, *words: str | Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run asyncbuild as this user to its end."""
        return self.run(*COMMAND, *words, environ=environ)

    def run(
        self,
        *words: str | Path,
        environ: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as this user to its end, at home if not elsewhere."""
        return subprocess.run(
            self.words(*words),
            env=self.environment(**(environ or {})),
            cwd=cwd or self.home,
            input=stdin,
            capture_output=True,
            check=False,
        )


def give_to_user(place: Path) -> None:
    """A tree now belongs to the user; set-id bits and capabilities, which a new owner drops, come back."""
    for path in (place, *place.rglob("*")):
        mode = path.lstat().st_mode
        names = os.listxattr(path, follow_symlinks=False)
        kept = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        os.chown(path, UID, UID, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode))
        for name, value in kept.items():
            os.setxattr(path, name, value, follow_symlinks=False)


def _closed(prefix: Path) -> str:
    """The first directory on the way to ``prefix`` that others cannot enter; empty if there is none."""
    for path in (*reversed(prefix.parents), prefix):
        if not path.stat().st_mode & 0o001:
            return str(path)
    return ""
