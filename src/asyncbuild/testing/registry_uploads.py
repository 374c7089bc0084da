"""Upload sessions of a registry double: POST, PATCH, PUT, GET for their state, DELETE."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from asyncbuild.image.digest import Digest
from asyncbuild.testing.exchanges import Answered, Asked, error_answer


@dataclass(slots=True)
class Upload:
    """One session: what came so far, and the number of the URL that is valid next."""

    repository: str
    data: bytearray = field(default_factory=bytearray)
    state: int = 0


class Uploads:
    """The sessions of one double; ``keep`` is given a blob that is complete.

    ``resumable`` False: as docker-registry 2.8, a session that broke in the middle of a body is gone.
    """

    def __init__(self, sessions: dict[str, Upload], keep: Callable[[str, bytes], object]) -> None:
        self.sessions = sessions
        self.resumable = True
        self._keep = keep
        self._count = 0

    def start(self, asked: Asked, repository: str) -> Answered:
        """A new session."""
        self._count += 1
        number = f"upload-{self._count}"
        self.sessions[number] = Upload(repository)
        return Answered(202, {"location": self._place(asked, number)})

    def _place(self, asked: Asked, number: str) -> str:
        """Where the upload goes on: another URL after each request, as registries keep state in it."""
        upload = self.sessions[number]
        upload.state += 1
        path = f"/v2/{upload.repository}/blobs/uploads/{number}?_state={upload.state}%3D"
        return path if upload.state % 2 else f"{asked.scheme}://{asked.host}{path}"

    async def proceed(self, asked: Asked, number: str) -> Answered:
        """A request to a session's URL."""
        upload = self.sessions.get(number)
        query = dict(parse_qsl(asked.query))
        telling = asked.method in ("GET", "HEAD") and self.resumable
        current = upload is not None and query.get("_state") == f"{upload.state}="
        if upload is None or not (current or telling):
            return error_answer(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if asked.method == "DELETE":
            del self.sessions[number]
            return Answered(204)
        if asked.method in ("GET", "HEAD"):
            return Answered(204, self._told(asked, number))
        span = re.fullmatch(r"(\d+)-\d+", asked.headers.get("content-range", ""))
        if span is not None and int(span[1]) != len(upload.data):
            return Answered(416, self._told(asked, number))
        try:
            async for chunk in asked.body:
                upload.data += chunk
        except BaseException:
            if not self.resumable:
                self.sessions.pop(number, None)
            raise
        if number not in self.sessions:  # ended while its body came
            return error_answer(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if asked.method == "PATCH":
            return Answered(202, self._told(asked, number))
        return self._close(number, Digest.parse(query["digest"]))

    def _told(self, asked: Asked, number: str) -> dict[str, str]:
        """The next URL, and how much is there (spec.md: the end is inclusive; of nothing none is told)."""
        size = len(self.sessions[number].data)
        told = {"location": self._place(asked, number)}
        return {**told, "range": f"0-{size - 1}"} if size else told

    def _close(self, number: str, digest: Digest) -> Answered:
        upload = self.sessions[number]
        data = bytes(upload.data)
        if not digest.matches(data):
            wrong = "provided digest did not match uploaded content"
            return error_answer(400, "DIGEST_INVALID", wrong)
        del self.sessions[number]
        self._keep(upload.repository, data)
        place = f"/v2/{upload.repository}/blobs/{digest}"
        return Answered(201, {"location": place, "docker-content-digest": str(digest)})
