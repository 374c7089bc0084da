"""``type=s3``, ``azblob`` and ``gcs`` of ``--cache-from`` and ``--cache-to``, in BuildKit's words."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from asyncbuild.errors import UsageError

if TYPE_CHECKING:
    from asyncbuild.cache.buckets import BucketPlace

_NAME = "buildkit"
"""BuildKit's own default: so a cache keeps its options."""
_CREDENTIALS = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY or AZURE_STORAGE_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
_IGNORED = ("touch_refresh", "upload_parallelism", "ignore-error")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def bucket_place(
    option: str, kind: str, pairs: dict[str, str], environ: Mapping[str, str]
) -> BucketPlace:
    """The bucket that ``pairs`` name, with what the environment has for what they lack. `UsageError`."""
    from asyncbuild.cache.buckets import BucketPlace  # noqa: PLC0415
    from asyncbuild.cache.objects import ObjectNames  # noqa: PLC0415

    if find_spec("obstore") is None:
        hint = "pip install 'asyncbuild[buckets]'"
        raise UsageError(f"{option}: type={kind} needs obstore, which is not installed", hint=hint)
    for name in _IGNORED:  # how BuildKit works, not what comes of it
        pairs.pop(name, None)
    _refuse_credentials(option, pairs)
    names = [name for name in pairs.pop("name", _NAME).split(";") if name]
    entries = _directory(pairs.pop("manifests_prefix", "manifests/"))
    blobs = _directory(pairs.pop("blobs_prefix", "blobs/"))
    prefix = pairs.pop("prefix", "").strip("/")
    bucket, endpoint, region, path_style = "", "", "", False
    match kind:
        case "s3":
            bucket = pairs.pop("bucket", "") or environ.get("AWS_BUCKET", "")
            region = pairs.pop("region", "") or environ.get("AWS_REGION", "")
            endpoint = pairs.pop("endpoint_url", "")
            path_style = _truth(option, "use_path_style", pairs.pop("use_path_style", "false"))
        case "azblob":
            usual = environ.get("BUILDKIT_AZURE_STORAGE_CONTAINER", "") or "buildkit-cache"
            bucket = pairs.pop("container", "") or usual
            account = environ.get("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL", "")
            endpoint = pairs.pop("account_url", "") or account
            if not endpoint:
                raise UsageError(f"{option}: type=azblob needs account_url=")
        case _:
            bucket = pairs.pop("bucket", "")
    if pairs:
        raise UsageError(f"{option}: {', '.join(sorted(pairs))} is not known here")
    if not bucket:
        raise UsageError(f"{option}: type={kind} needs bucket=")
    if not names or any("/" in name or name.startswith(".") for name in names):
        raise UsageError(f"{option}: name= must be a name, or several with ; between them")
    _check_url(option, endpoint)
    placed = ObjectNames(tuple(f"{entries}{name}/" for name in names), blobs)
    return BucketPlace(
        {"azblob": "az", "gcs": "gs"}.get(kind, kind),
        bucket,
        prefix,
        placed,
        endpoint,
        region,
        path_style,
    )


def _refuse_credentials(option: str, pairs: Mapping[str, str]) -> None:
    """Who may list the processes of a machine reads its command lines."""
    for name, variable in _CREDENTIALS.items():
        if name in pairs:
            raise UsageError(
                f"{option}: {name} must not stand on a command line",
                hint=f"put it into the environment: {variable}",
            )


def _check_url(option: str, endpoint: str) -> None:
    if not endpoint:
        return
    where = urlsplit(endpoint)
    if where.scheme not in ("http", "https") or not where.hostname:
        raise UsageError(f"{option}: the endpoint must be a URL, https://HOST")
    if where.query or where.username is not None:
        raise UsageError(
            f"{option}: the endpoint must not have a token or a password in it",
            hint="put it into the environment (a signature of Azure's: AZURE_STORAGE_SAS_TOKEN)",
        )


def _truth(option: str, name: str, text: str) -> bool:
    if text not in _TRUTH:
        raise UsageError(f"{option}: {name}={text} must be true or false")
    return _TRUTH[text]


def _directory(text: str) -> str:
    """A beginning of names that ends with a slash; "" stays that."""
    text = text.strip("/")
    return f"{text}/" if text else ""
