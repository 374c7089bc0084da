"""Dockerfile cases: a directory each, with a Dockerfile, perhaps a context, and what must come of it.

``case.json`` has these fields; all but ``why`` may be left out.

why       where the expected result comes from: the Dockerfile reference, BuildKit, a specification.
context   path -> what is there (see ``make_context``); the Dockerfile is put beside it.
images    name -> an image to push first: ``layers`` (lists of nodes), ``on`` (a base below them), ``config``,
          ``family``. A Dockerfile names images as ``registry.test/NAME``.
args      more arguments of ``asyncbuild build``, which runs in the directory above the context.
main      its CONTEXT, if that is not the context's directory; stdin: the path of its standard input.
web       path -> an answer of the web server ``http://files.test/`` (see ``serve_pages``).
git       name -> commits (see ``make_repositories``) of ``http://git.test/NAME``, or ``http://dumb.test/NAME`` for
          a server that only has files. ``@commit(NAME,N)`` is the name of a commit, counted from 0.
base      the image that the result is compared with: a name, or null for none (default busybox).
exit      the exit code, or several that will do (default 0).
error     texts that standard error contains; line: the Dockerfile line that it names.
output    texts that the build's output contains; unsaid: texts that it does not contain anywhere.
beside    path -> what is there, as in ``context``, but beside the context and not in it; the build runs there.
environ   variables of the environment in which the build runs.
tree      absolute path -> what is there (see ``describe``), or null: nothing is there. Whatever differs from
          the base and is not named here is an error.
config    field -> value of the configuration's ``config``; null: absent or empty. The words ``$PATH`` stand for
          the base's PATH.
image     field -> value of the configuration itself.
history   [text that created_by contains, whether it is an empty layer] for each line after the base's.
layers    how many layers were added.
entries   layer (counted among the added ones, from 0) -> the names of its tar entries, sorted.
mtimes    path -> seconds, wherever a new layer names it; asked of the tar headers.
absent    regular expressions that match no ``METHOD path`` of the registry's access log; ``@LAYERS`` stands for
          any of the base's layers.
present   regular expressions of which each matches one.
once      regular expressions of which no match is asked for twice.
nowhere   texts that are nowhere in the configuration.
fresh     true: with a store of its own, in which nothing is yet.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.bases import PATH, busybox_layer
from support.images import Image, Layer, Node
from support.pulled import Found, Pulled, Tree
from support.registry import DockerRegistry, Request
from support.sources import Commit, Page, WebServer, archive, make_repository

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One case; the fields are those of ``case.json``, see the module's text."""

    directory: Path
    why: str
    context: Json = field(default_factory=dict)
    images: Json = field(default_factory=dict)
    args: tuple[str, ...] = ()
    main: str | None = None
    stdin: str | None = None
    web: Json = field(default_factory=dict)
    git: Json = field(default_factory=dict)
    base: str | None = "busybox"
    exit: tuple[int, ...] = (0,)
    error: tuple[str, ...] = ()
    line: int | None = None
    output: tuple[str, ...] = ()
    tree: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    image: Json = field(default_factory=dict)
    history: tuple[tuple[str, bool], ...] | None = None
    layers: int | None = None
    entries: Json = field(default_factory=dict)
    mtimes: Json = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    nowhere: tuple[str, ...] = ()
    fresh: bool = False
    unsaid: tuple[str, ...] = ()
    beside: Json = field(default_factory=dict)
    environ: Json = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.name


def load_case(directory: Path) -> Case:
    """Read ``case.json``; an unknown field is an error."""
    fields = json.loads((directory / "case.json").read_text())
    codes = fields.get("exit", 0)
    fields["exit"] = tuple(codes) if isinstance(codes, list) else (codes,)
    for name in ("args", "error", "output", "unsaid", "absent", "present", "once", "nowhere"):
        fields[name] = tuple(fields.get(name, ()))
    if "history" in fields:
        fields["history"] = tuple((text, empty) for text, empty in fields["history"])
    return Case(directory, **fields)


def push_images(case: Case, registry: DockerRegistry) -> None:
    """Push the images that a case brings."""
    for name, recipe in case.images.items():
        layers = [Layer.of(*map(_node, nodes)) for nodes in recipe["layers"]]
        if recipe.get("on") == "busybox":
            layers.insert(0, busybox_layer())
        config = expand_path(recipe.get("config", {}))
        image = Image(layers, config, recipe.get("family", "oci"))
        image.push(registry, f"cases/{case.name}/{name}")


def _node(recipe: Json) -> Node:
    """A tar entry: ``path``, one of ``dir``, ``link``, ``hardlink``, ``char``, ``fifo`` or else ``content``,
    and ``mode`` (octal text), ``uid``, ``gid``, ``mtime``, ``xattrs`` (name -> hexadecimal bytes).
    """
    kinds = {
        "dir": tarfile.DIRTYPE,
        "link": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "char": tarfile.CHRTYPE,
        "fifo": tarfile.FIFOTYPE,
    }
    kind = next((name for name in kinds if name in recipe), None)
    mode = recipe.get("mode", "0755" if kind == "dir" else "0777" if kind == "link" else "0644")
    attributes = {
        name: bytes.fromhex(value).decode("utf-8", "surrogateescape")
        for name, value in recipe.get("xattrs", {}).items()
    }
    return Node(
        recipe["path"],
        kinds[kind] if kind else tarfile.REGTYPE,
        int(mode, 8),
        recipe.get("uid", 0),
        recipe.get("gid", 0),
        recipe.get("content", "").encode() if kind is None else b"",
        recipe.get("link", recipe.get("hardlink", "")),
        recipe.get("mtime", 1_600_000_000),
        tuple(recipe.get("char", (0, 0))),
        attributes,
    )


def image_reference(case: Case, registry: DockerRegistry, name: str) -> str:
    """Where ``registry.test/NAME`` really is."""
    place = f"cases/{case.name}" if name.split(":", maxsplit=1)[0] in case.images else "base"
    return f"{registry.host}/{place}/{name}"


def dockerfile_of(case: Case) -> bytes:
    """The Dockerfile as it stands in the case's directory."""
    return (case.directory / "Dockerfile").read_bytes()


def real_names(case: Case, registry: DockerRegistry, web: WebServer, text: bytes) -> bytes:
    """``text`` with the real names of registry, servers and commits put in."""

    def commit(match: re.Match[bytes]) -> bytes:
        path = web.root / case.name / f"{match[1].decode()}.commits"
        return path.read_bytes().split()[int(match[2])]

    names = re.compile(rb"registry\.test/([\w./-]+(?::[\w.-]+)?)")
    text = names.sub(
        lambda match: image_reference(case, registry, match[1].decode()).encode(), text
    )
    places = {"files": case.name, "git": f"git/{case.name}", "dumb": f"dumb/{case.name}"}
    for name, place in places.items():
        text = text.replace(f"http://{name}.test/".encode(), f"{web.base}/{place}/".encode())
    return re.sub(rb"@commit\(([\w.-]+),(\d+)\)", commit, text)


def serve_pages(case: Case, registry: DockerRegistry, web: WebServer) -> None:
    """Let the web server have a case's pages: a text, or an object with ``content``, ``hex`` or ``archive`` (as
    in a context), ``statuses``, ``headers``, ``needs`` (request headers) and ``cut`` (see `Page`).
    """
    for path, recipe in case.web.items():
        page: Json = {"content": recipe} if isinstance(recipe, str) else recipe
        headers = real_names(case, registry, web, json.dumps(page.get("headers", {})).encode())
        web.pages[f"/{case.name}/{path}"] = Page(
            _content(page),
            tuple(page.get("statuses", (200,))),
            json.loads(headers),
            page.get("needs", {}),
            page.get("cut"),
        )


def make_repositories(case: Case, registry: DockerRegistry, web: WebServer) -> None:
    """Make a case's repositories: each commit has ``files`` (path -> text, or an object with ``content`` and
    ``mode``, or ``link``; null removes), ``branch`` (main), ``tags`` (annotated if they begin with @) and
    ``submodules`` (path -> URL).
    """
    for name, commits in case.git.items():
        recipe = real_names(case, registry, web, json.dumps(commits).encode())
        made = [Commit(**fields) for fields in json.loads(recipe)]
        bare = web.root / case.name / name
        names = make_repository(bare, made)
        bare.with_name(f"{name}.commits").write_text(" ".join(names))


def make_context(case: Case, registry: DockerRegistry, web: WebServer, directory: Path) -> Path:
    """Lay out a case's context, with its Dockerfile (real image names put in); returns its path.

    ``context`` maps a path to a text (a file of mode 0644), or to an object with ``content`` (or ``hex``, or
    ``archive``: nodes of a tar, with ``compression`` gz, bz2, xz or zst), ``dir``,
    ``link``, ``hardlink``, ``fifo`` or ``holes`` (the size of a file of nothing else), and ``mode``, ``uid``, ``gid``, ``mtime``, ``xattrs``.
    """
    root = directory / "context"
    root.mkdir()
    (root / "Dockerfile").write_bytes(real_names(case, registry, web, dockerfile_of(case)))
    for path, recipe in case.context.items():
        _place(root, path, {"content": recipe} if isinstance(recipe, str) else recipe)
    for path, recipe in case.beside.items():
        text = recipe if isinstance(recipe, str) else ""
        real = real_names(case, registry, web, text.encode()).decode()
        _place(directory, path, {"content": real} if isinstance(recipe, str) else recipe)
    # Times of directories last: what was put into them moved them.
    for path, recipe in case.context.items():
        if isinstance(recipe, dict) and "mtime" in recipe:
            times = (recipe["mtime"], recipe["mtime"])
            os.utime(root / path, times, follow_symlinks=False)
    return root


def _place(root: Path, path: str, recipe: Json) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = int(recipe.get("mode", "0755" if "dir" in recipe else "0644"), 8)
    if "dir" in recipe:
        target.mkdir(exist_ok=True)
    elif "link" in recipe:
        target.symlink_to(recipe["link"])
    elif "hardlink" in recipe:
        target.hardlink_to(root / recipe["hardlink"])
    elif "fifo" in recipe:
        os.mkfifo(target)
    else:
        target.write_bytes(_content(recipe))
        os.truncate(target, recipe.get("holes", target.stat().st_size))
    os.lchown(target, recipe.get("uid", 0), recipe.get("gid", 0))
    if "link" not in recipe and "hardlink" not in recipe:
        target.chmod(mode)
    for name, value in recipe.get("xattrs", {}).items():
        os.setxattr(target, name, bytes.fromhex(value))


def _content(recipe: Json) -> bytes:
    if "hex" in recipe:
        return bytes.fromhex(recipe["hex"])
    if "archive" in recipe:
        return archive([_node(node) for node in recipe["archive"]], recipe.get("compression", ""))
    return str(recipe.get("content", "")).encode()


def context_state(root: Path) -> list[tuple[str, object]]:
    """Everything that could tell that someone touched a context."""
    state: list[tuple[str, object]] = []
    for directory, directories, files in sorted(os.walk(root)):
        for name in sorted([*directories, *files, "."]):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            facts = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            state.append((path, facts))
    return state


def tree_differences(case: Case, tree: Tree, base: Tree) -> list[str]:
    """What a built image's tree has that the case does not say, and the other way round."""
    wrong = []
    for path, expected in case.tree.items():
        found = tree.get(path)
        if expected is None:
            if found is not None:
                wrong.append(f"{path}: is there: {found}")
        elif found is None:
            wrong.append(f"{path}: is not there")
        else:
            wrong += [f"{path}: {text}" for text in describe(expected, found, tree)]
    for path in sorted({*tree, *base} - set(case.tree)):
        if tree.get(path) != base.get(path):
            wrong.append(f"{path}: not expected: {base.get(path)} became {tree.get(path)}")
    return wrong


def describe(expected: object, found: Found, tree: Tree) -> list[str]:
    """How ``found`` differs from an expectation: a text is a file's content (owner 0:0, mode 0644), an object
    has ``kind`` (default file), ``mode``, ``uid``, ``gid`` (default 0), ``content`` or ``matches``, ``link``,
    ``same_as`` (another name of the file), ``xattrs``, ``mtime``, ``names`` (a directory's entries).
    """
    wanted = {"content": expected} if isinstance(expected, str) else expected
    assert isinstance(wanted, dict)
    kind = wanted.get(
        "kind", "symlink" if "link" in wanted else "dir" if "names" in wanted else "file"
    )
    default = {"file": "0644", "dir": "0755", "symlink": "0777"}.get(kind, "0644")
    facts: dict[str, tuple[object, object]] = {
        "kind": (kind, found.kind),
        "mode": (wanted.get("mode", default), f"{found.mode:04o}"),
        "owner": (
            f"{wanted.get('uid', 0)}:{wanted.get('gid', 0)}",
            f"{found.uid}:{found.gid}",
        ),
        "link": (wanted.get("link", ""), found.link),
        "xattrs": (
            wanted.get("xattrs", {}),
            {name: value.hex() for name, value in found.xattrs},
        ),
    }
    text = found.content.decode("utf-8", "surrogateescape")
    if kind == "file" and "matches" not in wanted:
        facts["content"] = (wanted.get("content", text), text)
    if "matches" in wanted and re.fullmatch(wanted["matches"], text, re.DOTALL) is None:
        facts["content"] = (f"/{wanted['matches']}/", text)
    if "same_as" in wanted:
        facts["inode"] = (tree[wanted["same_as"]].inode, found.inode)
    if "mtime" in wanted:
        facts["mtime"] = (float(wanted["mtime"]), found.mtime)
    if "device" in wanted:
        facts["device"] = (tuple(wanted["device"]), found.device)
    return [
        f"{name} is {is_!r}, not {wanted_!r}"
        for name, (wanted_, is_) in facts.items()
        if wanted_ != is_
    ]


def config_differences(case: Case, configuration: Json) -> list[str]:
    """The fields of an image's configuration that are not as the case says."""
    config = configuration.get("config") or {}
    pairs = [(name, value, config.get(name)) for name, value in expand_path(case.config).items()]
    pairs += [(name, value, configuration.get(name)) for name, value in case.image.items()]
    text = json.dumps(configuration)
    return [f"{secret!r} is in it" for secret in case.nowhere if secret in text] + [
        f"{name} is {found!r}, not {wanted!r}"
        for name, wanted, found in pairs
        if wanted != found and (wanted is not None or found)
    ]


def expand_path(config: Json) -> dict[str, Any]:
    """``$PATH`` in Env becomes the base's."""
    expanded = dict(config)
    if expanded.get("Env"):
        expanded["Env"] = [line.replace("$PATH", PATH) for line in expanded["Env"]]
    return expanded


def layer_differences(case: Case, pulled: Pulled, base_layers: int) -> list[str]:
    """What is wrong with the layers that were added: their number, entries and times; and what is wrong with
    any layer.
    """
    added = [pulled.layer(n) for n in range(base_layers, len(pulled.manifest["layers"]))]
    wrong = []
    if case.layers is not None and len(added) != case.layers:
        wrong.append(f"{len(added)} layers were added, not {case.layers}")
    for position, expected in case.entries.items():
        names = sorted(member.name for member in added[int(position)])
        if names != sorted(expected):
            wrong.append(f"layer {position} holds {names}, not {sorted(expected)}")
    for number, members in enumerate(added):
        wrong += [f"layer {number}: {text}" for text in _unsound(members)]
        for member in members:
            wanted = case.mtimes.get(f"/{member.name}")
            if wanted is not None and int(member.mtime) != wanted:
                wrong.append(
                    f"layer {number}: mtime of {member.name} is {member.mtime}, not {wanted}"
                )
    diff_ids = pulled.configuration["rootfs"]["diff_ids"]
    filled = [line for line in pulled.configuration["history"] if not line.get("empty_layer")]
    if not len(diff_ids) == len(filled) == len(pulled.manifest["layers"]):
        wrong.append(f"{len(diff_ids)} diff ids, {len(filled)} lines of history with a layer")
    return wrong


def _unsound(members: list[tarfile.TarInfo]) -> list[str]:
    """What no layer of ours may have: the root itself, a name twice, a child before its parent, odd names."""
    wrong = []
    seen: set[str] = set()
    named = {member.name for member in members}
    for member in members:
        parts = member.name.split("/")
        if member.name in seen or {"", ".", ".."} & set(parts):
            wrong.append(f"has the name {member.name!r}")
        parent = "/".join(parts[:-1])
        if parent in named and parent not in seen:
            wrong.append(f"{member.name} stands before its directory")
        if parts[0] in {"proc", "sys", "dev"} and len(parts) > 1:
            wrong.append(f"{member.name} was snapshotted")
        seen.add(member.name)
    return wrong


def history_differences(case: Case, configuration: Json, base_lines: int) -> list[str]:
    """The lines of history after the base's that are not as the case says."""
    if case.history is None:
        return []
    lines = configuration["history"][base_lines:]
    found = [(line.get("created_by", ""), bool(line.get("empty_layer"))) for line in lines]
    fits = len(found) == len(case.history) and all(
        text in line and empty is wanted_empty
        for (line, empty), (text, wanted_empty) in zip(found, case.history, strict=True)
    )
    return [] if fits else [f"history is {found}, not {list(case.history)}"]


def request_differences(
    case: Case, requests: list[Request], base_layers: Sequence[str]
) -> list[str]:
    """Requests that must not have been made, and those that are missing."""
    log = [f"{request.method} {request.path}" for request in requests]
    layers = "(" + "|".join(base_layers) + ")"
    wrong = [
        f"asked for {line}"
        for line in log
        for pattern in case.absent
        if re.search(pattern.replace("@LAYERS", layers), line)
    ]
    for pattern in case.present:
        if not any(re.search(pattern, line) for line in log):
            wrong.append(f"no request matches {pattern!r}")
    for pattern in case.once:
        matching = [line for line in log if re.search(pattern, line)]
        wrong += [f"asked twice for {line}" for line in {*matching} if matching.count(line) > 1]
    return wrong
