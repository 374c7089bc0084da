"""However many steps hit, a rebuild on another machine waits for a handful of answers and fetches no layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from asyncbuild.build.request import CachePlace
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import Outcome, StepFinished
from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, Recorder, World, add_busybox, manifest_of

STEPS = 30
MOST = 15
"""Dependent round trips that a rebuild may take."""
PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)


class WaveDouble(RegistryDouble):
    """Answers only when the build can do nothing more without an answer, and then all that was asked.

    So the number of waves is that of the round trips which had to wait for one another.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.waves = 0
        self._gate: trio.Event | None = None

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer one request, together with all others that are under way."""
        if self._gate is not None:
            await self._gate.wait()
        else:
            self._gate = gate = trio.Event()
            try:
                await wait_all_tasks_blocked(0.02)
            finally:
                self.waves += 1
                self._gate = None
                gate.set()
        return await super().handle(asked, entry)


def test_thirty_hits_on_another_machine(shm_path: Path) -> None:
    """Thirty steps, all in a registry's cache: few dependent round trips, and no layer is fetched."""
    double = WaveDouble()
    add_busybox(double)
    lines = [f"FROM {HOST}/base/busybox"]
    for number in range(STEPS // 3):
        lines += [f"COPY file /copy{number}", f"WORKDIR /work{number}", f"RUN echo {number} > made"]
    found = []
    for name, more in [("one", {"cache_to": (PLACE,)}), ("other", {"cache_from": (PLACE,)})]:
        (shm_path / name).mkdir()
        world = World.below(shm_path / name, double)
        world.write({"file": "content"})
        recorder = Recorder()
        double.log.clear()
        double.waves = 0
        request = world.request("\n".join(lines) + "\n", "out:1", **more)
        result = trio.run(partial(world.build, request, recorder=recorder))
        outcomes = [item.outcome for item in recorder.of(StepFinished)]
        found.append((str(result.manifest.digest), outcomes.count(Outcome.CACHED)))
    assert found == [(found[0][0], 0), (found[0][0], STEPS)]
    layers = {layer["digest"] for layer in manifest_of(double, "out", "1")["layers"]}
    assert len(layers) > STEPS // 2
    asked = {item.path.rpartition("/")[2] for item in double.log if item.method == "GET"}
    assert asked
    assert not asked & layers
    assert 0 < double.waves <= MOST
