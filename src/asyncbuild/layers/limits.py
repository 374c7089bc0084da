"""How large a layer may become: a small blob can be made to fill any disk. Pure.

gzip packs up to 1032 zeros into a byte, zstd and xz far more, and a sparse file in a tar costs nothing at
all. So what comes out is counted while it comes, against a size and, beyond `FREE` bytes, against a
multiple of what went in. A layer beyond either is an error before more of it is written.
"""

from __future__ import annotations

from typing import Final

from asyncbuild.errors import LayerError
from asyncbuild.records import dataclass

FREE: Final = 1 << 30
"""Bytes: a layer of up to so many may be compressed as well as it can be."""
_HINT: Final = (
    "--max-layer-size, --max-layer-ratio and --max-layer-entries allow more, for what you trust"
)


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """``size`` bytes of tar, and of files (holes counted); ``ratio`` to the compressed size beyond `FREE`;
    ``entries`` in number. 0 is no limit.
    """

    size: int = 256 << 30
    ratio: float = 500.0
    entries: int = 10_000_000

    def check_inflated(self, inflated: int, compressed: int) -> None:
        """`LayerError` for ``inflated`` bytes that came of ``compressed`` ones."""
        if self.size and inflated > self.size:
            raise LayerError(f"its content has more than {self.size} bytes", hint=_HINT)
        if self.ratio and inflated > FREE and inflated > self.ratio * compressed:
            raise LayerError(
                f"its content is more than {self.ratio:g} times as large as its blob", hint=_HINT
            )

    def check_files(self, entries: int, size: int) -> None:
        """`LayerError` for too many entries, or files whose sizes are too large together."""
        if self.entries and entries > self.entries:
            raise LayerError(f"it has more than {self.entries} entries", hint=_HINT)
        if self.size and size > self.size:
            raise LayerError(f"its files have more than {self.size} bytes", hint=_HINT)


LIMITS: Final = LayerLimits()
NO_LIMITS: Final = LayerLimits(0, 0, 0)
