"""One cell as the template wants it: nothing is computed in the template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perfgate.records import Baseline, Cell, CellVerdict, Measurement, MetricVerdict
from perfgate.report import values
from perfgate.report.html import charts, sections
from perfgate.report.html.charts import HistoryLine


@dataclass(frozen=True, kw_only=True)
class CellContent:
    """One cell, ready for the template."""

    number: int
    verdict: CellVerdict
    tone: str
    leading: MetricVerdict | None
    opened: bool
    metrics: tuple[sections.Table, ...]
    why: tuple[str, ...]
    sections: tuple[sections.Section, ...]

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script draws when the cell is opened, in the order of the page."""
        tables = (*self.metrics, *(table for section in self.sections for table in section.tables))
        return {
            "plots": [chart.plain() for section in self.sections for chart in section.charts],
            "tables": [table.plain() for table in tables if table.folded],
        }


def cell_content(
    verdict: CellVerdict,
    *,
    number: int,
    measurement: Measurement | None,
    old: Measurement | None,
    baseline: Baseline | None,
    history: Sequence[HistoryLine],
    pool: sections.SettingsPool,
    at: datetime,
    opened: bool,
) -> CellContent:
    """Everything that is known of one cell; what is not known leaves no section.

    Args:
        number: of the cell on the page.
        verdict: what was said about it.
        measurement: what was measured.
        old: the old side, where both were measured in this session; it is then what the verdict rests on.
        baseline: the stored one.
        history: its past sessions, a line a metric.
        pool: takes the resolved configuration.
        at: when the session began, which is what the age of a baseline is counted to.
        opened: whether the cell is open at first.
    """
    now = measurement.boots if measurement else ()
    before = old.boots if old else charts.boots_of(baseline)
    parts = [
        sections.attribution(verdict.attribution),
        sections.Section(title="Diagnosis", texts=verdict.notes),
        sections.unbelieved(now),
        sections.replicates(verdict, before, now, fresh=old is not None),
        sections.distributions(before, now),
        sections.timeline(before, now),
        sections.boots(before, now),
        sections.history(history),
        sections.flags(measurement, before, now, pool),
        sections.environment(measurement, old, baseline, at),
    ]  # fmt: skip
    metrics = values.shown_metrics(verdict, everything=True)
    return CellContent(
        number=number,
        verdict=verdict,
        tone=charts.tone(verdict.outcome),
        leading=next(
            (m for m in metrics if m.primary and m.outcome is verdict.outcome),
            metrics[0] if metrics else None,
        ),
        opened=opened,
        metrics=_metrics(verdict),
        why=tuple(values.reasons(verdict)),
        sections=tuple(part for part in parts if part.holds_anything),
    )


def _metrics(verdict: CellVerdict) -> tuple[sections.Table, ...]:
    """The telling metrics at once, all of them on request."""
    metrics = values.shown_metrics(verdict, everything=True)
    if not metrics:
        return ()
    headings = ("metric", "baseline", "now", "change", "interval", "margin", "detectable", "verdict")
    telling = values.shown_metrics(verdict, everything=False)
    tables = [sections.Table(caption="Metrics", headings=headings, rows=tuple(map(_metric_row, telling)))]
    if len(metrics) > len(telling):
        rows = tuple(map(_metric_row, metrics))
        tables.append(sections.Table(caption="Every metric", headings=headings, rows=rows, folded=True))
    return tuple(tables)


def _metric_row(metric: MetricVerdict) -> tuple[str, ...]:
    smallest = metric.smallest_detectable
    return (
        values.label(metric.metric),
        values.quantity(metric.baseline, metric.metric),
        values.quantity(metric.now, metric.metric),
        values.percent(metric.change),
        values.interval(metric),
        values.NOTHING if metric.margin is None else f"{metric.margin:.0%}",
        values.NOTHING if smallest is None else f"{smallest:.1%}",
        metric.outcome.value,
    )


def by_cell(measurements: Iterable[Measurement], side: str) -> dict[Cell, Measurement]:
    """The measurement of each cell on one side of a comparison; of several the last, which is what the verdict rests on."""
    return {measurement.cell: measurement for measurement in measurements if measurement.side == side}
