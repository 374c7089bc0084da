"""Signatures of requests to AWS: Signature Version 4 ("Signing AWS API requests"). Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from urllib.parse import urlsplit

from asyncbuild.records import dataclass, field


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """An access key; ``token`` belongs to keys that end (``expires``: seconds since the epoch)."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    expires: float = float("inf")


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs for one service of one region at one moment (seconds since the epoch)."""

    keys: AwsKeys
    region: str
    service: str
    moment: float

    def sign(
        self, method: str, url: str, headers: tuple[tuple[str, str], ...], body: bytes = b""
    ) -> tuple[tuple[str, str], ...]:
        """``headers`` with those that prove who asks; all of them, and Host, are signed."""
        stamp = dt.datetime.fromtimestamp(self.moment, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        sent = [*headers, ("X-Amz-Date", stamp)]
        if self.keys.token:
            sent.append(("X-Amz-Security-Token", self.keys.token))
        parts = urlsplit(url)
        signed = sorted(
            (name.lower(), value.strip()) for name, value in (*sent, ("Host", parts.netloc))
        )
        names = ";".join(name for name, _ in signed)
        lines = [method, parts.path or "/", parts.query]
        lines += [f"{name}:{value}" for name, value in signed]
        lines += ["", names, hashlib.sha256(body).hexdigest()]
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{request}"
        signature = hmac.new(self._key(stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
        credential = f"Credential={self.keys.key_id}/{scope}"
        proof = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return (*sent, ("Authorization", proof))

    def _key(self, day: str) -> bytes:
        key = f"AWS4{self.keys.secret}".encode()
        for part in (day, self.region, self.service, "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key
