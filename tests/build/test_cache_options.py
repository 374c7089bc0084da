"""What a build leaves out of its layers, and which directories are only passed, are inputs too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncbuild.build.request import CachePlace
from asyncbuild.image.reference import Reference
from support.builds import HOST, World, add_busybox

BASE = f"FROM {HOST}/base/busybox\n"
MADE = BASE + "RUN mkdir /x && echo a > /x/f && echo b > /g && touch -d @1000 /x/f /x /g\n"
PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)


@pytest.fixture
def world(shm_path: Path) -> World:
    """A double with a base."""
    made = World.below(shm_path)
    add_busybox(made.double)
    made.write({"dir/c": "c", "dir/d": "d"})
    return made


def diff_ids(world: World, dockerfile: str, **more: Any) -> tuple[str, ...]:
    """The layers of the image that a build makes."""
    result = world.run(dockerfile, "out:1", **more)
    return tuple(map(str, result.config.diff_ids))


OPTIONS = [{"ignored_paths": ("/x",)}, {"clamp_times": True, "created": 500}]


@pytest.mark.parametrize("options", OPTIONS, ids=["ignored paths", "clamped times"])
@pytest.mark.parametrize("kind", ["store", "registry"])
def test_layers_made_with_other_options_are_no_hits(
    world: World, options: dict[str, Any], kind: str
) -> None:
    """With a cache as without one, whichever of the two builds is the first."""
    cache: dict[str, Any] = (
        {} if kind == "store" else {"cache_from": (PLACE,), "cache_to": (PLACE,)}
    )
    plain = diff_ids(world, MADE, use_cache=False)
    other = diff_ids(world, MADE, use_cache=False, **options)
    assert plain != other
    for number, (given, right) in enumerate([({}, plain), (options, other), ({}, plain)]):
        place = world.store if kind == "store" else world.store.with_name(f"store{number}")
        assert diff_ids(world, MADE, **{**given, "store": place}, **cache) == right


@pytest.mark.parametrize("options", OPTIONS, ids=["ignored paths", "clamped times"])
def test_the_store_keeps_a_layer_as_it_is_in_the_image(
    world: World, options: dict[str, Any]
) -> None:
    """A step's directory is no layer of a DiffId that was made of a part of it."""
    diff_ids(world, MADE, **options)
    text = f"FROM {HOST}/out:1\nRUN stat -c '%n %Y' /x /g > /seen 2>&1 || true; touch -d @1 /seen\n"
    result = world.run(text, "again:1", created=500)
    fresh = world.run(text, "fresh:1", created=500, store=world.store.with_name("fresh"))
    assert result.config.diff_ids == fresh.config.diff_ids


def test_a_linked_layer_made_with_other_options_is_no_hit(world: World) -> None:
    """Upon another base too, where only the layer's own key is asked for."""
    text = "COPY --link dir /x/\nCOPY --link dir /y/\n"
    options = {"ignored_paths": ("/x/c",), "clamp_times": True, "created": 500}
    right = diff_ids(world, f"FROM scratch\n{text}", use_cache=False)
    assert diff_ids(world, f"{BASE}{text}", **options)[-2:] != right
    assert diff_ids(world, f"FROM scratch\n{text}") == right


@pytest.mark.parametrize("options", OPTIONS, ids=["ignored paths", "clamped times"])
def test_later_steps_see_everything_that_a_cached_one_made(
    world: World, options: dict[str, Any]
) -> None:
    """Behind a hit as behind the execution."""
    text = f"{MADE}RUN stat -c '%n %Y' /x /x/f /g > /seen; touch -d @1 /seen\n"
    right = diff_ids(world, text, use_cache=False, store=world.store.with_name("fresh"), **options)
    diff_ids(world, MADE, **options)
    assert diff_ids(world, text, **options) == right


def test_directories_that_are_only_passed(world: World) -> None:
    """``--parents dir/`` gives an existing directory the source's owner, ``dir/*`` leaves it its own."""
    upon = "FROM scratch\nCOPY --chown=5:5 dir /p/dir\n"
    whole = upon + "COPY --parents dir/ /p/\n"
    through = upon + "COPY --parents dir/* /p/\n"
    right = [diff_ids(world, text, use_cache=False) for text in (whole, through)]
    assert right[0] != right[1]
    assert [diff_ids(world, text) for text in (whole, through)] == right
