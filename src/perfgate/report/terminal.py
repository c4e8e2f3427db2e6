"""The table that ends a session: one line a metric, worst cell first, why and what next under each cell that did not pass.

Readable without colour and from 60 columns: below 80 each cell is a heading, and a mark before a metric stands for its verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfgate.records import Cell, CellVerdict, MetricVerdict, Outcome
from perfgate.report import values
from perfgate.report.escape import no_workflow_commands, visible

NARROW = 84
"""Below this many columns a cell is a heading rather than a column."""
CELL = 12
"""Columns that a cell's name gets at least."""

_STYLES = {
    Outcome.REGRESSION: "bold red",
    Outcome.INVALID: "red",
    Outcome.INCOMPARABLE: "red",
    Outcome.NO_BASELINE: "red",
    Outcome.RECORDED: "cyan",
    Outcome.SUSPECT: "yellow",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.IMPROVEMENT: "green",
    Outcome.PASS: "green",
}
_MARKS = {
    Outcome.REGRESSION: "x",
    Outcome.INVALID: "!",
    Outcome.INCOMPARABLE: "!",
    Outcome.NO_BASELINE: "!",
    Outcome.RECORDED: "*",
    Outcome.SUSPECT: "?",
    Outcome.INCONCLUSIVE: "?",
    Outcome.IMPROVEMENT: "+",
    Outcome.PASS: " ",
}
_HEADINGS = ("metric", "baseline", "now", "change", "interval", "verdict")
_RIGHT = {"baseline", "now", "change", "interval"}


def table(verdicts: Sequence[CellVerdict], *, width: int, colour: bool, verbose: int = 0) -> str:
    """The verdicts as one aligned table, worst first.

    Args:
        verdicts: one a cell, in any order.
        width: columns of the terminal; less than 40 counts as 40.
        colour: add ANSI colour; nothing is said by colour alone.
        verbose: below 0 one line a cell; above 0 every metric and every note.

    Returns:
        Lines without trailing blanks, without a final line feed; empty for no verdicts.
    """
    if not verdicts:
        return ""
    width = max(width, 40)
    ordered = values.worst_first(verdicts)
    common = _common(ordered)
    buffer = StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in _parts(ordered, common, width=width, verbose=verbose):
        console.print(part, soft_wrap=False)
    return no_workflow_commands(
        "\n".join(line.rstrip() for line in buffer.getvalue().split("\n")).rstrip("\n")
    )


def summary_line(verdicts: Iterable[CellVerdict]) -> str:
    """How many cells came out how, worst first: "3 cells: 1 regression, 2 pass"."""
    found = values.counts(verdicts)
    total = sum(found.values())
    if not total:
        return "no cell was judged"
    said = ", ".join(f"{count} {values.in_words(outcome)}" for outcome, count in found.items())
    return f"{total} {'cell' if total == 1 else 'cells'}: {said}"


def _parts(
    ordered: Sequence[CellVerdict], common: str, *, width: int, verbose: int
) -> Iterable[RenderableType]:
    if common:
        yield Text(f"on {common}:", style="dim")
    if verbose < 0:
        yield from _one_line_each(ordered, common, width)
        return
    narrow = width < NARROW
    groups = [_Group.of(verdict, common, everything=verbose > 0, narrow=narrow) for verdict in ordered]
    columns = _Columns.fitting(groups, width=width, narrow=narrow)
    if not narrow or any(group.metrics for group in groups):
        yield columns.row(
            [Text("" if narrow else "cell"), *(Text(_heading(h, narrow)) for h in columns.headings)],
            style="bold",
        )
    for group in groups:
        yield from _group(group, columns, narrow=narrow, verbose=verbose)
    if narrow:
        used = {group.verdict.outcome for group in groups} | {
            m.outcome for group in groups for m in group.metrics
        }
        marks = {
            mark: "/".join(values.in_words(o) for o in Outcome if _MARKS[o] == mark and o in used)
            for mark in dict.fromkeys(_MARKS.values())
            if mark.strip()
        }
        said = ", ".join(f"{mark} {words}" for mark, words in marks.items() if words)
        if said:
            yield Text(said, style="dim")


def _heading(name: str, narrow: bool) -> str:
    return "" if narrow and name == "verdict" else name


def _one_line_each(ordered: Sequence[CellVerdict], common: str, width: int) -> Iterable[RenderableType]:
    names = [_name(verdict.cell, common) for verdict in ordered]
    words = max(cell_len(verdict.outcome.value) for verdict in ordered)
    for verdict, name in zip(ordered, names, strict=True):
        shown = values.shown_metrics(verdict, everything=False)
        leading = next((metric for metric in shown if metric.outcome is verdict.outcome), None)
        line = Text(f"{verdict.outcome.value:<{words}}  ", style=_STYLES[verdict.outcome])
        line.append(name, style="default")
        if leading and leading.change is not None:
            said = f"  {values.label(leading.metric)} {values.percent(leading.change)} {values.interval(leading)}"
            line.append(visible(said), style="default")
        elif verdict.outcome is not Outcome.PASS and verdict.reason:
            line.append(f"  {visible(verdict.reason)}", style="default")
        line.truncate(width, overflow="ellipsis")
        yield line


@dataclass(frozen=True, kw_only=True)
class _Group:
    """One cell and the lines it gets."""

    verdict: CellVerdict
    name: str
    metrics: tuple[MetricVerdict, ...]
    rows: tuple[tuple[str, ...], ...]
    """The text of each column after the cell's, a row a metric; one row where nothing was judged."""

    @classmethod
    def of(cls, verdict: CellVerdict, common: str, *, everything: bool, narrow: bool) -> _Group:
        metrics = values.shown_metrics(verdict, everything=everything)
        rows = [
            (
                visible(values.label(metric.metric)),
                values.quantity(metric.baseline, metric.metric, once=narrow),
                values.quantity(metric.now, metric.metric, once=narrow),
                values.percent(metric.change),
                values.interval(metric),
                metric.outcome.value,
            )
            for metric in metrics
        ]
        nothing = (values.NOTHING,) * 5
        return cls(
            verdict=verdict,
            name=_name(verdict.cell, common),
            metrics=tuple(metrics),
            rows=tuple(tuple(map(visible, row)) for row in rows) or ((*nothing, verdict.outcome.value),),
        )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Widths that every row shares, so that lines between the rows do not disturb the table."""

    cell: int
    headings: tuple[str, ...]
    widths: tuple[int, ...]
    gap: int

    @classmethod
    def fitting(cls, groups: Sequence[_Group], *, width: int, narrow: bool) -> _Columns:
        rows = [_HEADINGS, *(row for group in groups for row in group.rows)]
        widths = [max(cell_len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
        if narrow:
            # The verdict is a mark in the first column; the metric gives way first, then the interval.
            widths, gap, cell = widths[:-1], 1, 1
            spare = width - cell - gap * len(widths) - sum(widths)
            if spare < 0:
                widths[0] = max(8, widths[0] + spare)
            return cls(cell=cell, headings=_HEADINGS[:-1], widths=tuple(widths), gap=gap)
        gap = 2
        wanted = max(len("cell"), *(cell_len(group.name) for group in groups))
        spare = width - gap * len(widths) - sum(widths)
        if spare < min(wanted, 20):
            gap = 1
            spare = width - gap * len(widths) - sum(widths)
        if spare < CELL:
            widths[0] = max(12, widths[0] - (CELL - spare))
            spare = width - gap * len(widths) - sum(widths)
        return cls(cell=max(CELL, min(wanted, spare)), headings=_HEADINGS, widths=tuple(widths), gap=gap)

    def row(self, texts: Sequence[RenderableType], *, style: str = "") -> Table:
        grid = Table.grid(padding=(0, self.gap, 0, 0))
        grid.add_column(width=self.cell, overflow="fold")
        for heading, width in zip(self.headings, self.widths, strict=True):
            right = "right" if heading in _RIGHT else "left"
            grid.add_column(width=width, justify=right, overflow="ellipsis", no_wrap=True)  # type: ignore[arg-type]
        grid.add_row(*texts, style=style)
        return grid


def _group(group: _Group, columns: _Columns, *, narrow: bool, verbose: int) -> Iterable[RenderableType]:
    outcome = group.verdict.outcome
    if narrow:
        heading = Text(f"{outcome.value} ", style=_STYLES[outcome])
        heading.append(group.name, style="default")
        yield heading
        for metric, row in zip(group.metrics, group.rows, strict=False):
            mark = Text(_MARKS[metric.outcome], style=_STYLES[metric.outcome])
            yield columns.row([mark, *map(Text, row[:-1])])
    else:
        body = Text("\n").join
        verdicts = [Outcome(row[-1]) for row in group.rows]
        yield columns.row(
            [
                _breakable(group.name, columns.cell),
                *(body([Text(row[column]) for row in group.rows]) for column in range(len(_HEADINGS) - 1)),
                body([Text(found.value, style=_STYLES[found]) for found in verdicts]),
            ]
        )
    for word, text in _lines_under(group, verbose):
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(width=5, style="dim")
        line.add_column(overflow="fold")
        line.add_row(word, Text(text))
        yield Padding(line, (0, 0, 0, 2))


def _lines_under(group: _Group, verbose: int) -> Iterable[tuple[str, str]]:
    verdict = group.verdict
    if verdict.outcome is not Outcome.PASS:
        judged = [metric for metric in group.metrics if metric.outcome is not Outcome.PASS]
        for text in _distinct(values.reasons(verdict)):
            yield "why", text
        for text in _distinct(_power(metric) for metric in judged if metric.primary):
            yield "power", text
        leading = [m for m in judged if m.primary and m.outcome is verdict.outcome]
        for text in _distinct([verdict.next_step] if verdict.next_step else [m.next_step for m in leading]):
            yield "next", text
        if verdict.command:
            yield "run", visible(verdict.command)
    unshown = values.moved_unshown(verdict)
    if unshown and verbose == 0:
        yield (
            "more",
            f"{unshown} other metric{'s' if unshown > 1 else ''} moved too (-v shows {'them' if unshown > 1 else 'it'})",
        )
    if verbose > 0 or verdict.outcome is not Outcome.PASS:
        for text in _distinct(verdict.notes):
            yield "note", text


def _power(metric: MetricVerdict) -> str:
    """What the data could have shown, where it showed too little."""
    if metric.outcome not in {Outcome.INCONCLUSIVE, Outcome.SUSPECT}:
        return ""
    if metric.smallest_detectable is None:
        return f"{values.label(metric.metric)}: this much data can show no slowdown, however large"
    return f"{values.label(metric.metric)}: this much data shows a slowdown of {metric.smallest_detectable:.1%} or more"


def _distinct(texts: Iterable[str]) -> list[str]:
    shown = (visible(text, lines=True).strip() for text in texts)
    return list(dict.fromkeys(text for text in shown if text))


def _common(verdicts: Sequence[CellVerdict]) -> str:
    """GPU and model where all cells share them: said once above the table, not in every row."""
    places = {(verdict.cell.gpu, verdict.cell.model) for verdict in verdicts}
    return "/".join(places.pop()) if len(places) == 1 and len(verdicts) > 1 else ""


def _name(cell: Cell, common: str) -> str:
    return f"{cell.server}/{cell.workload}" if common else str(cell)


def _breakable(name: str, width: int) -> Text:
    """The cell's name on as many lines as it needs, broken after a slash where that is possible."""
    lines: list[str] = []
    for piece in re.findall(r"[^/]+/?", name):
        if lines and cell_len(lines[-1]) + cell_len(piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return Text("\n".join(lines))
