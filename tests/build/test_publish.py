"""What comes of a push that a registry does not want."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from asyncbuild.errors import PushFailed
from asyncbuild.report.events import ImagePushed, WarningRaised
from asyncbuild.testing.faults import Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, Recorder, World, add_busybox

WORDS = (
    b'{"errors": [{"code": "DENIED", "message": "The image tag \'1\' already exists and cannot be'
)
WORDS += b' overwritten because the tag is immutable."}]}'


def world_with(directory: Path, answer: Respond) -> World:
    """A registry that answers the tag ``1`` like that."""
    double = RegistryDouble()
    add_busybox(double)
    double.faults.add(Rule(answer, "PUT", "/manifests/1$", times=None))
    return World.below(directory, double)


def test_an_immutable_tag_may_stay(shm_path: Path) -> None:
    """The other tags are pushed, and a warning says what was not."""
    world, recorder = world_with(shm_path, Respond(400, WORDS)), Recorder()
    dockerfile = f"FROM {HOST}/base/busybox\nLABEL a=b\n"
    request = world.request(dockerfile, "app:1", "app:2", keep_immutable_tags=True)

    async def build() -> None:
        await world.build(request, recorder=recorder)

    trio.run(build)
    assert [str(event.reference) for event in recorder.of(ImagePushed)] == [f"{HOST}/app:2"]
    (warning,) = recorder.of(WarningRaised)
    assert warning.text == f"{HOST}/app:1 is immutable and stays as it is"


@pytest.mark.parametrize(("keep", "body"), [(False, WORDS), (True, b"something else")])
def test_other_refusals_fail(shm_path: Path, *, keep: bool, body: bytes) -> None:
    """Without the flag, or for another reason, the push has failed."""
    world = world_with(shm_path, Respond(400, body))
    with pytest.raises(PushFailed):
        world.run(f"FROM {HOST}/base/busybox\n", "app:1", keep_immutable_tags=keep)
