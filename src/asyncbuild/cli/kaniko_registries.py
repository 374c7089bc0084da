"""kaniko's flags of registries: which may be plain, whom to trust, where to look first, how to log in."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from asyncbuild.cli.kaniko_flags import Given
from asyncbuild.errors import UsageError
from asyncbuild.image.reference import DOCKER_HUB, Reference
from asyncbuild.records import replace
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.mirrors import Mirror, Mirrors, registry_name
from asyncbuild.registry.retry import RetryPolicy

if TYPE_CHECKING:
    from asyncbuild.registry.credentials import Keychain
    from asyncbuild.registry.registries import RegistrySettings

_HELPERS = ("env", "google", "ecr", "acr", "gitlab")


def registry_settings(
    given: Given, destinations: Iterable[Reference], environ: Mapping[str, str]
) -> RegistrySettings:
    """What the flags and the environment say of registries; ``destinations`` are what is pushed to.

    Flags without a host's name are kaniko's ``--insecure`` and ``--skip-tls-verify`` for the
    destinations, and their ``-pull`` forms for every other registry.
    """
    from asyncbuild.registry.registries import RegistrySettings  # noqa: PLC0415 - takes long

    hosts, others = read_hosts(given, {item.registry for item in destinations}, environ)
    return RegistrySettings(
        keychain=keychain(given, environ),
        hosts=hosts,
        others=others,
        mirrors=read_mirrors(given, environ),
        environ=environ,
        policy=_policy(given),
    )


def read_hosts(
    given: Given, pushed: Collection[str], environ: Mapping[str, str]
) -> tuple[dict[str, HostSettings], HostSettings]:
    """How single registries are spoken to, and all others; ``pushed`` are those of destinations."""
    hosts: dict[str, HostSettings] = {}
    others = HostSettings()
    if given.on("skip-tls-verify-pull"):
        others = HostSettings(insecure=True, plain=False)
    if given.on("insecure-pull"):
        others = HostSettings(insecure=True)
    for host in sorted(pushed):
        hosts[host] = _pushed_host(given, others)
    for name in given.texts("insecure-registry"):
        hosts[registry_name(name)] = HostSettings(insecure=True)
    for name in given.texts("skip-tls-verify-registry"):
        known = hosts.get(registry_name(name), others)
        if not known.insecure:
            hosts[registry_name(name)] = HostSettings(insecure=True, plain=False)
    for mirror in (
        item for places in read_mirrors(given, environ).places.values() for item in places
    ):
        if mirror.plain:
            hosts[mirror.registry] = HostSettings(insecure=True, plain=True)
    _add_certificates(given, hosts, others)
    return hosts, others


def _pushed_host(given: Given, others: HostSettings) -> HostSettings:
    if _on(given, "insecure"):
        return HostSettings(insecure=True)
    if _on(given, "skip-tls-verify") and not others.insecure:
        return HostSettings(insecure=True, plain=False)
    return others


def _on(given: Given, name: str) -> bool:
    """Whether a flag that the warmer does not have is on."""
    return any(flag.name == name for flag in given.table) and given.on(name)


def _add_certificates(given: Given, hosts: dict[str, HostSettings], others: HostSettings) -> None:
    for option in given.texts("registry-certificate"):
        host, file = _pair("--registry-certificate", option)
        hosts[host] = replace(hosts.get(host, others), ca_files=(file,))
    for option in given.texts("registry-client-cert"):
        host, files = _pair("--registry-client-cert", option)
        certificate, comma, key = files.partition(",")
        if not (certificate and comma and key) or "," in key:
            raise UsageError(
                f"--registry-client-cert {option}: write HOST=CERTIFICATE_FILE,KEY_FILE"
            )
        hosts[host] = replace(hosts.get(host, others), client_certificate=(certificate, key))


def _pair(option: str, text: str) -> tuple[str, str]:
    host, equals, value = text.partition("=")
    if not (host and equals and value):
        raise UsageError(f"{option} {text}: write HOST=FILE")
    return registry_name(host), value


def read_mirrors(given: Given, environ: Mapping[str, str]) -> Mirrors:
    """``--registry-map``, then ``--registry-mirror`` for Docker Hub; the environment adds to each."""
    maps = [*given.texts("registry-map"), environ.get("KANIKO_REGISTRY_MAP", "")]
    mirrors = [*given.texts("registry-mirror"), environ.get("KANIKO_REGISTRY_MIRROR", "")]
    pairs = [pair for text in maps for pair in text.split(";") if pair]
    pairs += [f"{DOCKER_HUB}={mirror}" for mirror in mirrors if mirror]
    places: dict[str, tuple[Mirror, ...]] = {}
    for pair in pairs:
        host, place = _pair("--registry-map", pair)
        places[host] = (*places.get(host, ()), Mirror.parse(place))
    return Mirrors(places, fallback=not given.on("skip-default-registry-fallback"))


def _policy(given: Given) -> RetryPolicy:
    """Our own patience, or more: kaniko's flags count repetitions, ours are tries."""
    names = {flag.name for flag in given.table} & {"push-retry", "image-download-retry"}
    asked = [1 + given.number(name) for name in names]
    usual = RetryPolicy()
    return replace(usual, attempts=max([usual.attempts, *asked]))


def keychain(given: Given, environ: Mapping[str, str]) -> Keychain:
    """Files of logins, then what ``--credential-helpers`` lets this place give."""
    from asyncbuild.registry.keychain import SOURCE_NAMES, standard_keychain  # noqa: PLC0415 - takes long

    known = any(flag.name == "credential-helpers" for flag in given.table)
    chosen: tuple[str, ...] = SOURCE_NAMES
    if known and given.has("credential-helpers"):
        chosen = given.texts("credential-helpers")
        for name in chosen:
            if name not in _HELPERS:
                raise UsageError(
                    f"--credential-helpers {name}: it is one of {', '.join(_HELPERS)}, or empty"
                )
    return standard_keychain(environ, os.path.expanduser("~"), names=chosen)
