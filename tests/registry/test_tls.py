"""Whom we trust."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import UsageError
from asyncbuild.registry.authorities import TrustSettings, make_context
from asyncbuild.registry.tls import Trust
from support.registry import make_tls


@pytest.fixture(scope="module")
def authority(session_path: Path) -> str:
    """The path of an authority's certificate."""
    return str(make_tls(session_path / "trust-tls").ca_file)


def test_everything_is_verified() -> None:
    """The default context verifies certificates and names."""
    context = make_context(TrustSettings())
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_insecure_verifies_nothing() -> None:
    """Only who asked for it gets a context without verification."""
    context = make_context(TrustSettings(verify=False))
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_environment(authority: str) -> None:
    """SSL_CERT_FILE and SSL_CERT_DIR replace the system's authorities; empty ones are none."""
    settings = TrustSettings.from_environment(
        {"SSL_CERT_FILE": authority, "SSL_CERT_DIR": ""}, extra_files=(authority,)
    )
    assert settings == TrustSettings(extra_files=(authority,), certificate_file=authority)
    assert make_context(settings).cert_store_stats()["x509_ca"] == 1
    assert make_context(TrustSettings(certificate_directory="/")).cert_store_stats()["x509"] == 0


def test_extra_authority(authority: str) -> None:
    """A host's own authority is trusted beside the system's."""
    plain = make_context(TrustSettings()).cert_store_stats()["x509_ca"]
    more = make_context(TrustSettings(extra_files=(authority,))).cert_store_stats()["x509_ca"]
    assert more == plain + 1


def test_missing_file(shm_path: Path) -> None:
    """A file that is not there is said, not passed over."""
    missing = str(shm_path / "none")
    for settings in (
        TrustSettings(certificate_file=missing),
        TrustSettings(extra_files=(missing,)),
    ):
        with pytest.raises(UsageError, match="certificate authorities in"):
            make_context(settings)


def test_made_once() -> None:
    """Tasks that ask at once get one context."""

    async def main() -> list[ssl.SSLContext]:
        trust = Trust(TrustSettings(verify=False))
        found: list[ssl.SSLContext] = []

        async def ask() -> None:
            found.append(await trust.context())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        return found

    assert len({id(context) for context in trio.run(main)}) == 1
