"""Numbers as words: a value with its unit, a change, an interval; and the order in which verdicts are shown."""

from __future__ import annotations

from collections.abc import Iterable

from perfgate.metrics import METRICS
from perfgate.records import CellVerdict, MetricVerdict, Outcome

NOTHING = "-"
"""Shown where there is no value: absence is never a zero."""

TELLING = frozenset({Outcome.REGRESSION, Outcome.SUSPECT, Outcome.IMPROVEMENT})
"""Outcomes that a secondary metric is shown for without being asked: an inconclusive tail quantile says nothing."""

_AS_FACTOR = 10
"""A relative change from which a factor is shown."""

OTHERS = 4
"""Secondary metrics that are shown without being asked."""

_SUFFIX_UNITS = {
    "_ms": "ms",
    "_s": "s",
    "_seconds": "s",
    "_gib": "GiB",
    "_mib": "MiB",
    "_tokens": "tokens",
    "_throughput": "/s",
}


def label(name: str) -> str:
    """The words for a metric; an unknown one shows as its name."""
    known = METRICS.get(name)
    if known:
        return known.label
    for suffix in _SUFFIX_UNITS:
        if suffix not in {"_tokens", "_throughput"} and name.endswith(suffix):
            name = name.removesuffix(suffix)
    return name.replace("_", " ")


def unit(name: str) -> str:
    """The unit of a metric; of an unknown one what its name ends with, or nothing."""
    known = METRICS.get(name)
    if known:
        return known.unit
    return next((unit for suffix, unit in _SUFFIX_UNITS.items() if name.endswith(suffix)), "")


def sign(name: str) -> int:
    """+1 where more of the metric is slower, -1 where it is faster, 0 where it is not known."""
    known = METRICS.get(name)
    return known.sign if known else 0


def number(value: float | None) -> str:
    """Four significant digits, three below one; thousands are set apart from 10,000 on."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    if abs(value) >= 1_000:
        return f"{value:.0f}"
    if abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:#.4g}"


def quantity(value: float | None, name: str, *, once: bool = False) -> str:
    """A value of one metric with its unit; with ``once`` without it where the metric's label has it already."""
    if value is None:
        return NOTHING
    if unit(name) in {"requests", "tokens"} and float(value).is_integer():
        return f"{value:,.0f} {unit(name)}"
    said = "" if once and label(name).endswith(unit(name)) else unit(name)
    return f"{number(value)} {said}".rstrip()


def percent(value: float | None) -> str:
    """A relative change, +0.1 as "+10.0%"; eleven times and more are shown as a factor."""
    if value is None:
        return NOTHING
    if value >= _AS_FACTOR:
        return _factor(value)
    return f"{round(value, 3) + 0.0:+.1%}"


def ends(lower: float, upper: float) -> tuple[str, str]:
    """Both ends of an interval of relative changes; as factors where one is shown so and nothing changes sign."""
    if lower > 0 and upper >= _AS_FACTOR:
        return _factor(lower), _factor(upper)
    return percent(lower), percent(upper)


def _factor(value: float) -> str:
    return f"×{value + 1:.3g}"


def interval(verdict: MetricVerdict) -> str:
    """The interval of the change; an end that is not finite shows as infinite, never as a number."""
    if verdict.lower is None and verdict.upper is None:
        return "none" if verdict.change is not None else NOTHING
    if verdict.lower is not None and verdict.upper is not None:
        return "[{}, {}]".format(*ends(verdict.lower, verdict.upper))
    lower = "(-inf" if verdict.lower is None else f"[{percent(verdict.lower)}"
    upper = "+inf)" if verdict.upper is None else f"{percent(verdict.upper)}]"
    return f"{lower}, {upper}"


def slowdown(verdict: MetricVerdict) -> float:
    """The change in the direction that hurts; 0 where it is not known."""
    return sign(verdict.metric) * (verdict.change or 0.0)


def worst_first(verdicts: Iterable[CellVerdict]) -> list[CellVerdict]:
    """Cells by outcome, within an outcome by their largest slowdown, then by name."""
    return sorted(
        verdicts,
        key=lambda verdict: (
            verdict.outcome.severity,
            -max((slowdown(metric) for metric in verdict.metrics if metric.primary), default=0.0),
            str(verdict.cell),
        ),
    )


def shown_metrics(verdict: CellVerdict, *, everything: bool) -> list[MetricVerdict]:
    """The metrics worth a line, worst first: the primary ones, and of the others the few that say something new.

    Where a primary metric moved, the others moved with it; where none did, a few others may still (a tail, say).
    """
    chosen = [metric for metric in verdict.metrics if metric.primary]
    others = [metric for metric in verdict.metrics if not metric.primary]
    if not everything:
        told = any(metric.outcome in TELLING for metric in chosen)
        others = [] if told else _in_order(metric for metric in others if metric.outcome in TELLING)[:OTHERS]
    return [*_in_order(chosen), *_in_order(others)]


def moved_unshown(verdict: CellVerdict) -> int:
    """How many metrics moved that ``shown_metrics`` leaves out."""
    shown = shown_metrics(verdict, everything=False)
    return sum(metric.outcome in TELLING and metric not in shown for metric in verdict.metrics)


def _in_order(metrics: Iterable[MetricVerdict]) -> list[MetricVerdict]:
    return sorted(metrics, key=lambda metric: (metric.outcome.severity, -slowdown(metric)))


def reasons(verdict: CellVerdict) -> list[str]:
    """Why the cell came out as it did: its own reason, then those of its primary metrics that it does not hold already."""
    said = [verdict.reason] if verdict.reason else []
    for metric in _in_order(metric for metric in verdict.metrics if metric.primary):
        if (
            metric.reason
            and metric.outcome is not Outcome.PASS
            and not any(metric.reason in text for text in said)
        ):
            named = metric.reason.startswith(label(metric.metric))
            said.append(metric.reason if named else f"{label(metric.metric)}: {metric.reason}")
    return said


def counts(verdicts: Iterable[CellVerdict]) -> dict[Outcome, int]:
    """How many cells came out how, worst first, without zeros."""
    found = [verdict.outcome for verdict in verdicts]
    return {outcome: found.count(outcome) for outcome in Outcome if outcome in found}


def in_words(outcome: Outcome) -> str:
    """The outcome in lower-case words."""
    return outcome.value.lower().replace("_", " ")
