"""Repositories by the git program: over HTTP and ssh, with credentials, broken off, and the same each time."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from asyncbuild.build.fetch import FetchTools, Secrets, no_secrets
from asyncbuild.build.git import Checkout, Git
from asyncbuild.build.run_options import SshSource
from asyncbuild.dockerfile.remote import GitReference, parse_git
from asyncbuild.errors import FetchFailed, InputError
from asyncbuild.store.store import Store
from support.builds import Recorder, descendants
from support.sources import COMMIT_TIME, Commit, WebServer, make_repository

T = TypeVar("T")
MADE = 5 * 10**9


def ask(
    path: Path,
    work: Callable[[Git], Awaitable[T]],
    *,
    environ: Mapping[str, str] | None = None,
    secrets: Secrets = no_secrets,
    ssh: SshSource | None = None,
) -> T:
    """Do something with git in a new store, which stays as it is."""
    store = Store.open(path / "store")
    tools = FetchTools(store, Recorder(), environ or os.environ, secrets, ssh)
    return trio.run(work, Git(tools))


def reference(text: str) -> GitReference:
    """A git reference."""
    found = parse_git(text)
    assert found is not None
    return found


def checkout(path: Path, text: str, **more: object) -> Checkout:
    """Check out what ``text`` names."""
    wanted = reference(text)
    return ask(path, lambda git: git.checkout(wanted, MADE), **more)  # type: ignore[arg-type]


@pytest.fixture
def repository(web: WebServer, shm_path: Path) -> tuple[str, list[str]]:
    """A repository's name below the server's places, and its commits."""
    name = f"{shm_path.name}/repo.git"
    commits = [
        Commit(
            {"f": "one", "d/g": {"content": "g", "mode": "0755"}, "l": {"link": "f"}}, tags=["@v1"]
        ),
        Commit({"f": "two"}),
    ]
    return name, make_repository(web.root / name, commits)


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Mode and time of everything below ``root``."""
    found = {}
    for where, directories, files in os.walk(root):
        for name in [".", *directories, *files]:
            status = os.lstat(os.path.join(where, name))
            found[os.path.normpath(os.path.join(where, name))] = (
                status.st_mode,
                status.st_mtime_ns,
            )
    return {path.removeprefix(str(root)): told for path, told in found.items()}


def test_a_checkout_is_the_same_each_time(
    web: WebServer, repository: tuple[str, list[str]], shm_path: Path
) -> None:
    """Modes, and one time for all, whatever the mask of this process is."""
    before = os.umask(0o077)
    try:
        first = checkout(shm_path / "1", f"{web.base}/git/{repository[0]}")
    finally:
        os.umask(before)
    second = checkout(shm_path / "2", f"{web.base}/git/{repository[0]}")
    assert listing(first.path) == listing(second.path)
    assert {time for _, time in listing(first.path).values()} == {MADE}
    assert listing(first.path)["/d/g"][0] == 0o100755
    assert listing(first.path)["/f"][0] == 0o100644
    assert (first.commit, first.time) == (repository[1][1], COMMIT_TIME)


@pytest.mark.parametrize("server", ["git", "dumb"])
def test_an_older_commit(
    web: WebServer, repository: tuple[str, list[str]], shm_path: Path, server: str
) -> None:
    """By itself where the server gives it, else with everything."""
    name, commits = repository
    found = checkout(shm_path, f"{web.base}/{server}/{name}#{commits[0]}")
    assert (found.path / "f").read_text() == "one"


def test_an_annotated_tag(
    web: WebServer, repository: tuple[str, list[str]], shm_path: Path
) -> None:
    """What is found is the tag, and the commit behind it; either will do as a checksum."""
    name, commits = repository
    wanted = reference(f"{web.base}/git/{name}#v1")
    found = ask(shm_path, lambda git: git.find(wanted))
    assert found.name == "refs/tags/v1"
    assert found.peeled == commits[0]
    assert found.commit != commits[0]
    for checksum in (commits[0][:7], found.commit):
        made = checkout(shm_path, f"{web.base}/git/{name}?checksum={checksum}#v1")
        assert made.commit == commits[0]


@pytest.mark.parametrize(
    ("kind", "secret", "header"),
    [
        ("TOKEN", b"tok\n", "basic eC1hY2Nlc3MtdG9rZW46dG9r"),
        ("HEADER", b"Bearer abc", "Bearer abc"),
    ],
)
@pytest.mark.parametrize("scoped", [True, False])
def test_credentials(  # noqa: PLR0917 - three of them are the table
    web: WebServer,
    repository: tuple[str, list[str]],
    shm_path: Path,
    kind: str,
    secret: bytes,
    header: str,
    scoped: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """Secrets are sent as headers; one for the host goes before one for all."""
    name = f"GIT_AUTH_{kind}"
    known = {name: secret} if not scoped else {f"{name}.{web.host}": secret, name: b"wrong"}
    mark = len(web.requests)
    checkout(shm_path, f"{web.base}/git/{repository[0]}", secrets=known.get)
    sent = {headers.get("Authorization") for _, _, headers in web.requests[mark:]}
    assert sent == {header}


def test_nothing_of_the_users_configuration_counts(
    web: WebServer, repository: tuple[str, list[str]], shm_path: Path
) -> None:
    """Neither of files nor of variables."""
    home = shm_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text('[url "http://nowhere.invalid/"]\n\tinsteadOf = http://\n')
    environ = {**os.environ, "HOME": str(home), "GIT_DIR": "/nonexistent"}
    assert checkout(shm_path, f"{web.base}/git/{repository[0]}", environ=environ).commit


def test_submodules_from_local_paths_are_refused(web: WebServer, shm_path: Path) -> None:
    """A repository cannot have files of this machine copied."""
    make_repository(web.root / shm_path.name / "sub.git", [Commit({"s": "s"})])
    url = f"file://{web.root}/{shm_path.name}/sub.git"
    evil = web.root / shm_path.name / "evil.git"
    make_repository(evil, [Commit({"f": "f"}, submodules={"sub": url})])
    with pytest.raises(FetchFailed, match="not allowed"):
        checkout(shm_path, f"{web.base}/git/{shm_path.name}/evil.git")


@pytest.mark.parametrize(
    ("tail", "wrong"),
    [
        ("#nowhere", (InputError, "no branch or tag 'nowhere'")),
        ("#--upload-pack=x", (InputError, "begin with a dash")),
        ("#v1:l", (InputError, "no directory l")),
        ("#v1:nowhere", (InputError, "no directory nowhere")),
        ("?commit=0123#v1", (InputError, "asks for 0123")),
        ("?fetch-by-commit&commit=0123", (InputError, "whole name of a commit")),
        (f"#{'0' * 40}", (FetchFailed, "cannot fetch")),
    ],
)
def test_what_is_not_there(
    web: WebServer,
    repository: tuple[str, list[str]],
    shm_path: Path,
    tail: str,
    wrong: tuple[type[Exception], str],
) -> None:
    """Each with a message of its own."""
    with pytest.raises(wrong[0], match=wrong[1]):
        checkout(shm_path, f"{web.base}/git/{repository[0]}{tail}")


def test_over_ssh(web: WebServer, repository: tuple[str, list[str]], shm_path: Path) -> None:
    """By whatever ``ssh`` is on the path: asked without questions, with the agent and the keys given."""
    programs = shm_path / "bin"
    programs.mkdir()
    log = shm_path / "log"
    ssh = programs / "ssh"
    ssh.write_text(
        f'#!/bin/sh\necho "$SSH_AUTH_SOCK $*" >>{log}\nfor last; do :; done\neval "$last"\n'
    )
    ssh.chmod(0o755)
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    agent = SshSource(shm_path / "agent", (shm_path / "key",))
    found = checkout(
        shm_path, f"git@host.invalid:{web.root / repository[0]}", environ=environ, ssh=agent
    )
    assert (found.path / "f").read_text() == "two"
    asked = log.read_text()
    assert f"{agent.socket} -F /dev/null -o BatchMode=yes" in asked
    assert f"-i {agent.keys[0]}" in asked


def test_no_git_program(web: WebServer, shm_path: Path) -> None:
    """The error says what to install."""
    with pytest.raises(InputError, match="git is not installed"):
        checkout(shm_path, f"{web.base}/git/x.git", environ={"PATH": str(shm_path)})


def test_cancelling_ends_git(shm_path: Path) -> None:
    """Its helpers too, although the other side never answers."""
    silent = socket.create_server(("127.0.0.1", 0))
    wanted = reference(f"http://127.0.0.1:{silent.getsockname()[1]}/a.git")
    family = set(descendants(os.getpid()))

    async def work(git: Git) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(git.find, wanted)
                accepted, _ = await trio.to_thread.run_sync(silent.accept)
                with accepted:  # git is there, and waits
                    scope.cancel()

    with silent:
        ask(shm_path, work)
    assert set(descendants(os.getpid())) <= family
