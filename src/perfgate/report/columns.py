"""Plain tables: the same rows for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from perfgate.report.escape import markdown, no_workflow_commands, visible

Rows = Sequence[Sequence[str]]


def aligned(headings: Sequence[str], rows: Rows, *, right: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, two blanks apart; no trailing blanks.

    Args:
        headings: of the columns.
        rows: one cell a heading.
        right: headings of the columns that are aligned to the right (numbers).
    """
    shown = [list(map(visible, row)) for row in (headings, *rows)]
    widths = [max(cell_len(row[column]) for row in shown) for column in range(len(headings))]
    lines = []
    for row in shown:
        cells = []
        for text, width, heading in zip(row, widths, headings, strict=True):
            blank = " " * (width - cell_len(text))
            cells.append(blank + text if heading in right else text + blank)
        lines.append("  ".join(cells).rstrip())
    return no_workflow_commands("\n".join(lines))


def markdown_table(headings: Sequence[str], rows: Rows, *, right: Sequence[str] = ()) -> str:
    """The same as GitHub-flavoured Markdown."""
    rules = ["--:" if heading in right else "---" for heading in headings]
    lines = [f"| {' | '.join(map(markdown, headings))} |", f"|{'|'.join(rules)}|"]
    lines += [f"| {' | '.join(map(markdown, row))} |" for row in rows]
    return "\n".join(lines)
