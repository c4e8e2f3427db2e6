"""A session as GitHub-flavoured Markdown: for job summaries, pull requests and people who paste it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perfgate.records import CellVerdict, Fingerprint, Measurement, MetricVerdict, Outcome, SessionResults
from perfgate.report import attribution, findings, values
from perfgate.report.escape import html_text, markdown
from perfgate.report.terminal import summary_line

EVERY = 1_000_000
"""As ``details``: no limit."""

_SIGNS = {
    Outcome.REGRESSION: "🔴",
    Outcome.INVALID: "🚫",
    Outcome.INCOMPARABLE: "🚫",
    Outcome.NO_BASELINE: "🚫",
    Outcome.RECORDED: "📝",
    Outcome.SUSPECT: "🟡",
    Outcome.INCONCLUSIVE: "🟡",
    Outcome.IMPROVEMENT: "🟢",
    Outcome.PASS: "🟢",
}


def document(results: SessionResults, *, details: int = EVERY, heading: str = "perfgate") -> str:
    """The whole session: verdict counts, one table worst first, why and what next, where it was measured.

    Args:
        results: the session.
        details: for how many cells, worst first, reasons, notes and every metric are given under the table.
        heading: of the document, plain text.
    """
    ordered = values.worst_first(results.verdicts)
    said = (
        summary_line(ordered) if ordered or not results.findings else "nothing was judged against a baseline"
    )
    parts = [
        f"## {markdown(heading)}: {markdown(said)}",
        table(ordered),
        *(_details(verdict) for verdict in [v for v in ordered if _telling(v)][:details]),
        findings.document(results.findings),
        _environment(results.measurements),
        f"<sub>session {_code(results.session)}, started {results.started:%Y-%m-%d %H:%M %Z}, "
        f"perfgate {_code(results.perfgate)}, command {_code(results.command)}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(verdicts: Sequence[CellVerdict]) -> str:
    """One row a primary metric, cells worst first; empty for no verdicts."""
    ordered = values.worst_first(verdicts)
    if not ordered:
        return ""
    lines = [
        "| | cell | metric | baseline | now | change | interval | verdict |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for verdict in ordered:
        lines += _rows(verdict, values.shown_metrics(verdict, everything=False))
    return "\n".join(lines)


def _rows(verdict: CellVerdict, metrics: Sequence[MetricVerdict]) -> Iterable[str]:
    sign, cell = _SIGNS[verdict.outcome], markdown(str(verdict.cell))
    if not metrics:
        yield f"| {sign} | {cell} | | | | | | **{markdown(verdict.outcome.value)}** |"
    for metric in metrics:
        weight = "**" if metric.outcome is not Outcome.PASS else ""
        yield (
            f"| {sign} | {cell} | {markdown(values.label(metric.metric))} "
            f"| {values.quantity(metric.baseline, metric.metric)} | {values.quantity(metric.now, metric.metric)} "
            f"| {values.percent(metric.change)} | {markdown(values.interval(metric))} "
            f"| {weight}{markdown(metric.outcome.value)}{weight} |"
        )
        sign = cell = ""


def _telling(verdict: CellVerdict) -> bool:
    return verdict.outcome is not Outcome.PASS or bool(verdict.notes) or verdict.attribution is not None


def _details(verdict: CellVerdict) -> str:
    title = f"{_SIGNS[verdict.outcome]} {verdict.outcome.value} {verdict.cell}"
    lines = [f"- why: {markdown(reason)}" for reason in values.reasons(verdict)]
    lines += [f"- next: {_code(verdict.next_step)}"] if verdict.next_step else []
    lines += [f"- run: {_code(verdict.command)}"] if verdict.command else []
    lines += [f"- note: {markdown(note)}" for note in verdict.notes]
    opened = " open" if verdict.outcome.severity <= Outcome.NO_BASELINE.severity else ""
    found = attribution.document(verdict.attribution) if verdict.attribution is not None else ""
    body = "\n\n".join(part for part in ("\n".join(lines), found, _every_metric(verdict)) if part)
    # Inside an HTML block there is no Markdown to escape.
    return f"<details{opened}><summary>{html_text(title)}</summary>\n\n{body}\n\n</details>"


def _every_metric(verdict: CellVerdict) -> str:
    if not verdict.metrics:
        return ""
    head = "| metric | baseline | now | change | interval | verdict |\n|---|--:|--:|--:|--:|---|\n"
    rows = [
        f"| {markdown(values.label(metric.metric))} | {values.quantity(metric.baseline, metric.metric)} "
        f"| {values.quantity(metric.now, metric.metric)} | {values.percent(metric.change)} "
        f"| {markdown(values.interval(metric))} | {markdown(metric.outcome.value)} |"
        for metric in values.shown_metrics(verdict, everything=True)
    ]
    return head + "\n".join(rows)


def _environment(measurements: Sequence[Measurement]) -> str:
    """Each distinct machine once."""
    lines: list[str] = []
    for measurement in measurements:
        line = f"- {_machine(measurement.fingerprint)}"
        if line not in lines:
            lines.append(line)
    return "Measured on\n\n" + "\n".join(lines) if lines else ""


def _machine(fingerprint: Fingerprint) -> str:
    versions = {
        "driver": fingerprint.driver,
        "CUDA": fingerprint.cuda,
        "vLLM": fingerprint.vllm,
        "torch": fingerprint.torch,
        "triton": fingerprint.triton,
        "image": fingerprint.image_digest,
    }
    said = [f"{name} {value}" for name, value in versions.items() if value]
    return markdown(", ".join([*fingerprint.hardware(), *said]))


def _code(text: str) -> str:
    """Text that a reader copies, shown as code; escaped as text, since Markdown's own code spans can be left."""
    return f"<code>{markdown(text)}</code>"
