"""The plots: a Vega-Lite specification a kind, and each cell's data for it, as small as the eye allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from perfgate.diagnosis import server_view
from perfgate.records import Baseline, BootRecord, Cell, CellVerdict, MetricVerdict, Outcome, RunRecord
from perfgate.report import values
from perfgate.report.escape import visible
from perfgate.report.html.specifications import PHASES, STAGES

POINTS = 64
"""Steps of a distribution that are drawn; more than a plot has pixels for would only weigh."""
TIMELINE = 100
"""Requests of a timeline that are drawn."""
OVERVIEW = 40
"""Cells in the overview plot, the worst ones."""
WIDEST = 3.0
"""The largest change that the overview's axis reaches: one wild cell must not flatten all others."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class HistoryLine:
    """One metric of one cell over past sessions."""

    cell: Cell
    metric: str
    times: tuple[datetime, ...]
    values: tuple[float, ...]
    changes: tuple[int, ...] = ()
    """Positions where a new level begins."""
    notes: tuple[str, ...] = ()
    """What is known of the changes, one text each, or nothing."""
    said: tuple[str, ...] = ()
    """Changes and drift as sentences."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One plot of one cell: its kind, the data, and what it says in words."""

    kind: str
    title: str
    description: str
    data: Mapping[str, Rows]
    labels: Mapping[str, str]
    """Axis titles by channel."""

    def plain(self) -> dict[str, Any]:
        """What the page's script gets: rows as columns, each text once."""
        data = {name: _columns(rows) for name, rows in self.data.items()}
        return {"kind": self.kind, "data": data, "labels": dict(self.labels)}


def _columns(rows: Rows) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for field in dict.fromkeys(field for row in rows for field in row):
        column = [row.get(field) for row in rows]
        if any(isinstance(value, str) for value in column):
            distinct = list(dict.fromkeys(column))
            positions = {value: position for position, value in enumerate(distinct)}
            columns[field] = {"of": distinct, "at": [positions[value] for value in column]}
        else:
            columns[field] = column
    return columns


def overview(verdicts: Sequence[CellVerdict]) -> list[Chart]:
    """Slowdown with its interval, one plot a primary metric, the worst cells first."""
    found: dict[str, list[tuple[CellVerdict, MetricVerdict]]] = {}
    for verdict in verdicts:
        for metric in verdict.metrics:
            if metric.primary and metric.change is not None:
                found.setdefault(metric.metric, []).append((verdict, metric))
    charts = []
    for name, judged in found.items():
        shown = judged[:OVERVIEW]
        ends = [
            abs(end) for _, m in shown for end in (m.change, m.lower, m.upper, m.margin) if end is not None
        ]
        limit = min(max(ends, default=0.05) * 1.1, WIDEST)
        rows = [_forest_row(verdict, metric, limit) for verdict, metric in shown]
        said = "" if len(shown) == len(judged) else f", the worst {len(shown)} of {len(judged)} cells"
        charts.append(
            Chart(
                kind="forest",
                title=f"{values.label(name)}: change{said}",
                description=f"Change of {values.label(name)} against the baseline with its interval, a row a cell",
                data={"rows": rows, "limits": [{"lo": -limit, "hi": limit}]},
                labels={"x": f"change of {values.label(name)}"},
            )
        )
    return charts


def _forest_row(verdict: CellVerdict, metric: MetricVerdict, limit: float) -> dict[str, Any]:
    def within(value: float) -> float:
        return _short(min(max(value, -limit), limit))

    # An end that is not finite, or beyond the plot, reaches the plot's edge.
    lower = within(-limit if metric.lower is None else metric.lower)
    upper = within(limit if metric.upper is None else metric.upper)
    row = {
        "cell": f"{verdict.cell.server}/{verdict.cell.workload}",
        "key": str(verdict.cell),
        "v": within(metric.change or 0.0),
        "lo": lower,
        "hi": upper,
        "verdict": metric.outcome.value,
        "tone": tone(metric.outcome),
        "said": f"{values.percent(metric.change)} {values.interval(metric)}",
    }
    if metric.margin is not None and values.sign(metric.metric):
        row["margin"] = within(_harmful_end(metric.margin, metric.metric))
    return row


def replicates(
    metric: MetricVerdict, baseline: Sequence[BootRecord], now: Sequence[BootRecord]
) -> Chart | None:
    """Every run of either side on one axis, boot means marked, with the margin band and the interval; None without values."""
    runs: Rows = []
    means: Rows = []
    for side, boots in (("baseline", baseline), ("now", now)):
        for number, boot in enumerate(boots):
            found = boot_values(boot, metric.metric)
            runs += [
                {"side": side, "n": number, "boot": visible(boot.id), "v": _short(value)} for value in found
            ]
            if found:
                means.append(
                    {"side": side, "n": number, "boot": visible(boot.id), "v": _short(float(np.mean(found)))}
                )
    if not runs:
        return None
    data = {"runs": runs, "means": means, "band": list[dict[str, Any]](), "interval": list[dict[str, Any]]()}
    if metric.baseline and metric.margin is not None:
        ends = sorted((metric.baseline, metric.baseline * (1 + _harmful_end(metric.margin, metric.metric))))
        data["band"] = [{"lo": _short(ends[0]), "hi": _short(ends[1])}]
    if metric.baseline and metric.lower is not None and metric.upper is not None:
        low, high = metric.baseline * (1 + metric.lower), metric.baseline * (1 + metric.upper)
        data["interval"] = [{"side": "now", "lo": _short(max(low, 0.0)), "hi": _short(high)}]
    words = values.label(metric.metric)
    unit = values.unit(metric.metric)
    return Chart(
        kind="replicates",
        title=words,
        description=f"{words} of every run, baseline and now, with the tolerated band and the interval; {_sides(metric)}",
        data=data,
        labels={"x": words if words.endswith(unit) else f"{words}, {unit}"},
    )


def _sides(metric: MetricVerdict) -> str:
    base = values.quantity(metric.baseline, metric.metric)
    now = values.quantity(metric.now, metric.metric)
    return f"baseline {base}, now {now}, change {values.percent(metric.change)} {values.interval(metric)}"


def _harmful_end(margin: float, metric: str) -> float:
    """The change at which a slowdown reaches the margin; for a rate that is below one, not the margin's mirror image."""
    return margin if values.sign(metric) >= 0 else 1 / (1 + margin) - 1


def boot_values(boot: BootRecord, metric: str) -> tuple[float, ...]:
    """The believed values of one metric on one boot: of its runs, or its own."""
    if boot.void:
        return ()
    found = tuple(run.metrics[metric] for run in boot.valid_runs() if metric in run.metrics)
    return found or ((boot.metrics[metric],) if metric in boot.metrics else ())


def request_times(boots: Sequence[BootRecord]) -> dict[str, npt.NDArray[np.float64]]:
    """TTFT and TPOT of every request of all valid runs in milliseconds, sorted; without requests that have none."""
    ttft: list[float] = []
    tpot: list[float] = []
    for run in (run for boot in boots for run in boot.valid_runs()):
        arrays = run.arrays
        if arrays is None:
            continue
        for sent, first, last, tokens in zip(
            arrays.sent, arrays.first, arrays.last, arrays.output_tokens, strict=True
        ):
            if sent is None or first is None or first <= sent:
                continue
            ttft.append((first - sent) * 1e3)
            if last is not None and tokens is not None and tokens > 1 and last > first:
                tpot.append((last - first) / (tokens - 1) * 1e3)
    return {"TTFT": np.sort(np.array(ttft)), "TPOT": np.sort(np.array(tpot))}


def distributions(baseline: Sequence[BootRecord], now: Sequence[BootRecord]) -> list[Chart]:
    """The distribution of TTFT and of TPOT, either side, where request times were kept."""
    sides = {"baseline": request_times(baseline), "now": request_times(now)}
    charts = []
    for name in ("TTFT", "TPOT"):
        rows: Rows = []
        for side, times in sides.items():
            count = len(times[name])
            if count:
                steps = np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))
                rows += [
                    {"side": side, "v": _short(float(times[name][step])), "p": round((step + 1) / count, 3)}
                    for step in steps.tolist()
                ]
        if rows:
            charts.append(
                Chart(
                    kind="ecdf",
                    title=f"{name} of all requests",
                    description=f"Share of requests with a {name} of at most so many milliseconds, logarithmic axis",
                    data={"rows": rows},
                    labels={"x": f"{name}, ms"},
                )
            )
    return charts


def timeline_run(boots: Sequence[BootRecord]) -> tuple[BootRecord, RunRecord] | None:
    """The run whose timeline is shown: the first valid one with request times."""
    for boot in boots:
        for run in boot.valid_runs():
            if run.arrays is not None and run.arrays.sent:
                return boot, run
    return None


def timeline(boots: Sequence[BootRecord]) -> Chart | None:
    """Each request of one run as a bar: waiting, until its first token, decoding."""
    found = timeline_run(boots)
    if found is None or found[1].arrays is None:
        return None
    boot, run = found
    spans = request_spans(run)
    rows = [
        {"n": number, "phase": phase, "from": round(begin, 3), "to": round(end, 3)}
        for number, marks in list(enumerate(spans))[:TIMELINE]
        for phase, (begin, end) in zip(PHASES, pairwise(marks), strict=False)
        if end > begin
    ]
    if not rows:
        return None
    more = f", the first {TIMELINE} of {len(spans)}" if len(spans) > TIMELINE else ""
    return Chart(
        kind="timeline",
        title=f"Requests of one run{more}",
        description=f"When each request of a run on boot {boot.id} waited, was prefilled and decoded",
        data={"rows": rows},
        labels={"x": "seconds since the run began", "y": "request"},
    )


def stages(baseline: Sequence[BootRecord], now: Sequence[BootRecord]) -> Chart | None:
    """The mean request of either side by stage, as the server counts it; None where it does not."""
    rows: Rows = []
    for side, boots in (("baseline", baseline), ("now", now)):
        rows += [
            {"side": side, "stage": stage, "i": position, "v": _short(spent)}
            for position, (stage, spent) in enumerate(stage_means(boots).items())
        ]
    if not rows:
        return None
    return Chart(
        kind="stages",
        title="The mean request, as the server counts it",
        description="Milliseconds that a request waited in the server's queue, was prefilled and decoded, mean of all requests",
        data={"rows": rows},
        labels={"x": "milliseconds"},
    )


def stage_means(boots: Sequence[BootRecord]) -> dict[str, float]:
    """Mean milliseconds of queue, prefill and decode over all valid runs, as far as the server counts them."""
    view = server_view(boots)
    counted = zip(STAGES, (view.queue_ms, view.prefill_ms, view.decode_ms), strict=True)
    return {stage: spent for stage, spent in counted if spent is not None}


def request_spans(run: RunRecord) -> list[tuple[float, ...]]:
    """Scheduled, sent, first and last of each request, as far as it came."""
    arrays = run.arrays
    if arrays is None:
        return []
    spans: list[tuple[float, ...]] = []
    for marks in zip(arrays.scheduled, arrays.sent, arrays.first, arrays.last, strict=True):
        reached: list[float] = []
        for mark in marks:
            if mark is None:
                break
            reached.append(mark)
        spans.append(tuple(reached))
    return spans


def boot_phases(baseline: Sequence[BootRecord], now: Sequence[BootRecord]) -> Chart | None:
    """Seconds of each phase of each boot, stacked; None where no boot tells its phases."""
    rows: Rows = []
    for side, boots in (("baseline", baseline), ("now", now)):
        for number, boot in enumerate(boots):
            rows += [
                {
                    "boot": f"{side} {number + 1}",
                    "n": (len(baseline) if side == "now" else 0) + number,
                    "phase": phase,
                    "i": position,
                    "v": _short(seconds),
                }
                for position, (phase, seconds) in enumerate(phase_seconds(boot).items())
            ]
    if not rows:
        return None
    return Chart(
        kind="phases",
        title="Boot phases",
        description="Seconds that each boot spent in each phase until it was ready",
        data={"rows": rows},
        labels={"x": "seconds"},
    )


ENGINE = ("compile_s", "warmup_s", "graph_capture_s")
"""Phases that happen while the engine initialises."""
IN_ORDER = ("imports_s", "weights_s", *ENGINE)


def phase_seconds(boot: BootRecord) -> dict[str, float]:
    """The boot's phases by name, in the order in which they happen, none counted twice; what is left until ready is a phase too."""
    seconds = {name: value for name, value in boot.metrics.items() if name.endswith("_s")}
    ready, engine = seconds.pop("ready_s", None), seconds.pop("init_engine_s", None)
    names = sorted(seconds, key=lambda name: IN_ORDER.index(name) if name in IN_ORDER else len(IN_ORDER))
    phases = {values.label(name).removeprefix("boot "): seconds[name] for name in names}
    if engine is not None:
        rest = engine - sum(seconds.get(name, 0.0) for name in ENGINE)
        phases["rest of engine initialisation"] = max(0.0, rest)
    if ready is not None:
        phases["other" if phases else values.label("ready_s")] = max(0.0, ready - sum(phases.values()))
    return {name: spent for name, spent in phases.items() if spent > 0}


def history(line: HistoryLine) -> Chart:
    """One metric over time with its change points."""
    points = [
        {"t": _minute(time), "v": _short(value)} for time, value in zip(line.times, line.values, strict=True)
    ]
    marks = [
        {"t": _minute(line.times[at]), "note": line.notes[n] if n < len(line.notes) else ""}
        for n, at in enumerate(line.changes)
        if at < len(line.times)
    ]
    words, unit = values.label(line.metric), values.unit(line.metric)
    return Chart(
        kind="history",
        title=f"{words} over time",
        description=f"{words} of {len(points)} sessions with {len(marks)} change points",
        data={"rows": points, "marks": marks},
        labels={"y": words if words.endswith(unit) else f"{words}, {unit}"},
    )


def _minute(moment: datetime) -> int:
    """A moment as plots take it, in milliseconds, to the minute: a history has thousands of them, and a text is twice as long."""
    return int(moment.timestamp() // 60) * 60_000


def tone(outcome: Outcome) -> str:
    """bad, unsure or good: what a colour adds to the word."""
    if outcome in {Outcome.SUSPECT, Outcome.INCONCLUSIVE, Outcome.RECORDED}:
        return "unsure"
    return "good" if outcome in {Outcome.PASS, Outcome.IMPROVEMENT} else "bad"


def boots_of(baseline: Baseline | None) -> tuple[BootRecord, ...]:
    """The boots of a baseline, none without one."""
    return baseline.boots if baseline else ()


def _short(value: float) -> float:
    return float(f"{value:.5g}")
