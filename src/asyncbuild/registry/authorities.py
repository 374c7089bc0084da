"""Whom a TLS connection trusts. Loading every authority costs 20 to 70 ms, so the system's directory of
authorities, which OpenSSL searches by need, is preferred.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping

from asyncbuild.errors import UsageError
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.hosts import HostSettings

_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """Where authorities come from.

    ``certificate_file`` and ``certificate_directory`` replace the system's (SSL_CERT_FILE and
    SSL_CERT_DIR); ``extra_files`` (PEM) are trusted besides. Without ``verify`` everything is trusted.
    ``client``: the files (PEM) of a certificate and its key, for servers that want to know who we are.
    """

    verify: bool = True
    extra_files: tuple[str, ...] = ()
    certificate_file: str | None = None
    certificate_directory: str | None = None
    client: tuple[str, str] | None = None

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], *, verify: bool = True, extra_files: tuple[str, ...] = ()
    ) -> TrustSettings:
        """Read SSL_CERT_FILE and SSL_CERT_DIR."""
        return cls(
            verify,
            extra_files,
            environ.get("SSL_CERT_FILE") or None,
            environ.get("SSL_CERT_DIR") or None,
        )


def trust_of(environ: Mapping[str, str], host: HostSettings) -> TrustSettings:
    """Whom connections to a host trust that is spoken to as ``host`` says."""
    settings = TrustSettings.from_environment(
        environ, verify=not host.insecure, extra_files=host.ca_files
    )
    return replace(settings, client=host.client_certificate)


def make_context(settings: TrustSettings) -> ssl.SSLContext:
    """A client's context for HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if settings.client is not None:
        _load_client(context, *settings.client)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    _load_system(context, settings)
    for path in settings.extra_files:
        _load(context, path)
    return context


def _load_system(context: ssl.SSLContext, settings: TrustSettings) -> None:
    if settings.certificate_file or settings.certificate_directory:
        if settings.certificate_file:
            _load(context, settings.certificate_file)
        if settings.certificate_directory:
            context.load_verify_locations(capath=settings.certificate_directory)
        return
    paths = ssl.get_default_verify_paths()
    if _is_hashed(paths.openssl_capath):
        context.load_verify_locations(capath=paths.openssl_capath)
    elif os.path.isfile(paths.openssl_cafile):
        _load(context, paths.openssl_cafile)
    else:
        import certifi  # noqa: PLC0415  (only where the system has no authorities: slim containers)

        _load(context, certifi.where())


def _is_hashed(directory: str) -> bool:
    """Whether OpenSSL finds authorities in ``directory`` by their subject's hash."""
    try:
        return any(_HASHED.fullmatch(name) for name in os.listdir(directory))
    except OSError:
        return False


def _load_client(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key or None)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"client certificate {certificate} with key {key}: {error}") from None


def _load(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        raise UsageError(f"certificate authorities in {path}: {error}") from None
