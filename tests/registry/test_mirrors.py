"""Where the images of a registry are looked for."""

from __future__ import annotations

import pytest

from asyncbuild.errors import UsageError
from asyncbuild.image.reference import Reference
from asyncbuild.registry.mirrors import Mirror, Mirrors


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


def test_mirrors_come_before_the_registry() -> None:
    """In their order, under their prefixes; without fallback the registry does not come at all."""
    places = {"docker.io": (Mirror("a.test"), Mirror("b.test:5000", "hub"))}
    wanted = Reference.parse("busybox:1")
    names = [str(place) for place in Mirrors(places).candidates(wanted)]
    assert names == [
        "a.test/library/busybox:1",
        "b.test:5000/hub/library/busybox:1",
        "docker.io/library/busybox:1",
    ]
    alone = Mirrors(places, fallback=False).candidates(wanted)
    assert [place.registry for place in alone] == ["a.test", "b.test:5000"]


def test_other_registries_are_where_they_are() -> None:
    """A registry without mirrors is asked itself, fallback or not."""
    wanted = Reference.parse("quay.test/app@sha256:" + "0" * 64)
    assert Mirrors({"docker.io": (Mirror("a"),)}, fallback=False).candidates(wanted) == (wanted,)
