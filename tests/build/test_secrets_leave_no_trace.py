"""A secret is nowhere in what a build leaves behind: store, image, caches, logs, trace, metadata, errors."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

FILE, VARIABLE = "f1le-s3cret-of-the-tests", "v4riable-s3cret-of-the-tests"
DOCKERFILE = """\
FROM {base}
RUN --mount=type=cache,id=secrets,target=/c --mount=type=secret,id=one,target=/root/.token,mode=0444 \\
    --mount=type=secret,id=two,env=TWO --mount=type=tmpfs,target=/t \\
    cat /root/.token; echo "$TWO"; cp /root/.token /t/copy; wc -c < /root/.token > /count; touch /c/x; {end}
"""


def shapes(*secrets: str) -> list[bytes]:
    """The secrets, as they are, in a URL, and in base64 at every place that they may stand at in a longer text."""
    found = []
    for secret in (text.encode() for text in secrets):
        found += [secret, quote(secret).encode()]
        for shift in range(3):
            coded = base64.b64encode(b"x" * shift + secret)
            found.append(coded[4 : 4 + len(secret)])
    return found


def texts_below(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file's bytes, those of compressed files decompressed too, and every name."""
    for where, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(where, name)
            yield path, os.fsencode(name)
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                yield path, data
                if data[:2] == b"\x1f\x8b":
                    yield path, gzip.decompress(data)


@pytest.mark.parametrize("end", ["true", "exit 9"])
@pytest.mark.parametrize("progress", ["plain", "rawjson"])
def test_nothing_is_left(
    busybox_base: str, registry: DockerRegistry, shm_path: Path, end: str, progress: str
) -> None:
    """Whether the build ends well or not, and although the command prints its secrets."""
    context, outside, left = (shm_path / name for name in ("context", "outside", "left"))
    for path in (context, outside, left):
        path.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE.format(base=busybox_base, end=end))
    (outside / "token").write_text(f"{FILE}\n")
    cache = f"type=registry,ref={registry.host}/secret/cache,mode=max"
    command = [sys.executable, "-m", "asyncbuild", "build", "--progress", progress]
    command += ["--store", str(left / "store"), "--trace", str(left / "trace")]
    command += ["--metadata-file", str(left / "metadata"), "--iidfile", str(left / "iid")]
    command += ["--secret", f"id=one,src={outside}/token", "--secret", "id=two,env=TWO_OF_TESTS"]
    command += ["-t", f"{registry.host}/secret/app", "--push", "--cache-to", cache]
    command += ["-o", f"type=oci,dest={left}/layout,tar=false", str(context)]
    environment = {**os.environ, "TWO_OF_TESTS": VARIABLE}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == (9 if end == "exit 9" else 0), done.stderr.decode()
    (left / "stdout").write_bytes(done.stdout)
    (left / "stderr").write_bytes(done.stderr)
    if progress == "plain":
        assert done.stderr.count(b"****") >= 2
    everything = [*texts_below(left), *texts_below(Path(registry.log).parent)]
    assert len(everything) > 20
    shaped = shapes(FILE, VARIABLE)
    found = [str(path) for path, data in everything for shape in shaped if shape in data]
    assert found == []


def command_lines_of(process: subprocess.Popen[bytes]) -> set[bytes]:
    """What anyone on the machine could read of the process and its descendants, looked at until it ends."""
    seen = set()
    while process.poll() is None:
        family = {process.pid}
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(OSError, ValueError):
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if pid in family or int(words[1]) in family:
                    family.add(pid)
                    seen.add(Path(f"/proc/{pid}/cmdline").read_bytes())
    return seen


@pytest.mark.parametrize("password", ["a-passw0rd only for tests", "wr0ng-passw0rd-of-tests"])
def test_logins_are_nowhere(
    busybox_base: str,
    auth_registry: DockerRegistry,
    shm_path: Path,
    password: str,
) -> None:
    """The login of the registry, good or refused, and the password of a proxy: in no file, line or process."""
    context, left = shm_path / "context", shm_path / "left"
    for path in (context, left):
        path.mkdir()
    (context / "Dockerfile").write_text(f"FROM {busybox_base}\nRUN sleep 0.2; env > /variables\n")
    login = f"{auth_registry.username}:{password}"
    pair = base64.b64encode(login.encode()).decode()
    configured = json.dumps({"auths": {auth_registry.host: {"auth": pair}}})
    proxy = "http://someone:pr0xy-passw0rd-of-tests@proxy.invalid:3128"
    command = [sys.executable, "-m", "asyncbuild", "build", "--progress", "plain"]
    command += ["--store", str(left / "store"), "--trace", str(left / "trace")]
    command += [
        "--metadata-file",
        str(left / "metadata"),
        "-t",
        f"{auth_registry.host}/secret/login",
    ]
    command += ["--push", "--cache-to", f"type=registry,ref={auth_registry.host}/secret/logins"]
    environment = {**os.environ, "DOCKER_AUTH_CONFIG": configured, "HTTPS_PROXY": proxy}
    with (
        (left / "output").open("wb") as output,
        subprocess.Popen(
            [*command, str(context)], env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        lines = command_lines_of(process)
    assert process.returncode == (0 if password == auth_registry.password else 77)
    assert any(b"asyncbuild" in line for line in lines)
    everything = [*texts_below(left), *((Path("/proc"), line) for line in lines)]
    if process.returncode == 0:
        everything += texts_below(Path(auth_registry.log).parent)
    shaped = [*shapes(login, password, "pr0xy-passw0rd-of-tests"), pair.encode()]
    found = [str(path) for path, data in everything for shape in shaped if shape in data]
    assert found == []
