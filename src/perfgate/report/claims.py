"""What became of the claims: one row a metric, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from perfgate.claims import ClaimFinding, Part, band_words
from perfgate.report import values
from perfgate.report.columns import aligned, markdown_table
from perfgate.report.escape import visible

HEADINGS = ("claim", "workload", "metric", "old", "new", "change", "interval", "claimed", "source", "answer")
RIGHT = ("old", "new", "change", "interval", "claimed", "source")


def table(findings: Sequence[ClaimFinding]) -> str:
    """Aligned columns, then under each claim that was not simply confirmed why; empty for no findings."""
    if not findings:
        return ""
    lines = [aligned(HEADINGS, _rows(findings), right=RIGHT)]
    lines += [
        f"  {finding.claim}: {visible(said)}"
        for finding in findings
        for said in (finding.reason, *finding.notes)
        if said
    ]
    return "\n".join(lines)


def markdown(findings: Sequence[ClaimFinding]) -> str:
    """The same as a Markdown table; empty for no findings."""
    return markdown_table(HEADINGS, _rows(findings), right=RIGHT) if findings else ""


def interval(part: Part) -> str:
    """The interval of a part's change, or that there is none."""
    if part.lower is None or part.upper is None:
        return "none"
    return f"[{values.percent(part.lower)}, {values.percent(part.upper)}]"


def _rows(findings: Sequence[ClaimFinding]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for finding in findings:
        if not finding.parts:
            rows.append((finding.claim, *[values.NOTHING] * 8, finding.answer.value))
        rows.extend(
            (
                finding.claim if number == 0 else "",
                part.workload,
                values.label(part.metric),
                values.quantity(part.old, part.metric),
                values.quantity(part.new, part.metric),
                values.percent(part.change),
                interval(part),
                band_words(part),
                values.percent(part.measured),
                part.answer.value,
            )
            for number, part in enumerate(finding.parts)
        )
    return rows
