"""The parts of a cell: plots, tables and texts for the template; what is not known gives an empty part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from perfgate.history import refresh_advice
from perfgate.records import (
    Attribution,
    Baseline,
    BootRecord,
    CellVerdict,
    Fingerprint,
    Measurement,
    MetricVerdict,
)
from perfgate.report import attribution as words
from perfgate.report import values
from perfgate.report.escape import visible
from perfgate.report.html import charts
from perfgate.report.html.charts import Chart, HistoryLine
from perfgate.report.html.specifications import PHASES

QUANTILES = (10, 50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: headings and rows of texts; the first column is the row's heading."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False
    """Made by the page's script when its summary is opened: thousands of rows that few read would slow the opening of the page."""

    def plain(self) -> dict[str, Any]:
        """What the page's script gets; control characters are made visible as the template does elsewhere."""
        rows = [[visible(text, lines=True) for text in row] for row in self.rows]
        return {"headings": list(self.headings), "rows": rows}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a cell; shown only where it holds something."""

    title: str
    charts: tuple[Chart, ...] = ()
    legend: str = ""
    """How to read the plots."""
    tables: tuple[Table, ...] = ()
    texts: tuple[str, ...] = ()
    settings: int | None = None
    """Position of the whole resolved configuration among those that the page keeps once."""

    @property
    def holds_anything(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.charts or self.tables or self.texts or self.settings is not None)


class SettingsPool:
    """Resolved configurations, each kept once: all workloads of a server share one."""

    def __init__(self) -> None:
        self.kept: list[list[tuple[str, str]]] = []
        self._known: dict[tuple[tuple[str, str], ...], int] = {}

    def add(self, settings: Mapping[str, Any]) -> int:
        """The position of these settings, new or known."""
        flat = flatten(settings)
        key = tuple(flat.items())
        if key not in self._known:
            self._known[key] = len(self.kept)
            self.kept.append(list(flat.items()))
        return self._known[key]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and texts, sorted."""
    flat: dict[str, str] = {}
    for name, value in sorted(settings.items(), key=lambda item: str(item[0])):
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[visible(f"{prefix}{name}")] = visible(text)
    return flat


def attribution(found: Attribution | None) -> Section:
    """Which settings made the cell slower, or faster."""
    if found is None:
        return Section(title="Attribution")
    tables = tuple(
        Table(
            caption=words.title(metric, found),
            headings=words.HEADINGS,
            rows=tuple(words.rows(metric, found)),
        )
        for metric in found.metrics
    )
    return Section(title="Attribution", tables=tables, texts=(words.headline(found), *found.notes))


def unbelieved(boots: Sequence[BootRecord]) -> Section:
    """What was measured and is not used, with the reason."""
    texts = [f"boot {boot.id}: not used, {reason}" for boot in boots for reason in boot.void]
    texts += [
        f"boot {boot.id}, run {number + 1}: {reason}"
        for boot in boots
        for number, run in enumerate(boot.runs)
        for reason in run.invalid
    ]
    return Section(title="Not believed", texts=tuple(texts))


def replicates(
    verdict: CellVerdict, before: Sequence[BootRecord], now: Sequence[BootRecord], *, fresh: bool = False
) -> Section:
    """Every run of either side for each primary metric; ``fresh`` where the other side was measured in the same session."""
    judged = [metric for metric in verdict.metrics if metric.primary]
    names = [metric.metric for metric in judged]
    if not judged:
        # Nothing was judged, but what was measured is still worth seeing.
        measured = sorted(
            {name for boot in (*before, *now) for run in boot.valid_runs() for name in run.metrics}
        )
        names = [name for name in measured if name in PRIMARY_FALLBACK]
    found = []
    for name in names:
        metric = next(
            (m for m in judged if m.metric == name), MetricVerdict(metric=name, outcome=verdict.outcome)
        )
        chart = charts.replicates(metric, before, now)
        if chart:
            found.append(chart)
    if not found:
        return Section(title="Replicates")
    rows = [
        (
            f"{side} {boot.id}",
            *(
                ", ".join(values.number(value) for value in charts.boot_values(boot, name)) or values.NOTHING
                for name in names
            ),
        )
        for side, boots in (("baseline", before), ("now", now))
        for boot in boots
    ]
    headings = ("boot", *(_with_unit(name) for name in names))
    table = Table(caption="Every run, a row a boot", headings=headings, rows=tuple(rows), folded=True)
    return Section(
        title="Replicates",
        charts=tuple(found),
        legend=READ_REPLICATES,
        tables=(table,),
        texts=(FRESH,) if fresh else (),
    )


FRESH = "Both sides were measured in this session, in turns; the old side stands as the baseline."
READ_REPLICATES = (
    "Dot: a run. Short tick: the mean of a boot. Shaded: from the baseline to the margin. "
    "Long bar: where the interval of the change puts the mean now."
)
PRIMARY_FALLBACK = ("output_throughput", "mean_ttft_ms", "mean_tpot_ms")


def _with_unit(name: str) -> str:
    unit = values.unit(name)
    words = values.label(name)
    return words if words.endswith(unit) else f"{words}, {unit}"


def distributions(before: Sequence[BootRecord], now: Sequence[BootRecord]) -> Section:
    """TTFT and TPOT of all requests."""
    found = charts.distributions(before, now)
    if not found:
        return Section(title="Distributions")
    sides = {"baseline": charts.request_times(before), "now": charts.request_times(now)}
    rows = tuple(
        (
            f"{name} {side}",
            f"{len(times[name]):,}",
            *(values.quantity(float(np.percentile(times[name], q)), f"p_{name}_ms") for q in QUANTILES),
        )
        for name in ("TTFT", "TPOT")
        for side, times in sides.items()
        if len(times[name])
    )
    headings = ("distribution", "requests", *(f"P{q}" for q in QUANTILES))
    table = Table(caption="Quantiles of all requests", headings=headings, rows=rows)
    return Section(title="Distributions", charts=tuple(found), tables=(table,))


def timeline(before: Sequence[BootRecord], now: Sequence[BootRecord]) -> Section:
    """The requests of one run, what the server counted meanwhile, and its own split of the mean request."""
    stages = charts.stages(before, now)
    split = (_stage_table(before, now),) if stages else ()
    chart = charts.timeline(now)
    found = charts.timeline_run(now)
    if chart is None or found is None:
        return Section(title="Request timeline", charts=(stages,) if stages else (), tables=split)
    run = found[1]
    spans = [tuple(b - a for a, b in pairwise(marks)) for marks in charts.request_spans(run)]
    phases = []
    for position, phase in enumerate(PHASES):
        lengths = [span[position] * 1e3 for span in spans if len(span) > position]
        if lengths:
            named = (
                values.quantity(value, "_ms")
                for value in (min(lengths), float(np.median(lengths)), max(lengths))
            )
            phases.append((phase, f"{len(lengths):,}", *named))
    tables = [
        Table(
            caption="Request phases",
            headings=("phase", "requests", "shortest", "median", "longest"),
            rows=tuple(phases),
        )
    ]
    for caption, counted in (
        ("The server's own counters over this run", run.server),
        ("The client's view of itself over this run", run.client),
    ):
        if counted:
            rows = [(name, values.number(value)) for name, value in sorted(counted.items())]
            tables.append(Table(caption=caption, headings=("what", "value"), rows=tuple(rows), folded=True))
    return Section(
        title="Request timeline",
        charts=(chart, stages) if stages else (chart,),
        legend=READ_TIMELINE,
        tables=(*tables[:1], *split, *tables[1:]),
    )


READ_TIMELINE = "A client cannot tell the server's queue from prefill: where it counts them, the server does."


def _stage_table(before: Sequence[BootRecord], now: Sequence[BootRecord]) -> Table:
    sides = [charts.stage_means(boots) for boots in (before, now)]
    rows = tuple(
        (stage, *(values.quantity(side.get(stage), "_ms") for side in sides))
        for stage in dict.fromkeys(stage for side in sides for stage in side)
    )
    return Table(
        caption="The mean request, as the server counts it", headings=("stage", "baseline", "now"), rows=rows
    )


def boots(before: Sequence[BootRecord], now: Sequence[BootRecord]) -> Section:
    """How long each boot took for what, and what it ended with."""
    names = list(dict.fromkeys(name for boot in (*before, *now) for name in boot.metrics))
    rows = tuple(
        (values.label(name), *(_mean(boots, name) for boots in (before, now)))
        for name in names
    )  # fmt: skip
    chart = charts.boot_phases(before, now)
    tables = (
        (
            Table(
                caption="Boot metrics, means", headings=("metric", "baseline", "now"), rows=rows, folded=True
            ),
        )
        if rows
        else ()
    )
    logs = tuple(f"log of boot {boot.id}: {boot.log}" for boot in now if boot.log)
    return Section(title="Boots", charts=(chart,) if chart else (), tables=tables, texts=logs)


def _mean(boots: Sequence[BootRecord], name: str) -> str:
    found = [boot.metrics[name] for boot in boots if name in boot.metrics and not boot.void]
    return values.quantity(float(np.mean(found)), name) if found else values.NOTHING


def flags(
    measurement: Measurement | None,
    before: Sequence[BootRecord],
    now: Sequence[BootRecord],
    pool: SettingsPool,
) -> Section:
    """What was asked for, what runs, and what differs from the baseline's."""
    tables = []
    if measurement:
        for caption, given in (
            ("Server as asked for", measurement.server),
            ("Workload", measurement.workload),
        ):
            rows = tuple(flatten(given).items())
            if rows:
                tables.append(Table(caption=caption, headings=("setting", "value"), rows=rows, folded=True))
    in_effect = next((boot.settings for boot in now if boot.settings), None)
    reference = next((boot.settings for boot in before if boot.settings), None)
    if in_effect and reference:
        old, new = flatten(reference), flatten(in_effect)
        differing = tuple(
            (name, old.get(name, "(absent)"), new.get(name, "(absent)"))
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        )
        if differing:
            caption = "Settings in effect that differ from the baseline's"
            tables.insert(0, Table(caption=caption, headings=("setting", "baseline", "now"), rows=differing))
    return Section(
        title="Flags in effect", tables=tuple(tables), settings=pool.add(in_effect) if in_effect else None
    )


def environment(
    measurement: Measurement | None, old: Measurement | None, baseline: Baseline | None, at: datetime
) -> Section:
    """The machine, the software and the baseline's origin, differences first; and whether it is due for a new recording."""
    if measurement is None:
        return Section(title="Environment")
    reference = old or baseline
    fields = list(Fingerprint.model_fields)
    now = {name: _text(getattr(measurement.fingerprint, name)) for name in fields}
    before = {name: _text(getattr(reference.fingerprint, name)) for name in fields} if reference else {}
    tables = []
    differing = tuple(
        (_words(name), before[name], now[name]) for name in fields if before and before[name] != now[name]
    )
    if differing:
        tables.append(
            Table(
                caption="What differs from the baseline's",
                headings=("what", "baseline", "now"),
                rows=differing,
            )
        )
    same = tuple(
        (_words(name), now[name])
        for name in fields
        if now[name] != values.NOTHING and (not before or before[name] == now[name])
    )
    if same:
        caption = "What is the same" if before else "This machine"
        tables.append(Table(caption=caption, headings=("what", "value"), rows=same, folded=True))
    texts: list[str] = []
    if baseline:
        texts += _provenance(baseline)
        texts += refresh_advice(baseline, measurement.fingerprint, at=at)
    return Section(title="Environment", tables=tuple(tables), texts=tuple(texts))


def _provenance(baseline: Baseline) -> Iterable[str]:
    known = baseline.provenance
    when = f"{known.recorded:%Y-%m-%d %H:%M %Z}" if known.recorded else "at an unknown time"
    yield f"baseline recorded {when} by {known.by}, source: {known.source}"
    if known.command:
        yield f"baseline command: {known.command}"
    yield from (f"baseline note: {note}" for note in known.notes)


def history(lines: Sequence[HistoryLine]) -> Section:
    """Each metric over past sessions."""
    known = [line for line in lines if line.values]
    return Section(
        title="History",
        texts=tuple(f"{values.label(line.metric)}: {sentence}" for line in known for sentence in line.said),
        charts=tuple(charts.history(line) for line in known),
        tables=tuple(_history_table(line) for line in known),
    )


def _history_table(line: HistoryLine) -> Table:
    changes = dict.fromkeys(line.changes, "change point")
    recent = list(enumerate(zip(line.times, line.values, strict=True)))[-20:]
    rows = tuple(
        (f"{when:%Y-%m-%d %H:%M}", values.quantity(value, line.metric), changes.get(at, ""))
        for at, (when, value) in recent
    )
    return Table(
        caption=f"{values.label(line.metric)}, last {len(rows)} sessions",
        headings=("when", "value", "change"),
        rows=rows,
        folded=True,
    )


def _text(value: object) -> str:
    if value is None:
        return values.NOTHING
    return values.number(value) if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
