"""What a line of the history shows, in words: each change with its date, size and company; drift; or why nothing can be said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from perfgate.report import values

if TYPE_CHECKING:  # SQLAlchemy and scipy take a second to import; who has a line has them already.
    from perfgate.history import Line


def sentences(line: Line) -> Iterable[str]:
    """One sentence a change, oldest first; then drift, and what stands in the way of saying more."""
    name, points = line.series.metric, line.series.points
    for change, moved in zip(line.trend.changes, line.notes, strict=True):
        levels = f"{values.quantity(change.before, name)} -> {values.quantity(change.after, name)}"
        company = f"with it {moved}" if moved else "nothing known moved with it"
        yield (
            f"{points[change.index].started:%Y-%m-%d} {_direction(name, change.ratio)} {values.percent(change.ratio)}: "
            f"{levels}; {company}"
        )
    if line.trend.drift:
        ratio = line.trend.drift.ratio
        yield f"drift: {_direction(name, ratio)} {values.percent(ratio)} over {line.trend.sessions} sessions"
    if line.trend.note:
        yield line.trend.note


def _direction(name: str, ratio: float) -> str:
    sign = values.sign(name)
    if sign == 0:
        return "moved"
    return "slower" if sign * ratio > 0 else "faster"
