"""The same Dockerfile gives the same image on every backend: root's by overlay, a pod's by what it permits, an
ordinary user's with many ids, one, or no namespace at all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from support import refusing
from support.commands import asyncbuild_here, context, environment, told
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.pod_profile import CAPABILITIES
from support.registry import DockerRegistry
from support.scratch import scratch
from support.users import User

pytestmark = pytest.mark.integration

ENVIRONMENT = {"SOURCE_DATE_EPOCH": "1700000000", "WORD": "hidden"}
ADMIN = (*CAPABILITIES, "CAP_SYS_ADMIN")
OWN_USERS = ("pid", "ipc", "uts", "mount", "user")
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "chroot": ("chroot", {}),
    "inplace": ("inplace", {"capabilities": WITHOUT_CHROOT}),
    "overlay": ("overlay", {"capabilities": ADMIN}),
    "user-namespace": ("chroot", {"namespaces": OWN_USERS}),
    "user-namespace-admin": (
        "rootless",
        {"namespaces": OWN_USERS, "capabilities": ADMIN, "masked": False},
    ),
}
"""Pods, and what they permit: in place without even chroot; mounts with CAP_SYS_ADMIN, though docker's filter of
system calls refuses pivot_root; with ``hostUsers: false``, and there with what deploy/kubernetes asks for.
"""
FILES = {
    "file": "text\n",
    "tree/a": "a\n",
    "tree/b/c": "c\n",
    "script.sh": "echo from the context\n",
}
EVERYTHING = """\
ARG BASE
FROM $BASE AS made
SHELL ["sh", "-ec"]
ENV A=b
RUN mkdir -p /made/deep && echo "$A" > /made/deep/file && ln -s deep /made/link && ln /made/deep/file /made/hard
RUN touch -d @1600000000 /made/deep/new && chown 1000:50 /made/deep && chmod 2750 /made/deep
FROM $BASE AS other
RUN rm -r /home/app && rm /etc/os-release && rm /etc/group && mkdir /etc/group && touch -d @1600000000 /etc/group/in
FROM $BASE
LABEL of=everything
MAINTAINER someone
ARG NUMBER=5
WORKDIR /app
COPY --chown=app:staff file tree/ ./
COPY --from=made /made /made
COPY --link --chmod=600 script.sh /script.sh
RUN touch -d @1600000000 /app/new && test "$(pwd)" = /app && test $NUMBER = 5
RUN <<END
sh /script.sh
touch -d @1600000000 /made/deep/more
rm /made/hard /bin/yes
END
RUN --mount=type=bind,source=tree,target=/mnt/tree --mount=type=tmpfs,target=/scratch \\
    --mount=type=cache,target=/cache --mount=type=secret,id=word,env=WORD \\
    cat /mnt/tree/a && touch /scratch/x /cache/y && test "$WORD" = hidden && touch -d @1600000000 /mounted
ADD file https-not.txt /added/
COPY --from=other /etc/group/in /from/other
USER app:extra
RUN test "$(id -u) $(id -g)" = "1000 60" && touch -d @1600000000 /tmp/mine
USER root
VOLUME /data
RUN mkdir /data && touch -d @1600000000 /data/kept && rm -r /from && touch -d @1600000000 /run/here
RUN true
STOPSIGNAL SIGINT
EXPOSE 80/tcp
HEALTHCHECK --interval=5s CMD true
ONBUILD RUN true
ENTRYPOINT ["/bin/sh"]
CMD ["-c", "true"]
""".replace("https-not.txt ", "")


OLD_KERNEL = (sys.executable, refusing.__file__, "overlay")
ONE_ID = (
    EVERYTHING.replace(" && chown 1000:50 /made/deep", "")
    .replace("USER app:extra\n", "")
    .replace('RUN test "$(id -u) $(id -g)" = "1000 60" && touch', "RUN touch")
)
"""The same for who is nobody but root: files are given to others by COPY and ADD alone."""
NO_RUN = """\
ARG BASE
FROM $BASE AS made
WORKDIR /made/deep
COPY --chown=app:staff --chmod=4751 tree/ ./
FROM $BASE AS other
COPY --link --chown=7:8 file /added/
ADD --chmod=600 script.sh tree /added/
FROM $BASE
LABEL of=everything
WORKDIR /app
COPY --from=made --chown=1000:50 /made /made
COPY --from=other /added /etc/group /from/other/
USER app:extra
VOLUME /data
CMD ["-c", "true"]
"""


def _served(dockerfile: str) -> str:
    """Without a directory that is set-group-id when a later RUN copies it up: fuse-overlayfs loses the bit."""
    return dockerfile.replace("chmod 2750", "chmod 750")


@dataclass(frozen=True, slots=True)
class Yard:
    """Where the matrix builds: what root's overlay gave for each Dockerfile is built once."""

    directory: Path
    registry: DockerRegistry
    base: str
    known: dict[str, bytes] = field(default_factory=dict)

    def words(self, name: str) -> list[str]:
        """A build whose image depends on nothing but its inputs: no file is younger than the epoch."""
        words = ["-d", f"{self.registry.host}/matrix/{name}:1", "--build-arg", f"BASE={self.base}"]
        return [*words, "--secret", "id=word,env=WORD", "--reproducible", "--log-format=text"]

    def context(self, dockerfile: str) -> Path:
        """A context for everyone to read."""
        path = self.directory / hashlib.sha256(dockerfile.encode()).hexdigest()[:12]
        if not path.exists():
            path.mkdir()
            context(path, dockerfile, FILES)
        return path / "context"

    def by_overlay(self, dockerfile: str) -> bytes:
        """The digest that root's overlay gives, with a store of its own."""
        if dockerfile not in self.known:
            where, store = self.context(dockerfile), self.directory / f"root-{len(self.known)}"
            home = environment(**ENVIRONMENT, XDG_CACHE_HOME=str(store))
            line = [*self.words("overlay"), "-c", str(where), "--isolation=overlay"]
            done = asyncbuild_here("kaniko", *line, env=home)
            assert done.returncode == 0, told(done)
            self.known[dockerfile] = done.stdout
        return self.known[dockerfile]


@pytest.fixture(scope="module")
def yard(registry: DockerRegistry, busybox_base: str) -> Iterator[Yard]:
    """One for all ways."""
    with scratch() as directory:
        directory.chmod(0o755)
        yield Yard(directory, registry, busybox_base)


@pytest.mark.parametrize(
    ("way", "dockerfile"),
    [
        *(pytest.param(way, EVERYTHING, id=way) for way in WAYS),
        *(pytest.param(way, NO_RUN, id=f"{way}-no-run") for way in ("chroot", "inplace")),
    ],
)
def test_in_a_pod(
    pod_image: OwnImage, yard: Yard, shm_path: Path, way: str, dockerfile: str
) -> None:
    """Of all stages, some of which are built at once: RUN, COPY, ADD, WORKDIR and metadata have one digest. Doctor
    says what there is.
    """
    where = yard.context(dockerfile)
    isolation, given = WAYS[way]
    pod = Pod(
        pod_image,
        shm_path,
        {"/workspace": where},
        {"/var/lib/asyncbuild": 256 << 20},
        read_only_volumes=frozenset({"/workspace"}),
        **given,
    )
    if dockerfile is EVERYTHING:
        found = json.loads(pod.asyncbuild("doctor", "--format", "json").stdout)
        assert found["auto"] == ("none" if way == "inplace" else isolation)
        assert found["backends"][isolation]["possible"]
    line = ["/kaniko/executor", *yard.words(way), "-c", "/workspace", f"--isolation={isolation}"]
    inside = pod.run(*line, env=ENVIRONMENT)
    assert inside.returncode == 0, told(inside)
    assert inside.stdout == yard.by_overlay(dockerfile), told(inside)


@pytest.mark.parametrize(
    ("way", "dockerfile", "subordinate", "kernel"),
    [
        pytest.param("rootless", EVERYTHING, True, (), id="rootless"),
        pytest.param("rootless", ONE_ID, False, (), id="rootless-single-id"),
        pytest.param("none", NO_RUN, True, (), id="none"),
        pytest.param("none", NO_RUN, False, (), id="none-single-id"),
        pytest.param("rootless", _served(EVERYTHING), True, OLD_KERNEL, id="fuse"),
        pytest.param("rootless", _served(ONE_ID), False, OLD_KERNEL, id="fuse-single-id"),
    ],
)
def test_as_an_ordinary_user(
    yard: Yard,
    shm_path: Path,
    way: str,
    dockerfile: str,
    kernel: tuple[str, ...],
    *,
    subordinate: bool,
) -> None:
    """The same with everything that the user can be: of many ids, of one, of no namespace; where the kernel
    mounts no overlay for users, fuse-overlayfs does.
    """
    user = User.below(shm_path, subordinate=subordinate)
    user = replace(user, kernel=kernel, fuse=bool(kernel))
    line = [*yard.words(way), "-c", str(yard.context(dockerfile))]
    environ = ENVIRONMENT | {"ASYNCBUILD_ISOLATION": way}
    done = user.asyncbuild("kaniko", *line, environ=environ)
    assert done.returncode == 0, told(done)
    assert done.stdout == yard.by_overlay(dockerfile), told(done)


def test_root_without_run(yard: Yard, shm_path: Path) -> None:
    """Root that asks for no isolation."""
    home = environment(**ENVIRONMENT, XDG_CACHE_HOME=str(shm_path))
    line = [*yard.words("none-root"), "-c", str(yard.context(NO_RUN)), "--isolation=none"]
    done = asyncbuild_here("kaniko", *line, env=home)
    assert done.returncode == 0, told(done)
    assert done.stdout == yard.by_overlay(NO_RUN), told(done)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_by_a_runtime(yard: Yard, shm_path: Path, runtime: str) -> None:
    """Root, whose RUNs an OCI runtime executes."""
    home = environment(**ENVIRONMENT, XDG_CACHE_HOME=str(shm_path), ASYNCBUILD_OCI_RUNTIME=runtime)
    line = [*yard.words(runtime), "-c", str(yard.context(EVERYTHING)), "--isolation=overlay"]
    done = asyncbuild_here("kaniko", *line, env=home)
    assert done.returncode == 0, told(done)
    assert done.stdout == yard.by_overlay(EVERYTHING), told(done)


@pytest.mark.parametrize(
    ("runtime", "dockerfile", "subordinate", "kernel"),
    [
        pytest.param("runc", EVERYTHING, True, (), id="rootless"),
        pytest.param("crun", ONE_ID, False, (), id="single-id"),
        pytest.param("crun", _served(EVERYTHING), True, OLD_KERNEL, id="fuse"),
    ],
)
def test_by_a_users_runtime(
    yard: Yard,
    shm_path: Path,
    runtime: str,
    dockerfile: str,
    kernel: tuple[str, ...],
    *,
    subordinate: bool,
) -> None:
    """An ordinary user's RUNs by an OCI runtime, in the user namespace that the build is in."""
    user = User.below(shm_path, subordinate=subordinate)
    user = replace(user, kernel=kernel, fuse=bool(kernel))
    line = [*yard.words(f"user-{runtime}"), "-c", str(yard.context(dockerfile))]
    environ = ENVIRONMENT | {"ASYNCBUILD_OCI_RUNTIME": runtime}
    done = user.asyncbuild("kaniko", *line, environ=environ)
    assert done.returncode == 0, told(done)
    assert done.stdout == yard.by_overlay(dockerfile), told(done)
