"""Where COPY puts things: every rule, by tables, and against GNU cp where the two agree."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.placement import Placement, make_directory, place
from asyncbuild.context.sources import CopySource, InlineFile, find_sources
from asyncbuild.dockerfile.modes import ModeChange
from asyncbuild.errors import DockerfileError
from asyncbuild.layers.changeset import ChangeSet, Entry, InlineSource, Kind
from asyncbuild.rootfs.view import ChangeSetTree, View


def file(path: str, mode: int = 0o644, mtime_ns: int = 5) -> Entry:
    """A file whose content is its path."""
    data = path.encode()
    return Entry(path, Kind.FILE, mode, 7, 8, mtime_ns, len(data), source=InlineSource(data))


def directory(path: str, mode: int = 0o755, mtime_ns: int = 6) -> Entry:
    """A directory."""
    return Entry(path, Kind.DIRECTORY, mode, 7, 8, mtime_ns)


def link(path: str, target: str) -> Entry:
    """A symlink."""
    return Entry(path, Kind.SYMLINK, 0o777, link=target)


def view(*entries: Entry) -> View:
    """A root with ``entries``."""
    return View([ChangeSetTree(ChangeSet.of(entries))])


SOURCES = view(
    file("a"),
    file("b", 0o4711),
    directory("dir", 0o700),
    file("dir/x"),
    directory("dir/sub", 0o711),
    file("dir/sub/y"),
    link("dir/link", "x"),
    directory("other"),
    file("other/x", 0o600),
    link("to-a", "a"),
    link("to-dir", "dir"),
)

ROOT = view(
    directory("app", 0o750, 100),
    file("app/x", mtime_ns=100),
    directory("app/sub", 0o701, 100),
    directory("data", 0o755, 100),
    link("current", "/app"),
    link("later", "data/new"),
    link("app/out", "/data"),
    file("file", mtime_ns=100),
    link("to-file", "file"),
)


def copied(
    names: str, destination: str, root: View | None = None, **options: object
) -> dict[str, Entry]:
    """COPY ``names`` (separated by blanks) from `SOURCES`."""
    sources: list[CopySource | InlineFile] = []
    for name in names.split():
        sources += find_sources(SOURCES, name)
    placement = Placement(destination, **options)  # type: ignore[arg-type]
    return {entry.path: entry for entry in place(sources, placement, root).additions}


def content(entry: Entry) -> str:
    """What a file of `SOURCES` holds: where it comes from."""
    assert isinstance(entry.source, InlineSource)
    return entry.source.data.decode()


@dataclass(frozen=True)
class Case:
    """Sources, a destination, and the files (with origins) and directories that come of it."""

    names: str
    destination: str
    expected: str
    root: View | None = None


CASES = [
    Case("a", "/a", "a=a"),
    Case("a", "/new/name", "new/ new/name=a"),
    Case("a", "/new/", "new/ new/a=a"),
    Case("a", "/new/.", "new/ new/a=a"),
    Case("a", "/", "a=a"),
    Case("a b", "/new/", "new/ new/a=a new/b=b"),
    Case("[ab]", "/new/", "new/ new/a=a new/b=b"),
    Case("a", "/app", "app/ app/a=a", ROOT),
    Case("a b", "/app", "app/ app/a=a app/b=b", ROOT),
    Case("a", "/app/x", "app/ app/x=a", ROOT),
    Case("a", "/file", "file=a", ROOT),
    Case("a", "/to-file", "file=a", ROOT),
    Case("a", "/current", "app/ app/a=a", ROOT),
    Case("a", "/current/new", "app/ app/new=a", ROOT),
    Case("a", "/current/out/new/", "data/ data/new/ data/new/a=a", ROOT),
    Case("a", "/later", "data/ data/new=a", ROOT),
    Case("a", "/later/", "data/ data/new/ data/new/a=a", ROOT),
    Case("a", "/x/../app/./y", "app/ app/y=a", ROOT),
    Case("dir", "/new", "new/ new/x=dir/x new/sub/ new/sub/y=dir/sub/y new/link->x"),
    Case("dir/", "/new/", "new/ new/x=dir/x new/sub/ new/sub/y=dir/sub/y new/link->x"),
    Case("dir/.", "/", "x=dir/x sub/ sub/y=dir/sub/y link->x"),
    Case("dir", "/app", "app/ app/x=dir/x app/sub/ app/sub/y=dir/sub/y app/link->x", ROOT),
    Case("dir other", "/new", "new/ new/x=other/x new/sub/ new/sub/y=dir/sub/y new/link->x"),
    Case("other a", "/new", "new/ new/x=other/x new/a=a"),
    Case("to-a", "/new/", "new/ new/to-a=a"),
    Case("to-a", "/new", "new=a"),
    Case("to-dir/x", "/new", "new=dir/x"),
    Case("to-dir", "/new", "new/ new/x=dir/x new/sub/ new/sub/y=dir/sub/y new/link->x"),
    Case("dir/link", "/new/", "new/ new/link=dir/x"),
    Case("d*/x", "/new/", "new/ new/x=dir/x"),
    Case("none*", "/new/", ""),
    Case("none* a", "/new", "new=a"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.names}>{c.destination}")
def test_where_things_go(case: Case) -> None:
    """Files, directories and links arrive where BuildKit puts them."""
    shown = []
    for path, entry in copied(case.names, case.destination, case.root).items():
        if entry.kind is Kind.DIRECTORY:
            shown.append(f"{path}/")
        elif entry.kind is Kind.SYMLINK:
            shown.append(f"{path}->{entry.link}")
        else:
            shown.append(f"{path}={content(entry)}")
    assert sorted(shown) == sorted(case.expected.split())


@pytest.mark.parametrize(
    ("names", "destination", "problem"),
    [
        ("a b", "/new", "both a and b would be copied to /new"),
        ("[ab]", "/new", "end the destination in /"),
        ("a dir", "/new", "the directory /dir cannot replace the file /new"),
        ("dir", "/file", "the directory /dir cannot replace the file /file"),
        ("a", "/file/", "a directory is needed in place of the file /file"),
        ("a", "/file/x", "a directory is needed in place of the file /file"),
        ("dir", "/link-in-place", "a directory cannot replace the symlink /link-in-place/sub"),
        ("dir", "/dir-in-place", "a file cannot replace the directory /dir-in-place/x"),
    ],
)
def test_what_does_not_fit_is_an_error(names: str, destination: str, problem: str) -> None:
    """Each misfit is told with both sides of it, or with what to do."""
    root = ROOT.with_top(
        ChangeSetTree(
            ChangeSet.of(
                [
                    directory("link-in-place"),
                    link("link-in-place/sub", "/data"),
                    directory("dir-in-place"),
                    directory("dir-in-place/x"),
                ]
            )
        )
    )
    with pytest.raises(DockerfileError) as caught:
        copied(names, destination, root)
    assert problem in caught.value.render()


def test_existing_directories_are_repeated_unchanged() -> None:
    """Parents that exist come with their own attributes, the destination of a directory too."""
    found = copied("dir", "/app", ROOT)
    assert found["app"] == ROOT.lookup("app")
    assert (found["app/sub"].mode, found["app/sub"].mtime_ns) == (0o711, 6)
    assert "" not in found
    assert copied("a", "/app/sub/a", ROOT)["app/sub"] == ROOT.lookup("app/sub")


def test_made_directories_are_0755_and_root_s() -> None:
    """Missing parents are 0755, 0:0, of the given time; a directory's own place has its time."""
    found = copied("dir", "/new/place", made_ns=42)
    assert [(found[p].mode, found[p].uid, found[p].mtime_ns) for p in ("new", "new/place")] == [
        (0o755, 0, 42),
        (0o755, 0, 6),
    ]
    assert copied("dir", "/new/", made_ns=42)["new"].mtime_ns == 6
    assert copied("a", "/new/", made_ns=42)["new"].mtime_ns == 42


def test_chown_is_for_everything_that_is_copied_or_made() -> None:
    """Files, links, directories and missing parents; not for directories that exist."""
    found = copied("dir", "/app/new", ROOT, owner=(10, 20))
    assert {p for p, e in found.items() if (e.uid, e.gid) != (10, 20)} == {"app"}


def test_octal_chmod_is_for_made_directories_too() -> None:
    """--chmod=600 gives even directories that mode, links none; existing ones keep theirs."""
    found = copied("dir", "/app/new/place", ROOT, mode=ModeChange.parse("600"))
    assert {p for p, e in found.items() if e.mode != 0o600} == {"app", "app/new/place/link"}


def test_symbolic_chmod_changes_what_was_there() -> None:
    """--chmod=go=u gives each thing its own owner's bits, and made directories none."""
    found = copied("dir b", "/new/", mode=ModeChange.parse("go=u"))
    assert {p: oct(e.mode) for p, e in found.items() if e.kind is not Kind.SYMLINK} == {
        "new": "0o755",
        "new/x": "0o666",
        "new/sub": "0o777",
        "new/sub/y": "0o666",
        "new/b": "0o4777",
    }


def test_without_flags_owner_and_mode_are_kept() -> None:
    """COPY --from keeps the owner, and the set-id bits."""
    found = copied("b", "/new")["new"]
    assert (found.mode, found.uid, found.gid, found.mtime_ns) == (0o4711, 7, 8, 5)


def test_heredocs_are_files_of_0644() -> None:
    """Inline files have the given time, 0:0, and the name of their heredoc in a directory."""
    files = [InlineFile("one", b"1"), InlineFile("two", b"22")]
    made = place(files, Placement("/etc/", made_ns=9, owner=(1, 2)), ROOT)
    assert [(e.path, e.mode, e.uid, e.mtime_ns, e.size) for e in made.additions] == [
        ("etc", 0o755, 1, 9, 0),
        ("etc/one", 0o644, 1, 9, 1),
        ("etc/two", 0o644, 1, 9, 2),
    ]
    single = place(files[:1], Placement("/etc", made_ns=9), None)
    assert [(e.path, e.uid) for e in single.additions] == [("etc", 0)]


def hardlinks(*entries: Entry) -> CopySource:
    """A source directory ``h`` with ``entries``."""
    return CopySource("h", "h", (directory("h"), *entries))


def test_hardlinks_stay_hardlinks() -> None:
    """Within one source tree links point at where their file went."""
    source = hardlinks(file("h/one"), Entry("h/two", Kind.HARDLINK, link="h/one"))
    made = {e.path: e for e in place([source], Placement("/deep/er"), None).additions}
    assert made["deep/er/two"].link == "deep/er/one"


def test_replacing_a_linked_file_leaves_its_links_their_content() -> None:
    """When a later source replaces the file, the first of its links becomes it."""
    first = hardlinks(
        file("h/one"),
        Entry("h/two", Kind.HARDLINK, link="h/one"),
        Entry("h/three", Kind.HARDLINK, link="h/one"),
    )
    second = CopySource("g", "g", (directory("g"), file("g/one")))
    made = {e.path: e for e in place([first, second], Placement("/d"), None).additions}
    assert content(made["d/one"]) == "g/one"
    assert content(made["d/two"]) == "h/one"
    assert (made["d/three"].kind, made["d/three"].link) == (Kind.HARDLINK, "d/two")


def test_nothing_to_copy_changes_nothing() -> None:
    """A wildcard without a match does not even make the destination."""
    assert not place([], Placement("/new/"), ROOT)


@pytest.mark.parametrize(
    ("sources", "destination"),
    [(["a"], "d/"), (["a"], "n"), (["a", "t/b"], "d/"), (["t/."], "d"), (["t/."], "n")],
)
def test_plain_copies_agree_with_cp(
    shm_path: Path, sources: Sequence[str], destination: str
) -> None:
    """For plain cases cp -a into the root gives the same tree."""
    for tree in ("context", "root"):
        (shm_path / tree / "d").mkdir(parents=True)
    context = shm_path / "context"
    (context / "t/u").mkdir(parents=True)
    for name in ("a", "t/b", "t/u/c"):
        (context / name).write_text(name)
    os.link(context / "t/b", context / "t/z")
    (context / "t/l").symlink_to("../nowhere")
    found = [s for name in sources for s in DirectoryContext(context).find(name)]
    made = place(found, Placement(f"/{destination}"), None)
    subprocess.run(["cp", "-a", *sources, shm_path / "root" / destination], cwd=context, check=True)
    if not any((shm_path / "root/d").iterdir()):
        (shm_path / "root/d").rmdir()
    expected = sorted(str(p.relative_to(shm_path / "root")) for p in (shm_path / "root").rglob("*"))
    assert sorted(entry.path for entry in made.additions) == expected


def test_a_working_directory_is_made_through_links() -> None:
    """WORKDIR makes what is missing below a link's target, owned by the user; else it changes nothing."""
    made = make_directory(Placement("/current/out/new", (3, 4), made_ns=9), ROOT)
    assert [(e.path, e.uid, e.mtime_ns) for e in made.additions] == [
        ("data", 7, 100),
        ("data/new", 3, 9),
    ]
    assert not make_directory(Placement("/current/sub"), ROOT)
    with pytest.raises(DockerfileError, match="in place of the file /file"):
        make_directory(Placement("/file/x"), ROOT)
