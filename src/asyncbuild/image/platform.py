"""Platforms: ``os/architecture[/variant]`` and how an index entry is chosen for one."""

from __future__ import annotations

from typing import Any

from asyncbuild.records import dataclass

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
_DEFAULT_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
_VARIANTS = {
    "amd64": ("v4", "v3", "v2", "v1"),
    "arm64": ("v9", "v8"),
    "arm": ("v8", "v7", "v6", "v5"),
}
_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd")
_GO_ARCHITECTURES = frozenset(
    [
        *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle"),
        *("ppc64", "ppc64le", "riscv64", "s390x", "wasm"),
    ]
)


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system and a processor architecture, in the names of Go (GOOS, GOARCH)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str, machine: Platform | None = None) -> Platform:
        """Parse ``linux/amd64``, ``linux/arm/v7`` or a bare architecture; ValueError otherwise.

        A bare system takes the architecture of ``machine``, if that is given.
        """
        parts = text.strip().lower().split("/")
        if parts[0] in _SYSTEMS and len(parts) == 1 and machine is not None:
            parts.append(machine.architecture)
        elif parts[0] in _GO_ARCHITECTURES | _ARCHITECTURES.keys() and len(parts) == 1:
            parts.insert(0, "linux")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise ValueError(f"{text!r} is not a platform: write os/architecture[/variant]")
        architecture, variant = _ARCHITECTURES.get(parts[1], (parts[1], ""))
        if len(parts) == 3:
            variant = _with_v(parts[2])
        return cls(parts[0], architecture, variant)

    @classmethod
    def of_machine(cls, machine: str) -> Platform:
        """The Linux platform of a kernel's machine name (``uname -m``)."""
        architecture, variant = _ARCHITECTURES.get(machine.lower(), (machine.lower(), ""))
        return cls("linux", architecture, variant)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Platform:
        """Decode the ``platform`` object of an index entry."""
        return cls(
            str(value.get("os", "")),
            str(value.get("architecture", "")),
            str(value.get("variant", "")),
            str(value.get("os.version", "")),
        )

    def to_json(self) -> dict[str, str]:
        """Encode as the ``platform`` object of an index entry."""
        value = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.variant:
            value["variant"] = self.variant
        return value

    @property
    def _normal(self) -> tuple[str, str]:
        """Architecture and variant in one spelling (containerd/platforms, database.go)."""
        architecture, variant = _ARCHITECTURES.get(
            self.architecture.lower(), (self.architecture.lower(), "")
        )
        variant = _with_v(self.variant.lower()) or variant or _DEFAULT_VARIANT.get(architecture, "")
        return architecture, variant.removesuffix(".0")

    def accepts(self, other: Platform) -> bool:
        """Whether an image for ``other`` is exactly what this platform asks for."""
        return (
            self.os == other.os
            and self._normal == other._normal
            and (not self.os_version or self.os_version == other.os_version)
        )

    @property
    def candidates(self) -> tuple[Platform, ...]:
        """What runs here, best first: this platform, then the lower variants of its architecture.

        containerd also lets amd64 run 386 and arm64 run arm; we do not choose those unasked.
        """
        architecture, variant = self._normal
        known = _VARIANTS.get(architecture, ())
        lower = known[known.index(variant) + 1 :] if variant in known else ()
        return (self, *(Platform(self.os, architecture, item, self.os_version) for item in lower))

    def __str__(self) -> str:
        text = f"{self.os}/{self.architecture}"
        return f"{text}/{self.variant}" if self.variant else text


def _with_v(variant: str) -> str:
    """``7`` and ``v7`` are one variant."""
    return f"v{variant}" if variant[:1].isdigit() else variant
