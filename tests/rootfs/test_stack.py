"""Layers become lower directories whose overlay is what applying the tars in order gives."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from asyncbuild.errors import LayerError
from asyncbuild.image.digest import DiffId, Digest, chain_id
from asyncbuild.layers.changeset import path_order
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.unpack import UnpackJob, unpack
from asyncbuild.rootfs.stack import lower_directories
from asyncbuild.rootfs.view import DirectoryTree, View
from asyncbuild.store.store import Mend, Store
from support.overlay import Fact, mounted_facts


@dataclass(frozen=True)
class Member:
    """One tar member: ``kind`` is directory, file, link, hard, whiteout or opaque."""

    kind: str
    path: str
    target: str = ""
    number: int = 1

    @property
    def name(self) -> str:
        """The member's name in the tar."""
        head, _, tail = self.path.rpartition("/")
        if self.kind == "whiteout":
            tail = f".wh.{tail}"
        elif self.kind == "opaque":
            head, tail = self.path, ".wh..wh..opq"
        return f"{head}/{tail}" if head else tail

    @property
    def mtime(self) -> int:
        """Seconds, different for different members."""
        return 1_000_000 + 1000 * self.number + len(self.path)


Layer = Sequence[Member]


@dataclass(frozen=True)
class Layers:
    """What the stack takes, without a store."""

    diff_id: DiffId
    path: Path
    facts: UnpackedFacts


@dataclass(frozen=True)
class Mended:
    """A mend, without a store."""

    path: Path
    replaces: bool


@dataclass
class Shelf:
    """Keeps mends in a directory."""

    root: Path
    kept: dict[DiffId, Mended] = field(default_factory=dict)
    made: int = 0

    def mend(self, chain: DiffId, /) -> Mended | None:
        """What was kept."""
        return self.kept.get(chain)

    def new_mend(self) -> Path:
        """A new work directory."""
        self.made += 1
        work = self.root / f"mend-{self.made}"
        (work / "fs").mkdir(parents=True)
        return work

    def commit_mend(self, work: Path, chain: DiffId, /, *, replaces: bool) -> Mended:
        """Keep it where it is."""
        self.kept[chain] = Mended(work / "fs", replaces)
        return self.kept[chain]


def tar(layer: Layer) -> bytes:
    """The layer as a tar, written by the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in layer:
            info = tarfile.TarInfo(member.name)
            info.uid = info.gid = member.number
            info.mtime = member.mtime
            content = b""
            if member.kind == "directory":
                info.type, info.mode = tarfile.DIRTYPE, 0o700 + member.number
            elif member.kind == "link":
                info.type, info.linkname = tarfile.SYMTYPE, member.target
            elif member.kind == "hard":
                info.type, info.linkname = tarfile.LNKTYPE, member.target
            elif member.kind == "file":
                content = f"{member.path} {member.number}".encode()
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(root: Path, layers: Sequence[Layer]) -> list[Layers]:
    """Every layer, unpacked on its own."""
    result = []
    for number, layer in enumerate(layers):
        data = tar(layer)
        path = root / str(number)
        path.mkdir()
        done = unpack(UnpackJob(str(path), Digest.of(data), len(data)), [data])
        result.append(Layers(done.diff_id, path, done.facts))
    return result


@dataclass(frozen=True)
class Thing:
    """What the reference has at a path; ``layer`` is the number of the one that put it there."""

    kind: str
    mode: int
    owner: int
    mtime: int
    link: str
    content: bytes
    layer: int


class Unclear(Exception):
    """A layer whose meaning hangs on the order of its members, or that every tool refuses."""


def sure(condition: object) -> None:
    """Give up unless ``condition`` holds."""
    if not condition:
        raise Unclear


class Reference:
    """Applies members one after another to one root, in memory, as slowly as it likes.

    These are the rules of containerd and GNU tar, with whiteouts applying to lower layers only, as
    the image specification has it.
    """

    def __init__(self) -> None:
        self.things = {"": self._fresh(-1)}
        self.layer = -1

    def apply(self, layer: Layer) -> None:
        """Apply one layer."""
        self.layer += 1
        self.named: set[str] = set()
        self.followed: set[str] = set()
        self.reached: set[str] = set()
        self.hidden: set[str] = set()
        for member in layer:
            if member.kind == "opaque":
                self._empty(self._directory(member.path))
                continue
            head, _, tail = member.path.rpartition("/")
            directory = self._directory(head)
            path = f"{directory}/{tail}" if directory else tail
            if member.kind == "whiteout":
                self._whiteout(path)
            else:
                sure(path not in self.named)  # then the order within the layer would decide
                self.named.add(path)
                self._put(path, member)

    def _put(self, path: str, member: Member) -> None:
        old = self.things.get(path)
        if member.kind == "hard":
            head, _, tail = member.target.rpartition("/")
            where = self._resolve(head)
            target = f"{where}/{tail}" if where else tail
            thing = self.things.get(target)
            sure(thing is not None and thing.kind != "5" and target != path)
            assert thing is not None
            new = replace(thing, layer=self.layer)
        else:
            new = self._made(member)
        if old is not None and not (old.kind == new.kind == "5"):
            self._remove(path)
        self.things[path] = new

    def _made(self, member: Member) -> Thing:
        kind = {"directory": "5", "file": "0", "link": "2"}[member.kind]
        mode = {"5": 0o700 + member.number, "0": 0o644, "2": 0o777}[kind]
        content = f"{member.path} {member.number}".encode() if kind == "0" else b""
        link = member.target if kind == "2" else ""
        return Thing(kind, mode, member.number, member.mtime, link, content, self.layer)

    def _whiteout(self, path: str) -> None:
        sure(path not in self.reached)  # by another name: the order within the layer decides
        self.hidden.add(path)
        thing = self.things.get(path)
        if thing is None:
            return
        mine = any(self._inside(p, path) and t.layer == self.layer for p, t in self.things.items())
        if thing.layer == self.layer or mine:
            if thing.kind == "5":
                self._empty(path)
            if thing.layer != self.layer:
                self.things[path] = self._fresh(self.layer)
        else:
            self._remove(path)

    def _empty(self, path: str) -> None:
        """Remove what lower layers have in a directory."""
        for other in sorted(self.things, reverse=True):
            if self._inside(other, path) and self.things[other].layer != self.layer:
                sure(other not in self.followed)  # again the order within the layer
                if any(self._inside(deeper, other) for deeper in self.things):
                    self.things[other] = self._fresh(self.layer)
                else:
                    del self.things[other]

    def _remove(self, path: str) -> None:
        for other in [p for p in self.things if p == path or self._inside(p, path)]:
            sure(other not in self.followed)
            del self.things[other]

    @staticmethod
    def _inside(path: str, directory: str) -> bool:
        return path.startswith(f"{directory}/") if directory else path != ""

    def _fresh(self, layer: int) -> Thing:
        return Thing("5", 0o755, 0, 0, "", b"", layer)

    def _resolve(self, path: str) -> str:
        """Follow every link of ``path`` inside the root."""
        todo, steps = path.split("/"), 0
        done: list[str] = []
        while todo:
            part = todo.pop(0)
            if part == "..":
                done = done[:-1]
            elif part not in ("", "."):
                done.append(part)
                thing = self.things.get("/".join(done))
                if thing is not None and thing.kind == "2":
                    steps += 1
                    self.followed.add("/".join(done))
                    sure(steps < 100)
                    done = [] if thing.link.startswith("/") else done[:-1]
                    todo = thing.link.split("/") + todo
        return "/".join(done)

    def _directory(self, path: str) -> str:
        """The real directory that ``path`` means, made if it is missing."""
        real = self._resolve(path)
        parts = real.split("/") if real else []
        if real != path:
            self.reached.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            sure(not self.reached & self.hidden)
        for count in range(1, len(parts) + 1):
            up = "/".join(parts[:count])
            thing = self.things.get(up)
            sure(thing is None or thing.kind == "5")  # a file there is an error everywhere
            if thing is None:
                self.things[up] = self._fresh(self.layer)
        return real


def facts_of(reference: Reference) -> dict[str, Fact]:
    """The reference's tree in the form of a mounted one."""
    return {
        path: Fact(
            thing.kind,
            thing.mode,
            thing.owner,
            thing.owner,
            thing.mtime * 10**9,
            thing.link,
            thing.content,
            (),
        )
        for path, thing in reference.things.items()
    }


def check(layers: Sequence[Layer]) -> None:
    """Mount the stack of ``layers`` and compare it with the reference; the view as well."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="stack-"))
    try:
        reference = Reference()
        for layer in layers:
            reference.apply(layer)
        shelf = Shelf(base)
        stack = unpacked(base, layers)
        lower = lower_directories(stack, shelf)
        found, expected = mounted_facts(lower, base / "merged"), facts_of(reference)
        for root in (found, expected):
            root[""] = root[""]._replace(mtime_ns=0)
        assert found == expected
        view = View([DirectoryTree(path) for path in lower])
        assert sorted(entry.path for entry in view.walk()) == sorted(expected)
        made = shelf.made
        assert lower_directories(stack, shelf) == lower
        assert shelf.made == made
    finally:
        shutil.rmtree(base)


_names = st.sampled_from(["a", "b", "c"])
_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)
_targets = st.sampled_from(["a", "/b", "../c", "b/c", "/a/b", "c/a", "../../a/b"])
_kinds = st.sampled_from(
    ["directory", "directory", "file", "file", "file", "link", "hard", "whiteout", "opaque"]
)


@st.composite
def _stacks(draw: st.DrawFn) -> list[list[Member]]:
    """Layers in the order that tools write: links, directories before what is in them, hardlinks."""
    files: set[str] = set()
    layers: list[list[Member]] = []
    for _ in range(draw(st.integers(2, 4))):
        kinds = draw(st.dictionaries(_paths, _kinds, min_size=1, max_size=6))
        hidden = [path for path, kind in kinds.items() if kind in ("whiteout", "opaque")]
        members = []
        for path, kind in kinds.items():
            target = draw(_targets) if kind == "link" else ""
            if kind == "hard":
                outside = [f for f in files if not _meets(f, [*kinds, *hidden])]
                if not outside:
                    continue
                target = draw(st.sampled_from(sorted(outside)))
            members.append(Member(kind, path, target, draw(st.integers(1, 3))))
        members.sort(key=lambda m: (m.kind != "link", m.kind == "hard", path_order(m.path)))
        layers.append(members)
        files |= {path for path, kind in kinds.items() if kind == "file"}
    return layers


def _meets(path: str, others: Sequence[str]) -> bool:
    """Whether a layer that names ``others`` may change what ``path`` is."""
    return any(path == o or path.startswith(f"{o}/") or o.startswith(f"{path}/") for o in others)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(_stacks())
def test_any_stack_is_what_applying_its_tars_gives(layers: list[list[Member]]) -> None:
    """Random layers: the kernel's overlay of the lower directories is the reference's tree."""
    try:
        check(layers)
    except (LayerError, Unclear):
        reject()


def _stack(root: Path, *layers: Layer) -> tuple[list[Path], Shelf]:
    shelf = Shelf(root)
    return lower_directories(unpacked(root, layers), shelf), shelf


BASE = (
    Member("directory", "usr", number=2),
    Member("directory", "usr/lib", number=3),
    Member("file", "usr/lib/old"),
    Member("link", "lib", "usr/lib"),
)


def test_layers_that_name_their_directories_need_no_mend(shm_path: Path) -> None:
    """A layer with entries for its directories, or with the attributes below, stands as it is."""
    upper = (*BASE[:2], Member("file", "usr/lib/new"))
    lower, shelf = _stack(shm_path, BASE, upper)
    assert lower == [shm_path / "1", shm_path / "0"]
    assert shelf.made == 0
    check([BASE, upper])


def test_implicit_directories_look_as_below(shm_path: Path) -> None:
    """A small directory above the layer gives implicit parents the attributes of the base's."""
    upper = (Member("file", "usr/lib/new"),)
    lower, _ = _stack(shm_path, BASE, upper)
    assert lower == [shm_path / "mend-1/fs", shm_path / "1", shm_path / "0"]
    assert not (shm_path / "mend-1/fs/usr/lib/new").exists()
    assert (shm_path / "mend-1/fs/usr/lib").stat().st_uid == 3
    check([BASE, upper])


def test_a_hardlink_to_a_file_that_the_same_layer_has_by_another_name(shm_path: Path) -> None:
    """The file went through a symlink of a lower layer: the new one is linked, not the old one below."""
    lower = (Member("link", "b", "a"), Member("directory", "a"), Member("file", "a/a"))
    check([lower, (Member("file", "b/a", number=2), Member("hard", "a/c", "a/a"))])


def test_a_hardlink_into_a_lower_layer_is_that_file(shm_path: Path) -> None:
    """The link is the same inode as the file below, found through links on its way."""
    upper = (Member("hard", "opt/x/new", "lib/old"),)
    lower, _ = _stack(shm_path, BASE, upper)
    assert (lower[0] / "opt/x/new").samefile(shm_path / "0/usr/lib/old")
    check([BASE, upper])


def test_a_hardlink_to_a_symlink_below_is_that_symlink() -> None:
    """Tar links symlinks too: the new name is a link with the same target."""
    check([BASE, (Member("hard", "other", "lib"),)])


def test_a_hardlink_to_nothing_is_a_damaged_layer(shm_path: Path) -> None:
    """A link to a file that no layer has names the link and the file."""
    with pytest.raises(LayerError, match="/new is a hardlink to /none"):
        _stack(shm_path, BASE, (Member("hard", "new", "none"),))


def test_files_below_a_lower_symlink_reach_its_target(shm_path: Path) -> None:
    """A clone of the layer, made of hardlinks, has them where the link leads."""
    upper = (Member("file", "lib/new"), Member("whiteout", "lib/old"), Member("file", "kept"))
    lower, shelf = _stack(shm_path, BASE, upper)
    assert lower == [shm_path / "mend-1/fs", shm_path / "0"]
    assert (lower[0] / "usr/lib/new").samefile(shm_path / "1/lib/new")
    assert [mend.replaces for mend in shelf.kept.values()] == [True]
    check([BASE, upper])


def test_an_entry_for_the_directory_replaces_the_symlink() -> None:
    """Only a directory without an entry of its own follows a link."""
    check([BASE, (Member("directory", "lib", number=1), Member("file", "lib/new"))])


def test_a_dangling_symlink_gets_its_target() -> None:
    """What stands below a link to nowhere makes the place it leads to."""
    check([(Member("link", "a", "b/c"),), (Member("file", "a/x"),)])


def test_a_whiteout_beside_the_same_directory_hides_the_old_content() -> None:
    """A directory that is deleted and made again in one layer is empty of what was there."""
    upper = (Member("whiteout", "usr"), Member("directory", "usr"), Member("file", "usr/new"))
    check([BASE, upper])
    check([BASE, (Member("whiteout", "usr"), Member("file", "usr/new"))])


def test_an_opaque_root_hides_all_layers_below(shm_path: Path) -> None:
    """Overlayfs does not honour it, so the list ends there."""
    upper = (Member("opaque", ""), Member("file", "x"))
    lower, _ = _stack(shm_path, BASE, upper)
    assert lower == [shm_path / "1"]
    check([BASE, upper])


def test_an_opaque_implicit_directory_keeps_its_attributes() -> None:
    """An opaque marker without an entry for the directory empties it and changes nothing else."""
    check([BASE, (Member("opaque", "usr"), Member("file", "usr/x"))])


def test_mends_are_kept_by_chain(shm_path: Path) -> None:
    """One layer above two bases has two mends, in a real store, each made once."""
    other = (replace(BASE[0], number=1),)
    upper = (Member("file", "usr/lib/new"),)
    with Store.open(shm_path / "store") as store:
        (shm_path / "layers").mkdir()
        first, second, top = unpacked(shm_path / "layers", [BASE, other, upper])
        one = lower_directories([first, top], store)
        two = lower_directories([second, top], store)
        assert one[0] != two[0]
        assert lower_directories([first, top], store) == one
        assert store.statistics().mends == 2
        assert store.mend(chain_id(first.diff_id, top.diff_id)) == Mend(one[0], replaces=False)


def test_a_loop_of_links_is_a_damaged_layer(shm_path: Path) -> None:
    """A path through links that name each other is reported as the layers' fault."""
    loop = (Member("link", "a", "b"), Member("link", "b", "a"))
    with pytest.raises(LayerError, match="too many symbolic links"):
        _stack(shm_path, loop, (Member("file", "a/x"),))


def test_a_mend_keeps_extended_attributes(shm_path: Path) -> None:
    """Attributes of the directory below come along."""
    first, second = unpacked(shm_path, [BASE, (Member("file", "usr/lib/new"),)])
    os.setxattr(first.path / "usr", "user.note", b"kept")
    lower = lower_directories([first, second], Shelf(shm_path))
    assert os.getxattr(lower[0] / "usr", "user.note") == b"kept"
