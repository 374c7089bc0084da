"""What a kaniko command line asks for, checked and typed: everything but the network's side.

The checks are kaniko's own (``cmd/executor/cmd/root.go``), so that a command line which it refuses is
refused here too, and with the same reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from asyncbuild.cli.kaniko_flags import Given, parse_bool
from asyncbuild.errors import UsageError
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.layers.compression import Codec, Compression
from asyncbuild.records import dataclass
from asyncbuild.report.choose import ProgressMode

UNNAMED = Reference.parse("unset-repo/unset-image-name")
"""What kaniko calls an image in a tar that no ``--destination`` names."""
_LEVELS = {
    "panic": ProgressMode.QUIET,
    "fatal": ProgressMode.QUIET,
    "error": ProgressMode.QUIET,
    "warn": ProgressMode.QUIET,
    "warning": ProgressMode.QUIET,
    "info": None,
    "debug": None,
    "trace": None,
}
_FORMATS = {
    "text": ProgressMode.PLAIN,
    "color": ProgressMode.AUTO,
    "json": ProgressMode.RAWJSON,
}


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is written on this machine; "" is nothing. The digest files may be https URLs."""

    tar: str
    layout: str
    digest: str
    name_with_digest: str
    name_tag_with_digest: str


@dataclass(frozen=True, slots=True)
class GitOptions:
    """``--git``."""

    branch: str = ""
    single_branch: bool = False
    depth: int = 0
    recurse_submodules: bool = False
    insecure_skip_tls: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """One ``--secret``: where its bytes are, a file or a variable of the environment."""

    name: str
    source: str
    is_variable: bool


def destinations(given: Given) -> tuple[Reference, ...]:
    """Every ``--destination``, each once."""
    found = []
    for text in given.texts("destination"):
        try:
            reference = Reference.parse(text)
        except InvalidReference as error:
            raise UsageError(f"--destination: {error}") from None
        if reference.digest is not None:
            raise UsageError(f"--destination {text}: a tag is pushed to, a digest comes of it")
        found.append(reference)
    return tuple(dict.fromkeys(found))


def pushes(given: Given, environ: Mapping[str, str]) -> bool:
    """Whether the image is pushed: KANIKO_NO_PUSH wins over ``--no-push``."""
    text = environ.get("KANIKO_NO_PUSH")
    no_push = given.on("no-push") if text is None else parse_bool("KANIKO_NO_PUSH", text)
    return not no_push


def cached_instructions(given: Given) -> frozenset[str]:
    """Whose results are looked for and kept; none without ``--cache``.

    COPY's layers are cached too, unless they are said not to be: kaniko leaves them out.
    """
    runs = given.on("cache-run-layers")
    copies = given.on("cache-copy-layers") if given.has("cache-copy-layers") else runs
    kinds = [*(("RUN", "WORKDIR") if runs else ()), *(("COPY", "ADD") if copies else ())]
    return frozenset(kinds if given.on("cache") else ())


def cache_options(repository: str, named: Sequence[Reference]) -> argparse.Namespace:
    """``--cache-repo``, by default ``cache`` below the first destination's repository, in the words of
    ``asyncbuild build``; ``oci:PATH`` is a directory.
    """
    options = argparse.Namespace(
        **dict.fromkeys(("cache_from", "cache_to", "no_cache_filter", "tag"), ()),
        **dict.fromkeys(("cache_repo", "cache_ttl"), ""),
        no_cache=False,
    )
    if repository.startswith("oci:"):
        path = repository.removeprefix("oci:")
        options.cache_from = [f"type=local,src={path}"]
        options.cache_to = [f"type=local,dest={path},mode=max"]
    elif repository or named:
        options.cache_repo = repository or f"{named[0].name}/cache"
    return options


def check(given: Given, environ: Mapping[str, str]) -> None:
    """Raise `UsageError` for what cannot go together."""
    push, named = pushes(given, environ), bool(destinations(given))
    zstd, image_format = given.text("compression") == "zstd", given.text("image-format")
    if push and not named and not given.on("dryrun"):
        raise UsageError("you must provide --destination, or use --no-push")
    if image_format not in {"", "docker", "oci"}:
        raise UsageError(f"--image-format={image_format}: it is docker or oci")
    if image_format == "docker" and zstd:
        raise UsageError("docker has no media type for zstd layers: use --image-format=oci")
    if given.text("tar-path") and image_format == "oci":
        raise UsageError("--tar-path writes a docker archive: use --oci-layout-path for OCI")
    if given.text("tar-path") and zstd:
        raise UsageError("docker has no media type for zstd layers: use --oci-layout-path")
    for name in ("image-name-with-digest-file", "image-name-tag-with-digest-file"):
        if given.text(name) and not named:
            raise UsageError(f"--{name} needs a --destination")
    pushes_cache = given.on("cache") and not given.on("no-push-cache")
    if pushes_cache and not push and not given.text("cache-repo"):
        raise UsageError("with --cache and --no-push, say where with --cache-repo")


def outputs(given: Given) -> Outputs:
    """The files that shall be written."""
    return Outputs(
        tar=given.text("tar-path"),
        layout=given.text("oci-layout-path"),
        digest=given.text("digest-file"),
        name_with_digest=given.text("image-name-with-digest-file"),
        name_tag_with_digest=given.text("image-name-tag-with-digest-file"),
    )


def compression(given: Given) -> Compression:
    """``--compression`` and ``--compression-level``; -1 is the codec's own."""
    name, level = given.text("compression") or "gzip", given.number("compression-level")
    if name not in {"gzip", "zstd"}:
        raise UsageError(f"--compression={name}: it is gzip or zstd")
    levels = range(10) if name == "gzip" else range(1, 23)
    if level != -1 and level not in levels:
        span = f"{levels.start} to {levels.stop - 1}, or -1"
        raise UsageError(f"--compression-level={level}: of {name} it is {span}")
    return Compression(Codec(name), None if level == -1 else level)


def docker_types(given: Given) -> bool | None:
    """``--image-format``: docker's media types or OCI's; None as the base image has them."""
    return {"": None, "docker": True, "oci": False}[given.text("image-format")]


def build_arguments(given: Given, environ: Mapping[str, str]) -> dict[str, str]:
    """``--build-arg``; without a value it is the environment's, or empty, as in kaniko."""
    found = {}
    if "SOURCE_DATE_EPOCH" in environ:
        found["SOURCE_DATE_EPOCH"] = environ["SOURCE_DATE_EPOCH"]
    for text in given.texts("build-arg"):
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--build-arg {text}: write NAME=VALUE, or NAME")
        found[name] = value if equals else environ.get(name, "")
    return found


def git_options(given: Given) -> GitOptions:
    """Every ``--git KEY=VALUE``; a later one of a key wins, unknown keys are ignored as in kaniko."""
    values: dict[str, str] = {}
    for text in given.texts("git"):
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--git {text}: write KEY=VALUE")
        values[key] = value

    def flag(key: str) -> bool:
        return parse_bool(f"--git {key}", values.get(key, "false"))

    depth = values.get("depth", "0")
    if not (depth.isascii() and depth.isdigit()):
        raise UsageError(f"--git depth={depth}: it is a whole number")
    return GitOptions(
        branch=values.get("branch", ""),
        single_branch=flag("single-branch"),
        depth=int(depth),
        recurse_submodules=flag("recurse-submodules"),
        insecure_skip_tls=flag("insecure-skip-tls"),
    )


def secrets(given: Given, environ: Mapping[str, str]) -> tuple[Secret, ...]:
    """Every ``--secret id=ID[,src=FILE|,env=NAME][,type=file|env]``."""
    found: dict[str, Secret] = {}
    for text in given.texts("secret"):
        secret = _secret(text, environ)
        if secret.name in found:
            raise UsageError(f"--secret {text}: {secret.name} is there already")
        found[secret.name] = secret
    return tuple(found.values())


def _secret(text: str, environ: Mapping[str, str]) -> Secret:
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = "src" if key == "source" else key
        if not equals or key not in {"id", "type", "src", "env"}:
            raise UsageError(f"--secret {text}: write id=ID[,src=FILE|,env=NAME]")
        values[key] = value
    name, kind = values.get("id", ""), values.get("type", "")
    file, variable = values.get("src", ""), values.get("env", "")
    if not name:
        raise UsageError(f"--secret {text}: id= is missing")
    if kind not in {"", "file", "env"}:
        raise UsageError(f"--secret {text}: type is file or env")
    if (file and variable) or (kind == "file" and variable):
        raise UsageError(f"--secret {text}: it is a file or a variable, not both")
    is_variable = kind == "env" or bool(variable) or (not (kind or file) and name in environ)
    source = variable or file or name
    if is_variable and source not in environ:
        raise UsageError(f"--secret {text}: the environment has no {source}")
    return Secret(name, source, is_variable)


def progress(given: Given) -> ProgressMode:
    """``--log-format``, and ``--verbosity`` if that wants less."""
    level, form = given.text("verbosity").lower(), given.text("log-format")
    if level not in _LEVELS:
        raise UsageError(f"--verbosity={level}: it is one of {', '.join(_LEVELS)}")
    if form not in _FORMATS:
        raise UsageError(f"--log-format={form}: it is one of {', '.join(_FORMATS)}")
    return _LEVELS[level] or _FORMATS[form]


def store(given: Given, environ: Mapping[str, str]) -> Path | None:
    """Where blobs and layers are kept, if the flags say so: in the kaniko directory. None: where
    `asyncbuild build` keeps them.
    """
    directory = given.text("kaniko-dir") or environ.get("KANIKO_DIR", "")
    return Path(directory) / "asyncbuild" if directory else None
