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


def recorded_minutes(workloads: Sequence[Sequence[BootRecord]]) -> float | None:
    """Minutes of one boot that serves these workloads in turn, by what stored boots of each say of themselves; None where one does not."""
    ready = [boot.metrics["ready_s"] for boots in workloads for boot in boots if "ready_s" in boot.metrics]
    if not ready:
        return None
    seconds = math.fsum(ready) / len(ready)
    for boots in workloads:
        runs = [math.fsum(run.duration_s or math.nan for run in boot.runs) for boot in boots]
        seconds += math.fsum(runs) / len(runs) if runs else math.nan
    return seconds / 60 if math.isfinite(seconds) else None


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
