"""What GitHub shows of a session: annotations at the baseline files, and the job summary."""

from collections.abc import Iterable, Sequence

from perfgate.records import CellVerdict, MetricVerdict, Outcome, SessionResults
from perfgate.report import markdown, values
from perfgate.report.escape import command_data, command_property

SHOWN = 10
"""GitHub keeps ten annotations of a level from one step and drops the rest silently."""
SUMMARY_LIMIT = 1_000_000
"""Bytes; GitHub refuses a step's summary of more than 1 MiB, and then shows none at all."""

_LEVELS = {
    Outcome.REGRESSION: "error",
    Outcome.INVALID: "error",
    Outcome.INCOMPARABLE: "error",
    Outcome.NO_BASELINE: "error",
    Outcome.RECORDED: "notice",
    Outcome.SUSPECT: "warning",
    Outcome.INCONCLUSIVE: "warning",
}


def annotations(verdicts: Iterable[CellVerdict], *, workspace: str = "") -> str:
    """One workflow command a cell that did not pass, worst first, at its baseline file.

    Where there are more than GitHub shows, the last of a level says how many it stands for.

    Args:
        verdicts: one a cell.
        workspace: the checkout; baseline files below it are named relative to it, as GitHub wants them.

    Returns:
        Lines for standard output, the last one ended too; empty where all passed.
    """
    levels: dict[str, list[CellVerdict]] = {}
    for verdict in values.worst_first(verdicts):
        if verdict.outcome in _LEVELS:
            levels.setdefault(_LEVELS[verdict.outcome], []).append(verdict)
    lines: list[str] = []
    for level, found in levels.items():
        shown = found if len(found) <= SHOWN else found[: SHOWN - 1]
        lines += [_command(level, verdict, workspace) for verdict in shown]
        if len(found) > len(shown):
            rest = found[len(shown) :]
            names = ", ".join(str(verdict.cell) for verdict in rest)
            lines.append(f"::{level} title={len(rest)} more::{command_data(names)}")
    return "".join(f"{line}\n" for line in lines)


def step_summary(results: SessionResults) -> str:
    """The session as Markdown for ``$GITHUB_STEP_SUMMARY``, short of GitHub's limit: details go before verdicts do."""
    for details in (markdown.EVERY, 20, 0):
        text = markdown.document(results, details=details)
        if len(text.encode()) <= SUMMARY_LIMIT:
            return text
    shown = results.verdicts
    while len(text.encode()) > SUMMARY_LIMIT and len(shown) > 1:
        shown = tuple(values.worst_first(shown)[: len(shown) // 2])
        text = markdown.document(results.model_copy(update={"verdicts": shown}), details=0)
        text += f"\nThe {len(shown)} worst of {len(results.verdicts)} cells; all are in the artifacts.\n"
    return text


def _command(level: str, verdict: CellVerdict, workspace: str) -> str:
    title = command_property(f"{verdict.outcome.value} {verdict.cell}")
    where = (
        f"file={command_property(_relative(verdict.baseline_file, workspace))},"
        if verdict.baseline_file
        else ""
    )
    return f"::{level} {where}title={title}::{command_data(_message(verdict))}"


def _message(verdict: CellVerdict) -> str:
    lines: list[str] = []
    for metric in _telling(verdict):
        both = f"{values.quantity(metric.baseline, metric.metric)} -> {values.quantity(metric.now, metric.metric)}"
        said = f"{values.label(metric.metric)}: {both}, {values.percent(metric.change)} {values.interval(metric)}"
        lines.append(said)
    reasons = [verdict.reason] if verdict.reason else []
    nexts = [f"Next: {verdict.next_step}"] if verdict.next_step else []
    again = [f"Run: {verdict.command}"] if verdict.command else []
    return "\n".join([*lines, *reasons, *nexts, *again]) or verdict.outcome.value


def _telling(verdict: CellVerdict) -> Sequence[MetricVerdict]:
    shown = values.shown_metrics(verdict, everything=False)
    return [metric for metric in shown if metric.outcome is verdict.outcome and metric.change is not None]


def _relative(path: str, workspace: str) -> str:
    prefix = workspace.rstrip("/") + "/"
    return path.removeprefix(prefix) if workspace else path
