"""What may be said of one registry host. Pure."""

from __future__ import annotations

from typing import Self

from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.protocol import API_ROOT, is_loopback


@dataclass(frozen=True, slots=True)
class HostSettings:
    """How a host is spoken to.

    ``insecure``: neither certificates nor encryption are required (``--insecure HOST``).
    ``plain`` True or False fixes http or https; None finds out where it is allowed to.
    ``ca_files``: more authorities for this host (PEM). ``client_certificate``: the files of a certificate
    and of its key that we show to it (PEM; "" for a key that stands in the same file). ``headers`` go with
    every request to it. ``root``: the path below which its API is.
    """

    insecure: bool = False
    plain: bool | None = None
    ca_files: tuple[str, ...] = ()
    client_certificate: tuple[str, str] | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    root: str = API_ROOT

    def over(self, other: HostSettings) -> Self:
        """These settings, with those of ``other`` where these say nothing."""
        return replace(
            self,
            insecure=self.insecure or other.insecure,
            plain=other.plain if self.plain is None else self.plain,
            ca_files=(*self.ca_files, *other.ca_files),
            client_certificate=self.client_certificate or other.client_certificate,
            headers=(*other.headers, *self.headers),
            root=other.root if self.root == API_ROOT else self.root,
        )


def fixed_scheme(host: str, settings: HostSettings) -> str | None:
    """``https`` or ``http``; None for a host of which it must be found out."""
    if settings.plain is not None:
        return "http" if settings.plain else "https"
    if settings.insecure:
        return None
    named = settings.ca_files or settings.client_certificate  # a handshake that breaks is no answer
    return "https" if named or not is_loopback(host) else None
