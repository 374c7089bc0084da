"""The bench's jobs: what is built. Contexts are generated, the same bytes for every tool and on every
day.

J1 metadata only; J2 a large context and a trivial RUN on the many-layer base; J3 four independent
stages and a final one. A job says what its limit depends on (`Work`); J4 to J8 differ in state and
shape, not in kind: they are further entries of `JOBS`, with a ``warm_up`` where the tool has built
before.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perf.bases import SIBLINGS, cache_directory

_POOL = 2 * 1024 * 1024
_WORDS = 4096


@dataclass(frozen=True, slots=True)
class Work:
    """What a job cannot avoid, for its limit; bytes are uncompressed unless said.

    ``pulls``: bases whose layers are needed. ``new_bytes``: what new layers hold, ``new_compressed``:
    that after gzip, ``new_files``: in how many files. ``run_seconds``: the longest chain of RUN's own
    time. ``round_trips``: the longest chain of dependent requests to the pushed manifest, dialling
    included.
    """

    pulls: tuple[str, ...] = ()
    new_bytes: int = 0
    new_compressed: int = 0
    new_files: int = 0
    run_seconds: float = 0.0
    round_trips: int = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to build. ``dockerfile`` gets the bases' prefix; ``fill`` writes the rest of the
    context once.
    """

    name: str
    title: str
    dockerfile: Callable[[str], str]
    fill: Callable[[Path], None]
    work: Work


def lay_out(job: Job, registry: str) -> Path:
    """The job's context directory, with a Dockerfile whose bases are at ``registry``
    (``host:port``).
    """
    context = cache_directory() / "contexts" / job.name
    if not context.exists():
        partial = context.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        job.fill(partial)
        partial.rename(context)
    (context / "Dockerfile").write_text(job.dockerfile(f"{registry}/bases"))
    return context


def write_files(directory: Path, count: int, size: int, seed: int) -> None:
    """``count`` files of ``size`` bytes that compress as source code does (about 3:1), 50 to a
    directory.
    """
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randint(1, 6)).hex() for _ in range(_WORDS)]
    pool = " ".join(rng.choices(words, k=_POOL // 6)).encode()
    for number in range(count):
        folder = directory / f"d{number // 50:03}"
        folder.mkdir(parents=True, exist_ok=True)
        starts = (rng.randrange(len(pool) - 2048) for _ in range(-(-size // 2048)))
        data = b"".join(pool[start : start + 2048] for start in starts)
        (folder / f"f{number:05}.txt").write_bytes(data[:size])


def _nothing(_: Path) -> None:
    """The context holds its Dockerfile alone."""


def _j1(bases: str) -> str:
    return f"""FROM {bases}/many:1
ENV APP_HOME=/app APP_MODE=production
LABEL org.example.job=j1
CMD ["python3", "-V"]
"""


def _j2(bases: str) -> str:
    return f"""FROM {bases}/many:1
COPY files /srv/files
RUN echo built > /srv/built
CMD ["python3", "-V"]
"""


def _j2_fill(context: Path) -> None:
    write_files(context / "files", 5000, 20_000, seed=2)


def _j3(bases: str) -> str:
    stages = [
        f"""FROM {bases}/{name}:1 AS stage-{name}
COPY {name} /src
RUN mkdir /out && for i in $(seq 1 200); do cat /src/d000/f000*.txt | head -c 20000 > /out/{name}$i; done; sleep 2
"""
        for name in SIBLINGS
    ]
    copies = "".join(f"COPY --from=stage-{name} /out /opt/{name}\n" for name in SIBLINGS)
    return "\n".join(stages) + f"\nFROM {bases}/b:1\n{copies}CMD ['python3']\n".replace("'", '"')


def _j3_fill(context: Path) -> None:
    for number, name in enumerate(SIBLINGS):
        write_files(context / name, 500, 10_000, seed=30 + number)


JOBS = {
    job.name: job
    for job in (
        Job("J1", "metadata only on the many-layer base", _j1, _nothing, Work()),
        Job(
            "J2",
            "COPY of 5,000 files, 100 MB, and a trivial RUN on the many-layer base",
            _j2,
            _j2_fill,
            Work(("many",), 100_000_000, 40_000_000, 5000),
        ),
        Job(
            "J3",
            "four independent stages with a RUN of 2 s, four COPY --from",
            _j3,
            _j3_fill,
            Work(tuple(SIBLINGS), 16_000_000, 200_000, 800, run_seconds=2.1),
        ),
    )
}
