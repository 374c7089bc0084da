"""Every error that asyncbuild raises on purpose.

::

    AsyncbuildError                 exit code 1
    +-- UsageError                  2    the command line or an argument is wrong
    +-- DockerfileError             65   the Dockerfile is wrong; has a SourceLocation
    +-- InputError                  66   a context, file or named input is missing or unreadable
    |   +-- SourceNotFound          66   a COPY/ADD source does not exist
    +-- FetchFailed                 69   a URL or git repository that ADD or a context names cannot be had
    +-- RunFailed                   the command's own code
    +-- RegistryError               69   a registry could not be used; has the request and its answer
    |   +-- RegistryUnavailable     69   no answer, or 5xx after retries
    |   +-- ImageNotFound           66   no such repository, tag, manifest or blob
    |   +-- NotAuthorized           77   401 or 403
    |   +-- RateLimited             75   429
    |   +-- IntegrityError          69   bytes that do not match their digest or size
    |   +-- RemoteProtocolError     69   an answer that the specification does not allow
    |   +-- PushFailed              73   a push failed; what was built is kept in the store
    +-- LayerError                  65   a layer's tar is damaged or hostile
    +-- StoreError                  74   the disk: full, read-only, not permitted
    +-- IsolationError              77   this place does not permit what a RUN needs
    +-- SourceDenied                77   a policy forbids an image, a URL, a repository, a context
    |   +-- NotSigned               77   an image lacks a good signature by a key of --verify-key

Each error says whose fault it is, where it happened, and (``hint``) what to do. ``temporary`` says
whether the same call may succeed later. The exit codes are those of docs/reference/exit-codes.md.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar, Self

from asyncbuild.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """A place in a Dockerfile: 1-based lines and columns, with the source lines themselves.

    ``stage`` is the label of the stage that the place is in, where that is known.
    """

    file: str
    line: int
    end_line: int
    column: int = 1
    excerpt: tuple[str, ...] = ()
    stage: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def at_text(self, *near: str) -> SourceLocation:
        """The first line of the excerpt that holds one of ``near``, and its column; else this place."""
        for number, text in enumerate(self.excerpt, self.line):
            for wanted in near:
                column = text.find(wanted) if wanted else -1
                if column >= 0:
                    return replace(
                        self, line=number, end_line=number, column=column + 1, excerpt=(text,)
                    )
        return self

    def render(self) -> str:
        """The excerpt with line numbers, the lines that are meant marked with ``>>>``; under a single line
        a ``^`` points at the column, and above all stands the stage.
        """
        unnamed = self.stage.startswith("stage-")
        lines = [f"  {'' if unnamed else 'stage '}{self.stage}"] if self.stage else []
        lines += [
            f"  >>> {number:4d} | {text}" for number, text in enumerate(self.excerpt, self.line)
        ]
        if len(self.excerpt) == 1 and 1 < self.column <= len(self.excerpt[0]):
            before = self.excerpt[0][: self.column - 1]
            blanks = "".join(c if c == "\t" else " " for c in before)
            lines.append(f"           | {blanks}^")
        return "\n".join(lines)


class AsyncbuildError(Exception):
    """The root: a message for people, an optional hint, and where in the Dockerfile it belongs."""

    exit_code: int = 1
    temporary: ClassVar[bool] = False

    def __init__(
        self, message: str, *, hint: str | None = None, location: SourceLocation | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.location = location

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.args, dict(self.__dict__))

    def at(self, location: SourceLocation | None) -> AsyncbuildError:
        """This error, placed at ``location`` unless it has a place already."""
        if self.location is None:
            self.location = location
        return self

    def render(self) -> str:
        """The whole text that the command line prints, without a trailing newline."""
        lines = [f"{self.location}: {self.message}" if self.location else self.message]
        place = self.location
        if place and place.stage and f"stage {place.stage}" in self.message:
            place = replace(place, stage="")  # it is said already
        if place and place.excerpt:
            lines.append(place.render())
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


def _revive(kind: type[AsyncbuildError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """An error as it was, without its constructor: errors cross processes and are raised again."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(AsyncbuildError):
    """The command line or an argument is wrong."""

    exit_code = 2


class DockerfileError(AsyncbuildError):
    """The Dockerfile is wrong: its syntax, a flag, a reference between stages."""

    exit_code = 65


class InputError(AsyncbuildError):
    """A context, a Dockerfile or a named input is missing or cannot be read."""

    exit_code = 66


class SourceNotFound(InputError):
    """A COPY or ADD source does not exist (or .dockerignore excludes it)."""


class FetchFailed(AsyncbuildError):
    """A URL or a git repository that ADD or a build context names cannot be fetched."""

    exit_code = 69


class RunFailed(AsyncbuildError):
    """A RUN command exited with a code other than 0; the program exits with the same code."""

    def __init__(
        self,
        message: str,
        *,
        code: int,
        hint: str | None = None,
        location: SourceLocation | None = None,
    ) -> None:
        super().__init__(message, hint=hint, location=location)
        self.exit_code = code


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP exchange as errors show it: the URL is redacted, the text is the registry's own."""

    method: str
    url: str
    status: int | None = None
    text: str = ""

    def __str__(self) -> str:
        answer = "no answer" if self.status is None else str(self.status)
        return f"{self.method} {self.url}: {answer}" + (f" {self.text}" if self.text else "")


class RegistryError(AsyncbuildError):
    """A registry could not be used."""

    exit_code = 69

    def __init__(
        self,
        message: str,
        *,
        exchange: Exchange | None = None,
        hint: str | None = None,
        location: SourceLocation | None = None,
    ) -> None:
        super().__init__(
            f"{message} ({exchange})" if exchange else message, hint=hint, location=location
        )
        self.exchange = exchange


class RegistryUnavailable(RegistryError):
    """No answer from the registry, or a server error after every retry."""

    temporary = True


class ImageNotFound(RegistryError):
    """The registry has no such repository, tag, manifest or blob."""

    exit_code = 66


class NotAuthorized(RegistryError):
    """401 or 403: credentials are missing, wrong, or do not permit this."""

    exit_code = 77


class RateLimited(RegistryError):
    """429: the registry asks to come back later."""

    exit_code = 75
    temporary = True


class IntegrityError(RegistryError):
    """Bytes that do not match the digest or the size that names them."""


class RemoteProtocolError(RegistryError):
    """An answer that the OCI distribution specification does not allow."""


class PushFailed(RegistryError):
    """Pushing failed; what was built until then is kept in the store."""

    exit_code = 73


class LayerError(AsyncbuildError):
    """A layer's tar stream is damaged, or tries to leave its root."""

    exit_code = 65


class StoreError(AsyncbuildError):
    """The disk: full, read-only, or not permitted."""

    exit_code = 74

    @classmethod
    def of(cls, what: str, error: OSError) -> Self:
        """What the disk answered to ``what`` ("cannot write x"); a full one with a hint."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free space there, or choose another place with --store DIR"
            return cls(f"{what}: the disk is full", hint=hint)
        return cls(f"{what}: {error.strerror or error}")


class IsolationError(AsyncbuildError):
    """This place does not permit what a RUN needs (mounts, namespaces, chroot)."""

    exit_code = 77


class SourceDenied(AsyncbuildError):
    """An image, a URL, a repository or a context may not be used: the policy says so."""

    exit_code = 77


class NotSigned(SourceDenied):
    """An image may not be used: it has no good signature by a key that must have signed it."""
