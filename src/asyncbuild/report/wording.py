"""How figures and events are worded; the same words in every form of progress."""

from __future__ import annotations

from asyncbuild.errors import SourceLocation
from asyncbuild.report.escape import one_line, printable
from asyncbuild.report.events import (
    BuildFailed,
    BuildFinished,
    BuildStarted,
    Direction,
    ImagePushed,
    ImageResolved,
    LayerPacked,
    LayerUnpacked,
    Outcome,
    OutputWritten,
    StageFinished,
    StageStarted,
    Statistics,
    Transfer,
    TransferFinished,
    TransferOutcome,
    WarningRaised,
)

Sentence = (
    BuildStarted
    | ImageResolved
    | StageStarted
    | StageFinished
    | TransferFinished
    | LayerUnpacked
    | LayerPacked
    | ImagePushed
    | OutputWritten
    | WarningRaised
    | BuildFinished
    | BuildFailed
)


def size(count: int) -> str:
    """Bytes for people, in powers of ten as registries and disks count: ``12.3 MB``."""
    if count < 1000:
        return f"{count} B"
    amount = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.95 or unit == "TB":
            break
    return f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people: ``0.04s``, ``12.3s``, ``4m 05s``, ``1h 02m``."""
    if seconds < 0.995:
        return f"{max(seconds, 0.0):.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def speed(count: int, seconds: float) -> str:
    """Bytes a second for people; empty when too little time passed to tell."""
    return f" ({size(round(count / seconds))}/s)" if seconds >= 0.01 and count else ""


def place(location: SourceLocation | None) -> str:
    """``Dockerfile:3: `` in front of a message, or nothing."""
    return f"{printable(location.file)}:{location.line}: " if location else ""


def plural(count: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sentence(event: Sentence) -> tuple[str, str]:
    """The subject (printed in front) and what happened to it, each on one line."""
    match event:
        case BuildStarted():
            names = ", ".join(printable(name) for name in event.names) or "an image without a name"
            work = f"{plural(event.stages, 'stage')}, {plural(event.steps, 'step')}"
            return "build", f"{names}: {work}"
        case ImageResolved():
            took = duration(event.seconds)
            return "resolve", f"{printable(str(event.reference))} is {event.digest} ({took})"
        case StageStarted():
            return (
                f"[{printable(event.stage)}]",
                f"FROM {one_line(event.base)}: {plural(event.steps, 'step')}",
            )
        case StageFinished():
            return f"[{printable(event.stage)}]", f"stage done in {duration(event.seconds)}"
        case TransferFinished():
            label, blob = transfer_words(event.transfer)
            return label, f"{blob}{_transfer(event)}"
        case LayerUnpacked():
            what = f"{plural(event.entries, 'entry')}, {size(event.size)}".replace(
                "entrys", "entries"
            )
            return "unpack", f"layer {event.diff_id.short}: {what} in {duration(event.seconds)}"
        case LayerPacked():
            what = (
                f"layer {event.digest.short}: {size(event.unpacked)}, {size(event.size)} compressed"
            )
            return f"[{printable(event.step.label)}]", f"{what}, in {duration(event.seconds)}"
        case ImagePushed():
            return "push", f"{printable(str(event.reference))} is {event.digest}"
        case OutputWritten():
            return event.kind, f"{printable(event.destination)} is {event.digest}"
        case WarningRaised():
            return "warning", f"{place(event.location)}{one_line(event.text)}"
        case BuildFinished():
            return "done", f"{event.digest} {summary(event.statistics)}"
        case BuildFailed():
            how = "cancelled" if event.cancelled else "failed"
            step = f"[{printable(event.step.label)}] " if event.step else ""
            return how, f"{step}{one_line(event.summary)}"


def transfer_words(transfer: Transfer) -> tuple[str, str]:
    """The direction, and which blob: ``pull`` and ``layer 0123456789ab``."""
    return transfer.direction.value, printable(transfer.blob)


def _transfer(event: TransferFinished) -> str:
    came = event.transfer.direction is Direction.PULL
    registry = printable(event.transfer.registry)
    match event.outcome:
        case TransferOutcome.MOUNTED:
            return f" mounted at {registry}"
        case TransferOutcome.EXISTS:
            return " is here already" if came else f" is at {registry} already"
        case TransferOutcome.FAILED:
            return f" failed after {size(event.moved)}, {'from' if came else 'to'} {registry}"
        case TransferOutcome.MOVED:
            took = f"{duration(event.seconds)}{speed(event.moved, event.seconds)}"
            return f": {size(event.moved)} {'from' if came else 'to'} {registry} in {took}"


def outcome(how: Outcome, seconds: float) -> str:
    """How a step ended: ``done in 1.2s``, ``cached``."""
    match how:
        case Outcome.EXECUTED:
            return f"done in {duration(seconds)}"
        case Outcome.FAILED:
            return f"FAILED after {duration(seconds)}"
        case Outcome.CACHED | Outcome.SKIPPED:
            return str(how.value)


def summary(facts: Statistics) -> str:
    """``in 3.2s: received 12.3 MB, sent 1.0 MB, 14 requests; …``."""
    counts = (
        (facts.layers_pulled, "pulled"),
        (facts.layers_pushed, "pushed"),
        (facts.layers_mounted, "mounted"),
        (facts.layers_existing, "already there"),
    )
    layers = ", ".join(f"{count} {what}" for count, what in counts if count)
    moved = f"received {size(facts.bytes_received)}, sent {size(facts.bytes_sent)}"
    text = f"in {duration(facts.seconds)}: {moved}, {plural(facts.requests, 'request')}"
    return f"{text}; layers: {layers}" if layers else text
