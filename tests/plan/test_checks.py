"""The build checks: what sets each rule off, and what does not.

What is expected of BuildKit's rules follows its own tests (dockerfile_check_test.go) and documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.dockerfile.ignore import IgnorePatterns
from asyncbuild.dockerfile.lint_rules import RULES
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import UsageError
from asyncbuild.image.config import ImageConfig, RuntimeConfig
from asyncbuild.image.platform import Platform
from asyncbuild.plan.checks import BaseFacts, Surroundings, check_plan, violation
from asyncbuild.plan.nouns import ImageRef, Plan
from asyncbuild.plan.planner import PlanRequest, make_plan

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def plan(text: str, given: Mapping[str, str] | None = None, target: str | None = None) -> Plan:
    """The plan of a Dockerfile."""
    request = PlanRequest(AMD64, AMD64, dict(given or {}), target)
    return make_plan(parse_dockerfile(text), request)


def facts(made: Plan, runtime: RuntimeConfig, platform: Platform = AMD64) -> Surroundings:
    """Surroundings in which every base has one configuration."""
    config = ImageConfig(platform, runtime)
    refs = [stage.base for stage in made.all_stages if isinstance(stage.base, ImageRef)]
    return Surroundings({ref: BaseFacts.of(config) for ref in refs}, every_stage=True)


def found(
    text: str, known: Surroundings | None = None, given: Mapping[str, str] | None = None
) -> list[tuple[str, int]]:
    """The rules that are set off, with their lines; every base is an empty image unless said."""
    made = plan(text, given)
    assert made.dockerfile is not None
    known = known or facts(made, RuntimeConfig())
    notices = check_plan(made.dockerfile, made, known)
    return [(n.rule, n.location.line if n.location else 0) for n in notices]


CASES = [
    ("FROM a AS Build", [("StageNameCasing", 1)]),
    ("FROM a AS build\nfrom b as c", [("ConsistentInstructionCasing", 2)]),
    ("FROM a as build", [("FromAsCasing", 1)]),
    ("from a AS build", [("FromAsCasing", 1)]),
    ("from a as build", []),
    ("From a as b\nFROM c AS d", [("ConsistentInstructionCasing", 1)]),
    ("FROM a\ncopy x /y\nCOPY x /z", [("ConsistentInstructionCasing", 2)]),
    ("from a\nCOPY x /y\ncopy x /z", [("ConsistentInstructionCasing", 2)]),
    ("FROM a\ncopy x /y\ncopy x /z", [("ConsistentInstructionCasing", 1)]),
    ("arg X\nFROM a", []),
    ("FROM a\nCOPY x \\\n\n y", [("NoEmptyContinuation", 3)]),
    ("FROM a AS x\nFROM b AS x", [("DuplicateStageName", 2)]),
    ("FROM a AS x\nFROM b AS X", [("StageNameCasing", 2), ("DuplicateStageName", 2)]),
    ("FROM a AS scratch\nFROM b AS context", [("ReservedStageName", 1), ("ReservedStageName", 2)]),
    ("FROM a\nCMD x", [("JSONArgsRecommended", 2)]),
    ('FROM a\nENTRYPOINT x\nCMD ["a"]', [("JSONArgsRecommended", 2)]),
    ('FROM a\nSHELL ["/bin/bash", "-c"]\nCMD x', []),
    ('FROM a AS s\nSHELL ["sh"]\nFROM s\nCMD x', []),
    ("FROM a\nMAINTAINER me", [("MaintainerDeprecated", 2)]),
    ("ARG V=1\nFROM a:$V", []),
    ("ARG V\nFROM a$V", []),
    ("FROM a:1$VERSION", [("UndefinedArgInFrom", 1)]),
    ("FROM --platform=$BUILDPLATFORM a", []),
    ("FROM a\nWORKDIR app", [("WorkdirRelativePath", 2)]),
    ("FROM a\nWORKDIR app\nWORKDIR more", [("WorkdirRelativePath", 2)]),
    ("FROM a AS x\nWORKDIR /app\nFROM x\nWORKDIR below", []),
    ("FROM a\nARG D=/x\nWORKDIR $D", []),
    ("FROM a\nCOPY $foo /x", [("UndefinedVar", 2)]),
    ("FROM a\nCOPY $foo /x\nARG foo=b", [("UndefinedVar", 2)]),
    ("FROM a\nARG foo\nCOPY x$foo /x", []),
    ("FROM a\nENV P=$PATH:/x", []),
    ("FROM a\nRUN echo $nothing", []),
    ("FROM a\nCOPY <<E /x\n$y\nE", [("UndefinedVar", 3)]),
    ("FROM a\nCOPY <<'E' /x\n$y\nE", []),
    ("FROM a\nARG A=$b", [("UndefinedVar", 2)]),
    ("FROM a AS x\nENV v=1\nFROM x\nCOPY $v /", []),
    ("FROM a AS x\nONBUILD ENV v=1\nFROM x\nCOPY $v /", []),
    ('FROM a\nCMD ["a"]\nCMD ["b"]', [("MultipleInstructionsDisallowed", 2)]),
    ('FROM a AS x\nCMD ["a"]\nFROM x\nCMD ["b"]', []),
    ("FROM a\nHEALTHCHECK CMD a\nHEALTHCHECK NONE", [("MultipleInstructionsDisallowed", 2)]),
    ("FROM a\nENV x y", [("LegacyKeyValueFormat", 2)]),
    ("FROM a\nLABEL x y", [("LegacyKeyValueFormat", 2)]),
    ("FROM a\nENV x=y", []),
    ("FROM --platform=$TARGETPLATFORM a", [("RedundantTargetPlatform", 1)]),
    ("FROM --platform=${TARGETPLATFORM} a", [("RedundantTargetPlatform", 1)]),
    ("FROM --platform=$TARGETOS/$TARGETARCH a", []),
    ("FROM a\nARG SECRET_PASSPHRASE", [("SecretsUsedInArgOrEnv", 2)]),
    ("FROM a\nENV password=a secret=b", [("SecretsUsedInArgOrEnv", 2)] * 2),
    ("FROM a\nARG super_secret_token=a auth=b x=c", [("SecretsUsedInArgOrEnv", 2)] * 2),
    ("FROM a\nENV PUBLIC_KEY= git_keys= AUTHOR=a\nARG SECRET_FILE TOKEN_VERSION", []),
    ("ARG TOKEN\nFROM a", []),
    ("FROM --platform=linux/amd64 a", [("FromPlatformFlagConstDisallowed", 1)]),
    ("FROM --platform=linux/amd64 a AS my_amd64", []),
    ("FROM --platform=linux/amd64 a AS linux", []),
    ("FROM a\nEXPOSE 80/TCP 81/udp 8080/Tcp", [("ExposeProtoCasing", 2)] * 2),
    ("FROM a\nEXPOSE 127.0.0.1:80:80 [::1]:81:81 5:5 80", [("ExposeInvalidFormat", 2)] * 3),
    ("FROM a\nARG P=80/TCP\nEXPOSE $P", [("ExposeProtoCasing", 3)]),
    ("# syntax=someone/else\nFROM a", [("SyntaxDirective", 1)]),
    ("# check=skip=Nope\nFROM a", [("UnknownCheck", 0)]),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_rules(text: str, expected: list[tuple[str, int]]) -> None:
    """Each rule is set off by what it is about, and by nothing near to it."""
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARG V\nFROM a:$V", 1),
        ("ARG V\nFROM $V", 1),
        ("ARG V=b:\nFROM a$V", 1),
        ("ARG V=1\nFROM a:$V", 0),
        ("ARG V=\nFROM a:stable$V", 0),
        ("ARG V\nFROM a:stable$V", 0),
    ],
)
def test_defaults(text: str, expected: int) -> None:
    """FROM names an image also when no --build-arg helps."""
    assert found(text, given={"V": "x"}) == [("InvalidDefaultArgInFrom", 2)] * expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# V the version\nARG V=1\nFROM a", []),
        ("# v the version\nARG V=1\nFROM a", [3]),
        ("# V the version\n\nARG V=1\nFROM a", []),
        ("# anything\n#\nARG V=1\nFROM a", []),
        ("# one of them\nARG A B=2\nFROM a", [3]),
        ("# B is described\nARG A B=2\nFROM a", []),
        ("# base the base\nFROM a AS base", []),
        ("# Base the base\nFROM a AS base", [3]),
        ("# no name, no description\nFROM a", []),
        ("FROM a\n# whatever\nCOPY a /b", []),
    ],
)
def test_descriptions(text: str, expected: list[int]) -> None:
    """The last comment above an ARG or a named FROM begins with the name, if the rule is asked for."""
    rule = "InvalidDefinitionDescription"
    assert rule not in dict(found(text))
    lines = found(f"# check=experimental={rule}\n{text}")
    assert lines == [(rule, line) for line in expected]


@pytest.mark.parametrize(
    ("ignored", "source", "expected"),
    [
        ("Dockerfile", "Dockerfile", 1),
        ("Dockerfile", "./Dockerfile", 1),
        ("Dockerfile", "other", 0),
        ("", "other", 0),
        ("dir", "dir/x", 1),
        ("*\n!x", "y", 0),
        (".*", ".", 0),
        ("*", ".", 1),
        ("Dockerfile", "https://example.com/Dockerfile", 0),
    ],
)
def test_ignored_files(ignored: str, source: str, expected: int) -> None:
    """COPY and ADD of what the ignore file leaves out is found; exceptions make that hard to tell."""
    known = Surroundings(ignore=IgnorePatterns.parse(ignored))
    text = f"FROM scratch\nADD {source} /x/\n"
    assert found(text, known) == [("CopyIgnoredFile", 2)] * expected
    assert found(f"FROM scratch AS a\nFROM a\nCOPY --from=a {source} /x/\n", known) == []


ADVICE = [
    ("FROM a:1", [("UnpinnedBase", 2)]),
    (f"FROM a@sha256:{'0' * 64}", []),
    (
        "FROM scratch\nCOPY --from=b / /\nRUN --mount=from=c,target=/c x",
        [("UnpinnedBase", 3), ("UnpinnedBase", 4)],
    ),
    ("FROM scratch AS s\nFROM s\nCOPY --from=s / /", []),
    ("FROM scratch\nRUN apt-get update && apt-get install -y a", [("AptGetRecommends", 3)]),
    ("FROM scratch\nRUN apt-get update && apt-get install --no-install-recommends a", []),
    ("FROM scratch\nRUN <<E\napt-get update\napt-get install a\nE", [("AptGetRecommends", 3)]),
    ("FROM scratch\nRUN echo APT::Install-Recommends 0 > /etc/x\nRUN apt-get install a", []),
    (
        "FROM scratch\nRUN apt-get update\nRUN apt-get install --no-install-recommends a",
        [("AptGetUpdateAlone", 3)],
    ),
    (
        "FROM scratch\nRUN apt-get update && apt-get upgrade\nRUN apt-get update && apt-get install --no-install-recommends a",
        [],
    ),
    ("FROM scratch\nRUN apt-get update", []),
    ("FROM scratch\nCOPY . .\nRUN npm ci", [("CopyBeforeInstall", 3)]),
    ("FROM scratch\nCOPY package.json .\nRUN npm ci\nCOPY . .\nRUN npm install", []),
    ("FROM scratch\nCOPY . .\nRUN pip install .", []),
    (
        "FROM scratch\nADD ./ /src\nRUN pip install --no-cache-dir -r requirements.txt",
        [("CopyBeforeInstall", 3)],
    ),
    ("FROM scratch AS s\nFROM s\nCOPY --from=s . .\nRUN npm ci", []),
    ("FROM scratch\nARG BUILD_DATE\nRUN make\nLABEL d=$BUILD_DATE", [("ArgBreaksCache", 3)]),
    ("FROM scratch\nARG GIT_SHA\nRUN make REV=$GIT_SHA\nRUN x", []),
    ("FROM scratch\nRUN make\nARG BUILD_DATE\nLABEL d=$BUILD_DATE", []),
]


@pytest.mark.parametrize(("text", "expected"), ADVICE)
def test_advice(text: str, expected: list[tuple[str, int]]) -> None:
    """Our own rules say nothing unless they are asked for, and then only where they are sure."""
    assert found(text) == []
    assert found(f"# check=experimental=all\n{text}") == expected


def test_a_copy_that_can_never_be_cached() -> None:
    """A context with its .git in it changes with every commit."""
    text = "# check=experimental=UncacheableCopy\nFROM scratch\nCOPY . /src"
    known = Surroundings(names=frozenset([".git", "a"]))
    assert found(text, known) == [("UncacheableCopy", 3)]
    assert found(text.replace("COPY .", "COPY a"), known) == []
    assert found(text, Surroundings(names=frozenset(["a"]))) == []
    ignoring = Surroundings(names=frozenset([".git"]), ignore=IgnorePatterns([".git"]))
    assert found(text, ignoring) == []


@pytest.mark.parametrize(
    "text",
    [
        "# check=skip=all\nFROM a as Build\nCMD x",
        "FROM a\n# check=skip=WorkdirRelativePath\nWORKDIR x",
        "FROM a\n# check=skip=LegacyKeyValueFormat\nENV x y",
        "FROM a\n# check=skip=SecretsUsedInArgOrEnv // it is public\nARG password",
        "FROM a\n# check=skip=all\nCMD x",
        "# check=skip=StageNameCasing,FromAsCasing\nFROM a as B",
        "FROM b\n# check=skip=StageNameCasing\nFROM a AS B",
    ],
)
def test_skipped(text: str) -> None:
    """A directive skips for the file, a comment for the instruction below it."""
    assert found(text) == []


def test_a_comment_skips_for_one_instruction_only() -> None:
    """The next instruction is judged again."""
    text = "FROM a\n# check=skip=all\nENV x y\nENV x y"
    assert found(text) == [("LegacyKeyValueFormat", 4)]


def test_the_build_argument_replaces_the_directive() -> None:
    """BUILDKIT_DOCKERFILE_CHECK says everything that the directive would say."""
    text = "# check=skip=all;error=true\nFROM a as B"
    given = {"BUILDKIT_DOCKERFILE_CHECK": "skip=StageNameCasing"}
    assert found(text, given=given) == [("FromAsCasing", 2)]
    with pytest.raises(UsageError):
        found(text, given={"BUILDKIT_DOCKERFILE_CHECK": "nonsense"})


def test_what_a_base_says() -> None:
    """Its variables, its shell and its platform count; what is not known is not judged."""
    text = "FROM a\nCOPY $foo /x\nCMD x"
    made = plan(text)
    runtime = RuntimeConfig(env=("foo=1",), shell=("sh",))
    assert found(text, facts(made, runtime)) == []
    assert found(text, Surroundings()) == []
    assert found(text, Surroundings(plain=True)) == [("JSONArgsRecommended", 3)]
    other = facts(made, runtime, ARM64)
    assert found(text, other) == [("InvalidBaseImagePlatform", 1)]


def test_a_build_looks_at_the_stages_that_it_needs() -> None:
    """Rules about steps are for needed stages; names and casing are for the whole file."""
    text = "FROM scratch AS Unneeded\nENV a b\nFROM scratch\nENV c d"
    lines = [("StageNameCasing", 1), ("LegacyKeyValueFormat", 4)]
    assert found(text, Surroundings()) == lines
    every = [("StageNameCasing", 1), ("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 4)]
    assert found(text, Surroundings(every_stage=True)) == every


def test_suggestions() -> None:
    """A name that is near to a known one is shown with it."""
    made = plan("ARG TAG=1\nFROM a:${TAGS}1\nARG DIR_ASSETS=x\nCOPY $DIR_ASSET /")
    assert made.dockerfile is not None
    messages = [n.message for n in check_plan(made.dockerfile, made, facts(made, RuntimeConfig()))]
    assert messages == [
        "FROM uses TAGS, which no ARG before it declares (meant TAG?)",
        "the variable $DIR_ASSET is not defined here (meant $DIR_ASSETS?)",
    ]


def test_errors_are_of_rules_that_buildkit_has_or_that_were_asked_for() -> None:
    """Our own warnings do not stop a build that BuildKit would do."""
    ours = plan("# syntax=someone/else\nFROM scratch", {"UNUSED": "1"})
    assert {notice.rule for notice in ours.notices} == {"SyntaxDirective", "UnusedBuildArg"}
    assert violation(ours.notices) is None
    asked = plan("# check=experimental=UnpinnedBase\nFROM a")
    error = violation(asked.notices)
    assert error is not None
    assert error.location is not None
    assert error.location.line == 2


def test_the_documentation_has_every_rule() -> None:
    """docs/reference/checks.md has a section for each rule, and for nothing else."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "checks.md"
    titles = re.findall(r"^### (\w+)$", page.read_text(), re.MULTILINE)
    assert titles == list(RULES)
