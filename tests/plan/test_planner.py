"""Planning: what golden files do not show."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError, UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.plan.nouns import ImageRef, Need, Plan, Scratch, StageRef
from asyncbuild.plan.planner import PlanRequest, make_plan, trigger_steps, with_triggers

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def plan(text: str, target: str | None = None, **build_args: str | None) -> Plan:
    """The plan of a Dockerfile for linux/arm64, built on linux/amd64."""
    return make_plan(parse_dockerfile(text), PlanRequest(ARM64, AMD64, build_args, target))


def image(name: str, platform: Platform = ARM64) -> ImageRef:
    """An image of the plan."""
    return ImageRef(Reference.parse(name), platform)


def test_bases() -> None:
    """An image, a stage in any case, a shadowed image name, scratch."""
    made = plan("FROM a AS One\nFROM ONE AS debian\nFROM debian\nFROM scratch\nFROM debian:12")
    bases = [stage.base for stage in made.all_stages]
    assert bases == [image("a"), StageRef(0), StageRef(1), Scratch(), image("debian:12")]


def test_a_stage_does_not_shadow_its_own_base() -> None:
    """FROM x AS x means the image, and so does a FROM above the stage of that name."""
    made = plan("FROM golang AS golang\nFROM debian\nFROM golang AS debian", target="1")
    assert [stage.base for stage in made.all_stages] == [
        image("golang"),
        image("debian"),
        StageRef(0),
    ]


def test_platforms() -> None:
    """--platform counts for an image; a stage keeps its base's platform."""
    made = plan("FROM --platform=$BUILDPLATFORM a AS b\nFROM b\nCOPY --from=c /x /x\n")
    assert [stage.platform for stage in made.all_stages] == [AMD64, AMD64]
    assert [item.image for item in made.images] == [image("a", AMD64), image("c", ARM64)]


def test_sources() -> None:
    """--from names a stage by name or number, an image, or scratch; a mount does too."""
    made = plan(
        "FROM a AS one\nFROM b\nCOPY --from=ONE / /\nCOPY --from=0 / /\nCOPY --from=img / /\n"
        "COPY --from=scratch / /\nCOPY . /\nRUN --mount=from=one,target=/x --mount=type=ssh true"
    )
    sources = [step.sources for step in made.target_stage.steps]
    assert sources == [
        (StageRef(0),),
        (StageRef(0),),
        (image("img"),),
        (Scratch(),),
        (),
        (StageRef(0), None),
    ]
    assert made.target_stage.steps[0].source == StageRef(0)
    assert made.target_stage.steps[4].source is None
    assert made.target_stage.dependencies == {0}


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("FROM a AS x\nCOPY --from=x / /", 2, "this very stage", "above it"),
        ("FROM a\nCOPY --from=y / /\nFROM b AS y", 2, "stage y, which comes later", "above it"),
        ("FROM a\nCOPY --from=1 / /\nFROM b", 2, "stage 1, which comes later", "first stage"),
        ("FROM a\nFROM b\nCOPY --from=1 / /", 3, "this very stage", "0 to 0"),
        ("FROM a\nFROM b\nCOPY --from=7 / /", 3, "there is no stage 7", "0 to 0"),
        ("FROM a\nFROM b\nCOPY --from=-1 / /", 3, "there is no stage -1", "0 to 0"),
        ("FROM a\nCOPY --from=$X / /", 2, "cannot name variables", "define a stage"),
        ("FROM a\nCOPY --from=\\'x / /", 2, "cannot name variables", "define a stage"),
        ("FROM a AS build\nFROM Buidl", 2, "lower case", None),
        ("FROM a AS build\nFROM b\nCOPY --from=build_: / /", 3, "not a", "did you mean build"),
        (
            "FROM a\nRUN --mount=from=later,target=/x y\nFROM b AS later",
            2,
            "comes later",
            "above it",
        ),
        ("ARG V\nFROM a:$V", 2, "not a", "V has no value"),
        ("FROM $X", 1, "is empty", "X has no value"),
        ("ARG P=\nFROM --platform=$P a", 2, "not a platform", None),
        ("FROM --platform=a/b/c/d a", 1, "not a platform", None),
        ("FROM a:${V", 1, "missing '}'", None),
        ("ARG A='' C=\"${B:?must be set}\"\nFROM a", 1, "B: must be set", None),
        ("FROM x/UPPER", 1, "lower case", None),
    ],
)
def test_errors(text: str, line: int, message: str, hint: str | None) -> None:
    """Each has its line, says what is wrong, and what to do."""
    with pytest.raises(DockerfileError) as caught:
        plan(text)
    assert message in caught.value.message
    assert caught.value.location is not None
    assert caught.value.location.line == line
    assert hint is None or (caught.value.hint and hint in caught.value.hint)


def test_targets() -> None:
    """By name in any case, by number, the last by default; a name wins over a number."""
    text = "FROM a AS one\nFROM b AS two\nFROM c"
    assert plan(text).target == 2
    assert plan(text, target="ONE").target == 0
    assert plan(text, target="1").target == 1
    with pytest.raises(UsageError) as caught:
        plan(text, target="tow")
    assert caught.value.hint == "did you mean two?"
    with pytest.raises(UsageError) as caught:
        plan(text, target="something")
    assert caught.value.hint == "the stages are one, two"
    with pytest.raises(UsageError):
        plan(text, target="3")


def test_what_is_not_needed_is_left_out() -> None:
    """Only what the target reaches is needed, and only its images are read."""
    text = "FROM a AS one\nFROM b AS two\nCOPY --from=img / /\nFROM c\nCOPY --from=one / /"
    made = plan(text)
    assert made.needed == (0, 2)
    assert [stage.index for stage in made.stages] == [0, 2]
    assert [item.image for item in made.images] == [image("a"), image("c")]
    assert [stage.index for stage in plan(text, target="two").stages] == [1]


def test_images_have_a_place_and_a_hint() -> None:
    """An image that is a stage's name with a typing error in it says so when it does not exist."""
    made = plan("FROM a AS builder\nFROM b\nCOPY --from=bulder / /\nCOPY --from=bulder /x /y")
    (second, third) = made.images
    assert (second.image, second.location.line, second.hint) == (image("b"), 2, None)
    assert (third.image, third.location.line, third.hint) == (
        image("bulder"),
        3,
        "did you mean builder?",
    )


def test_needs() -> None:
    """What each kind of step needs of its base."""
    text = (
        "FROM {}\nENV A=1\nCMD x\nWORKDIR /w\nCOPY a b\nCOPY --chown=1:2 a b\nCOPY --chown=me a b\n"
        "COPY --chown=$U a b\nCOPY --link a b\nADD a b\nRUN x"
    )
    needs = [step.need for step in plan(text.format("a")).target_stage.steps]
    N = Need  # noqa: N806 - a table is read better so
    assert needs == [
        *(N.CONFIG, N.CONFIG, N.FACTS, N.FACTS, N.FACTS, N.ROOT, N.ROOT, N.CONFIG, N.FACTS, N.ROOT)
    ]
    on_scratch = [step.need for step in plan(text.format("scratch")).target_stage.steps]
    assert on_scratch == [N.NOTHING] * 9 + [N.ROOT]
    assert plan("FROM a\nLABEL b=c").target_stage.need is N.CONFIG
    assert plan("FROM a").target_stage.need is N.CONFIG
    assert plan("FROM scratch\nCOPY a b").target_stage.need is N.NOTHING


def test_what_the_build_needs_of_a_stage() -> None:
    """A stage that is copied from is read as a whole; one that is built from, as its children need it."""
    text = (
        "FROM a AS one\nFROM one AS two\nCOPY a b\nFROM c AS three\nFROM two\nCOPY --from=three / /"
    )
    made = plan(text)
    assert [made.stage_need(n) for n in range(4)] == [Need.FACTS, Need.FACTS, Need.ROOT, Need.FACTS]
    assert [stage.need for stage in made.all_stages][:3] == [Need.CONFIG, Need.FACTS, Need.CONFIG]


def test_global_arguments() -> None:
    """They see each other and what is predefined; --build-arg wins."""
    text = "ARG A=1\nARG B=${A}2 C='x y'\nARG D\nARG TARGETOS=plan9\nFROM a"
    made = plan(text, D="given", BUILDARCH="mine", NOTHING=None)
    values = made.arguments.globals
    assert (values["B"], values["C"], values["D"], values["TARGETOS"]) == (
        "12",
        "x y",
        "given",
        "plan9",
    )
    assert values["BUILDARCH"] == "mine"
    assert (values["TARGETPLATFORM"], values["BUILDPLATFORM"]) == ("linux/arm64", "linux/amd64")
    assert values["TARGETSTAGE"] == "default"
    assert "NOTHING" not in made.arguments.given
    assert plan("FROM a AS Last").arguments.globals["TARGETSTAGE"] == "last"
    assert plan("FROM a AS b\nFROM c", target="b").arguments.globals["TARGETSTAGE"] == "b"


def test_local_triggers() -> None:
    """ONBUILD of a stage acts in the stages built FROM it, at their FROM, once."""
    made = plan(
        "FROM a AS base\nONBUILD COPY --from=0 /x /y\nONBUILD ENV A=1\nFROM base AS c\nRUN x\nFROM c"
    )
    child = made.all_stages[1]
    assert [(step.triggered, step.instruction.NAME) for step in child.steps] == [
        (True, "COPY"),
        (True, "ENV"),
        (False, "RUN"),
    ]
    assert child.steps[0].instruction.location == child.location
    assert child.steps[0].source == StageRef(0)
    assert made.all_stages[2].steps == ()


def test_triggers_of_an_image() -> None:
    """An image's triggers become steps in front, and may need a stage that nothing else needs."""
    made = plan("FROM a AS one\nFROM b AS two\nFROM c\nRUN x")
    triggers = ["COPY --from=One /x /y", "RUN <<E\nhi\nE", "COPY --from=img / /"]
    steps = trigger_steps(made, 2, triggers)
    assert [step.source for step in steps] == [StageRef(0), None, image("img")]
    assert isinstance(steps[1].instruction, i.Run)
    assert all(step.triggered and step.instruction.location.line == 3 for step in steps)
    later = with_triggers(made, 2, triggers)
    assert (made.needed, later.needed) == ((2,), (0, 2))
    assert [item.image for item in later.images] == [image("a"), image("c"), image("img")]
    assert [step.instruction.NAME for step in later.target_stage.steps] == [
        "COPY",
        "RUN",
        "COPY",
        "RUN",
    ]
    assert made.closure(
        step.source.index for step in steps if isinstance(step.source, StageRef)
    ) == (0,)


@pytest.mark.parametrize(
    "trigger", ["", "FROM x", "ONBUILD RUN x", "RUN a\nRUN b", "NONSENSE", "COPY --from=2 / /"]
)
def test_bad_triggers_of_an_image(trigger: str) -> None:
    """A trigger that makes no sense is an error at the FROM that meets it."""
    made = plan("FROM a\nFROM b\nFROM c")
    with pytest.raises(DockerfileError) as caught:
        trigger_steps(made, 2, [trigger])
    assert caught.value.location is not None
    assert caught.value.location.line == 3


def test_notices() -> None:
    """Names that are used twice or reserved, unset variables in FROM, arguments that nothing declares."""
    made = plan(
        "ARG VERSION=1\nFROM a AS x\nFROM b${VERSIONS} AS x\nFROM c AS scratch\nONBUILD ARG LATE",
        VERSON="2",
        LATE="3",
        HTTP_PROXY="p",
        BUILDKIT_INLINE_CACHE="1",
        TARGETARCH="z",
    )
    found = {
        (notice.rule, notice.location.line if notice.location else 0) for notice in made.notices
    }
    assert found == {
        ("DuplicateStageName", 3),
        ("ReservedStageName", 4),
        ("UndefinedArgInFrom", 3),
        ("UnusedBuildArg", 0),
    }
    (unused,) = [notice for notice in made.notices if notice.rule == "UnusedBuildArg"]
    assert unused.message == "no ARG declares --build-arg VERSON (meant VERSION?)"


def test_the_nearest_of_two_namesakes() -> None:
    """Of two stages with one name the nearest above is meant."""
    made = plan("FROM a AS x\nFROM b AS x\nFROM x\nCOPY --from=x / /")
    assert made.target_stage.base == StageRef(1)
    assert made.target_stage.steps[0].source == StageRef(1)
    assert plan("FROM a AS x\nFROM b AS x", target="x").target == 1


def test_labels() -> None:
    """A stage without a name is called by its number."""
    made = plan("FROM a AS x\nFROM b")
    assert [stage.label for stage in made.all_stages] == ["x", "stage-1"]
