"""A secret is nowhere in what a build leaves behind: store, image, caches, logs, trace, metadata, errors."""

from __future__ import annotations

import base64
import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def shapes() -> list[bytes]:
    """The secrets, as they are and in base64 at every place that they may stand at in a longer text."""
    found = []
    for secret in (FILE.encode(), VARIABLE.encode()):
        found.append(secret)
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
    found = [str(path) for path, data in everything for shape in shapes() if shape in data]
    assert found == []
