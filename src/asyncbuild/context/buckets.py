"""Objects in buckets: S3 and what speaks its protocol, Google Cloud Storage, Azure's blob storage.

The work is obstore's (the Rust ``object_store``), an extra for those who have a context in a bucket:
``pip install asyncbuild[buckets]``. It finds credentials as each cloud's own tools do: variables of the
environment, web identity tokens of a pod, the machine's metadata service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncbuild.errors import InputError
from asyncbuild.records import dataclass

_AZURE = re.compile(
    r"https://([^./]+)\.blob\.core\.(?:windows\.net|chinacloudapi\.cn|cloudapi\.de|usgovcloudapi\.net)"
    r"/([^/]+)/(.+)"
)
_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class BucketObject:
    """One object: ``scheme`` is s3, gs or az; ``account`` is Azure's."""

    scheme: str
    bucket: str
    key: str
    account: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def azure_object(url: str) -> BucketObject | None:
    """What a URL of Azure's blob storage names; None for another URL."""
    found = _AZURE.fullmatch(url)
    return None if found is None else BucketObject("az", found[2], found[3], found[1])


def fetch_object(wanted: BucketObject, target: Path, environ: Mapping[str, str]) -> None:
    """Write the object to the new file ``target``. Blocks.

    ``environ`` is asked for S3_ENDPOINT and S3_FORCE_PATH_STYLE (kaniko's) and AZURE_STORAGE_ACCESS_KEY;
    what obstore reads by itself is this process's environment. `InputError` for whatever goes wrong.
    """
    try:
        import obstore  # noqa: PLC0415 - an extra, and large
        from obstore.exceptions import BaseError  # noqa: PLC0415
    except ImportError:
        raise InputError(
            f"{wanted} is in a bucket, and obstore is not installed",
            hint="pip install 'asyncbuild[buckets]'",
        ) from None
    try:
        answer = obstore.get(_store(wanted, environ), wanted.key)
        with target.open("xb") as file:
            for piece in answer.stream(min_chunk_size=_PIECE):
                file.write(piece)
    except FileNotFoundError:
        raise InputError(f"{wanted} does not exist") from None
    except (BaseError, OSError, ValueError) as error:
        raise InputError(f"{wanted} cannot be read: {str(error).splitlines()[0]}") from error


def _store(wanted: BucketObject, environ: Mapping[str, str]) -> Any:
    from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415

    match wanted.scheme:
        case "gs":
            return GCSStore(wanted.bucket)
        case "az":
            key = environ.get("AZURE_STORAGE_ACCESS_KEY", "")
            if not key:
                return AzureStore(wanted.bucket, account_name=wanted.account)
            return AzureStore(wanted.bucket, account_name=wanted.account, account_key=key)
        case _:
            return S3Store(wanted.bucket, **_s3_options(environ))


def _s3_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """What kaniko's variables for servers of one's own say, as obstore calls them."""
    endpoint = environ.get("S3_ENDPOINT", "")
    if not endpoint:
        return {}
    path_style = environ.get("S3_FORCE_PATH_STYLE", "").lower() == "true"
    plain = endpoint.startswith("http://")
    return {
        "endpoint": endpoint,
        "virtual_hosted_style_request": not path_style,
        "client_options": {"allow_http": plain},
    }
