"""What one load process measured, and several of them put together as the timings of the run."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from perfgate.client.stream import read
from perfgate.client.tape import Tape
from perfgate.timings import OK, Floats, Ints, Timings

_NEVER = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """The requests of one process; all times are monotonic nanoseconds, -1 for never.

    Args:
        indices: number of each request in the whole run. Shape (k,).
        stamps: scheduled, ready, sent, ended. Shape (4, k).
        tokens: prompt and output tokens. Shape (2, k).
        outcome, detail: of each request. Length k.
        events: of all requests, one after the other.
        counts: events of each request. Shape (k,).
        lags: how late the loop was at each beat.
        cpu_s: CPU time of the process during the run.
        wait_s: how long its thread waited for a processor during the run; None where the kernel does not tell.
        read_s: CPU time spent on reading the recordings afterwards.
        connections: connections opened, warm-up and pool filling included.
        reads: reads of the measured requests.
        received: bytes of their responses.
        warmup_failures: one line each.
    """

    indices: Ints
    stamps: Ints
    tokens: Ints
    outcome: tuple[str, ...]
    detail: tuple[str, ...]
    events: Ints
    counts: Ints
    lags: Ints
    cpu_s: float
    wait_s: float | None
    read_s: float
    connections: int
    reads: int
    received: int
    warmup_failures: tuple[str, ...]


def read_part(
    tape: Tape,
    *,
    indices: Sequence[int],
    lags: array[int],
    cpu_s: float,
    wait_s: float | None,
    connections: int,
    warmup_failures: Sequence[str],
    count_events: bool,
) -> Part:
    """Reads the recordings of one process."""
    begun = time.process_time()
    rows: list[int] = []
    stamps: list[tuple[int, int, int, int]] = []
    tokens: list[tuple[int, int]] = []
    outcome: list[str] = []
    detail: list[str] = []
    events = array("q")
    counts: list[int] = []
    reads = received = 0
    for recording in tape.play():
        reading = read(recording, count_events=count_events)
        rows.append(indices[recording.index])
        stamps.append((recording.scheduled_ns, recording.ready_ns, recording.sent_ns, recording.ended_ns))
        tokens.append((reading.prompt_tokens, reading.output_tokens))
        outcome.append(reading.outcome)
        detail.append(reading.detail)
        events.extend(reading.events)
        counts.append(len(reading.events))
        reads += len(recording.stamps)
        received += len(recording.raw)
    return Part(
        indices=np.array(rows, dtype=np.int64),
        stamps=np.array(stamps, dtype=np.int64).reshape(-1, 4).T.copy(),
        tokens=np.array(tokens, dtype=np.int64).reshape(-1, 2).T.copy(),
        outcome=tuple(outcome),
        detail=tuple(detail),
        events=np.frombuffer(events.tobytes(), dtype=np.int64),
        counts=np.array(counts, dtype=np.int64),
        lags=np.frombuffer(lags.tobytes(), dtype=np.int64),
        cpu_s=cpu_s,
        wait_s=wait_s,
        read_s=time.process_time() - begun,
        connections=connections,
        reads=reads,
        received=received,
        warmup_failures=tuple(warmup_failures),
    )


def assemble(
    parts: Sequence[Part],
    *,
    count: int,
    begin_ns: int,
    due_ns: Ints | None,
    slots: int | None,
    started: datetime,
) -> Timings:
    """Puts the parts of all processes together; all share one clock, so nothing is shifted.

    Args:
        parts: one a process.
        count: requests of the run; those in no part were not sent.
        begin_ns: t0.
        due_ns: when each was due in an open loop.
        slots: target concurrency.
        started: wall clock at t0.
    """
    outcome, detail = ["not_sent"] * count, ["the run's deadline passed before its turn"] * count
    stamps = np.full((4, count), _NEVER, dtype=np.int64)
    if due_ns is not None:
        stamps[0] = due_ns
    tokens = np.full((2, count), -1, dtype=np.int64)
    pieces: list[Ints] = [np.empty(0, dtype=np.int64)] * count
    for part in parts:
        stamps[:, part.indices] = part.stamps
        tokens[:, part.indices] = part.tokens
        cuts = np.split(part.events, np.cumsum(part.counts)[:-1]) if len(part.counts) else []
        for row, index in enumerate(part.indices.tolist()):
            outcome[index], detail[index] = part.outcome[row], part.detail[row]
            pieces[index] = cuts[row]
    counts = np.array([len(piece) for piece in pieces], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    events = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
    has = counts > 0
    first, last = np.full(count, _NEVER, dtype=np.int64), np.full(count, _NEVER, dtype=np.int64)
    first[has], last[has] = events[offsets[:-1][has]], events[offsets[1:][has] - 1]
    scheduled, ready, sent, ended = (_seconds(row, begin_ns) for row in stamps)
    finished = ended[np.isfinite(ended)]
    return Timings(
        scheduled=scheduled,
        ready=ready,
        sent=sent,
        first=_seconds(first, begin_ns),
        last=_seconds(last, begin_ns),
        ended=ended,
        prompt_tokens=tokens[0],
        output_tokens=tokens[1],
        outcome=tuple(outcome),
        detail=tuple(detail),
        events=(events - begin_ns) / 1e9,
        offsets=offsets,
        duration=float(finished.max()) if len(finished) else 0.0,
        target_concurrency=min(slots, count) if slots is not None else None,
        closed_loop=due_ns is None,
        client=_of_itself(parts, sent=sent, ready=ready),
        started=started,
        warmup_failures=tuple(line for part in parts for line in part.warmup_failures),
    )


def outcomes(tape: Tape, *, count_events: bool) -> list[str]:
    """What went wrong in a set of recordings nobody measures, one line each."""
    lines = []
    for recording in tape.play():
        reading = read(recording, count_events=count_events)
        if reading.outcome != OK:
            lines.append(f"{reading.outcome}: {reading.detail}")
    return lines


def _seconds(stamps: Ints, begin_ns: int) -> Floats:
    return np.where(stamps == _NEVER, np.nan, (stamps - begin_ns) / 1e9)


def _of_itself(parts: Sequence[Part], *, sent: Floats, ready: Floats) -> dict[str, float]:
    lags = np.concatenate([part.lags for part in parts]) / 1e6 if parts else np.empty(0)
    dispatch = (sent - ready)[np.isfinite(sent)] * 1e3
    about: dict[str, float] = {
        "processes": float(len(parts)),
        "cpu_s": sum(part.cpu_s for part in parts),
        "read_cpu_s": sum(part.read_s for part in parts),
        "connections": float(sum(part.connections for part in parts)),
        "reads": float(sum(part.reads for part in parts)),
        "received_bytes": float(sum(part.received for part in parts)),
        "lag_beats": float(len(lags)),
    }
    waits = [part.wait_s for part in parts if part.wait_s is not None]
    if waits:
        about["cpu_wait_s"] = max(waits)
    for name, values in (("lag", lags), ("dispatch", dispatch)):
        if len(values):
            about[f"{name}_mean_ms"] = float(values.mean())
            about[f"{name}_p99_ms"] = float(np.percentile(values, 99))
            about[f"{name}_max_ms"] = float(values.max())
    return about
