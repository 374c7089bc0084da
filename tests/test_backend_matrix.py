"""The same Dockerfile gives the same image on every backend: outside by overlay, in a pod by what it permits."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import asyncbuild_here, context, environment, told
from support.own_image import OwnImage
from support.pod import Pod
from support.pod_profile import CAPABILITIES
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
WAYS = ("chroot", "inplace")
"""What a pod permits; in place it need not even permit chroot."""
WITHOUT_CHROOT = tuple(name for name in CAPABILITIES if name != "CAP_SYS_CHROOT")
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


@pytest.mark.parametrize("way", WAYS)
def test_every_instruction(
    pod_image: OwnImage, registry: DockerRegistry, busybox_base: str, shm_path: Path, way: str
) -> None:
    """Of all stages: what RUN, COPY, ADD, WORKDIR and metadata make has one digest."""
    (shm_path / "workspace").mkdir()
    where = context(shm_path / "workspace", EVERYTHING, FILES)
    pod = Pod(
        pod_image,
        shm_path,
        {"/workspace": shm_path / "workspace"},
        read_only_volumes=frozenset({"/workspace"}),
        capabilities=WITHOUT_CHROOT if way == "inplace" else tuple(CAPABILITIES),
    )
    name = f"{registry.host}/matrix/{way}:1"
    words = ["-d", name, "--build-arg", f"BASE={busybox_base}", "--secret", "id=word,env=WORD"]
    words += ["--reproducible", "--log-format=text"]  # no file is younger than the epoch
    env = EPOCH | {"WORD": "hidden"}
    home = environment(**env, XDG_CACHE_HOME=str(shm_path))
    outside = asyncbuild_here("kaniko", *words, "-c", where, "--isolation=overlay", env=home)
    assert outside.returncode == 0, told(outside)
    line = ["/kaniko/executor", *words, "-c", "/workspace/context", f"--isolation={way}"]
    inside = pod.run(*line, env=env)
    assert inside.returncode == 0, told(inside)
    assert inside.stdout == outside.stdout, told(inside)
