"""The command lines of what is done with images that are there, and with logins."""

from __future__ import annotations

import argparse

from asyncbuild.cli.helptext import add_command
from asyncbuild.cli.registry_options import add_registry_options
from asyncbuild.cli.verify_options import add_verify_option

Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it

_WARM_EXAMPLE = """\
example:
  asyncbuild warm /cache --image docker.io/library/debian:12 --dockerfile Dockerfile
  asyncbuild build --cache-dir /cache -t registry.example.com/team/app:1 .
"""
_CACHE_EXAMPLE = """\
example:
  asyncbuild cache ls registry.example.com/team/cache
  asyncbuild cache prune registry.example.com/team/cache --older-than 30d
  asyncbuild cache prune /cache --older-than 14d
"""
_PUSH_EXAMPLE = """\
example:
  asyncbuild push app.tar -t registry.example.com/team/app:1.2
  asyncbuild push layout/ --image 1.2 -t registry.example.com/team/app
  asyncbuild push sha256:4590…cca      (what a build kept when its push failed)
"""
_COPY_EXAMPLE = """\
example:
  asyncbuild copy docker.io/library/busybox:1.36 registry.example.com/base/busybox:1.36
  asyncbuild copy --platform linux/amd64 quay.io/a/b registry.example.com/a/b other.example.com/a/b
"""
_INSPECT_EXAMPLE = """\
example:
  asyncbuild inspect docker.io/library/busybox
  asyncbuild inspect --json --platform linux/arm64 ./app.tar
"""
_INDEX_EXAMPLE = """\
example:
  asyncbuild index create -t example.com/app:1 example.com/app@sha256:… example.com/app@sha256:…
"""
_LOGIN_EXAMPLE = """\
example:
  asyncbuild login registry.example.com -u builder --password-stdin < token
"""
_LOGOUT_EXAMPLE = """\
example:
  asyncbuild logout registry.example.com
"""


def _warm(commands: Commands[argparse.ArgumentParser]) -> None:
    warm = add_command(
        commands,
        "warm DIR",
        "fill a directory with base images for build --cache-dir",
        "Bring images into DIR (an OCI layout), where builds find them without fetching them.",
        _WARM_EXAMPLE,
    )
    add = warm.add_argument
    add("directory", metavar="DIR", help=argparse.SUPPRESS)
    _repeated(warm, "--image", "REF", "an image (most options may be repeated)")
    _repeated(warm, "--dockerfile", "FILE", "every image that FILE (or URL) names")
    _repeated(warm, "--build-arg", "K[=V]", "value for an ARG of the Dockerfiles")
    _repeated(warm, "--platform", "OS/ARCH", "for these platforms (default: this one)")
    add("--force", action="store_true", help="fetch again what is there")
    add("--cache-ttl", metavar="TIME", help="then remove what was warmed before that: 14d, 336h")
    _progress(warm)
    add_verify_option(warm)
    add_registry_options(warm)


def _cache(commands: Commands[argparse.ArgumentParser]) -> None:
    cache = add_command(
        commands,
        "cache ls|prune PLACE",
        "show what a cache holds, or remove some of it",
        "Show the entries of the cache in a repository, or the images in a directory (/… or ./…) that"
        " warm filled; or delete what is old.",
        _CACHE_EXAMPLE,
    )
    add = cache.add_argument
    add("action", choices=("ls", "prune"), metavar="ls|prune", help=argparse.SUPPRESS)
    add("place", metavar="PLACE", help=argparse.SUPPRESS)
    add("--older-than", metavar="TIME", help="only entries older than that: 14d, 336h")
    add("--scope", metavar="SCOPE", help="only entries that no other scope lists")
    kinds = ("step", "listing", "mount")
    _repeated(cache, "--kind", "KIND", f"only of this kind: {', '.join(kinds)}", kinds)
    add("--all", action="store_true", help="prune: every entry")
    add("--dry-run", action="store_true", help="prune: only show what would go")
    add("--format", choices=("text", "json"), default="text", help="of the list")
    add_registry_options(cache)


def _repeated(
    command: argparse.ArgumentParser,
    name: str,
    metavar: str,
    text: str,
    choices: tuple[str, ...] | None = None,
) -> None:
    command.add_argument(
        name, action="append", default=[], metavar=metavar, help=text, choices=choices
    )


def _push(commands: Commands[argparse.ArgumentParser]) -> None:
    push = add_command(
        commands,
        "push SOURCE",
        "push an image from a file, or one whose push failed",
        "Push an OCI layout (directory or tar), a docker archive, or an image that the store kept.",
        _PUSH_EXAMPLE,
    )
    add = push.add_argument
    add("source", metavar="SOURCE", help=argparse.SUPPRESS)
    _tags(push)
    add("--image", metavar="NAME", help="which image of SOURCE: its tag, name or digest")
    _repeated(push, "--platform", "OS/ARCH", "only of these platforms")
    add("--store", metavar="DIR", help="where a failed build kept its image")
    _progress(push)
    add_registry_options(push)


def _copy(commands: Commands[argparse.ArgumentParser]) -> None:
    copy = add_command(
        commands,
        "copy SOURCE REF...",
        "copy an image to other names and registries",
        "Copy an image with all its platforms from the registry that has it to every REF.",
        _COPY_EXAMPLE,
    )
    add = copy.add_argument
    add("source", metavar="SOURCE", help=argparse.SUPPRESS)
    add("destinations", metavar="REF", nargs="+", help=argparse.SUPPRESS)
    _repeated(copy, "--platform", "OS/ARCH", "only of these platforms")
    _progress(copy)
    add_verify_option(copy)
    add_registry_options(copy)


def _inspect(commands: Commands[argparse.ArgumentParser]) -> None:
    inspect = add_command(
        commands,
        "inspect IMAGE",
        "show what a registry or a file has under a name",
        "Show manifest, platforms, configuration and layers of an image in a registry or a file.",
        _INSPECT_EXAMPLE,
    )
    add = inspect.add_argument
    add("image", metavar="IMAGE", help=argparse.SUPPRESS)
    add("--raw", action="store_true", help="the manifest's or index's bytes as they are")
    add("--json", action="store_true", help="one JSON document")
    add("--config", action="store_true", help="the configuration's bytes as they are")
    add("--platform", metavar="OS/ARCH", help="which image of an index (default: this machine's)")
    add_verify_option(inspect)
    add_registry_options(inspect)


def _index(commands: Commands[argparse.ArgumentParser]) -> None:
    index = add_command(
        commands,
        "index create SOURCE...",
        "make one multi-platform image of several",
        "Make an index of the SOURCEs, which are images or indexes in registries, and push it.",
        _INDEX_EXAMPLE,
    )
    add = index.add_argument
    add("action", choices=("create",), metavar="create", help=argparse.SUPPRESS)
    add("sources", metavar="SOURCE", nargs="+", help=argparse.SUPPRESS)
    _tags(index)
    _repeated(index, "--annotation", "K=V", "of the index; or LEVEL:K=V")
    add("--append", action="store_true", help="keep what the first -t has already")
    add("--dry-run", action="store_true", help="print the index and push nothing")
    _progress(index)
    add_registry_options(index)


def _login(commands: Commands[argparse.ArgumentParser]) -> None:
    login = add_command(
        commands,
        "login [REGISTRY]",
        "log in to a registry",
        "Check a login with the registry (default: docker.io) and keep it where docker does.",
        _LOGIN_EXAMPLE,
    )
    add = login.add_argument
    add("registry", metavar="REGISTRY", nargs="?", default="docker.io", help=argparse.SUPPRESS)
    add("-u", "--username", metavar="USER", help="the user's name")
    add(
        "-p", "--password", metavar="TEXT", help="better not: other users of the machine can see it"
    )
    add("--password-stdin", action="store_true", help="read the password from the standard input")
    add_registry_options(login)


def _logout(commands: Commands[argparse.ArgumentParser]) -> None:
    logout = add_command(
        commands,
        "logout [REGISTRY]",
        "forget the login for a registry",
        "Forget the login for a registry (default: docker.io).",
        _LOGOUT_EXAMPLE,
    )
    add = logout.add_argument
    add("registry", metavar="REGISTRY", nargs="?", default="docker.io", help=argparse.SUPPRESS)
    add("--auth-file", metavar="FILE", help="where the login is (default: docker's config.json)")


def _tags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-t",
        "--tag",
        action="append",
        default=[],
        metavar="REF",
        help="name to push (may be repeated)",
    )


def _progress(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--progress", default="auto", metavar="MODE", help="auto, plain, tty, quiet or rawjson"
    )


IMAGE_COMMANDS = {
    "warm": _warm,
    "cache": _cache,
    "push": _push,
    "copy": _copy,
    "inspect": _inspect,
    "index": _index,
    "login": _login,
    "logout": _logout,
}
"""What adds each command, in the order of the help."""
