"""What is known about an unpacked layer beside its directory: plain records, no file system."""

from __future__ import annotations

import json

from asyncbuild.layers.changeset import Entry
from asyncbuild.records import dataclass, field


@dataclass(frozen=True, slots=True)
class UnpackedFacts:
    """What unpacking a layer on its own could not decide, and how large it is.

    ``implicit_directories``: directories that the tar needs but has no entry for, sorted, the root
    ``""`` among them; they stand in the unpacked tree with attributes of our own (0755, 0:0) and take
    those of the layers below. A directory whose own whiteout (``.wh.NAME``) stands in the same tar
    is new and is not listed.
    ``outside_links``: hardlinks (path, target) to files that the tar itself does not hold; nothing
    stands at ``path`` in the unpacked tree.
    ``outside_entries`` are the entries of these, in their order; nothing but an archive's are kept.
    ``entries`` counts tar entries; ``size`` is the sum of the files' bytes.
    """

    implicit_directories: tuple[str, ...] = ()
    outside_links: tuple[tuple[str, str], ...] = ()
    entries: int = 0
    size: int = 0
    outside_entries: tuple[Entry, ...] = field(default=(), compare=False)

    def to_json(self) -> str:
        """One line of JSON; names that are not UTF-8 are kept by surrogate escapes."""
        return json.dumps(
            {
                "implicitDirectories": self.implicit_directories,
                "outsideLinks": self.outside_links,
                "entries": self.entries,
                "size": self.size,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> UnpackedFacts:
        """Decode `to_json`; ValueError, KeyError or TypeError when it is not that."""
        value = json.loads(text)
        return cls(
            tuple(str(path) for path in value["implicitDirectories"]),
            tuple((str(path), str(target)) for path, target in value["outsideLinks"]),
            int(value["entries"]),
            int(value["size"]),
        )
