"""The image configuration: what a container runtime is told, and how the image came about.

Fields are those of the OCI image specification ("config.md") and of Docker's extensions (Healthcheck,
Shell, OnBuild). Fields that we do not know are kept and written back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asyncbuild.image.digest import DiffId, InvalidDigest
from asyncbuild.image.platform import Platform
from asyncbuild.records import dataclass, field, replace


class InvalidConfig(ValueError):
    """JSON that is not an image configuration."""


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """HEALTHCHECK: ``test`` is ``("NONE",)``, ``("CMD", …)`` or ``("CMD-SHELL", text)``; times in ns."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Healthcheck:
        """Decode Docker's ``Healthcheck`` object."""
        return cls(
            _words(value.get("Test")) or (),
            int(value.get("Interval") or 0),
            int(value.get("Timeout") or 0),
            int(value.get("StartPeriod") or 0),
            int(value.get("StartInterval") or 0),
            int(value.get("Retries") or 0),
        )

    def to_json(self) -> dict[str, Any]:
        """Encode as Docker does: what is zero is left out."""
        value: dict[str, Any] = {"Test": list(self.test)} if self.test else {}
        for name, number in (
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
            ("Retries", self.retries),
        ):
            if number:
                value[name] = number
        return value


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """The ``config`` object: what a container made from the image starts with."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str = ""
    exposed_ports: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """``env`` as a mapping, in order; the last value of a name wins."""
        return dict(item.partition("=")[::2] for item in self.env)

    def with_env(self, name: str, value: str) -> RuntimeConfig:
        """Set one variable: in its old place if it has one (names are case sensitive), else last.

        Of several places that a base image may have, the first stays.
        """
        setting = f"{name}={value}"
        places = [at for at, item in enumerate(self.env) if item.partition("=")[0] == name]
        if not places:
            return replace(self, env=(*self.env, setting))
        others = [item for at, item in enumerate(self.env) if at not in places]
        others.insert(places[0], setting)
        return replace(self, env=tuple(others))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RuntimeConfig:
        """Decode the ``config`` object; null fields are as absent ones."""
        known = {name: item for name, item in value.items() if item is not None}
        health = known.pop("Healthcheck", None)
        return cls(
            user=str(known.pop("User", "")),
            env=_words(known.pop("Env", ())) or (),
            entrypoint=_words(known.pop("Entrypoint", None)),
            cmd=_words(known.pop("Cmd", None)),
            working_dir=str(known.pop("WorkingDir", "")),
            exposed_ports=frozenset(map(str, known.pop("ExposedPorts", {}))),
            volumes=frozenset(map(str, known.pop("Volumes", {}))),
            labels={str(k): str(v) for k, v in dict(known.pop("Labels", {})).items()},
            stop_signal=str(known.pop("StopSignal", "")),
            healthcheck=Healthcheck.from_json(health) if isinstance(health, dict) else None,
            shell=_words(known.pop("Shell", None)),
            on_build=_words(known.pop("OnBuild", ())) or (),
            extra=known,
        )

    def to_json(self) -> dict[str, Any]:
        """Encode with names sorted; what is empty is left out, as docker leaves it out."""
        value: dict[str, Any] = dict(self.extra)
        lists = (
            ("Env", self.env),
            ("Entrypoint", self.entrypoint),
            ("Cmd", self.cmd),
            ("Shell", self.shell),
            ("OnBuild", self.on_build),
        )
        value |= {name: list(items) for name, items in lists if items}
        texts = (
            ("User", self.user),
            ("WorkingDir", self.working_dir),
            ("StopSignal", self.stop_signal),
        )
        value |= {name: text for name, text in texts if text}
        sets = (("ExposedPorts", self.exposed_ports), ("Volumes", self.volumes))
        value |= {name: {item: {} for item in sorted(items)} for name, items in sets if items}
        if self.labels:
            value["Labels"] = dict(sorted(self.labels.items()))
        if self.healthcheck is not None:
            value["Healthcheck"] = self.healthcheck.to_json()
        return dict(sorted(value.items()))


def _words(value: Any) -> tuple[str, ...] | None:
    """A list of texts; a text alone is a list of one, as in docker (api/types/strslice)."""
    if isinstance(value, str):
        return (value,)
    return None if value is None else tuple(str(word) for word in value)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of ``history``: a step, and whether it made a layer."""

    created_by: str = ""
    created: str | None = None
    comment: str = ""
    author: str = ""
    empty_layer: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HistoryEntry:
        """Decode one entry."""
        created = value.get("created")
        return cls(
            created_by=str(value.get("created_by") or ""),
            created=str(created) if created is not None else None,
            comment=str(value.get("comment") or ""),
            author=str(value.get("author") or ""),
            empty_layer=bool(value.get("empty_layer", False)),
        )

    def to_json(self) -> dict[str, Any]:
        """Encode one entry; what is empty is left out."""
        value: dict[str, Any] = {}
        if self.created is not None:
            value["created"] = self.created
        for name, text in (
            ("created_by", self.created_by),
            ("author", self.author),
            ("comment", self.comment),
        ):
            if text:
                value[name] = text
        if self.empty_layer:
            value["empty_layer"] = True
        return value


_IMAGE_FIELDS = frozenset(
    [
        "architecture",
        "os",
        "os.version",
        "variant",
        "created",
        "author",
        "config",
        "rootfs",
        "history",
    ]
)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image configuration. ``created`` is an RFC 3339 time as it stands in the document."""

    platform: Platform
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    diff_ids: tuple[DiffId, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    created: str | None = None
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        """Decode a configuration blob; `InvalidConfig` says what is wrong with it."""
        try:
            value = json.loads(raw)
            return cls._from_json(value)
        except InvalidDigest as error:
            raise InvalidConfig(f"rootfs.diff_ids: {error}") from None
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InvalidConfig(str(error)) from None

    @classmethod
    def _from_json(cls, value: object) -> ImageConfig:
        if not isinstance(value, dict):
            raise InvalidConfig("an image configuration is a JSON object")
        rootfs = value.get("rootfs") or {}
        return cls(
            platform=Platform.from_json(value),
            runtime=RuntimeConfig.from_json(value.get("config") or {}),
            diff_ids=tuple(DiffId.parse(str(item)) for item in rootfs.get("diff_ids") or ()),
            history=tuple(HistoryEntry.from_json(item) for item in value.get("history") or ()),
            created=str(value["created"]) if value.get("created") is not None else None,
            author=str(value.get("author") or ""),
            extra={name: item for name, item in value.items() if name not in _IMAGE_FIELDS},
        )

    def encode(self) -> bytes:
        """The configuration blob; equal configurations give equal bytes."""
        value: dict[str, Any] = {**self.extra, **self.platform.to_json()}
        if self.created is not None:
            value["created"] = self.created
        if self.author:
            value["author"] = self.author
        value["config"] = self.runtime.to_json()
        value["rootfs"] = {"type": "layers", "diff_ids": [str(item) for item in self.diff_ids]}
        value["history"] = [entry.to_json() for entry in self.history]
        return json.dumps(dict(sorted(value.items())), separators=(",", ":")).encode()
