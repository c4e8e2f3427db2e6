"""Autotune and JIT events of a live vLLM: the file that the recorder in each process appends to, and how it is read.

One JSON object a line, written with a single append, so that processes do not mix. A process says ``start`` when its recorder is in
place; a file without one proves nothing, because nobody was recording. ``ready`` follows when the process has finished its warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from perfgate.autotune.eventlog import VARIABLE
from perfgate.errors import CoverageError
from perfgate.records import Record


class Event(Record):
    """One line of an events file."""

    kind: Literal["start", "ready", "autotune", "jit", "error"]
    time: float
    """Seconds since the epoch, when it was over."""
    pid: int
    process: str = ""
    after_ready: bool = False
    """Whether the process itself had finished its warm-up."""
    kernel: str = ""
    key: tuple[str, ...] = ()
    """The autotune key, or one text that is the JIT specialisation."""
    winner: str = ""
    timings_ms: dict[str, float | None] = {}
    """Median time by configuration; None where the configuration could not run."""
    failed: int = 0
    """Configurations that could not run (out of resources, refused by the assembler)."""
    duration_s: float | None = None
    cache_hit: bool = False
    """Whether the winner came from Triton's disk cache, without a benchmark."""
    triton: str | None = None
    """On ``start``: Triton's version; None where the process has no usable Triton."""
    text: str = ""
    """On ``error``: what went wrong in the recorder."""


def witnessed(path: Path) -> tuple[Event, ...]:
    """All events of a file, in the order they were written: what happened, which need not be all that happened.

    A last line without an end was cut by the death of its process and is left out.

    Raises:
        CoverageError: there is no file, or a line is not an event.
    """
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CoverageError(
            f"no autotune events in {path}: {error.strerror}",
            remedy=f"Start vLLM with {VARIABLE}={path} in an environment that has perfgate installed.",
        ) from error
    lines = content.split("\n")
    return tuple(_event(line, path, number) for number, line in enumerate(lines[:-1], 1) if line)


def read_events(path: Path) -> tuple[Event, ...]:
    """The same of a file that also proves what did not happen: every process that wrote to it recorded until its end.

    Raises:
        CoverageError: as `witnessed`; or no process recorded, or a recorder failed.
    """
    events = witnessed(path)
    failed = [event for event in events if event.kind == "error"]
    if failed:
        raise CoverageError(
            f"the recorder in process {failed[0].pid} failed: {failed[0].text}",
            remedy="What it did not record is not known; see docs/coverage.md for the Triton versions it works with.",
        )
    if not any(event.kind == "start" for event in events):
        raise CoverageError(
            f"{path} has no start of a recorder: nothing was recorded, which is not the same as no event",
            remedy="Check that perfgate is installed in vLLM's environment and that VLLM_PLUGINS does not leave it out.",
        )
    return events


def _event(line: str, path: Path, number: int) -> Event:
    try:
        return Event.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise CoverageError(
            f"{path}:{number}: not an event: {'.'.join(map(str, first['loc'])) or line[:60]!r}: {first['msg']}",
            remedy="The file is written by perfgate's recorder only; remove it and start the server again.",
        ) from error


def late_events(events: Iterable[Event], *, ready_at: float | None = None) -> tuple[Event, ...]:
    """Autotune benchmarks and JIT compiles that a request had to wait for.

    Args:
        events: of all processes of a server.
        ready_at: when the server answered first, seconds since the epoch; where not given, each process's own end of warm-up decides.
    """
    return tuple(
        event
        for event in events
        if event.kind in ("autotune", "jit")
        and not event.cache_hit
        and (event.after_ready or (ready_at is not None and event.time > ready_at))
    )


def benched_configurations(events: Iterable[Event]) -> int | None:
    """Configurations that a server benchmarked before it was ready; a winner read from Triton's disk cache costs none.

    Returns:
        how many, over all processes; None where no process had a Triton that could be watched.
    """
    seen = tuple(events)
    if not any(event.kind == "start" and event.triton for event in seen):
        return None
    return sum(
        len(event.timings_ms)
        for event in seen
        if event.kind == "autotune" and not event.cache_hit and not event.after_ready
    )


def _seconds(duration: float) -> str:
    return f"{duration:.2f} s" if duration >= 0.1 else f"{duration * 1000:.1f} ms"


def describe(events: Iterable[Event]) -> str:
    """Events for people, one a line."""
    lines = []
    for event in events:
        what = "benchmarked" if event.kind == "autotune" else "compiled"
        took = f" in {_seconds(event.duration_s)}" if event.duration_s is not None else ""
        failed = f", {event.failed} configurations failed" if event.failed else ""
        configs = f" ({len(event.timings_ms)} configurations{failed})" if event.timings_ms else ""
        lines.append(
            f"{event.kernel} {what}{took}{configs} in process {event.pid}: {', '.join(event.key)[:300]}"
        )
    return "\n".join(lines)
