"""Change points and slow drift in one line of a history. Numbers in, numbers out.

A level that moved once is a change; a level that creeps is drift, and a sequence of small steps, each below what a gate excludes, is
how a stored baseline that is renewed again and again loses 10% without one failing verdict.

Change points: the values are replaced by the normal scores of their ranks, and ruptures' kernel change-point detection (linear
kernel: changes of the mean) finds the segmentation of least squares plus a penalty for each change. Ranks make the false-alarm rate
the same for every noise distribution: under "the sessions are exchangeable" every order of the scores is equally likely, so the
penalty that lets one line in a thousand show a change can be computed once, by drawing orders (``PENALTIES``). Outliers cost nothing,
and a segment needs three sessions. What ranks cannot protect from is dependence: see docs/history.md for the measured rates.

Drift: Kendall's tau between value and order (the Mann–Kendall test), at the same rate, where a straight line explains the values
better than the steps do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RATE = 0.001
"""False alarms a line: how often a line of exchangeable sessions shows a change (and how often drift)."""

SHORTEST = 14
"""Fewer sessions cannot show a change at this rate: even perfectly separated halves come up too often by chance."""

LONGEST = 200
"""Only so many of the newest sessions are looked at."""

SEGMENT = 3
"""Sessions that a level needs."""

PENALTIES: tuple[tuple[int, float], ...] = (
    (14, 9.23),
    (16, 10.10),
    (18, 10.55),
    (20, 11.07),
    (25, 12.08),
    (30, 12.85),
    (40, 13.78),
    (50, 14.43),
    (70, 15.30),
    (100, 15.84),
    (150, 16.55),
    (200, 17.43),
)
"""Sessions → penalty: the 99.9th percentile, over random orders of the scores, of the largest gain a change."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A level that moved between two sessions."""

    index: int
    """The first session of the new level."""
    before: float
    """Median level of the segment that ends here."""
    after: float
    """Median level of the segment that begins here."""

    @property
    def ratio(self) -> float:
        """Relative change of the level: +0.1 is ten per cent more; infinite from zero."""
        return self.after / self.before - 1 if self.before > 0 else math.inf


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A level that creeps over the whole line."""

    ratio: float
    """Relative change from the first session to the last, along the line of median slope."""
    p: float
    """Two-sided p-value of Kendall's tau."""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """What a line shows."""

    sessions: int
    """How many sessions were looked at."""
    changes: tuple[Change, ...] = ()
    drift: Drift | None = None
    note: str = ""
    """Why nothing can be shown, where that is so."""


def trend(values: Sequence[float], *, smallest: float = 0.0) -> Trend:
    """Looks for changes and drift in the newest sessions of a line.

    Args:
        values: the line, oldest first; finite, zero or more.
        smallest: the relative change that is worth showing (a metric's tolerance).

    Returns:
        the changes, or the drift, or a note why neither can be shown. ``Change.index`` counts from the beginning of ``values``.
    """
    line = np.asarray(values[-LONGEST:], dtype=np.float64)
    first = len(values) - len(line)
    if len(line) < SHORTEST:
        return Trend(
            sessions=len(line),
            note=f"{len(line)} sessions; {SHORTEST} are needed to show a change at {RATE:.1%} false alarms a line",
        )
    try:
        breaks = _breaks(line)
    except ImportError:
        return Trend(sessions=len(line), note="ruptures is not installed: pip install ruptures")
    changes = _worth_showing(line, breaks, smallest)
    drift = _drift(line, changes, smallest)
    return Trend(
        sessions=len(line),
        changes=()
        if drift
        else tuple(Change(index=first + at, before=before, after=after) for at, before, after in changes),
        drift=drift,
    )


def penalty(sessions: int) -> float:
    """The penalty of a line of that length, interpolated over the logarithm of the length.

    Raises:
        ValueError: too short for any penalty.
    """
    if sessions < SHORTEST:
        raise ValueError(f"{sessions} sessions, but a line needs {SHORTEST}")
    lengths, penalties = zip(*PENALTIES, strict=True)
    return float(np.interp(math.log(sessions), np.log(lengths), penalties))


def scores(line: FloatArray) -> FloatArray:
    """Normal scores of the ranks, scaled so that without ties their squares sum to their number; ties share their mean rank."""
    from scipy import (
        stats,
    )  # takes half a second to import, which a session that only adds to the history need not pay

    count = len(line)
    full = stats.norm.ppf((np.arange(count) + 0.5) / count)
    found: FloatArray = stats.norm.ppf((stats.rankdata(line) - 0.5) / count) / math.sqrt(
        float(np.mean(full**2))
    )
    return found


def _breaks(line: FloatArray) -> list[int]:
    from ruptures import KernelCPD

    detector = KernelCPD(kernel="linear", min_size=SEGMENT).fit(scores(line)[:, np.newaxis])
    found = [int(at) for at in detector.predict(pen=penalty(len(line)))[:-1]]
    return _placed(line, found)


def _placed(line: FloatArray, breaks: list[int]) -> list[int]:
    """The same number of breaks, each where the values themselves put it.

    Ranks say that a level moved; within a level they spread, so that the place can be off by a session or two. Each break goes where
    the absolute deviations from the medians on both sides are least, between its neighbours.
    """
    values = np.log(line) if float(np.min(line)) > 0 else line
    placed = list(breaks)
    for number in range(len(placed)):
        start = placed[number - 1] if number else 0
        end = placed[number + 1] if number + 1 < len(placed) else len(line)
        places = range(start + SEGMENT, end - SEGMENT + 1)
        placed[number] = min(places, key=lambda at: _spread(values[start:at]) + _spread(values[at:end]))
    return placed


def _spread(values: FloatArray) -> float:
    return float(np.abs(values - np.median(values)).sum())


def _worth_showing(line: FloatArray, breaks: list[int], smallest: float) -> list[tuple[int, float, float]]:
    """The changes with the levels on both sides; the smallest one goes first until all that remain are worth showing."""
    kept = list(breaks)
    while True:
        edges = [0, *kept, len(line)]
        levels = [float(np.median(line[start:end])) for start, end in pairwise(edges)]
        sizes = [_size(before, after) for before, after in pairwise(levels)]
        if not sizes or min(sizes) >= smallest:
            return list(zip(kept, levels[:-1], levels[1:], strict=True))
        kept.pop(sizes.index(min(sizes)))


def _drift(line: FloatArray, changes: list[tuple[int, float, float]], smallest: float) -> Drift | None:
    if float(np.min(line)) <= 0:
        return None
    from scipy import stats

    logs, order = np.log(line), np.arange(len(line), dtype=np.float64)
    p = float(stats.kendalltau(order, logs).pvalue)
    if not p < RATE:  # also where every value is the same, which has no p-value
        return None
    slope, intercept = stats.theilslopes(logs, order)[:2]
    total = math.expm1(float(slope) * (len(line) - 1))
    if abs(total) < smallest:
        return None
    straight = float(np.abs(logs - (intercept + slope * order)).sum())
    edges = [0, *(at for at, _, _ in changes), len(line)]
    stepped = sum(_spread(logs[start:end]) for start, end in pairwise(edges))
    # Laplace's form of BIC: absolute residuals, so that an outlier decides nothing. Two numbers describe a straight line, a level
    # each and a place each the steps.
    count = len(line)
    cost_straight = 2 * count * math.log(max(straight, 1e-12)) + 2 * math.log(count)
    cost_stepped = 2 * count * math.log(max(stepped, 1e-12)) + (2 * len(changes) + 1) * math.log(count)
    return Drift(ratio=total, p=p) if cost_straight < cost_stepped else None


def _size(before: float, after: float) -> float:
    """The relative change, the same for up and down."""
    low, high = sorted((before, after))
    return high / low - 1 if low > 0 else (math.inf if high > 0 else 0.0)
