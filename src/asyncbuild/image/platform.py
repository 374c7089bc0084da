"""Platforms: ``os/architecture[/variant]`` and how an index entry is chosen for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system and a processor architecture, in the names of Go (GOOS, GOARCH)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``linux/amd64``, ``linux/arm/v7`` or a bare architecture; ValueError otherwise."""
        parts = text.strip().split("/")
        if len(parts) == 1:
            parts = [parts[0]] if parts[0] in ("linux", "windows") else ["linux", parts[0]]
        if len(parts) == 1:
            parts.append("amd64")
        if len(parts) > 3 or not all(parts):
            raise ValueError(f"{text!r} is not a platform: write os/architecture[/variant]")
        architecture, variant = _ARCHITECTURES.get(parts[1].lower(), (parts[1].lower(), ""))
        if len(parts) == 3:
            variant = parts[2]
        return cls(parts[0].lower(), architecture, variant)

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
    def _effective_variant(self) -> str:
        return self.variant or _DEFAULT_VARIANT.get(self.architecture, "")

    def accepts(self, other: Platform) -> bool:
        """Whether an image for ``other`` is exactly what this platform asks for."""
        return (
            self.os == other.os
            and self.architecture == other.architecture
            and self._effective_variant == other._effective_variant
            and (not self.os_version or self.os_version == other.os_version)
        )

    def __str__(self) -> str:
        text = f"{self.os}/{self.architecture}"
        return f"{text}/{self.variant}" if self.variant else text
