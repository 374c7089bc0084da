"""What a registry turned out to be like, so that the next blob is sent or asked for so at once. Pure.

The specification lets a blob be sent in one piece or in chunks; registries in the field take only the one
or only the other, want to know a length, or stand behind a proxy that lets few bytes through at a time.
None of them says so before it refuses.
"""

from __future__ import annotations

from asyncbuild.records import dataclass

SMALL_REQUEST = 4 << 20
"""Bytes of one request to a registry that refused a larger one."""
_TOO_LARGE = 413
_OTHERWISE = frozenset({400, 405, 411, 415, 501})


@dataclass(slots=True)
class DownloadHabits:
    """``ranges``: a range of a blob is answered with that range alone."""

    ranges: bool = True


@dataclass(slots=True)
class UploadHabits:
    """``whole``: takes a blob with the closing PUT. ``streams``: takes a PATCH. ``most``: bytes."""

    whole: bool = True
    streams: bool = True
    most: int | None = None

    def learnt_since(self, manner: UploadHabits, status: int) -> bool:
        """Whether another blob taught in the meantime what the refusal of a request in this ``manner``
        would have taught.
        """
        return (status in _OTHERWISE or status == _TOO_LARGE) and manner != self

    def learn(self, method: str, status: int, sent: int | None) -> bool:
        """Draw the conclusion of a refusal of a request with a body of ``sent`` bytes (None: unknown).

        True if there is another manner that was not refused yet.
        """
        if status == _TOO_LARGE and self.streams and (sent is None or sent > SMALL_REQUEST):
            self.most = SMALL_REQUEST
            return True
        if status not in _OTHERWISE:
            return False
        if method == "PATCH" and self.streams and self.whole and self.most is None:
            self.streams = False
            return True
        if method == "PUT" and self.whole and self.streams:
            self.whole = False
            return True
        return False
