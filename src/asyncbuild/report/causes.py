"""Why everything took as long as it took: every task of a build, each of its waits, and who ended the wait.

The event loop tells an instrument when a task begins a step, ends it, and is made runnable. Who is running
when another task is made runnable is the cause; if nobody is, the cause is outside: a socket, a thread, the
clock. So the chain of causes can be followed from the end of a build to its beginning (``perf/critical``)
without a word from the code that is measured. It costs some us for each step, and only with ``--trace``.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from asyncbuild.records import dataclass, field
from asyncbuild.report.trace import Span

SHORTEST = 1e-4
"""Seconds. Waits that are shorter are part of what their task does."""
_OUTSIDE = {
    "wait_readable": "socket",
    "wait_writable": "socket",
    "sleep": "clock",
    "to_thread_run_sync": "thread",
}
"""What trio waits for outside of the loop, by its function's name."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A task did nothing from ``start`` to ``end``, and could have gone on from ``due`` on. ``by`` is the
    number of the task that made it so, 0 for something outside of the loop; ``where`` it waited.
    """

    start: float
    due: float
    end: float
    by: int
    where: str


@dataclass(slots=True)
class TaskLife:
    """One task: its number, its name, the number of the task that began it, and its waits in order."""

    number: int
    name: str
    by: int
    start: float
    end: float | None = None
    waits: list[Wait] = field(default_factory=list)
    blocked: float | None = None
    due: float = 0.0
    due_by: int = 0
    where: str = ""


class TaskTrace(trio.abc.Instrument):
    """An instrument for one `trio.run`. Times are seconds since ``start`` of ``clock``."""

    def __init__(self, clock: Callable[[], float], start: float) -> None:
        self._clock = clock
        self._start = start
        self._lives: dict[trio.lowlevel.Task, TaskLife] = {}
        self._running: TaskLife | None = None
        self.lives: list[TaskLife] = []

    @property
    def current(self) -> TaskLife | None:
        """The task that is running."""
        return self._running

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """A task was begun; those of the loop itself are outside."""
        if task.name.startswith("<") or task.parent_nursery is None:
            return
        by = 0 if self._running is None else self._running.number
        life = TaskLife(len(self.lives) + 1, _plain(task.name), by, self._now())
        self._lives[task] = life
        self.lives.append(life)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """A task was made runnable."""
        life = self._lives.get(task)
        if life is not None:
            life.due = self._now()
            life.due_by = 0 if self._running is None else self._running.number

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task goes on."""
        life = self._running = self._lives.get(task)
        if life is None or life.blocked is None:
            return
        now = self._now()
        if now - life.blocked >= SHORTEST and life.due_by != life.number:
            life.waits.append(Wait(life.blocked, life.due, now, life.due_by, life.where))
        life.blocked = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task waits, or has ended."""
        life, self._running = self._running, None
        if life is not None and life.end is None:
            life.blocked = life.due = self._now()
            life.where = _place(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """A task has ended."""
        life = self._lives.pop(task, None)
        if life is not None:
            life.end = self._now()

    def cause(self, number: int, start: float, end: float) -> str:
        """What task ``number`` waited for longest between ``start`` and ``end``."""
        waits = self.lives[number - 1].waits
        inside = [wait for wait in waits if wait.end > start and wait.start < end]
        if not inside:
            return ""
        longest = max(inside, key=lambda wait: min(wait.end, end) - max(wait.start, start))
        return self._name(longest.by) or longest.where

    def spans(self) -> list[Span]:
        """A span for each task, and one inside it for each of its waits."""
        found = []
        now = self._now()
        free: list[float] = []
        for life in self.lives:
            end = now if life.end is None else life.end
            lane = next((n for n, until in enumerate(free) if until <= life.start), len(free))
            free[lane : lane + 1] = [end]
            name = f"tasks {lane + 1}"
            known = (("task", life.number), ("by", life.by))
            found.append(Span(life.name, "task", life.start, end, name, known, self._name(life.by)))
            found += [self._waited(life, wait, name) for wait in life.waits]
        return found

    def _waited(self, life: TaskLife, wait: Wait, lane: str) -> Span:
        known = (("task", life.number), ("by", wait.by), ("due", round(wait.due * 1e6, 3)))
        cause = self._name(wait.by) or wait.where
        args = (*known, ("where", wait.where))
        return Span(f"waits for {cause}", "wait", wait.start, wait.end, lane, args, cause)

    def _name(self, number: int) -> str:
        return self.lives[number - 1].name if number else ""

    def _now(self) -> float:
        return self._clock() - self._start


def _plain(name: str) -> str:
    """A task's name; a function's without its module."""
    return name.removeprefix("asyncbuild.").rpartition(".<locals>.")[2] if " " not in name else name


def _place(task: trio.lowlevel.Task) -> str:
    """Where a task waits: the two innermost of our functions, and what trio does for them."""
    ours: list[str] = []
    outside = ""
    for frame, _ in task.iter_await_frames():
        code = frame.f_code
        if "/asyncbuild/" in code.co_filename:
            ours.append(code.co_qualname.rpartition(".<locals>.")[2])
        elif code.co_name in _OUTSIDE:
            outside = _OUTSIDE[code.co_name]
            if outside == "thread":
                work = frame.f_locals.get("sync_fn")
                work = getattr(work, "func", work)
                outside = f"thread: {getattr(work, '__qualname__', work)}"
    names = " > ".join(ours[-2:])
    return f"{names} ({outside})" if outside else names
