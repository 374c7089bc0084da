"""Git repositories, by the git program: what ADD and build contexts take of them.

As BuildKit does it (source/git/source.go, util/gitutil/git_cli.go): the ref is looked up at the remote,
a branch before a tag of the same name; that one commit is fetched without its history; nothing of the
user's or the machine's git configuration counts; submodules are fetched, but never from local paths.
Credentials are the secrets GIT_AUTH_TOKEN and GIT_AUTH_HEADER, also with ``.HOST`` behind them.

All times in a checkout are one time of our choosing, or the commit's: a checkout has none of its own.
Where BuildKit leaves the ``.git`` files of submodules (which point nowhere), we do not.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trio

from asyncbuild.build.fetch import FetchTools
from asyncbuild.dockerfile.remote import GitReference, is_commit, redacted
from asyncbuild.errors import FetchFailed, InputError
from asyncbuild.records import dataclass, replace

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_SSL = ("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO")
_SHARED_SCOPES = ("https://github.com/", "https://www.github.com/")
_TOLD_LINES = 6
_UMASK = 0o022
_DIRECTORY_MODE = 0o755
_FULL_HISTORY = ("not our ref", "unadvertised object", "couldn't find remote ref")


@dataclass(frozen=True, slots=True)
class Checkout:
    """A state of a repository as files below ``path``; ``time`` is the commit's, in seconds."""

    path: Path
    commit: str
    time: int


@dataclass(frozen=True, slots=True)
class Found:
    """A ref at its remote: its full name, what it points to, and the commit behind a tag object."""

    name: str
    commit: str
    peeled: str = ""


class Git:
    """Runs git for one build."""

    def __init__(self, tools: FetchTools) -> None:
        self._tools = tools

    async def find(self, wanted: GitReference) -> Found:
        """Which commit ``wanted`` means now; asks the remote unless it is a commit's whole name.

        `InputError` if the remote does not have it, `FetchFailed` if the remote cannot be asked.
        """
        self._tools.gate.repository(wanted)
        if wanted.ref.startswith("-"):
            raise InputError(f"{wanted.shown}: a ref cannot begin with a dash")
        if wanted.fetch_by_commit and not is_commit(wanted.ref):
            return _by_commit(wanted)
        if is_commit(wanted.ref):
            found = Found(wanted.ref, wanted.ref)
        else:
            found = _choose(wanted, await self._list(wanted))
        if wanted.commit and not _agrees(wanted.commit, found):
            raise InputError(
                f"{wanted.shown} is {found.peeled or found.commit}, and the Dockerfile or the URL asks"
                f" for {wanted.commit}"
            )
        return found

    async def checkout(self, wanted: GitReference, made_ns: int) -> Checkout:
        """The files of ``wanted`` in a new work directory of the store, all of the time ``made_ns``
        (or the commit's, if ``wanted`` says so).

        ``subdir`` is what is below ``path`` then. Errors as those of `find`.
        """
        found = await self.find(wanted)
        work = await trio.to_thread.run_sync(self._tools.store.new_work, "git", "repository", "fs")
        bare, tree = work / "repository", work / "fs"
        commit = await self._fetch(wanted, found, bare)
        time = int(await self._git(wanted, "log", "-1", "--format=%ct", commit, git_dir=bare))
        keep = bool(wanted.keep_git_dir) and not wanted.subdir
        git_dir = bare
        if keep:
            git_dir = await self._clone(wanted, found, bare, tree)
        else:
            out = ("checkout", "--no-overlay", "--force", commit, "--", ".")
            await self._git(wanted, *out, git_dir=bare, tree=tree)
        if wanted.submodules:
            update = ("submodule", "update", "--init", "--recursive", "--depth=1")
            await self._git(wanted, *update, git_dir=git_dir, tree=tree)
        when = time * 10**9 if wanted.mtime == "commit" else made_ns
        finish = partial(_finish, tree, wanted, when, keep_git_dir=keep)
        path = await trio.to_thread.run_sync(finish)
        return Checkout(path, commit, time)

    async def _list(self, wanted: GitReference) -> dict[str, str]:
        """What the remote has of the names that may be meant."""
        ref = wanted.ref or await self._default_branch(wanted)
        text = await self._git(wanted, "ls-remote", "--", wanted.remote, ref, f"{ref}^{{}}")
        rows = (line.split("\t", 1) for line in text.splitlines() if "\t" in line)
        listed = {name: commit for commit, name in rows}
        if not wanted.ref:
            listed["HEAD"] = listed.get(f"refs/heads/{ref}", "")
        return listed

    async def _default_branch(self, wanted: GitReference) -> str:
        text = await self._git(wanted, "ls-remote", "--symref", "--", wanted.remote, "HEAD")
        match = re.search(r"refs/heads/(\S+)", text)
        if match is None:
            raise InputError(f"the repository {redacted(wanted.remote)} has no default branch")
        return match[1]

    async def _fetch(self, wanted: GitReference, found: Found, bare: Path) -> str:
        """Bring one commit into a new bare repository; returns the commit's name."""
        object_format = ("--object-format=sha256",) if len(found.commit) == 64 else ()
        start = ("-c", "init.defaultBranch=master", "init", "--quiet", "--bare", *object_format)
        await self._git(wanted, *start, git_dir=bare)
        await self._git(wanted, "remote", "add", "origin", wanted.remote, git_dir=bare)
        source = found.commit if is_commit(found.name) or wanted.fetch_by_commit else found.name
        refspec = f"{source}:refs/asyncbuild/wanted"
        fetch = ("fetch", "--quiet", "--depth=1", "--no-tags", "--force", "origin")
        try:
            await self._git(wanted, *fetch, refspec, git_dir=bare)
        except _GitFailed as failed:
            if not failed.says(*_FULL_HISTORY) or not is_commit(source):
                raise
            whole = (
                "fetch",
                "--quiet",
                "--tags",
                "--force",
                "origin",
                "+refs/heads/*:refs/remotes/*",
            )
            await self._git(wanted, *whole, git_dir=bare)
            await self._git(wanted, "update-ref", "refs/asyncbuild/wanted", source, git_dir=bare)
        commit = "refs/asyncbuild/wanted^{commit}"
        name = (await self._git(wanted, "rev-parse", "--verify", commit, git_dir=bare)).strip()
        if name not in (found.commit, found.peeled) and not found.name.startswith("refs/tags/"):
            raise FetchFailed(f"{wanted.shown} changed while it was fetched")
        return name

    async def _clone(self, wanted: GitReference, found: Found, bare: Path, tree: Path) -> Path:
        """A checkout with its own ``.git``, in which the ref has its name; HEAD is detached."""
        git_dir = tree / ".git"
        object_format = ("--object-format=sha256",) if len(found.commit) == 64 else ()
        start = ("-c", "init.defaultBranch=master", "init", "--quiet", *object_format)
        await self._git(wanted, *start, git_dir=git_dir, tree=tree)
        local = f"file://{bare}"
        name = found.name if found.name.startswith("refs/") else "refs/asyncbuild/wanted"
        refspec = f"refs/asyncbuild/wanted:{name}"
        steps = (
            ("remote", "add", "origin", local),
            ("fetch", "--quiet", "-u", "--depth=1", "--no-tags", "origin", refspec),
            ("checkout", "--quiet", "--force", "FETCH_HEAD"),
            ("remote", "set-url", "origin", redacted(wanted.remote)),
            ("reflog", "expire", "--all", "--expire=now"),
        )
        for arguments in steps:
            await self._git(wanted, *arguments, git_dir=git_dir, tree=tree)
        await trio.to_thread.run_sync(lambda: (git_dir / "FETCH_HEAD").unlink(missing_ok=True))
        return git_dir

    async def _git(
        self,
        wanted: GitReference,
        *arguments: str,
        git_dir: Path | None = None,
        tree: Path | None = None,
    ) -> str:
        """Run git and return what it printed; `FetchFailed` with its own words if it fails."""
        command = ["git", "-c", "protocol.file.allow=user"]
        command += [] if tree is None else ["--work-tree", str(tree)]
        command += [] if git_dir is None else ["--git-dir", str(git_dir)]
        credentials = self._credentials(wanted.remote)
        failed = await self._run([*command, *arguments], tree, credentials)
        if isinstance(failed, str):
            return failed
        if "--depth=1" in arguments and failed.says("--depth", "shallow"):
            # dumb servers have no shallow fetches
            fewer = [argument for argument in arguments if argument != "--depth=1"]
            return await self._git(wanted, *fewer, git_dir=git_dir, tree=tree)
        failed.about(wanted)
        raise failed

    async def _run(
        self, command: list[str], directory: Path | None, credentials: Mapping[str, str]
    ) -> str | _GitFailed:
        try:
            done = await trio.run_process(
                command,
                stdin=b"",
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=directory,
                env={**_environment(self._tools), **credentials},
                umask=_UMASK,
                start_new_session=True,
                deliver_cancel=_kill_group,
            )
        except FileNotFoundError:
            raise InputError(
                "the program git is not installed, and a git repository is to be fetched",
                hint="install git, or fetch a tar archive of the repository instead",
            ) from None
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "surrogateescape")
        return _GitFailed(done.stderr.decode("utf-8", "replace"))

    def _credentials(self, remote: str) -> dict[str, str]:
        """A header for requests to ``remote``, as configuration by environment variables."""
        host = urlsplit(remote).netloc.rpartition("@")[2]
        if not remote.startswith(("http://", "https://")):
            return {}
        for name in (f".{host}", ""):
            for kind in ("HEADER", "TOKEN"):
                secret = self._tools.secrets(f"GIT_AUTH_{kind}{name}")
                if secret is not None:
                    return {
                        "GIT_CONFIG_COUNT": "1",
                        "GIT_CONFIG_KEY_0": f"http.{_scope(remote)}.extraheader",
                        "GIT_CONFIG_VALUE_0": _header(kind, secret),
                    }
        return {}


class _GitFailed(FetchFailed):
    """Git exited with an error."""

    def __init__(self, stderr: str) -> None:
        super().__init__("git failed")
        self.stderr = stderr

    def says(self, *words: str) -> bool:
        """Whether git's own words contain one of ``words``."""
        return any(word in self.stderr for word in words)

    def about(self, wanted: GitReference) -> None:
        """Say which repository it was, and what git says of it."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        told = "; ".join(redacted(line) for line in lines[-_TOLD_LINES:])
        self.message = f"cannot fetch {wanted.shown}: {told or 'git failed without a word'}"
        self.args = (self.message,)
        if self.says("could not read Username", "Authentication failed", "HTTP Basic"):
            self.hint = "the secret with the id GIT_AUTH_TOKEN would be sent as its password"


def _by_commit(wanted: GitReference) -> Found:
    """The commit that the reference names itself; the remote is not asked for the ref."""
    if not is_commit(wanted.commit):
        raise InputError(f"{wanted.shown}: fetch-by-commit needs the whole name of a commit")
    name = wanted.ref or wanted.commit
    if not is_commit(name) and not name.startswith("refs/"):
        name = f"refs/heads/{name}"
    return Found(name, wanted.commit)


def _choose(wanted: GitReference, listed: Mapping[str, str]) -> Found:
    """Of what the remote has, what ``wanted`` means: a branch before a tag, as git checkout does."""
    if "HEAD" in listed and not wanted.ref:
        names = [
            name for name, commit in listed.items() if name != "HEAD" and commit == listed["HEAD"]
        ]
        wanted = replace(wanted, ref=names[0] if names else "HEAD")
    ref = wanted.ref
    tag = f"refs/tags/{ref.removeprefix('refs/tags/')}"
    for name in (
        f"refs/{ref.removeprefix('refs/')}",
        f"refs/heads/{ref.removeprefix('refs/heads/')}",
    ):
        if name in listed and name != tag:
            return Found(name, listed[name])
    if tag in listed:
        return Found(tag, listed[tag], listed.get(f"{tag}^{{}}", ""))
    raise InputError(f"the repository {redacted(wanted.remote)} has no branch or tag {ref!r}")


def _agrees(commit: str, found: Found) -> bool:
    commit = commit.lower()
    return found.commit.startswith(commit) or found.peeled.startswith(commit)


def _scope(remote: str) -> str:
    """Where credentials are sent: to this repository, and of GitHub to all, for its submodules."""
    return next((scope for scope in _SHARED_SCOPES if remote.startswith(scope)), remote)


def _header(kind: str, secret: bytes) -> str:
    text = secret.decode("latin-1").strip()
    if kind == "TOKEN":
        text = "basic " + base64.b64encode(f"x-access-token:{text}".encode("latin-1")).decode()
    return f"Authorization: {text}"


def _environment(tools: FetchTools) -> dict[str, str]:
    """What git sees: nothing of the user's configuration; ssh asks nobody, and only ``tools.ssh``."""
    environ = tools.environ
    names = (*_PROXIES, *(name.lower() for name in _PROXIES), *_SSL)
    ssh = ["ssh", "-F", os.devnull, "-o", "BatchMode=yes"]
    ssh += ["-o", "StrictHostKeyChecking=accept-new"]
    for key in () if tools.ssh is None else tools.ssh.keys:
        ssh += ["-i", str(key)]
    socket = None if tools.ssh is None else tools.ssh.socket
    return {
        **({} if socket is None else {"SSH_AUTH_SOCK": str(socket)}),
        "PATH": environ.get("PATH", os.defpath),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "HOME": os.devnull,
        "LC_ALL": "C",
        "GIT_SSH_COMMAND": shlex.join(ssh),
        **{name: environ[name] for name in names if environ.get(name)},
    }


async def _kill_group(process: trio.Process) -> None:
    """End git and its helpers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    await trio.lowlevel.checkpoint()


def _finish(tree: Path, wanted: GitReference, when: int, *, keep_git_dir: bool) -> Path:
    """Give everything its time; the directory that is wanted. Blocks."""
    for directory, directories, files in os.walk(tree, topdown=False):
        if not keep_git_dir and ".git" in files and directory != str(tree):
            os.unlink(os.path.join(directory, ".git"))
            files.remove(".git")
        for name in (*files, *directories):
            os.utime(os.path.join(directory, name), ns=(when, when), follow_symlinks=False)
    os.chmod(tree, _DIRECTORY_MODE)
    os.utime(tree, ns=(when, when))
    path = tree
    for part in filter(None, wanted.subdir.split("/")):
        path = path / part
        try:
            is_directory = stat.S_ISDIR(path.lstat().st_mode)
        except OSError:
            is_directory = False
        if not is_directory:
            shown = path.relative_to(tree)
            raise InputError(f"{wanted.shown} has no directory {shown}")
    return path
