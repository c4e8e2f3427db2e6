"""Which setting makes a computed size smaller, such as the tokens that the KV cache holds: by the boots at hand, without a model.

A computed size repeats from boot to boot, so that each boot of a search either has the old size or the new one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from perfgate.metrics import METRICS
from perfgate.records import CellVerdict, Measurement, MetricVerdict, Outcome, replicates
from perfgate.shortening import shortened

Sizes = Mapping[str, float]
"""Computed sizes of one boot by metric."""


def computed(metric: str) -> bool:
    """Whether a metric is computed by the server while it boots rather than timed."""
    return METRICS[metric].of == "boot" and METRICS[metric].noise is not None


def sizes(measurement: Measurement) -> Sizes:
    """The computed sizes of a measurement, of its first boot that has them."""
    found = {name: replicates(measurement.boots, name) for name in METRICS if computed(name)}
    return {name: values[0][0] for name, values in found.items() if values and values[0]}


def size_notes(
    verdict: CellVerdict, settings: Sequence[str], boots: Sequence[tuple[frozenset[str], Sizes]]
) -> list[str]:
    """One line for each computed size that is a regression: the setting that makes it, or those that may.

    Args:
        verdict: of the A/B.
        settings: in words.
        boots: the applied settings and the sizes of every boot, the A/B's own included.
    """
    return [
        _note(metric, settings, boots)
        for metric in verdict.metrics
        if metric.outcome is Outcome.REGRESSION and computed(metric.metric) and metric.baseline and metric.now
    ]


def _note(
    metric: MetricVerdict, settings: Sequence[str], boots: Sequence[tuple[frozenset[str], Sizes]]
) -> str:
    assert metric.baseline
    assert metric.now
    middle = math.sqrt(metric.baseline * metric.now)
    told = [
        (applied, (values[metric.metric] > middle) is (metric.now > metric.baseline))
        for applied, values in boots
        if metric.metric in values
    ]
    may = [
        shortened(name) for name in settings if all((name in applied) is changed for applied, changed in told)
    ]
    what = f"{METRICS[metric.metric].label} {metric.now / metric.baseline - 1:+.1%}, which is computed and not searched"
    if len(may) == 1:
        return f"{what}: every boot with {may[0]} has it, none without"
    if may:
        return f"{what}: by these boots it may be {', '.join(may[:-1])} or {may[-1]}"
    return f"{what}: no setting makes it alone"
