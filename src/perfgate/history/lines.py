"""A line of the history with what it shows: changes, what moved with them, drift."""

from __future__ import annotations

from dataclasses import dataclass

from perfgate.history.advice import moved_software
from perfgate.history.changes import Trend, trend
from perfgate.history.store import Series
from perfgate.metrics import METRICS

SMALLEST = 0.02
"""The change worth showing of a metric that the table does not have (those of a boot, say)."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series and its trend."""

    series: Series
    trend: Trend
    notes: tuple[str, ...]
    """For each change what moved between the two sessions around it; empty where nothing known did."""


def line(series: Series) -> Line:
    """Looks at one series; a change smaller than the metric's tolerance is not shown."""
    known = METRICS.get(series.metric)
    found = trend([point.level for point in series.points], smallest=known.tolerance if known else SMALLEST)
    notes = []
    for change in found.changes:
        before, after = series.points[change.index - 1], series.points[change.index]
        notes.append(", ".join(moved_software(before.fingerprint, after.fingerprint)))
    return Line(series=series, trend=found, notes=tuple(notes))
