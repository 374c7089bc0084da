"""Routes to the images of a registry, from files on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.errors import InputError, NotAuthorized
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.mirrors import Mirror, Mirrors
from asyncbuild.registry.places import Files, Places, find_files
from asyncbuild.registry.registries_conf import parse_registries_conf


def places(
    directory: Path,
    files: Mapping[str, str],
    *,
    conf: str = "",
    mirrors: Mirrors | None = None,
    hosts: Mapping[str, HostSettings] | None = None,
) -> Places:
    """Places of a directory with ``files`` in it, and a registries.conf."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    found = Files((str(directory),), parse_registries_conf(conf, "registries.conf"))
    return Places(found, mirrors or Mirrors(), hosts or {}, HostSettings())


def pulled(found: Places, registry: str, repository: str = "a", *, tag: bool = True) -> list[str]:
    """The routes of a pull; ``?`` shows whose images are meant."""
    return [
        f"{route}?{route.namespace}" if route.namespace else str(route)
        for route in found.pull(registry, repository, tag=tag)
    ]


TWO_MIRRORS = """
server = "https://upstream.example"
[host."https://first.example"]
capabilities = ["pull"]
[host."https://second.example"]
capabilities = ["pull", "resolve", "push"]
"""


def test_hosts_by_what_they_may_do(shm_path: Path) -> None:
    """A host is asked for tags, for digests, or pushed to, as far as the file lets it."""
    found = places(shm_path, {"r.example/hosts.toml": TWO_MIRRORS})
    second = "second.example/a?r.example"
    upstream = "upstream.example/a?r.example"
    assert pulled(found, "r.example", tag=True) == [second, upstream]
    assert pulled(found, "r.example", tag=False) == ["first.example/a?r.example", second, upstream]
    assert str(found.push("r.example", "a")) == "second.example/a"
    assert pulled(found, "other.example") == ["other.example/a"]


@pytest.mark.parametrize(
    ("directory", "registry"),
    [
        ("r.example:5000", "r.example:5000"),
        ("r.example_5000_", "r.example:5000"),
        ("docker.io", "docker.io"),
        ("_default", "whatever.example"),
    ],
)
def test_names_of_directories(directory: str, registry: str, shm_path: Path) -> None:
    """A directory is named as its host, with a port in one of two ways; ``_default`` is for the rest."""
    found = places(shm_path, {f"{directory}/hosts.toml": '[host."https://m.example"]'})
    assert pulled(found, registry) == [f"m.example/a?{registry}", f"{registry}/a"]


def test_without_a_server_the_registry_is_as_it_was(shm_path: Path) -> None:
    """A file that only adds mirrors does not make a registry on this machine an encrypted one."""
    found = places(shm_path, {"127.0.0.1:5000/hosts.toml": '[host."https://m.example"]'})
    assert found.pull("127.0.0.1:5000", "a", tag=True)[-1].settings == HostSettings()


def test_dockers_certificates(shm_path: Path) -> None:
    """``*.crt`` are authorities, ``*.cert`` and ``*.key`` are shown; for the host alone."""
    names = ("ca.crt", "more.crt", "me.cert", "me.key")
    found = places(shm_path, {f"r.example:5000/{name}": "" for name in names})
    base = f"{shm_path}/r.example:5000"
    assert found.settings("r.example:5000") == HostSettings(
        ca_files=(f"{base}/ca.crt", f"{base}/more.crt"),
        client_certificate=(f"{base}/me.cert", f"{base}/me.key"),
    )
    assert found.settings("r.example") == HostSettings()
    with pytest.raises(InputError, match=r"has no key"):
        places(shm_path, {"s.example/me.cert": ""}).settings("s.example")


def test_certificates_of_a_mirror(shm_path: Path) -> None:
    """What hosts.toml says of a host is added to what is known of it."""
    files = {
        "r.example/hosts.toml": '[host."https://m.example"]\nca = "/theirs.crt"',
        "m.example/ca.crt": "",
    }
    route = places(shm_path, files).pull("r.example", "a", tag=True)[0]
    assert route.settings.ca_files == ("/theirs.crt", f"{shm_path}/m.example/ca.crt")


CONF = """
[[registry]]
prefix = "docker.io/library"
location = "internal.example/hub"
[[registry.mirror]]
location = "digests.example/x"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"
insecure = true
[[registry]]
location = "bad.example"
blocked = true
[[registry]]
location = "plain.example"
insecure = true
"""


def test_registries_conf(shm_path: Path) -> None:
    """Mirrors by tag and digest, then the location; what follows the prefix stays."""
    found = places(shm_path, {}, conf=CONF)
    tags = ["tags.example/busybox", "internal.example/hub/busybox"]
    digests = ["digests.example/x/busybox", "internal.example/hub/busybox"]
    assert pulled(found, "docker.io", "library/busybox", tag=True) == tags
    assert pulled(found, "docker.io", "library/busybox", tag=False) == digests
    assert found.pull("docker.io", "library/busybox", tag=True)[0].settings.insecure
    assert pulled(found, "docker.io", "other/app") == ["docker.io/other/app"]
    assert str(found.push("docker.io", "library/busybox")) == "docker.io/library/busybox"
    assert found.push("plain.example", "a").settings.insecure
    for ask in (
        lambda: found.pull("bad.example", "a", tag=True),
        lambda: found.push("bad.example", "a"),
    ):
        with pytest.raises(NotAuthorized, match="blocked"):
            ask()


def test_all_of_them_together(shm_path: Path) -> None:
    """The command line's mirrors, those of registries.conf, the hosts of hosts.toml, the registry."""
    found = places(
        shm_path,
        {"r.example/hosts.toml": '[host."https://toml.example"]'},
        conf="[[registry]]\nlocation='r.example'\n[[registry.mirror]]\nlocation='conf.example'",
        mirrors=Mirrors({"r.example": (Mirror("line.example", "x"),)}),
    )
    assert pulled(found, "r.example") == [
        "line.example/x/a",
        "conf.example/a",
        "toml.example/a?r.example",
        "r.example/a",
    ]


def test_the_command_line_wins(shm_path: Path) -> None:
    """A host that the user declares insecure is that, whatever a file says of the server."""
    hosts = {"r.example": HostSettings(insecure=True)}
    found = places(shm_path, {"r.example/hosts.toml": 'server = "https://r.example"'}, hosts=hosts)
    settings = found.push("r.example", "a").settings
    assert (settings.insecure, settings.plain) == (True, None)


def test_where_files_are(shm_path: Path) -> None:
    """A user's files go before the machine's; drop-ins before the file, the last one first."""
    base = shm_path / "config" / "containers"
    (base / "registries.conf.d").mkdir(parents=True)
    texts = {
        "registries.conf": "a",
        "registries.conf.d/00.conf": "b",
        "registries.conf.d/01.conf": "c",
    }
    for name, mirror in texts.items():
        text = f"[[registry]]\nlocation='r'\n[[registry.mirror]]\nlocation='{mirror}'"
        (base / name).write_text(text)
    found = find_files({"XDG_CONFIG_HOME": str(shm_path / "config")}, "/nonexistent", ["/mine"])
    assert [item.location.host for item in found.conf.entries[0].mirrors] == ["c"]
    assert found.directories[:2] == ("/mine", f"{base}/certs.d")
    named = find_files(
        {"CONTAINERS_REGISTRIES_CONF": str(base / "registries.conf")}, "/nonexistent"
    )
    assert [item.location.host for item in named.conf.entries[0].mirrors] == ["a"]
    with pytest.raises(InputError, match="cannot be read"):
        find_files({}, "/nonexistent", conf=str(shm_path / "missing.conf"))
