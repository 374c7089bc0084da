"""Builds in ``/``, in pods that do not even permit chroot: what is safe, what is refused, what is left.

Nothing here runs outside of a container of runc: what may be replaced is its root. That every instruction
gives overlay's digest is in test_backend_matrix.py.
"""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from support.commands import asyncbuild_here, context, environment, told
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.pulled import pull, read_tree, unpack
from support.registry import DockerRegistry
from support.sources import Commit, make_repository, running_web_server

pytestmark = pytest.mark.integration

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
TOKEN = "/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
def pod(pod_image: OwnImage, shm_path: Path) -> Pod:
    """A pod without CAP_SYS_CHROOT; /workspace is read-only, the store and a token are volumes."""
    for name in ("workspace", "token", "store", "out"):
        (shm_path / name).mkdir()
    (shm_path / "token/token").write_text("secret")
    volumes = {
        "/workspace": shm_path / "workspace",
        TOKEN: shm_path / "token",
        "/var/lib/asyncbuild": shm_path / "store",
        "/out": shm_path / "out",
    }
    return Pod(
        pod_image,
        shm_path,
        volumes,
        read_only_volumes=frozenset({"/workspace", TOKEN}),
        capabilities=WITHOUT_CHROOT,
    )


def script(pod: Pod, text: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's script in the pod; ``"$@"`` is the image's program with ``words``."""
    entry = pod.image.config["Entrypoint"]
    return pod.run("sh", "-c", text, "sh", *entry, *words, env=EPOCH)


HOSTILE = """\
ARG SMALL
ARG LARGE
FROM $SMALL AS broken
RUN set -e; for name in lib64/ld-linux-x86-64.so.2 usr/lib/x86_64-linux-gnu/libc.so.6 \\
      lib/x86_64-linux-gnu/libssl.so.3 usr/lib/python3.11/os.py usr/lib/python3.11/encodings/utf_8.py \\
      opt/asyncbuild/bin/python etc/nsswitch.conf etc/host.conf etc/ssl/openssl.cnf usr/bin/python3; do \\
      mkdir -p "$(dirname /$name)"; echo broken > /$name; done
RUN cat /usr/lib/python3.11/os.py && grep -q Name /proc/self/status
RUN cat TOKEN/token || ! test -e /run/secrets
FROM $LARGE AS other
RUN echo 0 > /first
COPY --from=broken /usr/lib/python3.11 /broken/
RUN grep broken /broken/os.py && rm -r /broken/encodings && cp /usr/lib/x86_64-linux-gnu/libc.so.6 /first
FROM $LARGE AS kinds
RUN mkdir /a && echo 1 > /a/file && echo 2 > /b && ln -s a /c
RUN rm -r /a && echo 3 > /a && rm /b && mkdir /b && echo 4 > /b/in && rm /c && mkdir /c
RUN rm -r /a /b /c && mkdir /a && echo 5 > /a/again && ln -s a /b && echo 6 > /c
RUN rm -rf /usr/share/doc /etc/cron.daily && rm -f /etc/mtab && echo of-the-image > /etc/mtab
RUN useradd --uid 1234 someone && chmod 1777 /srv
USER someone
RUN test "$(id -un)" = someone && touch /srv/mine && ! touch /etc/mine
USER root
COPY --from=broken /usr /broken
COPY --from=broken /etc /broken
COPY --from=other /first /broken /other/
RUN cat /broken/lib/python3.11/os.py && rm -r /var/lib/dpkg /var/run && ln -s /tmp /var/run && echo x > /var/run/x
""".replace("TOKEN", TOKEN)


def test_an_image_over_everything(
    pod: Pod, registry: DockerRegistry, busybox_base: str, debian_base: str, shm_path: Path
) -> None:
    """Stages with the program's own files broken, names that change their kind, deletions, a user, files of
    one stage in another: the image is overlay's. The context and what is mounted are as they were.
    """
    where = context(shm_path / "workspace", HOSTILE)
    words = ["-d", f"{registry.host}/in-place/everything", "--reproducible", "--log-format=text"]
    words += ["--build-arg", f"SMALL={busybox_base}", "--build-arg", f"LARGE={debian_base}"]
    home = environment(**EPOCH, XDG_CACHE_HOME=str(shm_path / "outside"))
    outside = asyncbuild_here("kaniko", *words, "-c", where, "--isolation=overlay", env=home)
    assert outside.returncode == 0, told(outside)
    inside = pod.run(
        "/kaniko/executor", *words, "-c", "/workspace/context", "--isolation=inplace", env=EPOCH
    )
    assert inside.returncode == 0, told(inside)
    assert inside.stdout == outside.stdout, told(inside)
    assert (shm_path / "token/token").read_text() == "secret"
    assert sorted(path.name for path in where.iterdir()) == ["Dockerfile"]


KEPT = """\
FROM {base}
RUN mkdir -p /a && echo 1 > /a/x && echo 2 > /a/y && echo 3 > /b/z && echo image > /etc/mtab && test -e /b/old
RUN cat /a/y && echo 4 >> /a/x && test -e /b/z
"""


def test_ignored_paths(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """An ignored file hides nothing beside it; what the container has at one stays there, for RUN too."""
    context(shm_path / "workspace", KEPT.format(base=busybox_base))
    name = f"{registry.host}/in-place/ignored:1"
    words = ["--destination", name, "--context=/workspace/context", "--log-format=text"]
    words += ["--ignore-path=/a/x", "--ignore-path", "/b", "--isolation=inplace"]
    text = 'mkdir /b && echo mine > /b/old && exec /kaniko/executor "$@"'
    done = pod.run("sh", "-c", text, "sh", *words, env=EPOCH)
    assert done.returncode == 0, told(done)
    (shm_path / "pulled").mkdir()
    tree = read_tree(unpack(pull(name, shm_path / "pulled"), shm_path / "pulled"))
    assert {"/a/y", "/etc/mtab"} <= set(tree)
    assert not {"/a/x", "/b", "/b/old", "/b/z"} & set(tree)


MENDED = """\
FROM {base}
RUN rm -rf /home /bin/vi /etc/group && mkdir -p /usr/bin && echo broken > /usr/bin/python3 && grep of-us /etc/hosts
"""
SEEN = "find / -xdev -not -path '/.asyncbuild*' -not -name '*.pyc' -not -name __pycache__ | sort > /out/seen-{0}"


def test_the_container_is_put_back(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """With --cleanup it is what it was, also after a build that failed: another can begin. Without, it is
    the image's.
    """
    context(shm_path / "workspace", MENDED.format(base=busybox_base))
    words = line(registry, "mended")
    steps = [
        SEEN.format(1),
        '"$@" --cleanup --add-host of-us:10.9.8.7',
        'test "$("$@" --cleanup --no-cache 2>&1 | grep -c "exit code 1")" -ge 1',
        "! grep of-us /etc/hosts",
        "! test -e /.asyncbuild",
        "dpkg --verify libc6",
        SEEN.format(2),
        '"$@" --no-cache --add-host of-us:10.9.8.7',
        "read -r text < /usr/bin/python3",
        'test "$text" = broken',
    ]
    done = script(pod, " && ".join(steps), *words)
    assert done.returncode == 0, told(done)
    seen = [(shm_path / f"out/seen-{number}").read_text() for number in (1, 2)]
    assert seen[0] == seen[1]
    assert "/usr/bin/dpkg\n" in seen[0]


def test_where_it_is_refused(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """Without a mark unless forced; with the machine's processes always; beside another one. Nothing is
    touched then.
    """
    context(shm_path / "workspace", f"FROM {busybox_base}\nRUN echo made > /made\n")
    words = line(registry, "refused")
    unmarked = "rm -r /kaniko;"
    bare = dataclasses.replace(
        pod,
        volumes={path: place for path, place in pod.volumes.items() if path != TOKEN},
        read_only_volumes=frozenset({"/workspace"}),
    )
    refused = script(bare, f'{unmarked} "$@"; code=$?; ls / /usr/bin/dpkg; exit $code', *words)
    assert refused.returncode == 77, told(refused)
    assert b"nothing marks this as a container" in refused.stderr, told(refused)
    assert b"--force says that this is one" in refused.stderr, told(refused)
    assert b"/usr/bin/dpkg" in refused.stdout
    assert b".asyncbuild" not in refused.stdout
    forced = script(bare, f'{unmarked} exec "$@" --force', *words)
    assert forced.returncode == 0, told(forced)
    shared = dataclasses.replace(pod, namespaces=("mount",))
    on_machine = script(shared, '"$@" --force; code=$?; ls / /usr/bin/dpkg; exit $code', *words)
    assert on_machine.returncode == 77, told(on_machine)
    assert b"this machine's first process" in on_machine.stderr, told(on_machine)
    assert b"/usr/bin/dpkg" in on_machine.stdout
    fixed = dataclasses.replace(pod, read_only=True).asyncbuild(*words)
    assert fixed.returncode == 77, told(fixed)
    assert b"/.asyncbuild: Read-only file system" in fixed.stderr, told(fixed)
    held = 'mkdir -m 700 /.asyncbuild && exec flock /.asyncbuild/lock "$@"'
    beside = script(pod, held, *words)
    assert beside.returncode == 77, told(beside)
    assert b"another build in place is under way" in beside.stderr, told(beside)


def test_it_must_be_asked_for(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """Where nothing else is possible the error names it, and doctor does."""
    context(shm_path / "workspace", f"FROM {busybox_base}\nRUN true\n")
    words = ["build", "-t", f"{registry.host}/in-place/auto:1", "/workspace/context"]
    done = pod.asyncbuild(*words)
    assert done.returncode == 77, told(done)
    assert b"--isolation inplace can: it replaces everything" in done.stderr, told(done)
    doctor = pod.asyncbuild("doctor")
    assert doctor.returncode == 77, told(doctor)
    assert b"inplace   possible, if asked for: it replaces everything in /" in doctor.stdout


FAR_REPOSITORY = """\
FROM {base} AS lender
RUN mkdir /from && echo lent > /from/lender
FROM {base}
COPY --from=lender /from/lender /lent
RUN test -e /lent && ! command -v git
ADD {web}/git/far.git#v1 /added
COPY --from=named /file /copied
"""


def test_what_git_fetches_is_here_before_git_is_gone(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """The first RUN waits for repositories that answer late, of whichever stage: it replaces the program git."""
    with running_web_server(shm_path / "web") as web:
        make_repository(web.root / "far.git", [Commit({"file": "of git\n"}, tags=["v1"])])
        web.git_delay = 0.4
        context(shm_path / "workspace", FAR_REPOSITORY.format(base=busybox_base, web=web.base))
        named = f"--build-context=named={web.base}/git/far.git#main"
        done = pod.asyncbuild(*line(registry, "far-repository"), named)
        assert done.returncode == 0, told(done)
    (shm_path / "pulled").mkdir()
    name = f"{registry.host}/in-place/far-repository:1"
    unpack(pull(name, shm_path / "pulled"), shm_path / "pulled")
    found = [path.read_text() for path in sorted((shm_path / "pulled").rglob("file"))]
    copied = [path.read_text() for path in (shm_path / "pulled").rglob("copied")]
    assert (found, copied) == (["of git\n"], ["of git\n"])


PRYING = """\
FROM {base}
RUN for process in /proc/[0-9]*; do cat $process/environ || echo refused; done | tee /seen | grep -c refused
RUN ! grep -q hidden-word /seen && ! grep -q hidden-word /proc/1/environ
USER 1000
RUN ! ls /.asyncbuild
"""


def test_a_command_cannot_look_into_the_program(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """Root in a pod may see all processes, and not what the builder was told in its environment."""
    context(shm_path / "workspace", PRYING.format(base=busybox_base))
    done = pod.asyncbuild(*line(registry, "prying"), env={"TOKEN": "hidden-word"})
    assert done.returncode == 0, told(done)


def line(registry: DockerRegistry, name: str) -> list[str]:
    """The words of a build of the context in place."""
    reference = f"{registry.host}/in-place/{name}:1"
    words = ["build", "-t", reference, "--isolation", "inplace", "--progress", "plain"]
    return [*words, "/workspace/context"]
