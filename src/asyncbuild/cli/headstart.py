"""What a build asks registries first is asked before the builder is imported.

1. Connections are made to the registries of ``-t`` and of what looks like a FROM: an idle one does no harm.
   Of the caches in registries the indexes are asked for.
2. The Dockerfile is planned, which takes few imports: the manifests of its images are asked for where the
   build will look for them, and their configurations after them. Where the image will be pushed, the
   configuration's upload is begun. If no answer comes at once, as many connections are made as the wave of
   mounts and uploads will want.

A build that looks elsewhere first (a policy, signatures, warmed images) has no head start, nor is a
registry asked of which it must be found out whether it speaks TLS. What is wrong with any input is left for
the build to say.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from asyncbuild.cli.cache_options import read_indexes
from asyncbuild.cli.places import store_directory
from asyncbuild.cli.registry_options import read_hosts, read_mirrors
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import Index, InvalidManifest, parse_manifest
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.records import dataclass
from asyncbuild.registry.headstart import Ask, Headers, HeadStart, Place, Reply
from asyncbuild.registry.hosts import HostSettings, fixed_scheme
from asyncbuild.registry.places import Places, Route, find_files
from asyncbuild.registry.protocol import (
    MANIFEST_ACCEPT,
    api_host,
    blob_path,
    manifest_path,
    path_at,
    resolve_location,
    uploads_path,
    user_agent,
)
from asyncbuild.registry.proxies import Proxies
from asyncbuild.store.layout import Layout

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from asyncbuild.image.platform import Platform
    from asyncbuild.plan.nouns import ImageRef, Plan
    from asyncbuild.plan.planner import PlanRequest

_MOST = 8
_LONGEST = 1 << 20
_LOOKS_ELSEWHERE = ("policy", "verify_key", "cache_dir", "registries_conf")
"""Options of builds that ask something else first."""
_FROM = re.compile(
    r"^\s*FROM\s+(?:--platform=\S+\s+)?([^\s$]+)(?:\s+AS\s+(\S+))?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
FAULTS = (AsyncbuildError, InvalidReference, OSError)
"""Of the user's input or this machine's files: the build will meet them again."""


def prepare(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Read the inputs of ``build`` into ``options.inputs``, and begin what they let foresee.

    Raises as `read_inputs`.
    """
    first = None
    pushed = [] if options.output else options.tag
    if not any(getattr(options, name) for name in _LOOKS_ELSEWHERE):
        with contextlib.suppress(*FAULTS):
            first = FirstRequests.of(options, environ)
            options.head_start = HeadStart()
            options.closing.callback(options.head_start.close)
            place = options.file or os.path.join(options.context, "Dockerfile")
            first.ask_indexes(options.head_start, read_indexes(options, environ))
            first.dial(options.head_start, names_in(place), pushed)
    from asyncbuild.cli.inputs import read_inputs  # noqa: PLC0415 - while connections are made

    options.inputs = read_inputs(options)
    if first is not None:
        with contextlib.suppress(*FAULTS):
            inputs, request = options.inputs, options.inputs.plan_request(options.target)
            plan = plan_of(inputs.dockerfile, inputs.dockerfile_path, request)
            first.ask(options.head_start, plan, pushed)


def names_in(path: str) -> list[str]:
    """What looks like an image in the Dockerfile ``path``, if that is a file; before it is parsed."""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                found = _FROM.findall(file.read(_LONGEST))
            stages = {stage.lower() for _, stage in found}
            named = dict.fromkeys(name for name, _ in found)
            return [name for name in named if name.lower() not in stages | {"scratch"}]
    return []


def plan_of(dockerfile: bytes, path: Path, request: PlanRequest) -> Plan:
    """What a build of the Dockerfile does. Raises `AsyncbuildError`."""
    from asyncbuild.dockerfile.parser import parse_dockerfile  # noqa: PLC0415 - as above
    from asyncbuild.plan.planner import make_plan  # noqa: PLC0415

    return make_plan(parse_dockerfile(dockerfile, str(path)), request)


@dataclass(frozen=True, slots=True)
class FirstRequests:
    """Where registries are, what is said to them, and what need not be asked of them."""

    places: Places
    proxies: Proxies
    environ: Mapping[str, str]
    layout: Layout

    @classmethod
    def of(cls, options: argparse.Namespace, environ: Mapping[str, str]) -> FirstRequests:
        """What the options and this machine's files say."""
        files = find_files(environ, os.path.expanduser("~"), options.certs_dir)
        hosts = read_hosts(options, options.insecure)
        places = Places(files, read_mirrors(options.registry_mirror), hosts, HostSettings())
        return cls.at(places, store_directory(options.store, environ), environ)

    @classmethod
    def at(cls, places: Places, store: Path, environ: Mapping[str, str]) -> FirstRequests:
        """With the store ``store``."""
        return cls(places, Proxies.from_environment(environ), environ, Layout(store))

    def dial(self, start: HeadStart, pulled: Sequence[str], pushed: Sequence[str]) -> None:
        """Connect to where images are pulled from, and to where they are pushed to."""
        for push, names in ((False, pulled), (True, pushed)):
            for name in names[:_MOST]:
                with contextlib.suppress(*FAULTS):
                    self._dial(start, Reference.parse(name), push=push)

    def _dial(self, start: HeadStart, named: Reference, *, push: bool) -> None:
        route = self.places.push(named.registry, named.repository)
        if not push:
            route = self.places.pull(named.registry, named.repository, tag=True)[0]
        place = self._place(route)
        if place is not None:
            start.dial(place)

    def ask_indexes(self, start: HeadStart, indexes: Sequence[Reference]) -> None:
        """Ask for the ``indexes`` of caches, which are tags."""
        for named in indexes[:_MOST]:
            route = self.places.pull(named.registry, named.repository, tag=True)[0]
            place = self._place(route)
            if place is not None:
                path = manifest_path(route.repository, named.identifier)
                start.ask(place, self._get(route, place, path))

    def ask(self, start: HeadStart, plan: Plan, pushed: Sequence[str]) -> None:
        """Ask for the images of ``plan``, unless they are here, and begin an upload to each repository that
        is ``pushed`` to; what is said next is said to their places.
        """
        from asyncbuild.plan.contexts import LAYOUT_HOST  # noqa: PLC0415
        from asyncbuild.plan.extent import wave_of  # noqa: PLC0415

        images = [planned.image for planned in plan.images]
        self._ask(start, [item for item in images if item.reference.registry != LAYOUT_HOST])
        places = {}
        for name in pushed[:_MOST]:
            named = Reference.parse(name)
            route = self.places.push(named.registry, named.repository)
            place = self._place(route)
            if place is not None:
                places[place[:2]] = place
                start.begin(place, self._upload(route, place), self._abort)
        for place in places.values():
            start.dial_more(place, wave_of(plan))

    def _ask(self, start: HeadStart, images: Sequence[ImageRef]) -> None:
        for image in images[:_MOST]:
            reference = image.reference
            if self._has(reference.identifier):
                continue
            tag = reference.digest is None
            route = self.places.pull(reference.registry, reference.repository, tag=tag)[0]
            place = self._place(route)
            if place is not None:
                first = self._get(
                    route, place, manifest_path(route.repository, reference.identifier)
                )
                start.ask(place, first, partial(self._next, route, place, image.platform))

    def _place(self, route: Route) -> Place | None:
        """Where a route leads; None if that is found out by trying, or leads through a proxy."""
        host = api_host(route.host)
        scheme = fixed_scheme(host, route.settings)
        if scheme is None:
            return None
        parts = urlsplit(f"{scheme}://{host}")
        name, port = parts.hostname or "", parts.port or (443 if scheme == "https" else 80)
        if self.proxies.find(scheme, name, port) is not None:
            return None
        return Place(name, port, None if scheme == "http" else partial(self._context, route))

    def _context(self, route: Route) -> ssl.SSLContext:
        from asyncbuild.registry.authorities import make_context, trust_of  # noqa: PLC0415

        return make_context(trust_of(self.environ, route.settings))

    def _get(self, route: Route, place: Place, path: str, accept: str = MANIFEST_ACCEPT) -> Ask:
        return self._to(route, place, path, ("Accept", accept))

    def _upload(self, route: Route, place: Place) -> Ask:
        path = uploads_path(route.repository)
        return self._to(route, place, path, ("Content-Length", "0"))._replace(method="POST")

    def _to(self, route: Route, place: Place, path: str, header: tuple[str, str]) -> Ask:
        target = path_at(path, route.settings.root, route.namespace)
        host = api_host(route.host)
        scheme = "http" if place.context is None else "https"
        common = (("User-Agent", user_agent(self.environ)), ("Accept-Encoding", "identity"))
        headers: Headers = (*common, header, *route.settings.headers)
        return Ask(f"{scheme}://{host}{target}", target, host, headers)

    @staticmethod
    def _abort(ask: Ask, reply: Reply) -> Ask | None:
        """What ends an upload that was begun and is not wanted, where it is."""
        location = {name.lower(): value for name, value in reply.headers}.get(b"location")
        if ask.method != "POST" or reply.status != 202 or location is None:
            return None
        url = resolve_location(ask.url, location.decode("ascii", "replace"))
        parts = urlsplit(url)
        if parts.netloc != ask.host:
            return None
        target = urlunsplit(("", "", parts.path, parts.query, ""))
        return ask._replace(url=url, target=target, method="DELETE")

    def _next(
        self, route: Route, place: Place, platform: Platform, ask: Ask, reply: Reply
    ) -> Ask | None:
        """After an index the manifest for ``platform``, after that its configuration."""
        if reply.status != 200 or "/manifests/" not in ask.target:
            return None
        try:
            found = parse_manifest(reply.body)
        except InvalidManifest:
            return None
        if isinstance(found, Index):
            entry = found.choose(platform)
            if entry is None or self._has(str(entry.digest)):
                return None
            return self._get(route, place, manifest_path(route.repository, str(entry.digest)))
        if self._has(str(found.config.digest)):
            return None
        return self._get(route, place, blob_path(route.repository, found.config.digest), "*/*")

    def _has(self, identifier: str) -> bool:
        """Whether the store has what a digest names; a tag must be asked for."""
        try:
            digest = Digest.parse(identifier)
        except InvalidDigest:
            return False
        return self.layout.blob(digest).path.exists()
