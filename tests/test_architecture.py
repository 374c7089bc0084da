"""The house's rules that no linter knows: who imports whom, what is pure, how long things may be."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "asyncbuild"

ROOMS = {
    "image": {"errors"},
    "dockerfile": {"errors"},
    "plan": {"errors", "image", "dockerfile"},
    "layers": {"errors", "image"},
    "registry": {"errors", "image"},
    "store": {"errors", "image", "layers.changeset", "layers.facts"},
    "context": {
        "errors",
        "image",
        "layers.changeset",
        "layers.header",
        "layers.paths",
        "layers.records",
        "dockerfile.ignore",
    },
    "rootfs": {"errors", "image", "layers"},
    "cache": {"errors", "image", "plan", "registry", "store"},
    "output": {"errors", "image", "layers"},
    "report": {"errors", "image", "layers"},
    "build": {
        "errors",
        "image",
        "dockerfile",
        "plan",
        "layers",
        "registry",
        "store",
        "cache",
        "context",
        "rootfs",
        "output",
        "report",
        "transfer",
    },
    "transfer": {"errors", "image", "registry", "report", "store"},
    "cli": {
        "transfer",
        "errors",
        "image",
        "dockerfile",
        "plan",
        "layers",
        "registry",
        "store",
        "cache",
        "context",
        "rootfs",
        "output",
        "report",
        "build",
    },
    "testing": {"errors", "image", "layers", "registry"},
}
"""Each room, and what it may import beside itself (a room, or one module of it): DESIGN.md's list."""

PURE_ROOMS = {"image", "dockerfile", "plan"}
PURE_MODULES = {
    "errors",
    "layers.changeset",
    "layers.facts",
    "layers.header",
    "layers.paths",
    "registry.auth",
    "registry.challenge",
    "registry.protocol",
    "registry.retry",
    "context.placement",
    "context.sources",
}
WORLD = {"trio", "os", "socket", "time", "random", "subprocess", "httpx", "asyncio", "threading"}
"""What a pure module does not import: time and environment come in as arguments."""

DRAWERS = {"utils", "util", "helpers", "common", "manager", "misc", "base"}
LONGEST_FUNCTION = 60
LONGEST_MODULE = 450


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its dotted name below ``asyncbuild``, without ``.__init__``."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts).removesuffix("__init__").removesuffix("."), path


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that ``path`` imports, anywhere in it, with its line; ``from a import b`` as ``a.b``
    and as ``a``, since b may be a module.
    """
    package = ("asyncbuild", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*start, *([node.module] if node.module else [])])
            yield node.lineno, name
            yield from ((node.lineno, f"{name}.{alias.name}") for alias in node.names)


def may_import(room: str, target: str) -> bool:
    """Whether a module of ``room`` may import ``target`` (dotted, below ``asyncbuild``)."""
    if target.split(".", maxsplit=1)[0] in {room, "", "__version__", "records"}:
        return True
    # Importing one module of a room names the room too: `from asyncbuild.layers import changeset`.
    return any(
        target == allowed or target.startswith(f"{allowed}.") or allowed.startswith(f"{target}.")
        for allowed in ROOMS[room]
    )


def tracked_files() -> list[Path]:
    """The files that git knows."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    names = listing.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_rooms_import_only_rooms_below_them() -> None:
    """No module imports a room that DESIGN.md does not let it import."""
    wrong = []
    for module, path in modules():
        room = module.split(".")[0]
        if room not in ROOMS:
            continue
        for line, name in imported(path):
            top, _, target = name.partition(".")
            if top == "asyncbuild" and not may_import(room, target):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {target}")
    assert sorted(set(wrong)) == []


def test_every_room_has_rules() -> None:
    """A new room comes with its line in ROOMS; a room that is listed and absent has not come yet."""
    found = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert found - set(ROOMS) == set()


def test_pure_modules_do_not_touch_the_world() -> None:
    """Pure rooms and modules import nothing that waits, reads the clock or talks to the system."""
    wrong = []
    for module, path in modules():
        if module.split(".")[0] in PURE_ROOMS or module in PURE_MODULES:
            for line, name in imported(path):
                if name.split(".")[0] in WORLD:
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
    assert sorted(set(wrong)) == []


def test_no_drawers() -> None:
    """No module or room is a drawer for what has no place."""
    names = {
        name for _, path in modules() for name in path.relative_to(SOURCE).with_suffix("").parts
    }
    assert {name for name in names if name.strip("_") in DRAWERS} == set()


def test_functions_are_short() -> None:
    """No function of the package has more than 60 lines."""
    long = []
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length}")
    assert long == []


def test_modules_are_short() -> None:
    """No module of the package has more than 450 lines."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for _, path in modules()}
    long = {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > LONGEST_MODULE}
    assert long == {}


# The names are put together here so that this file passes its own test.
HOSTS = [("files.python", "hosted.org"), ("pypi", ".org"), ("deb.", "debian.org")]
HOSTS += [("security.", "debian.org"), ("registry.", "npmjs.org")]
MACHINE_PATHS = [("/work/", "main"), ("/work/", "steering"), ("/work/.", "library")]
MACHINE_PATHS += [("/work/.", "mirror"), ("/farm", "/in")]
GIVING_UP = [("pytest.", "skip"), ("mark.", "skip"), ("mark.", "xfail"), ("pytest.", "xfail")]
GIVING_UP += [("import", "orskip"), ("NotImplemented", "Error")]


@pytest.mark.parametrize(
    ("forbidden", "below"),
    [
        pytest.param(HOSTS, "", id="package registries' hosts"),
        pytest.param(MACHINE_PATHS, "", id="this machine's paths"),
        pytest.param(GIVING_UP, "src", id="unfinished code"),
        pytest.param(GIVING_UP, "tests", id="tests that do not run"),
    ],
)
def test_files_do_not_contain(forbidden: list[tuple[str, str]], below: str) -> None:
    """No tracked file names a package registry's host or a machine's path, or gives up."""
    pattern = re.compile("|".join(re.escape("".join(pair)) for pair in forbidden).encode())
    found = []
    for path in tracked_files():
        if path.is_relative_to(ROOT / below):
            for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
                if pattern.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


def test_pinned_requirements_cover_the_dependencies() -> None:
    """Both pinned files hold every runtime dependency of pyproject.toml, each with a hash."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=~! ]", line)[0] for line in project["dependencies"]}
    for name in ("runtime.txt", "dev.txt"):
        content = (ROOT / "requirements" / name).read_text()
        pinned = set(re.findall(r"^([a-z0-9-]+)==\S+ \\\n    --hash=", content, re.MULTILINE))
        assert wanted - pinned == set(), name


def test_every_case_directory_is_complete() -> None:
    """A case of tests/cases has a Dockerfile and says what it expects and why."""
    directories = [path for path in (ROOT / "tests" / "cases").glob("*") if path.is_dir()]
    for directory in directories:
        assert (directory / "Dockerfile").is_file(), directory
        assert '"why"' in (directory / "case.json").read_text(), directory
