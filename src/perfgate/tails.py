"""What pooled requests say of a tail quantile: an upper bound that holds whatever the distribution, where there are enough of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from perfgate.metrics import Metric
from perfgate.records import BootRecord, MetricVerdict, Outcome, RequestArrays
from perfgate.statistics.quantile import P99_REQUESTS, QuantileBounds, quantile_bounds, smallest_sample
from perfgate.timings import OK

CONFIDENCE = 0.95

SHOWN = 2
"""So many suspected quantiles are quoted in a note."""

_NAME = re.compile(r"p(\d+)_(\w+)_ms")


def _difference(later: str, earlier: str) -> Callable[[RequestArrays, int], float | None]:
    def seconds(arrays: RequestArrays, row: int) -> float | None:
        end, begin = getattr(arrays, later)[row], getattr(arrays, earlier)[row]
        return None if end is None or begin is None else float(end - begin)

    return seconds


def _per_token(arrays: RequestArrays, row: int) -> float | None:
    span, tokens = _difference("last", "first")(arrays, row), arrays.output_tokens[row]
    return None if span is None or tokens is None or tokens < 2 else span / (tokens - 1)


_SECONDS: Mapping[str, Callable[[RequestArrays, int], float | None]] = {
    "ttft": _difference("first", "sent"),
    "scheduled_ttft": _difference("first", "scheduled"),
    "e2el": _difference("last", "sent"),
    "tpot": _per_token,
}
"""By metric; gaps between events are many to a request, so requests say nothing of their quantile."""


def bounds(metric: Metric, boots: Sequence[BootRecord]) -> QuantileBounds | None:
    """Of the requests of all valid runs, in milliseconds; None where the metric is no quantile of requests or their times were not kept.

    Requests of a run share its boot and its queue: as a bound of what a user of these boots sees it holds, as a comparison of two
    versions it would be too narrow.
    """
    named = _NAME.fullmatch(metric.name)
    if named is None or named[2] not in _SECONDS:
        return None
    runs = [run for boot in boots for run in boot.valid_runs()]
    arrays = [run.arrays for run in runs if run.arrays is not None]
    if not runs or len(arrays) < len(runs):
        return None
    pooled = list(_milliseconds(arrays, _SECONDS[named[2]]))
    return quantile_bounds(pooled, probability=int(named[1]) / 100, confidence=CONFIDENCE)


def with_bound(metric: Metric, verdict: MetricVerdict, boots: Sequence[BootRecord]) -> MetricVerdict:
    """The verdict of a quantile, its reason with the bound."""
    found = bounds(metric, boots)
    if found is None:
        return verdict
    return verdict.model_copy(update={"reason": f"{verdict.reason}; {words(found)}"})


def words(found: QuantileBounds) -> str:
    """The bound in a few words, or how many requests it would need."""
    name = f"P{100 * found.probability:.0f}"
    if found.upper < float("inf"):
        advisory = "" if found.size >= P99_REQUESTS else f", advisory below {P99_REQUESTS}"
        return f"{name} at most {found.upper:.4g} ms with {CONFIDENCE:.0%} confidence ({found.size} requests{advisory})"
    return f"{found.size} requests give no upper bound of a {name} ({smallest_sample(found.probability, CONFIDENCE)} do)"


def replication_notes(verdicts: Sequence[MetricVerdict], advisory: Sequence[str]) -> tuple[str, ...]:
    """What suspected quantiles ask for: they never fail a cell, but nobody should overlook them.

    Where the cell is suspected anyway, more boots are made without their asking.
    """
    suspected = [one for one in verdicts if one.outcome is Outcome.SUSPECT]
    tails = [one for one in suspected if one.metric in advisory]
    if not tails or any(one.primary for one in suspected):
        return ()
    shown = "; ".join(one.reason for one in tails[-SHOWN:])
    more = f"; {len(tails) - SHOWN} more quantiles are suspect" if len(tails) > SHOWN else ""
    return (
        f"{shown}{more}. A quantile never fails alone: more boots (--replicates) tell whether it is real",
    )


def _milliseconds(
    arrays: Sequence[RequestArrays], seconds: Callable[[RequestArrays, int], float | None]
) -> Iterator[float]:
    for one in arrays:
        for row, outcome in enumerate(one.outcome):
            value = seconds(one, row) if outcome == OK else None
            if value is not None:
                yield 1000 * value
