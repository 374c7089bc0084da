"""How this machine's apt reaches its packages, so that a base image made here can do the same.

Read at run time from apt's own configuration; nothing about any mirror is written into the project.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ACQUIRE = re.compile(r'^Acquire::(Check-|https?::|Force|Retries)[^ ]* ".+";$')
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class AptSource:
    """One place that packages come from: the fields of a deb822 stanza."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def stanza(self) -> str:
        """The source as a deb822 stanza."""
        lines = [
            "Types: deb",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {' '.join(self.components)}",
        ]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class MachineApt:
    """This machine's release name, its Debian sources, and the files that a base needs to use them
    (path relative to the root -> content).
    """

    codename: str
    sources: tuple[AptSource, ...]
    files: tuple[tuple[str, bytes], ...]

    @property
    def mirror(self) -> str:
        """The address that has the release itself."""
        return next(source.uris[0] for source in self.sources if self.codename in source.suites)

    @property
    def keyring(self) -> str:
        """The key ring that signs the release."""
        found = next(source for source in self.sources if self.codename in source.suites)
        return found.signed_by or "/usr/share/keyrings/debian-archive-keyring.gpg"


def read_machine_apt(root: Path = Path("/")) -> MachineApt:
    """Read ``etc/os-release``, ``etc/apt/sources.list`` and ``sources.list.d`` (both formats) and
    apt's settings. Sources of anything but this Debian release are left out.
    """
    codename = _codename((root / "etc/os-release").read_text())
    suites = re.compile(rf"^{codename}(-updates|-security)?$")
    sources = tuple(
        source for source in _all_sources(root / "etc/apt") if all(map(suites.match, source.suites))
    )
    if not any(codename in source.suites for source in sources):
        raise RuntimeError(f"apt's configuration names no source for {codename}")
    settings = _settings()
    files = [
        ("etc/apt/sources.list.d/machine.sources", "\n".join(s.stanza() for s in sources).encode()),
        ("etc/apt/apt.conf.d/80machine", settings.encode()),
    ]
    for keyring in sorted({source.signed_by for source in sources if source.signed_by}):
        files.append((keyring.lstrip("/"), Path(keyring).read_bytes()))
    if "https://" in settings + "".join(uri for source in sources for uri in source.uris):
        files.append((_BUNDLE, (root / _BUNDLE).read_bytes()))
    return MachineApt(codename, sources, tuple(files))


def _codename(os_release: str) -> str:
    found = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', os_release, re.MULTILINE)
    if found is None:
        raise RuntimeError("/etc/os-release names no Debian release")
    return found[1]


def _all_sources(etc_apt: Path) -> list[AptSource]:
    found: list[AptSource] = []
    lists = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        if path.is_file():
            found.extend(parse_one_line(path.read_text()))
    for path in sorted((etc_apt / "sources.list.d").glob("*.sources")):
        found.extend(parse_deb822(path.read_text()))
    return found


def parse_one_line(content: str) -> list[AptSource]:
    """The ``deb [options] uri suite components`` lines (sources.list(5))."""
    line = re.compile(r"^deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.*?)\s*(?:#.*)?$", re.MULTILINE)
    found = []
    for options, uri, suite, components in line.findall(content):
        signed = re.search(r"signed-by=(\S+)", options)
        keyring = signed[1] if signed else ""
        found.append(AptSource((uri,), (suite,), tuple(components.split()), keyring))
    return found


def parse_deb822(content: str) -> list[AptSource]:
    """The stanzas of a ``.sources`` file (sources.list(5)) that are enabled and have binary packages."""
    found = []
    without_comments = re.sub(r"^#.*\n?", "", content, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", without_comments):
        folded = re.sub(r"\n[ \t]+", " ", stanza)
        pairs = (line.partition(":") for line in folded.splitlines() if ":" in line)
        fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled") == "no":
            continue
        found.append(
            AptSource(
                tuple(fields["uris"].split()),
                tuple(fields["suites"].split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )
        )
    return found


def _settings() -> str:
    """How this machine fetches (proxies, clocks, retries) and what keeps an image's layers small."""
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    lines = [line for line in dump.splitlines() if _ACQUIRE.match(line)]
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme.upper()}_PROXY")
        if proxy:
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    lines += [
        'APT::Install-Recommends "false";',
        'Acquire::Languages "none";',
        'Acquire::GzipIndexes "true";',
        'Dir::Cache::pkgcache "";',
        'Dir::Cache::srcpkgcache "";',
    ]
    return "\n".join(lines) + "\n"
