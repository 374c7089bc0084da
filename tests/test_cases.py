"""Every directory of ``cases``: built by the command line, pushed, and judged by skopeo and umoci."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support.cases import (
    Case,
    config_differences,
    context_state,
    history_differences,
    image_reference,
    layer_differences,
    load_case,
    make_context,
    make_repositories,
    push_images,
    real_names,
    request_differences,
    serve_pages,
    tree_differences,
)
from support.commands import COMMAND, asyncbuild_here, environment, told
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.pulled import Pulled, Tree, inspect_config, pull, read_tree, unpack
from support.registry import DockerRegistry
from support.sources import WebServer
from support.users import User, give_to_user

pytestmark = pytest.mark.integration

CASES = [load_case(path.parent) for path in sorted(Path(__file__).parent.glob("cases/*/case.json"))]


WITHOUT_MOUNTS = {
    "mount-below-read-only": "a mount that is read-only to root",
    "mount-bind-context": "a mount that is read-only to root",
    "mount-bind-from-stage": "a mount that is read-only to root",
    "mount-bind-one-foreign-owner": "a mount that is read-only to root",
    "mount-cache-read-only": "a mount that is read-only to root",
    "mount-secret": "a mount that is read-only to root",
    "mount-tmpfs-size": "a tmpfs with a limit",
    "run-heredoc-with-mount": "a network namespace",
    "run-network-none": "a network namespace",
    "run-security-insecure": "CAP_SYS_ADMIN",
    "run-shm-size": "a tmpfs with a limit",
}
"""What a place that permits no mount and no namespace refuses."""
NEED_MORE: dict[str, dict[str, str]] = {
    "pod": {
        **WITHOUT_MOUNTS,
        "run-furniture": "a /proc and a /sys",
        "run-security-sandbox": "a /proc",
    },
    "inplace": {
        **WITHOUT_MOUNTS,
        "run-security-sandbox": "docker's capabilities, of which this pod lacks one",
    },
    "rootless": {
        "base-devices-and-attributes": "device nodes in RUN",
        "run-special-files": "device nodes in RUN",
    },
    "single": {
        "mount-cache-owner-is-another-cache": "an owner for the cache",
        "mount-bind-from-stage": "other owners in RUN",
        "mount-cache-from-stage": "other owners in RUN",
        "mount-secret-params": "an owner for the secret",
        "onbuild-every-kind": "other users in RUN",
        "add-archive-hardlink-to-base": "other owners in RUN",
        "add-archive-hardlink-to-symlink": "one owner for two names of a link",
        "add-archive-implied-directory": "other owners in RUN",
        "add-archive-into-existing": "other owners in RUN",
        "base-devices-and-attributes": "device nodes in RUN",
        "base-implicit-parents": "to see owners in RUN",
        "copy-from-stage": "other owners in RUN",
        "copy-implicit-owner": "other owners in RUN",
        "copy-parents-existing": "other owners in RUN",
        "mount-bind-modes-hold-for-users": "other users in RUN",
        "mount-cache-user": "an owner for the cache",
        "mount-secret-for-a-user": "an owner for the secret",
        "run-home": "other users in RUN",
        "run-special-files": "device nodes in RUN",
        "run-touch-only-metadata": "other owners in RUN",
        "user-back-to-root": "other users in RUN",
        "user-cannot-write": "other users in RUN",
        "user-group": "other users in RUN",
        "user-name": "other users in RUN",
        "user-numeric": "other users in RUN",
        "user-number-and-group-name": "other users in RUN",
        "user-numeric-known": "other users in RUN",
        "user-variable": "other users in RUN",
        "workdir-owner": "other users in RUN",
    },
}
"""What some cases need and a place refuses."""
DIFFERENT_EACH_TIME = {
    "add-git-keep-git-dir": "git's index has the times of what was checked out",
    "add-git-keep-git-dir-query": "the same",
    "run-own-namespaces": "processes are counted, and the runtime's may not have ended yet",
}
"""Cases whose images need not be the same by a runtime, and why."""
WHERE = os.environ.get("ASYNCBUILD_CASES_IN", "")
"""Where to build instead of here, by what that place permits; the judges are the same. ``pod``: an ordinary
pod (``just pod-cases``); ``inplace``: in ``/`` of a pod without CAP_SYS_CHROOT (``just inplace-cases``);
``rootless``, ``single``: as an ordinary user, with subordinate ids or without (``just rootless-cases``);
``runc``, ``crun``: here, by an OCI runtime, and only the cases that have a RUN (``just runtime-cases``).
"""
RUNTIMES = ("runc", "crun")


@dataclass(frozen=True, slots=True)
class Base:
    """A base image as it was pulled and unpacked once."""

    pulled: Pulled
    tree: Tree


@dataclass(frozen=True, slots=True)
class Place:
    """Where all cases are built: the servers they talk to, and the store they share, as builds on one
    machine do.
    """

    registry: DockerRegistry
    web: WebServer
    store: Path


@pytest.fixture(scope="module")
def place(registry: DockerRegistry, web: WebServer, session_path: Path) -> Place:
    """The place of this run."""
    return Place(registry, web, session_path / "store")


@pytest.fixture(scope="module")
def bases(small_bases: Mapping[str, str], session_path: Path) -> Mapping[str, Base]:
    """What is in the session's bases, by the names that cases use."""
    found = {}
    for name, reference in small_bases.items():
        directory = session_path / f"base-{name}"
        directory.mkdir()
        pulled = pull(reference, directory)
        found[name] = Base(pulled, read_tree(unpack(pulled, directory)))
    return found


def base_of(
    case: Case, registry: DockerRegistry, bases: Mapping[str, Base], directory: Path
) -> Base | None:
    """What the case's result is compared with."""
    if case.base is None or case.base in bases:
        return None if case.base is None else bases[case.base]
    directory.mkdir()
    pulled = pull(image_reference(case, registry, case.base), directory)
    return Base(pulled, read_tree(unpack(pulled, directory)))


def build(
    case: Case,
    arguments: list[str],
    directory: Path,
    place: Place,
    elsewhere: OwnImage | User | None,
) -> subprocess.CompletedProcess[str]:
    """Run the command line in ``directory``, here or ``elsewhere``; standard output and error are kept apart."""
    store = directory / "store" if case.fresh else place.store
    reference = f"{place.registry.host}/built/{case.name}:latest"
    words = ["build", "--tag", reference, "--store", str(store), "--progress", "plain"]
    words += ["--metadata-file", str(directory / "metadata.json"), *arguments]
    given = (directory / case.stdin).read_bytes() if case.stdin else b""
    if isinstance(elsewhere, User):
        done = elsewhere.run(*COMMAND, *words, environ=case.environ, stdin=given, cwd=directory)
    elif elsewhere is not None:
        store.mkdir(exist_ok=True)
        pod = Pod(elsewhere, directory, {str(path): path for path in (directory, store)})
        if WHERE == "inplace":
            words[1:1] = ["--isolation", "inplace"]
            pod = replace(pod, capabilities=WITHOUT_CHROOT)
        line = [*elsewhere.config["Entrypoint"], *words]
        done = pod.run(*line, stdin=given, env=case.environ, cwd=str(directory))
    else:
        if WHERE in RUNTIMES:
            words += ["--oci-runtime", WHERE]
        done = asyncbuild_here(*words, stdin=given, env=environment(**case.environ), cwd=directory)
    texts = [data.decode("utf-8", "replace") for data in (done.stdout, done.stderr)]
    return subprocess.CompletedProcess(words, done.returncode, *texts)


def has_run(case: Case) -> bool:
    """Whether something in its Dockerfile is executed."""
    text = (case.directory / "Dockerfile").read_text(errors="replace")
    return re.search(r"^\s*(ONBUILD\s+)?RUN\b", text, re.IGNORECASE | re.MULTILINE) is not None


CHOSEN = [
    case
    for case in CASES
    if case.name not in NEED_MORE.get(WHERE, {}) and (WHERE not in RUNTIMES or has_run(case))
]
BUILT = [
    case
    for case in CASES
    if has_run(case) and 0 in case.exit and case.name not in DIFFERENT_EACH_TIME
]
COMPARED = BUILT if WHERE in RUNTIMES else BUILT[::16]
"""Those whose images are compared, of our own sandbox's and a runtime's."""


@pytest.fixture(scope="module")
def elsewhere(place: Place, request: pytest.FixtureRequest) -> OwnImage | User | None:
    """Who builds, or what the pod's image is; None for root on this machine."""
    if WHERE in ("pod", "inplace"):
        image: OwnImage = request.getfixturevalue("pod_image")
        return image
    if WHERE not in ("rootless", "single"):
        return None
    home = place.store.parent / "user"
    home.mkdir()
    place.store.parent.chmod(0o755)
    user = User.below(home, subordinate=WHERE == "rootless")
    place.store.mkdir()
    give_to_user(place.store)
    return user


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_case(
    case: Case,
    place: Place,
    bases: Mapping[str, Base],
    elsewhere: OwnImage | User | None,
    shm_path: Path,
) -> None:
    """The build ends as the case says, and so do the image, its files and the requests it took."""
    registry, web = place.registry, place.web
    push_images(case, registry)
    make_repositories(case, registry, web)
    serve_pages(case, registry, web)
    context = make_context(case, registry, web, shm_path)
    base = base_of(case, registry, bases, shm_path / "base")
    words = [*case.args, case.main or str(context)]
    arguments = [real_names(case, registry, web, word.encode()).decode() for word in words]
    if isinstance(elsewhere, User):
        give_to_user(shm_path)
    before = context_state(context)
    mark = registry.mark()
    done = build(case, arguments, shm_path, place, elsewhere)
    told = f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode in case.exit, told
    assert context_state(context) == before, "the context was touched"
    assert [text for text in case.error if text not in done.stderr] == [], told
    assert [text for text in case.output if text not in done.stdout + done.stderr] == [], told
    assert [text for text in case.unsaid if text in done.stdout + done.stderr] == [], told
    if case.line is not None:
        assert re.search(rf"Dockerfile:{case.line}\b", done.stderr), told
    layers = [layer["digest"] for layer in base.pulled.manifest["layers"]] if base else []
    assert request_differences(case, registry.requests(mark), layers) == []
    if done.returncode == 0:
        digest = json.loads((shm_path / "metadata.json").read_text())["containerimage.digest"]
        check_image(case, registry, base, shm_path)
        assert pull_digest(registry, case) == digest


def pull_digest(registry: DockerRegistry, case: Case) -> str:
    """The digest that the registry has under the tag."""
    accept = "application/vnd.oci.image.manifest.v1+json"
    accept += ", application/vnd.docker.distribution.manifest.v2+json"
    path = f"/v2/built/{case.name}/manifests/latest"
    return registry.call("HEAD", path, headers={"Accept": accept})[1]["docker-content-digest"]


def check_image(case: Case, registry: DockerRegistry, base: Base | None, directory: Path) -> None:
    """Pull, unpack, and compare everything that the case says."""
    reference = f"{registry.host}/built/{case.name}:latest"
    pulled = pull(reference, directory)
    tree = read_tree(unpack(pulled, directory))
    configuration = inspect_config(reference)
    base_layers = len(base.pulled.manifest["layers"]) if base else 0
    base_lines = len(base.pulled.configuration["history"]) if base else 0
    differences = [
        *tree_differences(case, tree, base.tree if base else {}),
        *config_differences(case, configuration),
        *history_differences(case, configuration, base_lines),
        *layer_differences(case, pulled, base_layers),
    ]
    assert differences == []


@pytest.mark.usefixtures("small_bases")
@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_a_runtime_gives_the_same_image(case: Case, place: Place, shm_path: Path) -> None:
    """The digest of a case's image, with times that do not depend on when: our own sandbox's, and a runtime's
    (crun's, unless runc is asked for).
    """
    registry, web = place.registry, place.web
    push_images(case, registry)
    if not (web.root / case.name).exists():  # as `test_case` has made them
        make_repositories(case, registry, web)
    serve_pages(case, registry, web)
    context = make_context(case, registry, web, shm_path)
    words = [*case.args, case.main or str(context)]
    arguments = [real_names(case, registry, web, word.encode()).decode() for word in words]
    given = (shm_path / case.stdin).read_bytes() if case.stdin else b""
    env = environment(**{**case.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    digests = []
    for runtime in ([], ["--oci-runtime", WHERE if WHERE in RUNTIMES else "crun"]):
        line = ["build", "--progress", "plain", "--store", str(shm_path / f"store{len(runtime)}")]
        line += ["-o", "type=image,rewrite-timestamp=true", "-t", "registry.example/compared:1"]
        line += ["--metadata-file", str(shm_path / "metadata.json"), *runtime, *arguments]
        done = asyncbuild_here(*line, stdin=given, env=env, cwd=shm_path)
        assert done.returncode == 0, told(done)
        found = json.loads((shm_path / "metadata.json").read_text())
        digests.append(found["containerimage.digest"])
    assert digests[0] == digests[1]
