"""Where a step is executed, and what every kind of step does with its result."""

from __future__ import annotations

from asyncbuild.build.foresight import Foresight
from asyncbuild.build.guess import Guesses
from asyncbuild.build.root import Addition
from asyncbuild.build.session import Session, UploadSessions
from asyncbuild.build.stage import Change, StageState
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.nouns import PlanStage, Step
from asyncbuild.records import dataclass
from asyncbuild.report import events
from asyncbuild.rootfs.users import owner_needs_names, resolve_owner
from asyncbuild.rootfs.view import ChangeSetTree, View


@dataclass(frozen=True, slots=True, eq=False)
class At:
    """Where a step is executed: its session and stage, what is planned, and the state before it."""

    session: Session
    stage: PlanStage
    step: Step
    named: events.Step
    state: StageState
    guesses: Guesses
    foresight: Foresight
    more_runs: bool = False
    emptied: frozenset[str] = frozenset()
    """Directories of which nothing gets into a layer."""

    @property
    def made_ns(self) -> int:
        """The time (ns since the epoch) of files and directories that have none of their own."""
        return self.session.job.created * 10**9

    @property
    def published(self) -> bool:
        """Whether the step's layer is a layer of the image."""
        return self.session.publishes(self.stage.index)

    @property
    def packed(self) -> bool:
        """Whether a layer is made of what the step changes."""
        return self.published or self.session.cache.packs_everything


def with_changes(at: At, changes: ChangeSet, uploads: UploadSessions) -> Change:
    """The root with a change set on top, and its layer if one is wanted."""
    session = at.session
    root = at.state.root
    written = session.materialise(changes)
    if changes:
        root = root.with_addition(Addition(ChangeSetTree(changes), written.directory))
        if at.more_runs:
            written.directory()  # a RUN will need it: it is written while the base is on its way
    layer = at.foresight.used(at.named, changes)
    if layer is None and at.packed:
        layer = session.packer.changes(at.named, changes, at.emptied)
        if at.published:
            session.publish(layer, uploads)
    return Change(root, layer, written.work, changes)


def text_of(view: View, path: str) -> str:
    """A root's file as text; what is not there is empty, and bytes that are no UTF-8 do not matter."""
    return (view.read(path) or b"").decode("utf-8", "surrogateescape")


def owner_of(view: View, chown: str) -> tuple[int, int] | None:
    """The (uid, gid) that ``--chown`` names in this root; None without one."""
    if not chown:
        return None
    if not owner_needs_names(chown):
        return resolve_owner(chown, "", "")
    return resolve_owner(chown, text_of(view, "etc/passwd"), text_of(view, "etc/group"))
