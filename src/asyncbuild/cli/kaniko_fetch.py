"""Contexts from the network for kaniko's command line: a tar behind a URL, a state of a git repository."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from asyncbuild.cli.kaniko_options import GitOptions
from asyncbuild.dockerfile.remote import GitReference, WebFile
from asyncbuild.errors import InputError

_SECONDS = 60.0
_PIECE = 1 << 20
_SAID = 300  # characters of what git says that an error shows


def fetch_file(file: WebFile, target: Path) -> None:
    """Write what is behind the URL to the new file ``target``. Blocks; `InputError` if it cannot be had."""
    import httpx  # noqa: PLC0415 - only for URLs

    try:
        with httpx.stream("GET", file.url, follow_redirects=True, timeout=_SECONDS) as answer:
            answer.raise_for_status()
            with target.open("xb") as opened:
                for piece in answer.iter_bytes(_PIECE):
                    opened.write(piece)
    except httpx.HTTPStatusError as error:
        status = error.response
        raise InputError(f"{_shown(file)}: {status.status_code} {status.reason_phrase}") from None
    except httpx.HTTPError as error:
        raise InputError(f"{_shown(file)} cannot be read: {error}") from None


def _shown(file: WebFile) -> str:
    return file.shown.partition("?")[0]  # what signs a URL is a secret


def fetch_git(git: GitReference, options: GitOptions, directory: Path) -> None:
    """Check the repository's state out into the empty ``directory``. Blocks; `InputError` if it cannot be.

    One commit is fetched where the server can give one, else everything. With ``depth`` that many are,
    and ``.git`` stays in the context; otherwise it is removed, as BuildKit does.
    """
    remote, login = _without_login(git.remote)
    repository = _Git(directory, _environment(remote, login, options), git.shown)
    repository("init", "--quiet", "--initial-branch=context")
    wanted = git.ref or "HEAD"
    depth = str(options.depth or 1)
    if not repository.tries("fetch", "--quiet", "--depth", depth, remote, wanted):
        everything = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        repository("fetch", "--quiet", remote, "+HEAD:refs/remotes/origin/HEAD", *everything)
        wanted = repository.found(git.ref)
    else:
        wanted = "FETCH_HEAD"
    repository("checkout", "--quiet", "--detach", wanted)
    if options.recurse_submodules:
        repository("remote", "add", "origin", remote)  # submodules may be named relatively to it
        update = ("submodule", "update", "--quiet", "--init", "--recursive")
        if not repository.tries(*update, "--depth", depth):
            repository(*update)
    if not options.depth:
        shutil.rmtree(directory / ".git")
        for link in directory.rglob(".git") if options.recurse_submodules else ():
            link.unlink()


def _without_login(remote: str) -> tuple[str, str]:
    """The URL as a process list may show it, and ``user:password``."""
    parts = urlsplit(remote)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return remote, ""
    user, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=host)), f"{unquote(user)}:{unquote(password)}"


def _environment(remote: str, login: str, options: GitOptions) -> Mapping[str, str]:
    """Settings for git that no file holds and no process list shows (git-config, GIT_CONFIG_COUNT).

    The login goes to the remote's own host, whatever submodules there are.
    """
    settings = [("core.hooksPath", os.devnull), ("protocol.ext.allow", "never")]
    if login:
        basic = base64.b64encode(login.encode()).decode()
        parts = urlsplit(remote)
        home = f"http.{parts.scheme}://{parts.netloc}/.extraHeader"
        settings.append((home, f"Authorization: Basic {basic}"))
    if options.insecure_skip_tls:
        settings.append(("http.sslVerify", "false"))
    numbered = {"GIT_CONFIG_COUNT": str(len(settings)), "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    for number, (key, value) in enumerate(settings):
        numbered |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {**inherited, **numbered}


class _Git:
    """git in one directory."""

    def __init__(self, directory: Path, environ: Mapping[str, str], shown: str) -> None:
        self._directory = directory
        self._environ = environ
        self._shown = shown

    def __call__(self, *arguments: str) -> str:
        """Run a command; its output. `InputError` with git's own words if it fails."""
        done = self._run(arguments)
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[-_SAID:]
            raise InputError(f"{self._shown}: git {arguments[0]} failed: {said}")
        return done.stdout.strip()

    def tries(self, *arguments: str) -> bool:
        """Whether a command succeeds."""
        return self._run(arguments).returncode == 0

    def found(self, ref: str) -> str:
        """The commit that ``ref`` (a branch, a tag, a commit, a full ref) is among what was fetched."""
        name = ref.removeprefix("refs/heads/")
        for candidate in (f"refs/remotes/origin/{name or 'HEAD'}", f"refs/tags/{name}", ref):
            if candidate and self.tries(
                "rev-parse", "--quiet", "--verify", f"{candidate}^{{commit}}"
            ):
                return candidate
        raise InputError(f"{self._shown}: the repository has no {ref}")

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["git", *arguments],
                cwd=self._directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise InputError(
                f"{self._shown}: git cannot be run: {error.strerror}",
                hint="install git, or take an image of asyncbuild that has it (not slim)",
            ) from None
