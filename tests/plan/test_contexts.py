"""Named build contexts: what names they take, what they become, where they act."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError, UsageError
from asyncbuild.image.digest import Digest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.plan.contexts import LAYOUT_HOST, NamedContexts
from asyncbuild.plan.nouns import Base, ContextRef, ImageRef, Need, Plan, Scratch, StageRef
from asyncbuild.plan.planner import PlanRequest, make_plan, trigger_steps
from asyncbuild.plan.render import render

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
DIGEST = Digest("sha256", "a" * 64)


def found(place: str, name: str = "x", platform: Platform = AMD64) -> Base | None:
    """What a context at ``place`` is."""
    return NamedContexts.parse({"x": place}).find(name, platform)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("dir", ContextRef("x", "dir")),
        ("https://e.com/a.git", ContextRef("x", "https://e.com/a.git")),
        ("docker-image://alpine", ImageRef(Reference.parse("alpine"), AMD64)),
        ("docker-image://scratch", Scratch()),
        ("oci-layout://a/b", ImageRef(Reference(LAYOUT_HOST, "x", "latest"), AMD64)),
        ("oci-layout://a/b:v1", ImageRef(Reference(LAYOUT_HOST, "x", "v1"), AMD64)),
        (f"oci-layout://a@{DIGEST}", ImageRef(Reference(LAYOUT_HOST, "x", None, DIGEST), AMD64)),
        (f"oci-layout://a:t@{DIGEST}", ImageRef(Reference(LAYOUT_HOST, "x", "t", DIGEST), AMD64)),
    ],
)
def test_places(place: str, expected: Base) -> None:
    """Each kind of place."""
    assert found(place) == expected


def test_layouts_are_found_by_repository() -> None:
    """The build knows where an image of a layout is."""
    contexts = NamedContexts.parse({"x/y:1": "oci-layout:///some/where:tag", "z": "dir"})
    image = contexts.find("x/y:1", AMD64)
    assert isinstance(image, ImageRef)
    assert contexts.layouts == {image.reference.repository: "/some/where"}


@pytest.mark.parametrize(
    ("option", "name", "same"),
    [
        ("alpine", "docker.io/library/alpine:latest", True),
        ("docker.io/library/alpine", "alpine", True),
        ("alpine:latest", "alpine", True),
        ("alpine", "alpine:3", False),
        ("alpine:3", "alpine:3", True),
        ("a.example/b", "a.example/b:latest", True),
        ("alpine", "ALPINE", False),
    ],
)
def test_names_are_those_of_images(option: str, name: str, *, same: bool) -> None:
    """Compared in their full form."""
    contexts = NamedContexts.parse({option: "dir"})
    assert (contexts.find(name, AMD64) is not None) is same


def test_a_platform_wins() -> None:
    """``name::platform`` before ``name``, for that platform only."""
    contexts = NamedContexts.parse({"x": "any", "x::linux/arm64": "arm"})
    assert contexts.find("x", ARM64) == ContextRef("x::linux/arm64", "arm")
    assert contexts.find("x", AMD64) == ContextRef("x", "any")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("x", "docker-image://UPPER"),
        ("x", "oci-layout://a@sha256:1"),
        ("x", "target:y"),
        ("X/", "dir"),
        ("x::nonsense/a/b/c", "dir"),
    ],
)
def test_what_is_wrong(name: str, place: str) -> None:
    """Said before anything is planned."""
    with pytest.raises(UsageError, match="--build-context"):
        NamedContexts.parse({name: place})


def planned(text: str, **contexts: str) -> Plan:
    """The plan of a Dockerfile with named contexts."""
    request = PlanRequest(AMD64, AMD64, contexts=NamedContexts.parse(contexts))
    return make_plan(parse_dockerfile(text), request)


def test_a_stage_is_replaced() -> None:
    """Its steps are gone, and what it needed."""
    plan = planned("FROM z AS a\nFROM a AS b\nRUN x\nFROM b\nRUN y", b="docker-image://other")
    assert plan.all_stages[1].base == ImageRef(Reference.parse("other"), AMD64)
    assert plan.all_stages[1].steps == ()
    assert plan.needed == (1, 2)
    assert [str(item.image.reference.repository) for item in plan.images] == ["library/other"]


def test_a_stage_before_an_image() -> None:
    """A stage of the name is the stage, though a context of the name stands for the stage itself."""
    plan = planned("FROM scratch AS a\nFROM b\nCOPY --from=a / /", b="dir")
    assert plan.all_stages[1].steps[1].sources == (StageRef(0),)


def test_from_files() -> None:
    """FROM a directory is FROM scratch with a first step that copies it."""
    plan = planned("FROM x\nRUN y", x="dir")
    stage = plan.all_stages[0]
    assert stage.base == Scratch()
    assert stage.steps[0].sources == (ContextRef("x", "dir"),)
    assert stage.steps[0].need is Need.NOTHING
    assert "context x (dir)" in render(plan)


def test_copy_and_mounts_from_files() -> None:
    """``--from`` of COPY and of mounts."""
    plan = planned("FROM a\nCOPY --from=x a b\nRUN --mount=from=x,target=/m y", x="dir")
    assert [step.sources for step in plan.all_stages[0].steps] == [(ContextRef("x", "dir"),)] * 2


def test_triggers_of_an_image_see_contexts() -> None:
    """A trigger that only the base image knows."""
    plan = planned("FROM a", x="dir")
    steps = trigger_steps(plan, 0, ["COPY --from=x a b"])
    assert steps[0].sources == (ContextRef("x", "dir"),)


def test_passwords_of_places_are_not_shown() -> None:
    """What a plan prints."""
    assert "secret" not in render(planned("FROM x", x="https://me:secret@e.com/a.git"))


def test_each_layout_has_its_own_repository() -> None:
    """However alike the names are, and for each platform."""
    names = ["a.b", "a-b", "a_b", "a/b", "a:b", "a:B", "a", "a::linux/arm64", "localhost:5000/a"]
    contexts = NamedContexts.parse({name: f"oci-layout://{n}" for n, name in enumerate(names)})
    assert sorted(contexts.layouts.values()) == [str(n) for n in range(len(names))]
    for number, name in enumerate(names):
        wanted, _, platform = name.partition("::")
        image = contexts.find(wanted, Platform.parse(platform) if platform else AMD64)
        assert isinstance(image, ImageRef)
        assert contexts.layouts[image.reference.repository] == str(number)
        assert Reference.parse(str(image.reference)) == image.reference


@pytest.mark.parametrize(
    "text",
    [
        "FROM {}/x",
        "FROM {}/x:y",
        "FROM scratch\nCOPY --from={}/img / /",
        "FROM a AS b\nFROM {}/img",
    ],
)
def test_the_registry_of_layouts_cannot_be_named(text: str) -> None:
    """Not even for a context that there is: its name is what stands in the Dockerfile."""
    dockerfile = parse_dockerfile(text.format(LAYOUT_HOST).encode())
    contexts = NamedContexts.parse({"img": "oci-layout://here"})
    with pytest.raises(DockerfileError, match=r"--build-context NAME=oci-layout://PATH") as caught:
        make_plan(dockerfile, PlanRequest(AMD64, AMD64, contexts=contexts))
    assert caught.value.location is not None
    with pytest.raises(UsageError, match="no registry is called"):
        found(f"docker-image://{LAYOUT_HOST}/x")
