"""What a server's measurements will cost and can show, told before they start, and the minutes that they may take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from perfgate.metrics import METRICS
from perfgate.records import BootRecord

FEWEST_PAIRS = 2
"""A confirmation rests on two boots a side or more: of one, nobody knows whether the boot or the version was slow."""


@dataclass(kw_only=True)
class Allowance:
    """Minutes for everything beyond the screen of one server; they begin to run when this is made."""

    minutes: float = math.inf
    begun: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Minutes since it was made."""
        return (time.monotonic() - self.begun) / 60

    def allows(self, minutes: float) -> bool:
        """Whether something that takes so long would end in time."""
        return self.spent + minutes <= self.minutes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Minutes that one boot of a server with all its runs takes; None while nobody knows."""

    replicate: float | None
    runs: int
    """Runs on each boot, all workloads together."""

    def minutes(self, boots: int) -> float | None:
        """Of so many boots."""
        return None if self.replicate is None else boots * self.replicate


def expected_minutes(
    *, ready_s: Sequence[float], loaded_s: Sequence[float], stored: Sequence[Sequence[BootRecord]]
) -> float | None:
    """Minutes of one more boot with all its runs; None where nobody knows.

    Of boots the quickest counts: what is compiled and tuned when a server first starts is there for all that follow, and a plan that
    takes the first boot for the rule would find no time for any. How long they really take is watched while they run.

    Args:
        ready_s: seconds to ready of this session's boots.
        loaded_s: seconds that the runs of each took, all workloads together.
        stored: boots of the baselines, workload by workload; they stand in for runs that this session has not made.
    """
    ready = [
        *ready_s,
        *(boot.metrics["ready_s"] for boots in stored for boot in boots if "ready_s" in boot.metrics),
    ]
    runs = math.fsum(loaded_s) / len(loaded_s) if loaded_s else _recorded_runs(stored)
    return (min(ready) + runs) / 60 if ready and math.isfinite(runs) else None


def _recorded_runs(stored: Sequence[Sequence[BootRecord]]) -> float:
    """Seconds of the runs of one boot that serves these workloads in turn, by the baselines; NaN where one does not say."""
    if not stored:
        return math.nan
    means = []
    for boots in stored:
        seconds = [math.fsum(run.duration_s or math.nan for run in boot.runs) for boot in boots]
        means.append(math.fsum(seconds) / len(seconds) if seconds else math.nan)
    return math.fsum(means)


def size(boots: int, cost: Cost) -> str:
    """``6 boots, 12 runs, about 5 min``."""
    words = f"{boots} boots, {boots * cost.runs} runs"
    minutes = cost.minutes(boots)
    return f"{words}, {duration(minutes)}" if minutes is not None else words


def duration(minutes: float) -> str:
    """``about 5 min``, or seconds below two minutes."""
    return f"about {minutes:.0f} min" if minutes >= 2 else f"about {60 * minutes:.0f} s"


def shows(detectable: Sequence[tuple[str, float]]) -> str:
    """The smallest slowdown of each metric that is shown with 80% power, as the end of a sentence.

    Args:
        detectable: metric and fraction, of every workload; the same metric of several workloads is given as its range.
    """
    ranges: dict[str, list[float]] = {}
    for metric, effect in detectable:
        ranges.setdefault(metric, []).append(effect)
    words = [
        f"{METRICS[metric].label} {_range(found)}"
        for metric, found in ranges.items()
        if all(map(math.isfinite, found))
    ]
    unknown = [
        METRICS[metric].label for metric, found in ranges.items() if not all(map(math.isfinite, found))
    ]
    told = f"; shows a slowdown of {', '.join(words)} with 80% power" if words else ""
    if unknown:
        told += f"; without a noise model what it shows of {', '.join(unknown)} is known only afterwards"
    return told


def _range(effects: Sequence[float]) -> str:
    low, high = f"{min(effects):+.0%}", f"{max(effects):+.0%}"
    return low if low == high else f"{low} to {high}"
