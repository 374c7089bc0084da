"""The command line: names and shapes are those of ``docker buildx build``."""

from __future__ import annotations

import argparse

from asyncbuild.cli.cache_options import add_cache_options
from asyncbuild.cli.helptext import add_command
from asyncbuild.cli.image_arguments import IMAGE_COMMANDS, Commands
from asyncbuild.cli.limits import add_limit_options
from asyncbuild.cli.policy import add_policy_option
from asyncbuild.cli.registry_options import add_registry_options
from asyncbuild.cli.run_arguments import add_run_options
from asyncbuild.cli.verify_options import add_verify_option

_BUILD_EXAMPLE = """\
example:
  asyncbuild build -t registry.example.com/team/app:1.2 .
  asyncbuild build -t localhost:5000/app -f deploy/Dockerfile --target web --build-arg VERSION=1.2 .
  asyncbuild build -o type=oci,dest=app.tar .
"""
_PLAN_EXAMPLE = """\
example:
  asyncbuild plan --target web .
  asyncbuild plan --cache --cache-repo registry.example.com/team/cache .
"""

_CHECK_EXAMPLE = """\
example:
  asyncbuild check .
  asyncbuild check --advice --format sarif . > checks.sarif
"""
_DU_EXAMPLE = """\
example:
  asyncbuild du --verbose
"""
_PRUNE_EXAMPLE = """\
example:
  asyncbuild prune --older-than 14d --keep 20GB
  asyncbuild prune --all
"""
_DOCTOR_EXAMPLE = """\
example:
  asyncbuild doctor
  asyncbuild doctor --format json
"""
_PIN_EXAMPLE = """\
example:
  asyncbuild pin
  asyncbuild pin --update deploy/Dockerfile
"""


def parser(command: str = "") -> argparse.ArgumentParser:
    """The parser of all commands, or of one alone, which is made in a tenth of the time; it exits with code
    2 on a usage error, as argparse does.
    """
    top = argparse.ArgumentParser(
        prog="asyncbuild",
        description="Build container images from Dockerfiles, without a daemon, and push them.",
        allow_abbrev=False,
        add_help=False,
    )
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    known = {
        "build": _build,
        "plan": _plan,
        "check": _check,
        "pin": _pin,
        "du": _du,
        "prune": _prune,
        "doctor": _doctor,
        **IMAGE_COMMANDS,
        "kaniko": _kaniko,
    }
    for add in [known[command]] if command in known else known.values():
        add(commands)
    return top


def _kaniko(commands: Commands[argparse.ArgumentParser]) -> None:
    commands.add_parser(  # it reads its own flags, by other rules than ours
        "kaniko",
        help="build from kaniko's command line (see: asyncbuild kaniko --help)",
        add_help=False,
    )


def _build(commands: Commands[argparse.ArgumentParser]) -> None:
    build = add_command(
        commands,
        "build CONTEXT",
        "build an image and push it",
        "Build an image from CONTEXT (directory, archive, git or https URL) and push it to every -t.",
        _BUILD_EXAMPLE,
    )
    _dockerfile_arguments(build)
    add = build.add_argument
    add(
        "-t",
        "--tag",
        action="append",
        default=[],
        metavar="REF",
        help="name to push; most options may be repeated",
    )
    add(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="SPEC",
        help="type=oci|docker,dest=FILE or type=image,push=true",
    )
    add("--push", action="store_true", help="push to every -t although there is an --output")
    add("--label", action="append", default=[], metavar="K=V", help="of the image")
    add("--annotation", action="append", default=[], metavar="K=V", help="of the manifest")
    add("--add-host", action="append", default=[], metavar="HOST:IP", help="for /etc/hosts of RUN")
    add(
        "--network",
        choices=("default", "host", "none"),
        default="default",
        metavar="MODE",
        help="of RUN: host (the default) or none",
    )
    add("--metadata-file", metavar="FILE", help="write what was built as JSON")
    add("--iidfile", metavar="FILE", help="write the image ID (digest of the configuration)")
    add("--store", metavar="DIR", help="where blobs and unpacked layers are kept")
    add_registry_options(build)
    add("--progress", default="auto", metavar="MODE", help="auto, plain, tty, quiet or rawjson")
    add("--trace", metavar="FILE", help="write a timeline in Chrome's trace format")
    _call_arguments(build)
    add_cache_options(build.add_argument_group("cache"))
    add_run_options(build.add_argument_group("RUN"))
    add_limit_options(build)
    add_policy_option(build)
    add_verify_option(build)
    add("--pull", action="store_true", help=argparse.SUPPRESS)  # tags are always resolved anew


def _plan(commands: Commands[argparse.ArgumentParser]) -> None:
    plan = add_command(
        commands,
        "plan CONTEXT",
        "show what a build would do",
        "Show which stages and steps a build would execute, and what each needs.",
        _PLAN_EXAMPLE,
    )
    _dockerfile_arguments(plan)
    add = plan.add_argument
    add("--cache", action="store_true", help="ask the cache, and say why steps would be executed")
    add("--store", metavar="DIR", help="where results are remembered")
    add_registry_options(plan)
    add_cache_options(plan.add_argument_group("cache"))
    plan.set_defaults(
        **dict.fromkeys(("tag", "output", "annotation", "label", "add_host"), ()),
        **dict.fromkeys(
            ("secret", "ssh", "allow", "device", "cdi_spec_dir", "ulimit", "security_opt"), ()
        ),
        push=False,
        network="default",
        **dict.fromkeys(("shm_size", "memory", "cpus", "isolation", "oci_runtime")),
    )


def _call_arguments(build: argparse.ArgumentParser) -> None:
    """Questions instead of a build."""
    add = build.add_argument
    add("--check", dest="call", action="store_const", const="check", help="look for mistakes only")
    add("--call", metavar="WHAT", help=argparse.SUPPRESS)


def _check(commands: Commands[argparse.ArgumentParser]) -> None:
    check = add_command(
        commands,
        "check CONTEXT",
        "look for mistakes in a Dockerfile",
        "Report what the build checks find. Nothing is fetched and nothing executed.",
        _CHECK_EXAMPLE,
    )
    _dockerfile_arguments(check)
    add = check.add_argument
    add("--format", choices=("text", "json", "sarif"), default="text", help="of the report")
    add("--advice", action="store_true", help="also report what is optional: size, cache, pinning")


def _pin(commands: Commands[argparse.ArgumentParser]) -> None:
    pin = add_command(
        commands,
        "pin [FILE]",
        "write the digests of images into a Dockerfile",
        "Add the digest to every image that FILE names; nothing else in it changes.",
        _PIN_EXAMPLE,
    )
    add = pin.add_argument
    add("file", metavar="FILE", nargs="?", default="Dockerfile", help="default: Dockerfile")
    add("--update", action="store_true", help="also move images on that have tag and digest")
    add("--check", action="store_true", help="write nothing; exit code 1 for what would change")
    add_verify_option(pin)
    add_registry_options(pin)


def _du(commands: Commands[argparse.ArgumentParser]) -> None:
    du = add_command(
        commands, "du", "show what the store holds", "Show what the store holds.", _DU_EXAMPLE
    )
    du.add_argument("--store", metavar="DIR", help="the store (default: as for build)")
    du.add_argument("--verbose", action="store_true", help="each thing in a line of its own")


def _prune(commands: Commands[argparse.ArgumentParser]) -> None:
    prune = add_command(
        commands,
        "prune",
        "remove what the store need not keep",
        "Remove from the store what is older or more than it shall keep; it is made again if needed.",
        _PRUNE_EXAMPLE,
    )
    add = prune.add_argument
    add("--store", metavar="DIR", help="the store (default: as for build)")
    add("--older-than", metavar="TIME", help="remove what came before that: 14d, 336h")
    add("--keep", metavar="SIZE", help="remove the oldest until this is left: 20GB")
    add("--all", action="store_true", help="remove everything")


def _doctor(commands: Commands[argparse.ArgumentParser]) -> None:
    doctor = add_command(
        commands,
        "doctor",
        "say how RUN can be executed here",
        "Try what this place permits; say how a build would execute RUN, and what would help.",
        _DOCTOR_EXAMPLE,
    )
    add = doctor.add_argument
    add("--format", choices=("text", "json"), default="text", help="of the report")
    add("--store", metavar="DIR", help="the store (default: as for build)")


def _dockerfile_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("context", metavar="CONTEXT", help=argparse.SUPPRESS)
    add("-f", "--file", metavar="FILE", help="Dockerfile (default: in CONTEXT; - is stdin)")
    add("--target", metavar="STAGE", help="build this stage instead of the last one")
    add("--build-arg", action="append", default=[], metavar="K[=V]", help="value for an ARG")
    add(
        "--build-context",
        action="append",
        default=[],
        metavar="K=PLACE",
        help="a directory, URL, docker-image://… for the name K",
    )
    add("--platform", metavar="OS/ARCH", help="platform of the base images (default: this one)")
