"""Logins that CI systems and people put into the environment, for exactly the hosts that they name.

``github``: GITHUB_TOKEN, for GitHub's registry. ``gitlab``: the variables that GitLab gives every job, for
its registry and its dependency proxy. ``env``: KANIKO_<HOST>_USER and _PASSWORD, the host in capitals with
``_`` for ``.``, ``-`` and ``:``, or any of its parent domains (kaniko, ``pkg/creds/env_keychain.go``).
"""

from __future__ import annotations

import re

import trio

from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.cloud import Surroundings


class GitHub:
    """GITHUB_TOKEN, with which a workflow may write packages."""

    name = "github"

    def serves(self, registry: str) -> bool:
        """GitHub's container registry."""
        return registry == "ghcr.io"

    async def login(self, registry: str, around: Surroundings) -> Credential:  # noqa: ARG002
        """The token as a password; the user's name is of no interest to the registry."""
        await trio.lowlevel.checkpoint()
        token = around.get("GITHUB_TOKEN")
        return Credential(around.get("GITHUB_ACTOR") or "token", token) if token else ANONYMOUS


class GitLab:
    """The predefined variables of a job (docs.gitlab.com/ci/variables)."""

    name = "gitlab"

    def serves(self, registry: str) -> bool:
        """Any host: the variables name theirs."""
        return registry != DOCKER_HUB

    async def login(self, registry: str, around: Surroundings) -> Credential:
        """The login of the registry, of the dependency proxy, or the job's own."""
        await trio.lowlevel.checkpoint()
        for server, stem in (
            ("CI_REGISTRY", "CI_REGISTRY"),
            ("CI_DEPENDENCY_PROXY_SERVER", "CI_DEPENDENCY_PROXY"),
        ):
            if around.get(server).lower() != registry:
                continue
            user, password = around.get(f"{stem}_USER"), around.get(f"{stem}_PASSWORD")
            if user and password:
                return Credential(user, password)
            if around.get("CI_JOB_TOKEN"):
                return Credential("gitlab-ci-token", around.get("CI_JOB_TOKEN"))
        return ANONYMOUS


class Environment:
    """kaniko's variables."""

    name = "env"

    def serves(self, registry: str) -> bool:  # noqa: ARG002
        """Any host: the variables name theirs."""
        return True

    async def login(self, registry: str, around: Surroundings) -> Credential:
        """The most particular pair of variables."""
        await trio.lowlevel.checkpoint()
        host = "index.docker.io" if registry == DOCKER_HUB else registry
        parts = re.sub(r"[-:]", "_", host.upper()).split(".")
        for start in range(len(parts)):
            stem = f"KANIKO_{'_'.join(parts[start:])}"
            user, password = around.get(f"{stem}_USER"), around.get(f"{stem}_PASSWORD")
            if user and password:
                return Credential(user, password)
        return ANONYMOUS
