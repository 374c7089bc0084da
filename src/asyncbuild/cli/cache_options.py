"""``--cache-from``, ``--cache-to`` and their relatives: buildx's words for where results are kept."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbuild.cli.bucket_options import bucket_place
from asyncbuild.errors import UsageError
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.output.attributes import parse_attributes, split_fields
from asyncbuild.records import dataclass, replace

if TYPE_CHECKING:  # what a build imports takes long, and --help does not need it
    from asyncbuild.build.request import CachePlace, MountPlace

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BRANCHES = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_SLUG")
_TARGETS = ("GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CI_DEFAULT_BRANCH")
_FALLBACKS = ("main", "master")


def add_cache_options(group: argparse._ArgumentGroup) -> None:
    """The options of ``asyncbuild build`` that speak of caches."""
    add = group.add_argument
    add(
        "--cache-from", action="append", default=[], metavar="SPEC", help="type=registry,ref=REPO …"
    )
    add("--cache-to", action="append", default=[], metavar="SPEC", help="as above, mode=min|max")
    add("--cache-repo", metavar="REPO", help="read and write this registry cache (mode=max)")
    add("--cache-dir", metavar="DIR", help=argparse.SUPPRESS)
    for name in ("--cache-mount-from", "--cache-mount-to"):
        add(name, action="append", default=[], metavar="SPEC", help=argparse.SUPPRESS)
    add("--cache-ttl", default="", metavar="TIME", help="how old a result may be (default: 14d)")
    add("--no-cache", action="store_true", help="execute every step anew")
    add(
        "--no-cache-filter", action="append", default=[], metavar="STAGE", help="only of this stage"
    )


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """What the options say; ``ttl`` is in seconds."""

    use: bool
    filtered: frozenset[str]
    sources: tuple[CachePlace, ...]
    targets: tuple[CachePlace, ...]
    ttl: float


def read_cache_options(options: argparse.Namespace, environ: Mapping[str, str]) -> CacheOptions:
    """Read them. Raises `UsageError`."""
    from asyncbuild.build.request import TWO_WEEKS  # noqa: PLC0415

    beside = _beside(next(iter(options.tag), ""))
    sources = [_place("--cache-from", text, environ, beside) for text in options.cache_from]
    targets = [_place("--cache-to", text, environ, beside) for text in options.cache_to]
    if options.cache_repo:
        place = _registry("--cache-repo", {"ref": options.cache_repo, "mode": "max"}, environ)
        sources.append(place)
        targets.append(place)
    stages = {name.strip().lower() for text in options.no_cache_filter for name in text.split(",")}
    ttl = duration(options.cache_ttl) if options.cache_ttl else TWO_WEEKS
    return CacheOptions(
        not options.no_cache, frozenset(stages), tuple(sources), tuple(targets), ttl
    )


def read_mount_places(option: str, texts: Iterable[str]) -> tuple[MountPlace, ...]:
    """``type=registry,ref=REPOSITORY[:TAG][,id=ID]…[,max-size=SIZE]``, or just the repository; or
    ``type=local`` with ``src=`` or ``dest=`` for ``ref=``.

    Raises `UsageError`.
    """
    return tuple(_mount_place(option, text) for text in texts)


def _mount_place(option: str, text: str) -> MountPlace:
    from asyncbuild.build.request import MountPlace  # noqa: PLC0415
    from asyncbuild.cli.upkeep import parse_size  # noqa: PLC0415

    fields = split_fields(text) if "=" in text else [f"ref={text}"]
    ids = frozenset(field[3:] for field in fields if field.startswith("id="))
    others = [field for field in fields if not field.startswith("id=")]
    values = dict(pair for field in others for pair in parse_attributes(field))
    kind = values.pop("type", "registry")
    if kind not in ("registry", "local"):
        hint = "use type=registry or type=local"
        raise UsageError(f"{option}: type={kind} is not supported", hint=hint)
    name = "ref" if kind == "registry" else "src" if option.endswith("from") else "dest"
    where, size = values.pop(name, ""), values.pop("max-size", "")
    _refuse_rest(option, values)
    if kind == "local":
        if not where:
            raise UsageError(f"{option} {text}: type=local needs {name}=DIRECTORY")
        place = MountPlace(ids=ids, path=Path(where))
    else:
        try:
            place = MountPlace(Reference.parse_repository(where), ids)
        except InvalidReference as error:
            raise UsageError(f"{option}: {error}") from None
    return replace(place, most=parse_size(size)) if size else place


def read_indexes(options: argparse.Namespace, environ: Mapping[str, str]) -> list[Reference]:
    """What is read first of the caches in registries that the options name: a tag each, and its fallbacks.
    Raises `UsageError`.
    """
    if options.no_cache:
        return []
    beside = _beside(next(iter(options.tag), ""))
    named = []
    for text in [*options.cache_from, *filter(None, [options.cache_repo])]:
        pairs = _pairs("--cache-from", text) if "=" in text else {"ref": text}
        if pairs.pop("type", "registry") == "registry" and pairs.setdefault("ref", beside):
            named.append(_scopes("--cache-from", pairs, environ))
    return [replace(name, tag=tag) for name, others in named for tag in (name.tag, *others)]


def duration(text: str) -> float:
    """``336h``, ``14d``, ``90m``, ``1h30m``, or seconds; `UsageError` otherwise."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"{text!r} is not a duration", hint="write it like 336h, 14d or 90m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _beside(name: str) -> str:
    """The cache of an image that is called ``name``: ``cache`` below its own repository (kaniko's rule)."""
    try:
        return f"{Reference.parse(name).name}/cache" if name else ""
    except InvalidReference as error:
        raise UsageError(f"-t {name}: {error}") from None


def _place(option: str, text: str, environ: Mapping[str, str], beside: str) -> CachePlace:
    from asyncbuild.build.request import CachePlace  # noqa: PLC0415

    if "=" not in text:
        return _registry(option, {"ref": text}, environ)
    pairs = _pairs(option, text)
    kind = pairs.pop("type", "registry")
    match kind:
        case "registry":
            if not pairs.setdefault("ref", beside):
                raise UsageError(f"{option} {text}: there is no ref=, and no -t to infer it from")
            return _registry(option, pairs, environ)
        case "local":
            key = "src" if option == "--cache-from" else "dest"
            path = pairs.pop(key, "")
            everything = _mode(option, pairs)
            _refuse_rest(option, pairs)
            if not path:
                raise UsageError(f"{option} {text}: type=local needs {key}=DIRECTORY")
            return CachePlace(path=Path(path), everything=everything)
        case "s3" | "azblob" | "gcs":
            everything = _mode(option, pairs)
            return CachePlace(
                objects=bucket_place(option, kind, pairs, environ), everything=everything
            )
        case "gha":
            return _github(option, pairs, environ)
        case "inline" if option == "--cache-to":
            _refuse_rest(option, pairs)
            return CachePlace()
        case _:
            raise UsageError(
                f"{option}: type={kind} is not supported",
                hint="use type=registry, local, gha, s3, azblob, gcs or (to) type=inline",
            )


def _registry(option: str, pairs: dict[str, str], environ: Mapping[str, str]) -> CachePlace:
    from asyncbuild.build.request import CachePlace  # noqa: PLC0415

    named, fallbacks = _scopes(option, pairs, environ)
    everything = _mode(option, pairs)
    pairs.pop("image-manifest", None)  # BuildKit's choice of format: ours is always manifests
    pairs.pop("oci-mediatypes", None)
    _refuse_rest(option, pairs)
    return CachePlace(named, fallbacks=fallbacks, everything=everything)


def _scopes(
    option: str, pairs: dict[str, str], environ: Mapping[str, str]
) -> tuple[Reference, tuple[str, ...]]:
    """``ref=REPOSITORY[:SCOPE]``; without a scope it is the branch or tag that CI names, else ``cache``. In
    CI the scope of the branch that it will be merged into is read too, and those of the usual main ones.
    """
    text = pairs.pop("ref", "")
    scope = pairs.pop("scope", "")
    try:
        reference = Reference.parse_repository(text)
    except InvalidReference as error:
        raise UsageError(f"{option}: {error}") from None
    branch = next((environ[name] for name in _BRANCHES if environ.get(name)), "")
    tag = scope or reference.tag or _as_tag(branch) or "cache"
    named = Reference(reference.registry, reference.repository, _as_tag(tag))
    others = [_as_tag(environ.get(name, "")) for name in _TARGETS] if branch else []
    others += _FALLBACKS if branch else ()
    fallbacks = tuple(name for name in dict.fromkeys(others) if name not in ("", named.tag))
    return named, fallbacks


def _pairs(option: str, text: str) -> dict[str, str]:
    try:
        return dict(parse_attributes(text))
    except UsageError:
        if "token" not in text.lower():
            raise
    raise UsageError(
        f"{option}: it is not written like type=gha,key=value"
    )  # the token is not shown


def _github(option: str, pairs: dict[str, str], environ: Mapping[str, str]) -> CachePlace:
    """BuildKit's keys. Where the job's variables are missing there is no cache, which is no error."""
    from asyncbuild.build.request import CachePlace  # noqa: PLC0415
    from asyncbuild.cache.github import LONGEST_SCOPE, GithubPlace, quoted  # noqa: PLC0415

    everything = _mode(option, pairs)
    if pairs.pop("version", "2") != "2":
        hint = "GitHub switched version 1 of its cache service off in 2025"
        raise UsageError(f"{option}: version= must be 2", hint=hint)
    if pairs.pop("ignore-error", "true") not in ("true", "false"):
        raise UsageError(f"{option}: ignore-error= must be true or false")
    urls = [pairs.pop(name, "") for name in ("url_v2", "url")]
    urls += [environ.get(name, "") for name in ("ACTIONS_RESULTS_URL", "ACTIONS_CACHE_URL")]
    token = pairs.pop("token", "") or environ.get("ACTIONS_RUNTIME_TOKEN", "")
    place = GithubPlace(next(filter(None, urls), ""), token)
    if scope := pairs.pop("scope", ""):
        place = replace(place, scope=scope)
    if timeout := pairs.pop("timeout", ""):
        place = replace(place, seconds=duration(timeout))
    for name in ("repository", "ghtoken"):  # BuildKit asks GitHub's API what there is: we need not
        pairs.pop(name, None)
    _refuse_rest(option, pairs)
    if len(quoted(place.scope)) > LONGEST_SCOPE:
        raise UsageError(f"{option}: scope= is too long")
    return CachePlace(everything=everything, objects=place)


def _as_tag(text: str) -> str:
    """A branch's name as a tag: what a tag may not have becomes a dash."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip("-.")[:128]


def _mode(option: str, pairs: dict[str, str]) -> bool:
    mode = pairs.pop("mode", "min")
    if mode not in ("min", "max"):
        raise UsageError(f"{option}: mode={mode} must be min or max")
    return mode == "max"


def _refuse_rest(option: str, pairs: dict[str, str]) -> None:
    if pairs:
        raise UsageError(f"{option}: {', '.join(sorted(pairs))} is not known here")
