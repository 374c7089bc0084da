"""What FROM, ``COPY --from`` and ``RUN --mount=from=`` name: a stage, an image, or scratch.

1. A stage's name shadows an image's, and a named build context the image of its name; names are
   compared in lower case, numbers count from 0.
2. Only earlier stages can be named. ``FROM x`` before a stage x means the image (as in BuildKit);
   ``COPY --from=x`` before it, or in it, is an error.
3. Of several earlier stages with one name the nearest is meant.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from asyncbuild.dockerfile.instructions import Copy, From, Instruction, Run
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.dockerfile.words import WordError, expand_word
from asyncbuild.errors import DockerfileError, SourceLocation
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import InvalidReference
from asyncbuild.plan.contexts import NamedContexts, real_reference
from asyncbuild.plan.nouns import Base, ImageRef, Scratch, StageRef
from asyncbuild.records import dataclass, field


@dataclass(frozen=True, slots=True)
class StageNames:
    """The stages of a Dockerfile as they are named; ``names`` has one entry per stage."""

    names: tuple[str | None, ...]
    platform: Platform
    contexts: NamedContexts = field(default_factory=NamedContexts)
    _places: Mapping[str, Sequence[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Where each name stands, once for all look-ups: there may be thousands of stages."""
        places: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            if name is not None:
                places.setdefault(name, []).append(index)
        object.__setattr__(self, "_places", places)

    @classmethod
    def of(
        cls, froms: Sequence[From], platform: Platform, contexts: NamedContexts | None = None
    ) -> StageNames:
        """From the FROM lines in order; ``platform`` is that of images that name none."""
        return cls(tuple(item.name for item in froms), platform, contexts or NamedContexts())

    def earlier(self, name: str, before: int) -> int | None:
        """The nearest stage called ``name`` with an index below ``before``."""
        places = self._places.get(name.lower(), ())
        found = bisect_left(places, before)
        return places[found - 1] if found else None

    def hint(self, name: str, before: int) -> str | None:
        """A stage that may be meant by an image's name that does not exist."""
        return did_you_mean(name, [known for known in self.names[:before] if known])

    def replaced(self, index: int, platform: Platform) -> Base | None:
        """What stands for stage ``index`` because a named context has its name; None if none has."""
        name = self.names[index]
        return None if name is None else self.contexts.find(name, platform)

    def base(self, name: str, index: int, platform: Platform, location: SourceLocation) -> Base:
        """What ``FROM name`` of stage ``index`` means."""
        if not name:
            raise DockerfileError("the name of the base image is empty", location=location)
        stage = self.earlier(name, index)
        if stage is not None:
            return StageRef(stage)
        return self._image(name, index, platform, location)

    def source(self, name: str, index: int, location: SourceLocation) -> Base:
        """What ``--from=name`` means in stage ``index``. Raises DockerfileError."""
        if re.fullmatch(r"[+-]?[0-9]{1,9}", name):
            return self._numbered(int(name), index, location)
        stage = self.earlier(name, index)
        if stage is not None:
            return StageRef(stage)
        later = self._places.get(name.lower(), ())
        if later:
            which = "this very stage" if later[0] == index else f"stage {name}, which comes later"
            hint = "a stage can only use stages that stand above it"
            raise DockerfileError(f"--from names {which}", hint=hint, location=location)
        return self._image(name, index, self.platform, location)

    def _numbered(self, number: int, index: int, location: SourceLocation) -> Base:
        if 0 <= number < index:
            return StageRef(number)
        if 0 <= number < len(self.names):
            which = "this very stage" if number == index else f"stage {number}, which comes later"
            message = f"--from names {which}"
        else:
            message = f"there is no stage {number}"
        hint = (
            f"the stages before this one are 0 to {index - 1}"
            if index
            else "this is the first stage"
        )
        raise DockerfileError(message, hint=hint, location=location)

    def _image(self, name: str, index: int, platform: Platform, location: SourceLocation) -> Base:
        context = self.contexts.find(name, platform)
        if context is not None:
            return context
        if name == "scratch":
            return Scratch()
        try:
            return ImageRef(real_reference(name), platform)
        except InvalidReference as error:
            hint = self.hint(name, index)
            raise DockerfileError(str(error), hint=hint, location=location) from None


def sources_in(
    instruction: Instruction, find: Callable[[str, SourceLocation], Base]
) -> tuple[Base | None, ...]:
    """The sources of a step (see `Step.sources`); ``find`` is `StageNames.source` for its stage."""
    if isinstance(instruction, Copy) and instruction.from_:
        _check_constant(instruction.from_, instruction.location)
        return (find(instruction.from_, instruction.location),)
    if isinstance(instruction, Run):
        return tuple(
            find(mount.from_, instruction.location) if mount.from_ else None
            for mount in instruction.mounts
        )
    return ()


def _check_constant(name: str, location: SourceLocation) -> None:
    try:
        constant = expand_word(name, {}).text == name
    except WordError:
        constant = False
    if not constant:
        hint = "define a stage with FROM, which may use an ARG before the first FROM, and name that"
        raise DockerfileError("--from cannot name variables", hint=hint, location=location)
