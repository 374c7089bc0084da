"""The same Dockerfile gives the same image on every backend; the chroot one with a pod's rights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.rootfs.isolation import Isolation
from support.isolated import POD, Outcome, Recipe, build_isolated

pytestmark = pytest.mark.integration

BASE = "registry.example/base/busybox"
CASES = Path(__file__).parent / "cases"

FROM_CASES = [
    "mount-bind-files",
    "mount-bind-from-scratch",
    "mount-bind-from-stage-rw",
    "mount-bind-ignored-rw",
    "mount-bind-modes-hold-for-users",
    "mount-bind-relative-target",
    "mount-bind-rw-is-discarded",
    "mount-bind-stage-deletions",
    "mount-bind-variables",
    "mount-cache",
    "mount-cache-across-stages",
    "mount-cache-from-stage",
    "mount-cache-locked",
    "mount-cache-nested",
    "mount-cache-private",
    "mount-cache-source",
    "mount-cache-twice-in-one-run",
    "mount-cache-user",
    "mount-covers-what-is-there",
    "mount-file-over-directory",
    "mount-leaves-no-mount-point",
    "mount-of-the-same-target-twice",
    "mount-over-etc-hosts",
    "mount-secret-for-a-user",
    "mount-secret-optional",
    "mount-target-through-links",
    "mount-tmpfs",
    "mount-tmpfs-modes",
    "mount-workdir-inside",
    "mtimes-in-run",
    "run-after-copy",
    "run-continuation",
    "run-delete",
    "run-delete-own",
    "run-exec-form",
    "run-failure",
    "run-heredoc",
    "run-heredoc-several",
    "run-heredoc-shebang",
    "run-home",
    "run-killed",
    "run-no-change",
    "run-not-found",
    "run-odd-names",
    "run-output",
    "run-recreate-directory",
    "run-replace-kinds",
    "run-same-size-and-time",
    "run-special-files",
    "run-stdin-is-empty",
    "run-touch-only-metadata",
    "shell",
    "user-cannot-write",
    "user-group",
    "user-name",
    "user-numeric",
    "volume-keeps-later-changes",
    "workdir-owner",
    "workdir-relative",
]
"""Cases of ``cases`` whose contexts are plain files."""

MORE = {
    "a link to a file of the base": "RUN ln /etc/passwd /etc/passwd2 && ln /etc/group /tmp/group",
    "a link to one of many names": "RUN ln /bin/ash /bin/another",
    "a directory becomes a link and a directory again": (
        "RUN echo a > /home/a && mv /home /home2 && ln -s home2 /home\nRUN rm /home && mv /home2 /home"
    ),
    "a directory is emptied and filled": "RUN rm -r /home && mkdir /home && echo a > /home/a",
    "removed and made again": "RUN rm /etc/group\nRUN echo new > /etc/group\nRUN rm /etc/group",
    "a secret": "RUN --mount=type=secret,id=token cat /run/secrets/token | wc -c > /n\nRUN ls /run > /r",
    "a script upon what COPY brought": (
        "RUN mkdir /d && echo one > /d/one\nCOPY file /d/two\nRUN rm /d/one\nCOPY file /d/one\n"
        "RUN cat /d/one /d/two > /all && chmod 4755 /d/two"
    ),
    "extended attributes and owners": "RUN chown -R 5:6 /home && chmod 1777 /home && chown 7 /etc/group",
    "two stages": f"RUN echo a > /a\nFROM {BASE}\nCOPY --from=0 /a /b\nRUN cp /b /c && rm /b",
    "a stage upon a stage": f"RUN echo a > /a\nFROM {BASE} AS two\nFROM two\nRUN echo b > /b\nRUN rm /b",
    "the streams of /dev": "RUN echo out > /dev/stdout && echo err > /dev/stderr && echo n > /dev/null",
}


def _recipes() -> dict[str, Recipe]:
    found = {
        name: Recipe(f"FROM {BASE}\n{text}\n", {"file": "text"}) for name, text in MORE.items()
    }
    for name in FROM_CASES:
        text = (CASES / name / "Dockerfile").read_text()
        case = json.loads((CASES / name / "case.json").read_text())
        files = {
            path: item for path, item in case.get("context", {}).items() if isinstance(item, str)
        }
        found[name] = Recipe(text.replace("registry.test/busybox", BASE), files)
    return found


RECIPES = _recipes()


@pytest.fixture(scope="module")
def overlay() -> Mapping[str, Outcome]:
    """Every recipe built upon overlays, as root."""
    return build_isolated(Isolation.OVERLAY, RECIPES)


@pytest.fixture(scope="module")
def chroot() -> Mapping[str, Outcome]:
    """Every recipe built with the capabilities that a pod has: no mounts, no namespaces."""
    return build_isolated(Isolation.CHROOT, RECIPES, POD)


@pytest.mark.parametrize("name", RECIPES)
def test_chroot_gives_the_same_image(
    name: str, overlay: Mapping[str, Outcome], chroot: Mapping[str, Outcome]
) -> None:
    """The same digest, or the same failure; and the same output, whichever stream came first."""
    assert chroot[name].error == overlay[name].error
    assert chroot[name].digest == overlay[name].digest
    assert sorted(chroot[name].output) == sorted(overlay[name].output)
