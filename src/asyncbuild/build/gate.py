"""The gate before everything that comes from elsewhere: a source policy, asked before any request.

The policy's identifiers are made here from what a Dockerfile says, so that one source has one spelling:
hosts in lower case, no user names, no default ports. See docs/trust.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import httpx

from asyncbuild.dockerfile.instructions import Add
from asyncbuild.dockerfile.remote import (
    GitReference,
    Remote,
    WebFile,
    parse_context_remote,
    parse_remote,
)
from asyncbuild.errors import SourceDenied
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.plan.contexts import LAYOUT_HOST
from asyncbuild.plan.nouns import Plan
from asyncbuild.plan.policy import CHECKSUM, Source, SourcePolicy
from asyncbuild.records import dataclass, field, replace

_IMAGE = "docker-image://"
_LAYOUT = "oci-layout://"
_PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}
_SCP = re.compile(r"(?:[^@/]*@)?(\[[^\]]*\]|[^:/@]+):(.*)", re.DOTALL)
_UNRESERVED = re.compile(
    r"%(2[dD]|2[eE]|3[0-9]|4[1-9a-fA-F]|5[0-9aA]|5[fF]|6[1-9a-fA-F]|7[0-9aAeE])"
)


@dataclass(frozen=True, slots=True)
class SourceGate:
    """Lets pass what ``policy`` allows; without rules that is everything."""

    policy: SourcePolicy = field(default_factory=SourcePolicy)

    def image(self, reference: Reference) -> Reference:
        """What is used where ``reference`` is wanted; raises `SourceDenied`.

        Images of layouts on this machine are judged as contexts, see `context`.
        """
        if not self.policy.rules or reference.registry == LAYOUT_HOST:
            return reference
        given = f"{_IMAGE}{_canonical(reference)}"
        wanted = self.policy.evaluate(Source(given)).identifier
        if wanted == given:
            return reference
        if not wanted.startswith(_IMAGE):
            raise self._impossible(reference, f"{wanted!r} is no image")
        try:
            converted = Reference.parse(wanted.removeprefix(_IMAGE))
        except InvalidReference as error:
            raise self._impossible(reference, error) from None
        if converted.registry == LAYOUT_HOST:
            raise self._impossible(reference, f"{wanted!r} is no registry's")
        return converted

    def file(self, file: WebFile, checksum: Digest | None) -> tuple[WebFile, Digest | None]:
        """What is fetched where ``file`` is wanted, and what it must be; raises `SourceDenied`."""
        if not self.policy.rules:
            return file, checksum
        given = self._url(file)
        attributes = {} if checksum is None else {CHECKSUM: str(checksum)}
        wanted = self.policy.evaluate(Source(given, attributes))
        if wanted.identifier != given:
            if not wanted.identifier.startswith(("https://", "http://")):
                raise self._impossible(file.shown, f"{wanted.identifier!r} is no URL")
            file = WebFile(wanted.identifier)
        text = wanted.attributes.get(CHECKSUM)
        try:
            pinned = Digest.parse(text) if text else checksum
        except InvalidDigest as error:
            raise self._impossible(file.shown, error) from None
        if checksum is not None and pinned != checksum:
            raise self._impossible(file.shown, f"it pins {pinned}, and --checksum says {checksum}")
        return file, pinned

    def repository(self, wanted: GitReference) -> None:
        """Raises `SourceDenied` for a git repository that may not be used; none is converted."""
        if self.policy.rules:
            self._check(f"git://{self._place(wanted)}" + (f"#{wanted.ref}" if wanted.ref else ""))

    def remote(self, remote: Remote, checksum: str = "") -> None:
        """Raises `SourceDenied` for a URL or repository that may not be used."""
        if isinstance(remote, GitReference):
            self.repository(remote)
        else:
            self.file(remote, Digest.parse(checksum) if checksum else None)

    def context(self, name: str, place: str) -> None:
        """Raises `SourceDenied` for a build context; images and stages are judged where they are used."""
        if not self.policy.rules or place.startswith((_IMAGE, "target:")):
            return
        remote = None if place.startswith(_LAYOUT) else parse_context_remote(place)
        if remote is not None:
            self.remote(remote)
        else:
            self._check(place if place.startswith(_LAYOUT) else f"local://{name}")

    def _check(self, identifier: str) -> None:
        if self.policy.evaluate(Source(identifier)).identifier != identifier:
            raise self._impossible(identifier, "only images and files are converted")

    def _url(self, file: WebFile) -> str:
        try:
            url = httpx.URL(file.url)
        except (httpx.InvalidURL, ValueError):
            raise self._unclear(file.shown) from None
        path = self._path(urlsplit(file.url).path, file.shown)
        query = f"?{url.query.decode('ascii')}" if url.query else ""
        return f"{url.scheme}://{_host(url)}{path or '/'}{query}"

    def _place(self, wanted: GitReference) -> str:
        if "://" in wanted.remote:
            try:
                parts = urlsplit(wanted.remote)
                host, port = (parts.hostname or "").rstrip("."), parts.port
            except ValueError:
                raise self._unclear(wanted.shown) from None
            host = f"[{host}]" if ":" in host else host
            if port not in (None, _PORTS.get(parts.scheme)):
                host = f"{host}:{port}"
            return host + self._path(parts.path, wanted.shown)
        found = _SCP.fullmatch(wanted.remote)
        if found is None:
            raise self._unclear(wanted.shown)
        path = self._path(found[2], wanted.shown).lstrip("/")
        return f"{found[1].lower().rstrip('.')}/{path}"

    def _path(self, path: str, shown: str) -> str:
        """``path`` in one spelling; what a server may read as another path is refused."""
        segments = re.split(r"[/\\]", unquote(path))
        if "." in segments or ".." in segments:
            raise self._unclear(shown)
        return _UNRESERVED.sub(lambda found: unquote(found[0]), path)

    def _unclear(self, shown: str) -> SourceDenied:
        return SourceDenied(
            f"{self.policy.name} cannot judge {shown}",
            hint="write it with a plain host and without . and .. in its path",
        )

    def _impossible(self, what: object, why: object) -> SourceDenied:
        return SourceDenied(f"{self.policy.name} converts {what} to what cannot be used: {why}")


def check_plan_sources(plan: Plan, contexts: Mapping[str, str], gate: SourceGate) -> None:
    """Raise `SourceDenied`, placed, for what the plan names without variables and may not be used.

    What only a base image's triggers or variables name is judged when it is known, before its request.
    """
    if not gate.policy.rules:
        return
    for name, place in contexts.items():
        gate.context(name, place)
    try:
        for planned in plan.images:
            location = planned.location
            gate.image(planned.image.reference)
        for stage in plan.stages:
            for step in stage.steps:
                location = step.instruction.location
                if isinstance(step.instruction, Add):
                    _check_add(step.instruction, gate)
    except SourceDenied as error:
        raise error.at(location) from None


def _check_add(instruction: Add, gate: SourceGate) -> None:
    for source in instruction.sources:
        if "$" in source + instruction.checksum:
            continue
        remote = parse_remote(source)
        if remote is not None:
            gate.remote(remote, instruction.checksum)


def _canonical(reference: Reference) -> Reference:
    tag = reference.tag or (None if reference.digest else "latest")
    return replace(reference.canonical, tag=tag)


def _host(url: httpx.URL) -> str:
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    host = f"[{host}]" if ":" in host else host
    return host if url.port in (None, _PORTS.get(url.scheme)) else f"{host}:{url.port}"
