"""What a RUN may be given in a pod, by chroot and in place: as everywhere, or it is said that it is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.commands import context, told
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.pod_profile import CAPABILITIES
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

DOCKERFILE = """\
FROM {base}
RUN ulimit -Sn; ulimit -Hn; grep -c '192.0.2.7.*db$' /etc/hosts
RUN <<END
(sh -c 'echo $$ > /orphan; until test -e /go; do :; done' &)
until test -s /orphan; do :; done
touch /go
while kill -0 $(cat /orphan) 2> /dev/null; do :; done
echo reaped
END
RUN wget -q -O - http://{registry}/v2/ > /seen && echo the network is the pod\\'s
"""
"""A dead process can be signalled until somebody has waited for it."""


@pytest.mark.parametrize("way", ["chroot", "inplace"])
def test_options(
    way: str, pod_image: OwnImage, shm_path: Path, registry: DockerRegistry, busybox_base: str
) -> None:
    """Limits of processes, names of hosts, the network, an init that reaps; memory, processors and shared memory
    are not held here, and each is said once.
    """
    (shm_path / "workspace").mkdir()
    context(shm_path / "workspace", DOCKERFILE.format(base=busybox_base, registry=registry.host))
    pod = Pod(
        pod_image,
        shm_path,
        {"/workspace": shm_path / "workspace"},
        capabilities=WITHOUT_CHROOT if way == "inplace" else tuple(CAPABILITIES),
    )
    words = ["build", "-t", f"{registry.host}/pod/options:1", "--isolation", way]
    words += ["--progress", "plain", "--ulimit", "nofile=99:100", "--add-host", "db:192.0.2.7"]
    words += ["--memory", "1g", "--cpus", "0.5", "--shm-size", "2m", "/workspace/context"]
    done = pod.asyncbuild(*words)
    text = done.stderr.decode()
    assert done.returncode == 0, told(done)
    lines = re.findall(r"^ *[0-9.]+s \[[^]]*\] +\| (.*)$", text, re.MULTILINE)
    assert lines == ["99", "100", "1", "reaped", "the network is the pod's"], text
    refused = (
        "--memory and --cpus have no effect here: no control group can be made here: Read-only"
    )
    assert text.count(refused) == 1, text
    assert text.count("--shm-size has no effect without mounts") == 1, text
