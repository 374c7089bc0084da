"""What a caller asks for, and what they get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asyncbuild.build.gate import SourceGate
from asyncbuild.build.run_options import RunOptions
from asyncbuild.cache.objects import ObjectPlace
from asyncbuild.image.config import ImageConfig
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.layers.compression import GZIP, Compression
from asyncbuild.layers.limits import LIMITS, LayerLimits
from asyncbuild.output.spec import OutputSpec
from asyncbuild.records import dataclass, field
from asyncbuild.registry.verification import Verification
from asyncbuild.report.events import Statistics

TWO_WEEKS = 14 * 24 * 3600.0
"""Seconds for which a cached result is good, unless told otherwise (kaniko's default)."""


@dataclass(frozen=True, slots=True)
class CachePlace:
    """A cache: in a registry (``reference``; its tag is the scope, ``fallbacks`` are scopes that are read
    too), in a directory (``path``), in a store of ``objects``, or, with none of them, in the image that is
    built (inline).

    ``everything`` (mode=max) exports the layers of all stages, else only those of the image.
    """

    reference: Reference | None = None
    path: Path | None = None
    fallbacks: tuple[str, ...] = ()
    everything: bool = False
    objects: ObjectPlace | None = None

    @property
    def inline(self) -> bool:
        """Whether the image itself is the cache."""
        return self.reference is None and self.path is None and self.objects is None


@dataclass(frozen=True, slots=True)
class MountPlace:
    """A repository, or a directory (``path``), that keeps contents of cache mounts: of those with ``ids``,
    or of all if there are none. The tag of ``reference`` is put before their tags. ``most`` is the largest
    content in bytes.
    """

    reference: Reference | None = None
    ids: frozenset[str] = frozenset()
    most: int = 5_000_000_000
    path: Path | None = None

    def keeps(self, name: str) -> bool:
        """Whether the cache with this id is kept here."""
        return not self.ids or name in self.ids

    def tag(self, key: str) -> str:
        """The tag of the cache whose key is ``key`` (64 hexadecimal digits)."""
        scope = self.reference.tag if self.reference is not None else None
        prefix = f"{scope[:60]}-" if scope else ""
        return f"{prefix}m-{key}"


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One build.

    ``context`` is a directory; None builds without one. ``context_is_remote``: it was a repository or an
    archive; then files keep their owners, and no ignore file counts (as in BuildKit). ``contexts`` are
    named ones: a name, and a place (see `asyncbuild.plan.contexts`). ``dockerfile`` is the text, and
    ``dockerfile_path`` what errors call it and where its own ignore file is looked for. ``destinations``
    are pushed to; ``outputs`` are written on this machine. A build argument without a value is taken
    from the environment by the caller, and left out if it is not there. ``created`` is in seconds since
    the epoch.
    ``created_is_fixed`` (SOURCE_DATE_EPOCH): the image is of that time, even if all of it was cached.
    ``now`` is the time by which cached results age (None: the clock's), in seconds since the epoch.
    ``cache_ttl`` and ``cache_patience`` (how long the end of the build waits for exports) are in seconds.
    ``cached_instructions``: results of these alone are looked up and exported; those of others are layers
    below them at most. ``cache_dir`` has base images that `asyncbuild.build.warming` put there; it is only
    read.
    ``cache_mounts_from`` and ``cache_mounts_to`` keep what RUN --mount=type=cache has, between machines.
    ``docker_media_types`` None: docker's if the base image has them. ``keep_immutable_tags``: a registry
    that does not let a tag be moved is no failure. ``squash``: one layer of all steps. ``ignored_paths``
    are in no layer, and with ``clamp_times`` nothing in one is younger than ``created``; with
    ``volumes_are_lost`` what steps behind a VOLUME leave in it is in none either, as in kaniko.
    """

    context: Path | None
    dockerfile: bytes
    dockerfile_path: Path
    store: Path
    platform: Platform
    build_platform: Platform
    created: int
    destinations: tuple[Reference, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    names: tuple[Reference, ...] = ()
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    add_hosts: tuple[tuple[str, str], ...] = ()
    network: str = "default"
    run: RunOptions = field(default_factory=RunOptions)
    contexts: Mapping[str, str] = field(default_factory=dict)
    context_is_remote: bool = False
    limits: LayerLimits = LIMITS
    gate: SourceGate = field(default_factory=SourceGate)
    verification: Verification = field(default_factory=Verification)
    compression: Compression = GZIP
    docker_media_types: bool | None = False
    keep_immutable_tags: bool = False
    squash: bool = False
    ignored_paths: tuple[str, ...] = ()
    clamp_times: bool = False
    volumes_are_lost: bool = False
    stdout: int = 1
    created_is_fixed: bool = False
    use_cache: bool = True
    no_cache_filter: frozenset[str] = frozenset()
    cache_from: tuple[CachePlace, ...] = ()
    cache_to: tuple[CachePlace, ...] = ()
    cached_instructions: frozenset[str] = frozenset(["RUN", "WORKDIR", "COPY", "ADD"])
    cache_ttl: float = TWO_WEEKS
    cache_patience: float = 60.0
    cache_dir: Path | None = None
    cache_mounts_from: tuple[MountPlace, ...] = ()
    cache_mounts_to: tuple[MountPlace, ...] = ()
    workers: int | None = None
    now: int | None = None

    @property
    def all_names(self) -> tuple[Reference, ...]:
        """What the image is called, pushed or not; each name once."""
        return tuple(dict.fromkeys((*self.destinations, *self.names)))


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built, and what it took."""

    manifest: Manifest
    config: ImageConfig
    pushed: tuple[Reference, ...]
    statistics: Statistics
