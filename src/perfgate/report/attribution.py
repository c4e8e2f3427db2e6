"""Which settings made a cell slower, or faster: as lines for the terminal, as Markdown, and as rows for the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from perfgate.records import AttributedMetric, AttributedPart, Attribution, CellVerdict
from perfgate.report import values
from perfgate.report.escape import markdown, no_workflow_commands, visible
from perfgate.shortening import shortened

HEADINGS = ("setting", "effect", "interval", "share", "boots")
LEAST = 12
"""Columns that a setting's words get at least."""


def headline(found: Attribution) -> str:
    """What was found, in one sentence."""
    searched = f"{found.search_boots} boots beyond the {found.ab_boots} of the A/B, {found.minutes:.0f} min"
    if found.ended == "no effect" and not found.search_boots:
        return f"no setting is named: no difference is confirmed ({found.ab_boots} boots)"
    if found.ended == "no effect":
        lost = "slowdown" if found.direction == "slower" else "gain"
        return f"no setting is named: the {lost} did not last ({searched})"
    where = f"what is {found.direction} is in the code, or in what no flag sets"
    if found.ended == "elsewhere" and not found.settings:
        return f"no default that a flag can set has moved: {where}"
    if found.ended == "elsewhere":
        few = "the moved default does not" if len(found.settings) == 1 else "the moved defaults do not"
        verb = "bring it back" if found.direction == "slower" else "make it"
        return f"{few} {verb}: {where} ({searched})"
    if not found.responsible:
        left = f": undecided between {_listed(found.undecided)}" if found.undecided else ""
        return f"no setting could be named{left} ({searched})"
    verb = "comes back by" if found.kind == "versions" else "because of"
    if found.direction == "faster":
        verb = "is lost again by" if found.kind == "versions" else "faster because of"
    left = "" if found.ended == "explained" else "; not all of it is explained"
    if left and found.undecided:
        left += f", undecided: {_listed(found.undecided)}"
    return f"{verb} {_listed(found.responsible)}{left} ({searched})"


def rows(metric: AttributedMetric, found: Attribution) -> list[tuple[str, ...]]:
    """The texts of `HEADINGS` for each setting, what is named first and the largest effect first, then what is left.

    Args:
        metric: one metric of an attribution.
        found: its attribution; across versions an effect is what a pin brings back.
    """
    body = [_row(part) for part in _ordered(metric.parts)]
    if metric.unexplained is not None and any(part.named for part in metric.parts):
        ends = _interval(metric.unexplained_lower, metric.unexplained_upper)
        left = "left without them" if found.kind == "settings" else f"{_moves(found)} without them"
        body.append((left, values.percent(metric.unexplained), ends, "", ""))
    return body


def lines(verdicts: Iterable[CellVerdict], *, width: int) -> list[str]:
    """Every attribution of a session; none where nothing was attributed.

    Args:
        verdicts: of the session.
        width: columns of the terminal.
    """
    said: list[str] = []
    for verdict in verdicts:
        found = verdict.attribution
        if found is None:
            continue
        said += ["", f"attribution of {verdict.cell}: {headline(found)}"]
        for metric in found.metrics:
            said.append(f"  {title(metric, found)}")
            said += [f"    {line}" for line in _aligned(rows(metric, found), max(width, 60) - 4)]
        said += [f"  note  {note}" for note in found.notes]
    return [no_workflow_commands(visible(line)) for line in said]


def title(metric: AttributedMetric, found: Attribution) -> str:
    """The metric with its total."""
    ends = _interval(metric.lower, metric.upper)
    how = (
        f"{_moves(found)} with all of them pinned"
        if found.kind == "versions"
        else f"{found.direction} with all of them"
    )
    return f"{values.label(metric.metric)}: {values.percent(metric.total)} {how}, {ends}"


def _moves(found: Attribution) -> str:
    """What pins do, in words."""
    return "comes back" if found.direction == "slower" else "is lost"


def document(found: Attribution) -> str:
    """The attribution as Markdown."""
    parts = [f"**Attribution**: {markdown(headline(found))}"]
    for metric in found.metrics:
        table = [f"| {' | '.join(HEADINGS)} |", "|---|--:|--:|--:|--:|"]
        table += [f"| {' | '.join(map(markdown, row))} |" for row in rows(metric, found)]
        parts.append(f"{markdown(title(metric, found))}\n\n" + "\n".join(table))
    parts += [f"- note: {markdown(note)}" for note in found.notes]
    return "\n\n".join(parts)


def _ordered(parts: Sequence[AttributedPart]) -> list[AttributedPart]:
    return sorted(parts, key=lambda part: (not part.named, part.together, -abs(part.effect)))


def _row(part: AttributedPart) -> tuple[str, ...]:
    words = (" together with " if part.together else " and ").join(map(shortened, part.settings))
    return (
        f"{'* ' if part.named else '  '}{words}",
        values.percent(part.effect),
        _interval(part.lower, part.upper),
        "" if part.share is None else f"{part.share:.0%}",
        str(part.boots),
    )


def _interval(lower: float | None, upper: float | None) -> str:
    if lower is None or upper is None:
        return "none"
    return "[{}, {}]".format(*values.ends(lower, upper))


def _aligned(body: Sequence[tuple[str, ...]], width: int) -> list[str]:
    table = [HEADINGS, *body]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(HEADINGS))]
    widths[0] = max(LEAST, min(widths[0], width - sum(widths[1:]) - 2 * (len(HEADINGS) - 1)))
    said = []
    for row in table:
        first = _fitted(row[0], widths[0])
        rest = [f"{text:>{size}}" for text, size in zip(row[1:], widths[1:], strict=True)]
        said.append("  ".join([first, *rest]).rstrip())
    return said


def _fitted(text: str, width: int) -> str:
    fitting = width
    while cell_len(text) > width:
        text = shortened(text, fitting)
        fitting -= 1  # a character may be two columns wide
    return text + " " * (width - cell_len(text))


def _listed(settings: Sequence[str]) -> str:
    words = [shortened(setting) for setting in settings]
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1] if words else ""
