"""What became of the claims: one row a metric, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from perfgate.claims import band_words
from perfgate.findings import ClaimFinding, ClaimPart
from perfgate.report import values
from perfgate.report.columns import aligned, markdown_table
from perfgate.report.escape import markdown as escaped
from perfgate.report.escape import visible

HEADINGS = ("claim", "workload", "metric", "old", "new", "change", "interval", "claimed", "source", "answer")
RIGHT = ("old", "new", "change", "interval", "claimed", "source")


def table(findings: Sequence[ClaimFinding]) -> str:
    """Aligned columns, then under each claim that was not simply confirmed why; empty for no findings."""
    if not findings:
        return ""
    lines = [aligned(HEADINGS, rows(findings), right=RIGHT)]
    return "\n".join([*lines, *(f"  {visible(reason)}" for reason in reasons(findings))])


def markdown(findings: Sequence[ClaimFinding]) -> str:
    """The same as Markdown; empty for no findings."""
    if not findings:
        return ""
    said = "\n".join(f"- {escaped(reason)}" for reason in reasons(findings))
    return f"{markdown_table(HEADINGS, rows(findings), right=RIGHT)}\n\n{said}".rstrip()


def reasons(findings: Sequence[ClaimFinding]) -> list[str]:
    """Why each answer, and what else is worth knowing."""
    return [
        f"{finding.claim}: {said}"
        for finding in findings
        for said in (finding.reason, *finding.notes)
        if said
    ]


def interval(part: ClaimPart) -> str:
    """The interval of a part's change, or that there is none."""
    if part.lower is None or part.upper is None:
        return "none"
    return "[{}, {}]".format(*values.ends(part.lower, part.upper))


def rows(findings: Sequence[ClaimFinding]) -> list[tuple[str, ...]]:
    """One row a metric; one for a claim about what a flag becomes."""
    made: list[tuple[str, ...]] = []
    for finding in findings:
        if not finding.parts:
            made.append((finding.claim, *[values.NOTHING] * 8, finding.answer))
        made.extend(
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
                part.answer,
            )
            for number, part in enumerate(finding.parts)
        )
    return made
