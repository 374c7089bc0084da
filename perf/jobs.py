"""The bench's jobs: what is built. Contexts are generated, the same bytes for every tool and on every
day.

J1 metadata only; J2 a large context and a trivial RUN on the many-layer base; J3 four independent
stages and a final one; J4 is J3 again with a warm cache in the registry, J4c after one file changed; J5 a
cached RUN, then metadata; J6 thirty cached steps; J7 a large layer each way; J8 many small layers for two
destinations. A job says what its limit depends on (`Work`), and from which state it starts.
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
    that after gzip, ``largest``: the largest of them after gzip, ``new_files``: in how many files. ``run_seconds``: the longest chain of RUN's own
    time. ``round_trips``: the longest chain of dependent requests to the pushed manifest, dialling
    included: cold these are the connection, the base's manifest, its configuration, the image's layers and
    configuration, its manifest. A cache can hold what the base's configuration says, so a cached build need
    not ask for it; where a RUN is executed, the base's layers are one more.
    """

    pulls: tuple[str, ...] = ()
    new_bytes: int = 0
    new_compressed: int = 0
    largest: int = 0
    new_files: int = 0
    run_seconds: float = 0.0
    round_trips: int = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to build. ``dockerfile`` gets the bases' prefix; ``fill`` writes the rest of the
    context once. ``state``: ``cold``, or ``cached`` (this tool built it before and exported its cache to the
    registry; nothing is left of it here). ``change`` writes what differs between that build (0) and the
    measured one (1). ``destinations``: how many names the image is pushed to.
    """

    name: str
    title: str
    dockerfile: Callable[[str], str]
    fill: Callable[[Path], None]
    work: Work
    state: str = "cold"
    change: Callable[[Path, int], None] | None = None
    destinations: int = 1


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
    _write(context / "Dockerfile", job.dockerfile(f"{registry}/bases"))
    return context


def _write(path: Path, text: str) -> None:
    """Unless it says so already: a run beside this one may be reading it."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


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


def _one_file(context: Path, turn: int) -> None:
    _write(context / "a" / "changed.txt", f"{turn}\n")


def _j5(bases: str) -> str:
    return f"""FROM {bases}/many:1
RUN cat /etc/os-release > /made && sleep 2
ENV APP_HOME=/app
LABEL org.example.job=j5
CMD ["python3", "-V"]
"""


def _j6(bases: str) -> str:
    steps = [
        f"COPY f{number} /srv/f{number}" if number % 2 else f"RUN echo {number} > /made-{number}"
        for number in range(30)
    ]
    return "\n".join([f"FROM {bases}/a:1", *steps, ""])


def _small_files(context: Path) -> None:
    for number in range(30):
        (context / f"f{number}").write_bytes(random.Random(number).randbytes(20_000))


def _j7(bases: str) -> str:
    return f"FROM {bases}/large:1\nRUN echo built > /built\nCOPY large /large-too\n"


def _j7_fill(context: Path) -> None:
    with (context / "large").open("wb") as file:
        for number in range(500):
            file.write(random.Random(number).randbytes(1_000_000))


def _j8(bases: str) -> str:
    copies = "".join(f"COPY f{number} /new/f{number}\n" for number in range(30))
    return f"FROM {bases}/small-layers:1\n{copies}"


JOBS = {
    job.name: job
    for job in (
        Job("J1", "metadata only on the many-layer base", _j1, _nothing, Work()),
        Job(
            "J2",
            "COPY of 5,000 files, 100 MB, and a trivial RUN on the many-layer base",
            _j2,
            _j2_fill,
            Work(("many",), 100_000_000, 40_000_000, 40_000_000, 5000),
        ),
        Job(
            "J3",
            "four independent stages with a RUN of 2 s, four COPY --from",
            _j3,
            _j3_fill,
            Work(tuple(SIBLINGS), 16_000_000, 200_000, 50_000, 800, run_seconds=2.1),
        ),
        Job(
            "J4",
            "J3, all of it cached in the registry",
            _j3,
            _j3_fill,
            Work(round_trips=4),
            "cached",
        ),
        Job(
            "J4c",
            "J3, cached in the registry but for one file of one stage",
            _j3,
            _j3_fill,
            Work(("a",), 4_000_000, 50_000, 50_000, 200, run_seconds=2.1, round_trips=5),
            "cached",
            _one_file,
        ),
        Job("J5", "a cached RUN, then metadata", _j5, _nothing, Work(round_trips=4), "cached"),
        Job("J6", "thirty steps, all cached", _j6, _small_files, Work(round_trips=4), "cached"),
        Job(
            "J7",
            "a layer of 500 MB each way, and a small RUN",
            _j7,
            _j7_fill,
            Work(("large",), 500_000_000, 500_000_000, 500_000_000, 1),
        ),
        Job(
            "J8",
            "thirty new small layers on 32 small layers, for two destinations",
            _j8,
            _small_files,
            Work(("small-layers",), 600_000, 600_000, 20_000, 30),
            destinations=2,
        ),
    )
}
