"""registries.conf of containers tools."""

from __future__ import annotations

import pytest

from asyncbuild.errors import InputError
from asyncbuild.registry.registries_conf import (
    Location,
    MirrorEntry,
    RegistriesConf,
    RegistryEntry,
    parse_registries_conf,
)


def parse(text: str) -> RegistriesConf:
    """Decode a file."""
    return parse_registries_conf(text, "registries.conf")


def test_everything_that_may_be_said() -> None:
    """Prefix, location, mirrors, and the flags."""
    found = parse(
        """
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        prefix = "Example.com/foo"
        insecure = true
        blocked = true
        location = "internal-registry.com/bar/"
        [[registry.mirror]]
        location = "example-mirror-0.local/mirror-for-foo"
        [[registry.mirror]]
        location = "example-mirror-1.local:5000"
        insecure = true
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "quay.io"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m"
        """
    )
    assert found.entries == (
        RegistryEntry(
            "example.com/foo",
            Location("internal-registry.com", "bar", insecure=True),
            (
                MirrorEntry(Location("example-mirror-0.local", "mirror-for-foo")),
                MirrorEntry(Location("example-mirror-1.local:5000", insecure=True), "tag-only"),
            ),
            blocked=True,
            insecure=True,
        ),
        RegistryEntry("quay.io", Location("quay.io"), (MirrorEntry(Location("m"), "digest-only"),)),
    )


@pytest.mark.parametrize(
    ("registry", "repository", "prefix", "rest"),
    [
        ("example.com", "foo/bar/app", "example.com/foo/bar", "app"),
        ("example.com", "foo/bar", "example.com/foo/bar", ""),
        ("example.com", "foo/barn", "example.com/foo", "barn"),
        ("example.com", "other", "example.com", "other"),
        ("example.com:5000", "other", None, ""),
        ("a.wild.example", "x/y", "*.wild.example", "x/y"),
        ("a.wild.example:5000", "x", "*.wild.example", "x"),
        ("wild.example", "x", None, ""),
        ("evilexample.com", "foo", None, ""),
    ],
)
def test_the_longest_prefix_counts(
    registry: str, repository: str, prefix: str | None, rest: str
) -> None:
    """By whole parts of a path; ``*.`` stands for every host below."""
    prefixes = ("example.com", "example.com/foo", "example.com/foo/bar", "*.wild.example")
    conf = RegistriesConf(tuple(RegistryEntry(each) for each in prefixes))
    found = conf.find(registry, repository)
    assert (found and (found[0].prefix, found[1])) == (prefix and (prefix, rest))


def test_earlier_files_win() -> None:
    """Of two tables with one prefix the more important file's counts."""
    first = RegistriesConf((RegistryEntry("a", blocked=True),))
    second = RegistriesConf((RegistryEntry("a"), RegistryEntry("b")))
    assert first.over(second).entries == (*first.entries, RegistryEntry("b"))


def test_only_comments() -> None:
    """The file as distributions ship it says nothing."""
    assert parse("# For more information\n\n  # unqualified = 1\n") == RegistriesConf()


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "registry = 3",
        "registry = [3]",
        "[registries.search]\nregistries = ['a']\n[registry]",
        "[[registry]]\ninsecure = true",
        "[[registry]]\nlocation = 3",
        "[[registry]]\nlocation = 'a'\nblocked = 'yes'",
        "[[registry]]\nlocation = 'a'\nmirror = 3",
        "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'x'",
    ],
)
def test_damage(text: str) -> None:
    """What is wrong in a file is named with the file."""
    with pytest.raises(InputError, match=r"^registries\.conf"):
        parse(text)
