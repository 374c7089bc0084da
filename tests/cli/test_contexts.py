"""CONTEXT, ``-f`` and ``--build-context`` for the commands that only read: plan and check."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import asyncbuild_here, environment, told
from support.images import text
from support.sources import Commit, Page, WebServer, archive, make_repository

DOCKERFILE = "FROM scratch\nCOPY f /f\n"


def plan(directory: Path, *words: str, stdin: bytes = b"") -> str:
    """What ``asyncbuild plan`` prints."""
    env = environment(XDG_CACHE_HOME=str(directory / "cache"))
    done = asyncbuild_here("plan", *words, stdin=stdin, env=env, cwd=directory)
    assert done.returncode == 0, told(done)
    return done.stdout.decode()


def refused(directory: Path, *words: str) -> tuple[int, str]:
    """How ``asyncbuild plan`` fails."""
    env = environment(XDG_CACHE_HOME=str(directory / "cache"))
    done = asyncbuild_here("plan", *words, env=env, cwd=directory)
    return done.returncode, done.stderr.decode()


def test_every_kind_of_context_has_its_dockerfile(web: WebServer, shm_path: Path) -> None:
    """A directory, an archive, stdin, a repository, URLs: always the same plan."""
    (shm_path / "dir").mkdir()
    (shm_path / "dir/Dockerfile").write_text(DOCKERFILE)
    packed = archive([text("Dockerfile", DOCKERFILE), text("f", "f")], "gz")
    (shm_path / "ctx.tgz").write_bytes(packed)
    make_repository(web.root / shm_path.name / "r.git", [Commit({"Dockerfile": DOCKERFILE})])
    web.pages["/cli/ctx.tgz"] = Page(packed)
    web.pages["/cli/Df"] = Page(DOCKERFILE.encode())
    expected = plan(shm_path, "dir")
    assert "COPY f /f" in expected
    assert plan(shm_path, "ctx.tgz") == expected
    assert plan(shm_path, "-", stdin=packed) == expected
    assert plan(shm_path, "-", stdin=DOCKERFILE.encode()) == expected
    assert plan(shm_path, f"{web.base}/git/{shm_path.name}/r.git") == expected
    assert plan(shm_path, f"{web.base}/cli/ctx.tgz") == expected
    assert plan(shm_path, f"{web.base}/cli/Df") == expected
    assert plan(shm_path, "-f", f"{web.base}/cli/Df", "dir") == expected
    assert plan(shm_path, "-f", "-", "ctx.tgz", stdin=DOCKERFILE.encode()) == expected


def test_nothing_of_a_context_stays(shm_path: Path) -> None:
    """What was unpacked is gone when the command ends."""
    (shm_path / "ctx.tar").write_bytes(archive([text("Dockerfile", DOCKERFILE)]))
    plan(shm_path, "ctx.tar")
    left = list((shm_path / "cache/asyncbuild/tmp").glob("*"))
    assert [path.name for path in left if not path.name.startswith("dead-")] == []


def test_a_directory_wins_over_a_url(shm_path: Path) -> None:
    """A directory that is called like one."""
    path = shm_path / "github.com/a/b"
    path.mkdir(parents=True)
    (path / "Dockerfile").write_text(DOCKERFILE)
    assert "COPY f /f" in plan(shm_path, "github.com/a/b")


def test_checks_of_an_archive(shm_path: Path) -> None:
    """``check`` reads it too; an ignore file in it hides nothing."""
    files = [text("Dockerfile", DOCKERFILE), text(".dockerignore", "f\n"), text("f", "")]
    (shm_path / "ctx.tar").write_bytes(archive(files))
    env = environment(XDG_CACHE_HOME=str(shm_path / "cache"))
    done = asyncbuild_here("check", "ctx.tar", env=env, cwd=shm_path)
    assert done.returncode == 0, told(done)


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("nowhere",), 66, "the context nowhere does not exist"),
        (("text",), 66, "text is not a directory or an archive"),
        (("https://e.invalid/a.git?ref=a#b",), 2, "two refs"),
        (("-f", "-", "-"), 2, "cannot be both"),
        (("--build-context", "x", "."), 2, "write NAME=PLACE"),
        (("--build-context", "=y", "."), 2, "write NAME=PLACE"),
        (("--build-context", "x=nowhere", "."), 66, "there is no directory nowhere"),
        (("--build-context", "x=docker-image://A", "."), 2, "--build-context x"),
        (("--build-context", "x=target:a", "."), 2, "bake files"),
    ],
)
def test_what_is_wrong(shm_path: Path, words: tuple[str, ...], code: int, what: str) -> None:
    """The command ends with the right code, and says which word it is about."""
    (shm_path / "text").write_text("text")
    (shm_path / "Dockerfile").write_text(DOCKERFILE)
    ended, said = refused(shm_path, *words)
    assert ended == code
    assert what in said


def test_named_contexts_reach_the_plan(shm_path: Path) -> None:
    """And replace images."""
    (shm_path / "Dockerfile").write_text("FROM alpine\nCOPY --from=other a b\n")
    (shm_path / "d").mkdir()
    words = ("--build-context", "alpine=docker-image://debian", "--build-context", "other=d")
    text = plan(shm_path, *words, ".")
    assert "image docker.io/library/debian:latest" in text
    assert "context other (d)" in text
