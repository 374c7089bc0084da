"""The build checks as data: what each rule is called, what it finds, and what to do about it.

Names, and what sets a rule off, are those of BuildKit's build checks (``frontend/dockerfile/linter``);
rules marked ``ours`` are not BuildKit's. ``optional`` rules are off unless ``experimental=`` asks for
them. docs/reference/checks.md has a section for each.
"""

from __future__ import annotations

from collections.abc import Mapping

from asyncbuild.records import dataclass

DOCUMENT = "docs/reference/checks.md"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check; ``advice`` says what to do about a finding."""

    name: str
    summary: str
    advice: str
    ours: bool = False
    optional: bool = False

    @property
    def url(self) -> str:
        """Where the documentation speaks of it."""
        return f"{DOCUMENT}#{self.name.lower()}"


_BUILDKIT = (
    Rule(
        "StageNameCasing",
        "names of stages are in lower case",
        "Write the stage's name in lower case.",
    ),
    Rule(
        "FromAsCasing",
        "AS is written as FROM is",
        "Write both FROM and AS in upper case, or both in lower case.",
    ),
    Rule(
        "NoEmptyContinuation",
        "no empty lines inside an instruction",
        "Remove the empty line, or put a # there.",
    ),
    Rule(
        "ConsistentInstructionCasing",
        "all instructions are written in the same case",
        "Write every instruction in upper case, or every one in lower case.",
    ),
    Rule(
        "DuplicateStageName",
        "each stage has a name of its own",
        "Rename one of the stages: of several the nearest above is meant.",
    ),
    Rule(
        "ReservedStageName",
        "scratch and context are not names for a stage",
        "Call the stage something else.",
    ),
    Rule(
        "JSONArgsRecommended",
        "CMD and ENTRYPOINT are JSON arrays",
        'Write ["program", "argument"]: the program then gets the signals, not a shell in front of it.',
    ),
    Rule(
        "MaintainerDeprecated",
        "MAINTAINER is deprecated",
        "Write LABEL org.opencontainers.image.authors=… instead.",
    ),
    Rule(
        "UndefinedArgInFrom",
        "FROM uses arguments that are declared",
        "Declare the argument with an ARG before the first FROM.",
    ),
    Rule(
        "WorkdirRelativePath",
        "the first WORKDIR is an absolute path",
        "Begin the path with /: else it depends on where the base image stands.",
    ),
    Rule(
        "UndefinedVar",
        "variables are defined before they are used",
        "Define the variable with ARG or ENV above, or correct its name; \\$ is a plain dollar.",
    ),
    Rule(
        "MultipleInstructionsDisallowed",
        "CMD, ENTRYPOINT and HEALTHCHECK stand once in a stage",
        "Remove all but the last: only that one counts.",
    ),
    Rule(
        "LegacyKeyValueFormat",
        "ENV and LABEL are written with =",
        'Write NAME=value, and NAME="two words" for a value with blanks.',
    ),
    Rule(
        "InvalidBaseImagePlatform",
        "the base image is for the platform that is built",
        "Name a base that exists for the platform, or say --platform.",
    ),
    Rule(
        "RedundantTargetPlatform",
        "--platform=$TARGETPLATFORM is what FROM does anyway",
        "Remove --platform.",
    ),
    Rule(
        "SecretsUsedInArgOrEnv",
        "secrets are not values of ARG or ENV",
        "Use RUN --mount=type=secret: what ARG and ENV hold is kept in the image for everyone to read.",
    ),
    Rule(
        "InvalidDefaultArgInFrom",
        "FROM names an image also without --build-arg",
        "Give the ARG before the first FROM a default that makes a whole image name.",
    ),
    Rule(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform is a variable",
        "Remove --platform, use $BUILDPLATFORM, or say the platform in the stage's name.",
    ),
    Rule(
        "CopyIgnoredFile",
        "COPY and ADD name nothing that .dockerignore leaves out",
        "Take the path out of .dockerignore, or remove it from the instruction.",
    ),
    Rule(
        "InvalidDefinitionDescription",
        "the comment above ARG or FROM describes it",
        "Write `# NAME what it is`; an empty comment or another one in between makes it a plain comment.",
        optional=True,
    ),
    Rule(
        "ExposeProtoCasing",
        "protocols of EXPOSE are in lower case",
        "Write the protocol in lower case: 53/udp.",
    ),
    Rule(
        "ExposeInvalidFormat",
        "EXPOSE names ports of the container only",
        "Write the container's port alone: who runs the container decides where it is published.",
    ),
)

_OURS = (
    Rule(
        "UnusedBuildArg",
        "every --build-arg is declared by an ARG",
        "Correct the name, declare it with ARG, or leave it out.",
        ours=True,
    ),
    Rule(
        "SyntaxDirective",
        "the syntax directive names docker/dockerfile",
        "asyncbuild reads the Dockerfile itself; another frontend's language is not understood.",
        ours=True,
    ),
    Rule(
        "UnknownCheck",
        "check directives name checks that exist",
        "Correct the name of the check.",
        ours=True,
    ),
    Rule(
        "UnpinnedBase",
        "images are named with their digest",
        "Run `asyncbuild pin`, and again when the base is to move on.",
        ours=True,
        optional=True,
    ),
    Rule(
        "AptGetRecommends",
        "apt-get install takes --no-install-recommends",
        "Add --no-install-recommends, and name what is really needed.",
        ours=True,
        optional=True,
    ),
    Rule(
        "AptGetUpdateAlone",
        "apt-get update and install stand in one RUN",
        "Write RUN apt-get update && apt-get install …: a cached update ages, an install then fails.",
        ours=True,
        optional=True,
    ),
    Rule(
        "CopyBeforeInstall",
        "dependencies are installed before the whole context is copied",
        "COPY the list of dependencies alone, install them, and copy the rest afterwards.",
        ours=True,
        optional=True,
    ),
    Rule(
        "UncacheableCopy",
        "COPY does not take what changes with every commit",
        "Put .git into .dockerignore: each commit changes it, and nothing below is cached then.",
        ours=True,
        optional=True,
    ),
    Rule(
        "ArgBreaksCache",
        "an ARG that differs in every build stands below the steps that are to be cached",
        "Move the ARG down to just above its first use: it is part of the environment of every RUN below.",
        ours=True,
        optional=True,
    ),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in (*_BUILDKIT, *_OURS)}
"""Every rule by its name, in the order of the documentation."""
