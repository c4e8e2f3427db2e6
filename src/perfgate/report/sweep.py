"""A sweep as a table: one row a point, with its place on the Pareto front, for a terminal and as Markdown."""

from __future__ import annotations

from perfgate.experiment.sweep import OBJECTIVES
from perfgate.findings import SweepFinding, SweptCell, SweptPoint, SweptValue
from perfgate.report import values
from perfgate.report.columns import aligned, markdown_table
from perfgate.report.escape import markdown as escaped
from perfgate.report.escape import visible

_RIGHT = ("boots", *(values.label(name) for name in OBJECTIVES))
HEADINGS = ("point", *_RIGHT, "Pareto")


def table(finding: SweepFinding) -> str:
    """Aligned columns, one table a workload, each with what may be concluded."""
    parts = [
        "\n  ".join(
            [
                f"{visible(cell.cell)}\n{aligned(HEADINGS, rows(cell), right=_RIGHT)}",
                *map(visible, remarks(cell)),
            ]
        )
        for cell in finding.cells
    ]
    return "\n\n".join([*parts, *footnotes(finding)])


def markdown(finding: SweepFinding) -> str:
    """The same as Markdown."""
    parts = [
        "\n\n".join(
            [
                f"**{escaped(cell.cell)}**",
                markdown_table(HEADINGS, rows(cell), right=_RIGHT),
                *map(escaped, remarks(cell)),
            ]
        )
        for cell in finding.cells
    ]
    return "\n\n".join([*parts, *map(escaped, footnotes(finding))])


def remarks(cell: SweptCell) -> list[str]:
    """What goes under the table of one workload."""
    left_out = [
        f"No point has {values.label(name)}, so the points are compared without it." for name in cell.left_out
    ]
    return [conclusion(cell), *left_out]


def conclusion(cell: SweptCell) -> str:
    """What the data allow to be said about one workload."""
    if cell.winner is not None:
        return f"{cell.winner} is better than every other point in one metric and not worse beyond the margin in the others."
    front = [row.point for row in cell.rows if not row.dominated_by and not row.problem]
    if not front:
        some = any(row.boots for row in cell.rows)
        return f"No winner: no point was measured{' to the end' if some else ''}."
    if len(front) == 1:
        why = (
            "not every other point could be compared"
            if any(row.problem for row in cell.rows)
            else "it is not shown to dominate every other point itself"
        )
        return f"No winner: only {front[0]} is not dominated, but {why}."
    return f"No winner: {len(front)} points are not shown to be dominated ({', '.join(front)})."


def rows(cell: SweptCell) -> list[tuple[str, ...]]:
    """One row a point."""
    return [
        (
            row.point,
            str(row.boots),
            *(_quantity(row, name) for name in OBJECTIVES),
            _place(row),
        )
        for row in cell.rows
    ]


def _quantity(row: SweptPoint, name: str) -> str:
    found = next((value for value in row.values if value.metric == name), SweptValue(metric=name))
    if found.lower is None or found.upper is None:
        return values.quantity(found.value, name, once=True)
    ends = f"{values.number(found.lower)} … {values.number(found.upper)}"
    return f"{values.quantity(found.value, name, once=True)} ({ends})"


def _place(row: SweptPoint) -> str:
    if row.problem:
        return f"not compared: {_line(row.problem)}"
    if row.dominated_by:
        return f"dominated by {row.dominated_by[0]}"
    return "front"


def _line(text: str) -> str:
    return text.partition("\n")[0]


def footnotes(finding: SweepFinding) -> list[str]:
    """How to read it, and what is missing."""
    said = (
        "In brackets each point's own 95% interval over its boots. Dominated: better in one metric and not worse beyond the margin in the"
        f" others, with an error of {finding.alpha:.3g} over all pairs of points and metrics of a workload."
    )
    made = f"{finding.rounds} of {finding.asked_rounds} rounds were measured"
    short = []
    if finding.interrupted:
        short = [f"Interrupted: {made} whole, and the points are compared by the boots that they have."]
    elif finding.rounds < finding.asked_rounds:
        short = [f"{made} (--max-minutes)."]
    again = dict.fromkeys(
        f"{row.point}: a boot failed and was made again ({_line(reason)})."
        for cell in finding.cells
        for row in cell.rows
        for reason in row.repeated
        if not row.problem
    )
    return [said, *short, *again]
