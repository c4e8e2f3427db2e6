"""Which of several settings are shown to be worse than another, judged on several metrics at once.

Point i *dominates* point j if, with confidence, it is better in at least one metric and not worse beyond the margin in all others. For a
metric m let p_sup(m) be the p-value against "i is not better than j in m" and p_not(m) the one against "i is worse than j in m by
the margin or more". Dominating through m needs both kinds of statement, so its p-value is their largest (intersection–union, Berger
1982); any of the M metrics may do, so the smallest of these is multiplied by M (Bonferroni); and all ordered pairs of points are
corrected together by Holm's procedure:

    p(i, j) = min(1, M · min over m of max(p_sup(m), max over the other metrics of p_not))

A trade is no domination, however wide the margins are: where j is better than i by more than the tolerance in some metric, at the same
level and uncorrected, p(i, j) is 1. That can only take dominations away.

The *front* is whatever is not shown to be dominated. Points that the data cannot tell apart are all on it: there is no winner inside
the noise.

Two points are compared by the moderated t of `perfgate.statistics.interval.compare`. Its prior is the noise model's where one is given;
otherwise it is fitted to the *other* points of the sweep, so that no point's spread is used twice, and with two points it is Welch's
comparison. Values are logarithms of the metrics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perfgate.statistics.contrast import student_quantile
from perfgate.statistics.interval import Prior, compare
from perfgate.statistics.multiplicity import holm
from perfgate.statistics.prior import prior_from

ALPHA = 0.05
"""Probability that any point of a sweep is called dominated although it is not."""

Replicates = Mapping[str, Sequence[float]]
"""Boot means of log(metric) by metric."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One metric of the comparison.

    Attributes:
        name: of the metric.
        direction: +1 where more is worse (a latency), −1 where less is (a throughput).
        margin: fraction by which a point may be worse and still count as "not worse".
        tolerance: fraction by which a point may be worse although that is certain; more is a trade.
        prior: of one replicate, from the noise model; None without one.
    """

    name: str
    direction: int
    margin: float
    tolerance: float = 0.0
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if self.direction not in (1, -1):
            raise ValueError(f"direction is +1 (more is worse) or -1 (less is worse), not {self.direction}")
        if not 0 < self.margin < math.inf or not 0 <= self.tolerance < math.inf:
            raise ValueError(
                f"a margin is a fraction above 0 and a tolerance one from 0, not {self.margin} and {self.tolerance}"
            )


@dataclass(frozen=True, kw_only=True)
class Range:
    """A point's value of one metric with its own confidence interval, log units; infinite ends where nothing is known."""

    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where one point stands.

    Attributes:
        dominated_by: indices of the points shown to dominate it, the most certain first.
        ranges: its value by metric; for reading, the comparison does not use these intervals.
    """

    dominated_by: tuple[int, ...]
    ranges: Mapping[str, Range]


def standings(
    points: Sequence[Replicates],
    objectives: Sequence[Objective],
    *,
    alpha: float = ALPHA,
    confidence: float = 0.95,
) -> tuple[Standing, ...]:
    """Where each point stands; a point without data in a metric dominates nothing and is dominated by nothing.

    Args:
        points: replicates of each setting.
        objectives: the metrics, all of which count.
        alpha: error of the whole comparison; divide it among workloads that are judged one by one.
        confidence: of each point's own interval.
    """
    if not objectives:
        raise ValueError("points are compared by at least one metric")
    pairs = list(itertools.permutations(range(len(points)), 2))
    raw = np.asarray([_p_dominates(points, objectives, *pair, alpha) for pair in pairs])
    adjusted = dict(zip(pairs, holm(raw), strict=True)) if pairs else {}
    beaten: dict[int, list[tuple[float, int]]] = {index: [] for index in range(len(points))}
    for (better, worse), p in adjusted.items():
        if p <= alpha:
            beaten[worse].append((float(p), better))
    return tuple(
        Standing(
            dominated_by=tuple(index for _, index in sorted(beaten[number])),
            ranges=ranges(
                point,
                [other for index, other in enumerate(points) if index != number],
                objectives,
                confidence=confidence,
            ),
        )
        for number, point in enumerate(points)
    )


def ranges(
    point: Replicates,
    others: Sequence[Replicates],
    objectives: Sequence[Objective],
    *,
    confidence: float = 0.95,
) -> Mapping[str, Range]:
    """A point's value by metric, whether it is compared or not.

    Args:
        point: its replicates.
        others: whose spread is lent to it where an objective has no prior.
        objectives: the metrics.
        confidence: of the intervals.
    """
    return {
        one.name: _range(point.get(one.name, ()), one.prior or _borrowed(others, one.name, set()), confidence)
        for one in objectives
    }


def winner(found: Sequence[Standing]) -> int | None:
    """The point shown to dominate every other one, or None: being alone on the front by want of data is no win."""
    for index in range(len(found)):
        others = [standing for number, standing in enumerate(found) if number != index]
        if others and all(index in standing.dominated_by for standing in others):
            return index
    return None


def _p_dominates(
    points: Sequence[Replicates], objectives: Sequence[Objective], better: int, worse: int, alpha: float
) -> float:
    """The p-value against "point ``better`` does not dominate point ``worse``", before correction over pairs."""
    superior: list[float] = []
    not_worse: list[float] = []
    for one in objectives:
        prior = one.prior or _borrowed(points, one.name, {better, worse})
        difference = compare(points[worse].get(one.name, ()), points[better].get(one.name, ()), prior=prior)
        slowdown, margin = one.direction, math.log1p(one.margin)
        minded = math.log1p(one.tolerance)
        if (difference.p_greater(minded) if slowdown > 0 else difference.p_less(-minded)) <= alpha:
            return 1.0  # the other one is better here: a trade
        # A slowdown s of `better` against `worse`: superior if s < 0, not worse if s < margin.
        superior.append(difference.p_less() if slowdown > 0 else difference.p_greater())
        not_worse.append(difference.p_less(margin) if slowdown > 0 else difference.p_greater(-margin))
    through = [
        max([superior[m], *(p for other, p in enumerate(not_worse) if other != m)])
        for m in range(len(objectives))
    ]
    return min(1.0, len(objectives) * min(through))


def _borrowed(points: Sequence[Replicates], metric: str, without: set[int]) -> Prior | None:
    """What the spread of the other points lends; None where they have none."""
    groups = [
        np.asarray(point[metric], dtype=np.float64)
        for number, point in enumerate(points)
        if number not in without and len(point.get(metric, ())) > 1
    ]
    if not groups:
        return None
    return prior_from([float(group.var(ddof=1)) for group in groups], [len(group) - 1.0 for group in groups])


def _range(values: Sequence[float], prior: Prior | None, confidence: float) -> Range:
    """Mean with a t interval whose variance is shrunk towards the prior."""
    if not values:
        return Range(estimate=math.nan, lower=-math.inf, upper=math.inf)
    array = np.asarray(values, dtype=np.float64)
    own_df = array.size - 1
    squares = float(np.square(array - array.mean()).sum()) if np.ptp(array) > 0 else 0.0
    df = own_df + (prior.df if prior else 0.0)
    total = squares + (prior.df * prior.variance if prior else 0.0)
    estimate = float(array.mean())
    if df <= 0 or total <= 0:
        return Range(estimate=estimate, lower=-math.inf, upper=math.inf)
    half = float(student_quantile(1 - (1 - confidence) / 2, df)) * math.sqrt(total / df / array.size)
    return Range(estimate=estimate, lower=estimate - half, upper=estimate + half)
