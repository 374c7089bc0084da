"""Where things stand in a store, and whether a directory is one.

::

    oci-layout, index.json       an OCI image layout: other tools can read the blobs
    blobs/<algorithm>/<hex>      blobs by Digest
    layers/<algorithm>/<hex>/    unpacked layers by DiffId: fs/ (overlayfs' lower format), facts.json
    mends/<algorithm>/<hex>/     what a layer needs on top of certain others, by ChainID: fs/, mend.json
    trees/<algorithm>/<hex>/     what a step changed and no layer was packed of, by its key: fs/
    records/results/<key>        what came of a step with that key (`asyncbuild.cache`)
    records/kept/<digest>        an image that could not be pushed (`asyncbuild.store.kept`)
    records/listings/<chainid>   what a base shows (`asyncbuild.layers.listing`)
    records/diff-ids/<digest>    the DiffId of a blob; records/digests/<diffid>/<digest> the reverse
    layers.<form>/, mends.<form>/, trees.<form>/   the same in another form (`Layout.form`)
    tmp/<owner>/                 work in progress, one directory for each living process
    cache-mounts/                see `asyncbuild.store.cachemounts`
    contents                     digests of files in contexts (`asyncbuild.context.fingerprint`)
    journal*, lock               see `asyncbuild.store.journal`; held while a store is opened
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from asyncbuild.errors import StoreError
from asyncbuild.image.digest import DiffId, Digest, InvalidDigest
from asyncbuild.records import dataclass
from asyncbuild.store.disk import write_atomically

_VERSION = "1.0.0"
_EMPTY_INDEX = {"schemaVersion": 2, "manifests": []}
_DIRECTORIES = (
    "blobs/sha256",
    "layers",
    "mends",
    "trees",
    "records/diff-ids",
    "records/digests",
    "records/results",
    "records/kept",
    "records/listings",
    "cache-mounts",
    "tmp",
)
_OURS = {
    "contents",
    "lock",
    "lost+found",
    "index.json",
    *(name.partition("/")[0] for name in _DIRECTORIES),
}
_IN_FORMS = ("layer", "mend", "tree")
_KINDS = {"blob": "blobs", "layer": "layers", "mend": "mends", "tree": "trees"}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is kept: its kind in the journal, its name there, and where it is."""

    kind: str
    name: str
    path: Path


class Layout:
    """The paths of the store at ``root``.

    ``form`` names a form of directories that builders with other rights cannot read alike: they make their
    own. Blobs and records are everyone's.
    """

    def __init__(self, root: Path, form: str = "") -> None:
        self.root = root
        self.form = form
        self.tmp = root / "tmp"
        self.lock = root / "lock"

    def blob(self, digest: Digest) -> Item:
        """The blob ``digest``."""
        return self._item("blob", digest)

    def layer(self, diff_id: DiffId) -> Item:
        """The unpacked layer ``diff_id``."""
        return self._item("layer", diff_id)

    def mend(self, chain: DiffId) -> Item:
        """The mend of the topmost layer of ``chain``."""
        return self._item("mend", chain)

    def tree(self, key: str) -> Item:
        """What a step with the cache key ``key`` (hexadecimal) changed."""
        return self._item("tree", Digest("sha256", key))

    def result_record(self, key: str) -> Item:
        """The record of what came of a step."""
        name = f"results/{key}"
        return Item("record", name, self.root / "records" / name)

    def kept_record(self, digest: str) -> Item:
        """The record of an image that could not be pushed (`asyncbuild.store.kept`)."""
        name = f"kept/{digest}"
        return Item("record", name, self.root / "records" / name)

    def listing_record(self, chain: DiffId) -> Item:
        """The record of what the layers of ``chain`` show together."""
        name = f"listings/{chain}"
        return Item("record", name, self.root / "records" / name)

    def diff_id_record(self, digest: Digest) -> Item:
        """The record that names the DiffId of the blob ``digest``."""
        name = f"diff-ids/{digest}"
        return Item("record", name, self.root / "records" / name)

    def digest_record(self, diff_id: DiffId, digest: Digest) -> Item:
        """The record that says that ``digest`` is a form of ``diff_id``."""
        name = f"digests/{diff_id}/{digest}"
        return Item("record", name, self.root / "records" / name)

    def items(self, kind: str) -> Iterator[Item]:
        """Everything of one kind (``blob``, ``layer``, ``mend``, ``tree``, ``record``), of all forms.

        Foreign files are left out.
        """
        if kind == "record":
            records = self.root / "records"
            for path in records.rglob("*"):
                if not path.is_dir():
                    yield Item(kind, str(path.relative_to(records)), path)
            return
        name = _KINDS[kind]
        for place in (self.root / name, *self.root.glob(f"{name}.*")):
            for path in place.glob("*/*"):
                with contextlib.suppress(InvalidDigest):
                    digest = Digest.parse(f"{path.parent.name}:{path.name}")
                    yield Item(kind, str(digest), path)

    def _item(self, kind: str, name: Digest | DiffId) -> Item:
        place = _KINDS[kind]
        if self.form and kind in _IN_FORMS:
            place = f"{place}.{self.form}"
        path = self.root / place / name.algorithm / name.hex
        return Item(kind, str(name), path)

    def refuse_foreign(self) -> None:
        """`StoreError` if ``root`` holds anything that no store has; it is left as it is.

        A store whose making was interrupted has a part of what a store has.
        """
        marker = self.root / "oci-layout"
        if marker.exists():
            self._check(marker)
        elif not all(map(_is_ours, self.root.iterdir())):
            raise StoreError(
                f"{self.root} is not empty and is not a store",
                hint="choose an empty or a new directory with --store DIR",
            )

    def prepare(self) -> None:
        """Make the store's directories, and last what says that it is one."""
        for name in _DIRECTORIES:
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.root / "index.json").exists():
            self._write("index.json", _EMPTY_INDEX)
        if not (self.root / "oci-layout").exists():
            self._write("oci-layout", {"imageLayoutVersion": _VERSION})

    def _write(self, name: str, document: object) -> None:
        data = json.dumps(document).encode()
        write_atomically(self.root / name, data, self.root / f"tmp/.{name}")

    def _check(self, marker: Path) -> None:
        try:
            version = json.loads(marker.read_bytes())["imageLayoutVersion"]
        except (ValueError, KeyError, TypeError):
            version = "?"
        if version != _VERSION or not (self.root / "layers").is_dir():
            raise StoreError(
                f"{self.root} is an OCI layout (version {version}) that is not a store of ours",
                hint="choose an empty or a new directory with --store DIR",
            )


def _is_ours(path: Path) -> bool:
    return path.name in _OURS or path.name.partition(".")[0] in _KINDS.values()
