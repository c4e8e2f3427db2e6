"""Raw per-request times of one run, as arrays: what a client saw, before anything is computed from it.

Times are seconds since the run began (``t0``, just before the first arrival) on the monotonic clock that ``time.perf_counter``
reads; NaN means "did not happen". Token counts are -1 where the server did not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perfgate.errors import LoadError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

OK = "ok"


@dataclass(frozen=True, kw_only=True, eq=False)
class Timings:
    """What happened to each request of one run; row *i* belongs to prompt *i*.

    An *event* is an SSE message with non-empty ``choices``; messages that only carry usage are none.

    Args:
        scheduled: when the request was due: its arrival in an open loop, its slot's becoming free in a closed one. Shape (n,).
        ready: when nothing but the client held it back: due, and a slot free. Shape (n,).
        sent: just before the client began to send it. Shape (n,).
        first: first event. Shape (n,).
        last: last event. Shape (n,).
        ended: end of the response, or when the request failed. Shape (n,).
        prompt_tokens: from the response's usage. Shape (n,).
        output_tokens: from the response's usage, or events counted where that was asked for. Shape (n,).
        outcome: ``"ok"``, or what went wrong, one of `perfgate.client.stream.OUTCOMES`. Length n.
        detail: the particulars of a failure; empty for ``"ok"``. Length n.
        events: time of every event of every request, request after request. Shape (e,).
        offsets: ``events[offsets[i]:offsets[i + 1]]`` belong to request *i*. Shape (n + 1,).
        duration: from t0 until the last response ended, in seconds.
        target_concurrency: slots of a closed loop, or of a capped open loop; None without a cap.
        closed_loop: whether the next request waits for a free slot only.
        client: what the client knows of itself, by name, units in the name.
        started: wall clock at t0.
        warmup_failures: what went wrong with warm-up requests, one line each.
    """

    scheduled: Floats
    ready: Floats
    sent: Floats
    first: Floats
    last: Floats
    ended: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    outcome: tuple[str, ...]
    detail: tuple[str, ...]
    events: Floats
    offsets: Ints
    duration: float
    target_concurrency: int | None
    closed_loop: bool
    client: Mapping[str, float] = field(default_factory=dict)
    started: datetime | None = None
    warmup_failures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.outcome)
        for name in (*_PER_REQUEST, "detail"):
            if len(getattr(self, name)) != count:
                raise LoadError(
                    f"timings: {name} has {len(getattr(self, name))} rows where outcome has {count}"
                )
        if len(self.offsets) != count + 1 or (count and int(self.offsets[-1]) != len(self.events)):
            raise LoadError(
                f"timings: offsets do not divide {len(self.events)} events among {count} requests"
            )
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which requests succeeded. Shape (n,)."""
        return np.array([outcome == OK for outcome in self.outcome], dtype=np.bool_)

    @property
    def ttft(self) -> Floats:
        """First event − sent, in seconds, NaN without an event. Shape (n,)."""
        return self.first - self.sent

    @property
    def scheduled_ttft(self) -> Floats:
        """First event − scheduled, in seconds: the waiting that a client's own queue would hide. Shape (n,)."""
        return self.first - self.scheduled

    @property
    def e2el(self) -> Floats:
        """Last event − sent, in seconds. Shape (n,)."""
        return self.last - self.sent

    @property
    def tpot(self) -> Floats:
        """(E2EL − TTFT)/(n − 1) in seconds, n the output tokens; NaN for n ≤ 1. Shape (n,)."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        spent: Floats = (self.last - self.first) / gaps
        return spent

    @property
    def event_counts(self) -> Ints:
        """Events of each request. Shape (n,)."""
        return np.diff(self.offsets)

    def itl(self, chosen: NDArray[np.bool_] | None = None) -> Floats:
        """Gaps between neighbouring events of one request, of all chosen requests, in seconds. One-dimensional.

        Tokens that came in one event add no gap; events that came in one read are no time apart.
        """
        gaps = np.diff(self.events)
        keep = np.ones(len(gaps), dtype=np.bool_)
        borders = self.offsets[1:-1]
        keep[borders[(borders > 0) & (borders <= len(gaps))] - 1] = False
        if chosen is not None:
            owner = np.repeat(np.arange(len(self)), self.event_counts)
            keep &= chosen[owner[1:]] if len(owner) else keep
        return gaps[keep]

    def in_flight(self) -> tuple[Floats, Ints]:
        """Requests in flight as a step function.

        Returns:
            Times at which the number changes, ascending, and the number from then on. Both of shape (k,).
        """
        went = np.isfinite(self.sent) & np.isfinite(self.ended)
        starts, ends = self.sent[went], self.ended[went]
        times = np.concatenate([starts, ends])
        steps = np.concatenate([np.ones(len(starts), dtype=np.int64), -np.ones(len(ends), dtype=np.int64)])
        # At one instant an end comes before a start: a slot that is handed on was never held twice.
        order = np.lexsort((steps, times))
        return times[order], np.cumsum(steps[order])

    def peak_concurrency(self) -> int:
        """Most requests in flight at one time; 0 when none was sent."""
        _, counts = self.in_flight()
        return int(counts.max()) if len(counts) else 0

    def steady_window(self, share: float = 0.95) -> tuple[float, float] | None:
        """From when at least ``share`` of the target concurrency is first in flight until it last is, in seconds.

        None for an uncapped open loop, or when the target was never reached.
        """
        if self.target_concurrency is None:
            return None
        times, counts = self.in_flight()
        reached = np.flatnonzero(counts >= share * self.target_concurrency)
        if not len(reached):
            return None
        # The count falls below at the change after the last one that reached it.
        begin, end = float(times[reached[0]]), float(times[min(reached[-1] + 1, len(times) - 1)])
        return (begin, end) if end > begin else None


_PER_REQUEST = ("scheduled", "ready", "sent", "first", "last", "ended", "prompt_tokens", "output_tokens")
