"""How registries are spoken to: the options that every command has which speaks to one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from asyncbuild.errors import InputError, UsageError
from asyncbuild.records import replace

if TYPE_CHECKING:  # what speaks to registries takes long to import, and --help does not need it
    from asyncbuild.registry.hosts import HostSettings
    from asyncbuild.registry.mirrors import Mirrors
    from asyncbuild.registry.registries import RegistrySettings

_RARE = (
    ("--registry-client-cert", "HOST=CERT,KEY"),
    ("--registry-mirror", "HOST=PLACE"),
    ("--certs-dir", "DIR"),
    ("--auth-file", "FILE"),
)


def add_registry_options(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The frequent ones are shown, the others are in docs/reference/cli.md."""
    add = command.add_argument
    add(
        "--insecure",
        action="append",
        default=[],
        metavar="HOST",
        help="registry with plain http or any certificate",
    )
    add("--registry-ca", action="append", default=[], metavar="HOST=FILE", help=argparse.SUPPRESS)
    for name, value in _RARE:
        add(name, action="append", default=[], metavar=value, help=argparse.SUPPRESS)
    add("--registries-conf", metavar="FILE", help=argparse.SUPPRESS)
    add("--registry-transfers", metavar="N", help=argparse.SUPPRESS)


def read_registries(
    options: argparse.Namespace, environ: Mapping[str, str], insecure: Iterable[str] = ()
) -> RegistrySettings:
    """What the options, the environment and this machine's files say; ``insecure`` are more such hosts.

    Raises `UsageError` and `InputError`.
    """
    from asyncbuild.registry.keychain import standard_keychain  # noqa: PLC0415
    from asyncbuild.registry.places import find_files  # noqa: PLC0415
    from asyncbuild.registry.registries import RegistrySettings  # noqa: PLC0415

    home = os.path.expanduser("~")
    for file in options.auth_file:
        _readable(file, f"--auth-file {file}")
    return RegistrySettings(
        keychain=standard_keychain(environ, home, files=options.auth_file),
        hosts=read_hosts(options, [*options.insecure, *insecure]),
        mirrors=read_mirrors(options.registry_mirror),
        files=find_files(environ, home, options.certs_dir, options.registries_conf),
        environ=environ,
        transfers=_count(options.registry_transfers),
    )


def read_hosts(options: argparse.Namespace, insecure: Iterable[str]) -> dict[str, HostSettings]:
    """What the options say of single hosts; ``insecure`` are those of ``--insecure`` and more."""
    from asyncbuild.registry.hosts import HostSettings  # noqa: PLC0415
    from asyncbuild.registry.mirrors import registry_name  # noqa: PLC0415

    hosts = {}
    for text in insecure:
        host = text.removeprefix("http://").rstrip("/")
        plain = True if text.startswith("http://") else None
        hosts[registry_name(host)] = HostSettings(insecure=True, plain=plain)
    for text in options.registry_ca:
        host, file = _pair("--registry-ca", text, "HOST=FILE")
        _readable(file, f"--registry-ca {text}")
        known = hosts.get(host, HostSettings())
        hosts[host] = replace(known, ca_files=(*known.ca_files, file))
    for text in options.registry_client_cert:
        host, files = _pair("--registry-client-cert", text, "HOST=CERT,KEY")
        certificate, _, key = files.partition(",")
        for file in filter(None, (certificate, key)):
            _readable(file, f"--registry-client-cert {text}")
        known = hosts.get(host, HostSettings())
        hosts[host] = replace(known, client_certificate=(certificate, key))
    return hosts


def read_mirrors(texts: Iterable[str]) -> Mirrors:
    """What ``--registry-mirror`` says."""
    from asyncbuild.registry.mirrors import Mirror, Mirrors  # noqa: PLC0415

    places: dict[str, tuple[Mirror, ...]] = {}
    for text in texts:
        host, place = _pair("--registry-mirror", text, "HOST=PLACE")
        places[host] = (*places.get(host, ()), Mirror.parse(place))
    return Mirrors(places)


def _pair(option: str, text: str, shape: str) -> tuple[str, str]:
    from asyncbuild.registry.mirrors import registry_name  # noqa: PLC0415

    host, equals, value = text.partition("=")
    if not (host and equals and value):
        raise UsageError(f"{option} {text}: write {shape}")
    return registry_name(host), value


def _readable(file: str, what: str) -> None:
    if not os.access(file, os.R_OK):
        raise InputError(f"{what}: the file cannot be read")


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(f"--registry-transfers {text}: it is a number from 1 on")
    return int(text)
