"""Where the images of a registry are looked for."""

from __future__ import annotations

import pytest

from asyncbuild.errors import UsageError
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.mirrors import Mirror, Mirrors
from asyncbuild.registry.places import Files, Places


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("mirror.gcr.io", Mirror("mirror.gcr.io")),
        ("127.0.0.1", Mirror("127.0.0.1")),
        ("192.168.0.1:5000", Mirror("192.168.0.1:5000")),
        ("harbor.private.io/theproject", Mirror("harbor.private.io", "theproject")),
        ("https://harbor.private.io/a/b/", Mirror("harbor.private.io", "a/b")),
        ("http://cache:5000", Mirror("cache:5000", plain=True)),
        ("cache", Mirror("cache")),
        ("index.docker.io", Mirror("docker.io")),
    ],
)
def test_a_mirror_is_a_host_and_a_prefix(text: str, mirror: Mirror) -> None:
    """A scheme may stand before it, and says whether it is plain."""
    assert Mirror.parse(text) == mirror


@pytest.mark.parametrize("text", ["", "ftp://host", "host/UPPER", "ho st", "host:port"])
def test_what_is_no_mirror_is_refused(text: str) -> None:
    """A usage error shows the text."""
    with pytest.raises(UsageError, match="is no registry"):
        Mirror.parse(text)


def routes(mirrors: Mirrors, registry: str, repository: str) -> list[str]:
    """Where an image is looked for."""
    places = Places(Files(), mirrors, {}, HostSettings())
    return [str(route) for route in places.pull(registry, repository, tag=True)]


def test_mirrors_come_before_the_registry() -> None:
    """In their order, under their prefixes; without fallback the registry does not come at all."""
    places = {"docker.io": (Mirror("a.test"), Mirror("b.test:5000", "hub"))}
    found = routes(Mirrors(places), "docker.io", "library/busybox")
    assert found == [
        "a.test/library/busybox",
        "b.test:5000/hub/library/busybox",
        "docker.io/library/busybox",
    ]
    assert routes(Mirrors(places, fallback=False), "docker.io", "library/busybox") == found[:2]


def test_other_registries_are_where_they_are() -> None:
    """A registry without mirrors is asked itself, fallback or not; pushes go to the registry."""
    mirrors = Mirrors({"docker.io": (Mirror("a"),)}, fallback=False)
    assert routes(mirrors, "quay.test", "app") == ["quay.test/app"]
    places = Places(Files(), mirrors, {}, HostSettings())
    assert str(places.push("docker.io", "me/app")) == "docker.io/me/app"


def test_a_plain_mirror() -> None:
    """``http://`` before a mirror says how it is spoken to."""
    places = Places(Files(), Mirrors({"docker.io": (Mirror("a", plain=True),)}), {}, HostSettings())
    assert places.pull("docker.io", "x", tag=True)[0].settings.plain is True
