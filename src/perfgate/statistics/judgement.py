"""From a difference to an outcome: the two thresholds of a metric and the direction in which it gets worse.

* *tolerance*: a slowdown that is not minded even when it is certain. REGRESSION needs an estimate above it.
* *margin*: a slowdown that must be excluded for a PASS. The upper bound must lie below it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perfgate.statistics.contrast import BoolArray, Contrast, FloatArray
from perfgate.statistics.interval import Difference, Outcome

#: One-sided level at which a slowdown (or a gain) counts as certain.
ALPHA = 0.01
#: Two-sided confidence of the interval; a PASS is decided by its upper end, a 97.5% bound.
CONFIDENCE = 0.95
#: Power to which "smallest detectable effect" refers.
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The outcome for one metric, with what it rests on.

    Slowdowns are fractions and positive when worse, whatever the metric's direction: 0.05 means that a latency rose
    by 5%, or that a throughput fell to 1/1.05.

    Attributes:
        outcome: PASS, REGRESSION, IMPROVEMENT or INCONCLUSIVE (a screen also says SUSPECT).
        slowdown: point estimate; NaN if a side is empty.
        lower: lower end of the confidence interval.
        upper: upper end of the confidence interval.
        confidence: two-sided confidence of that interval.
        p_value: one-sided, against "it did not get slower"; multiplicity-adjusted if it was given so.
        smallest_detectable: slowdown that this much data would have shown with the asked power.
        tolerated: passed although certainly slower: the slowdown is real and within the tolerance.
        tolerance: the tolerance applied, a fraction.
        margin: the margin applied, a fraction.
    """

    outcome: Outcome
    slowdown: float
    lower: float
    upper: float
    confidence: float
    p_value: float
    smallest_detectable: float
    tolerated: bool
    tolerance: float
    margin: float


def orient(contrast: Contrast, direction: int) -> Contrast:
    """The contrast as a slowdown: positive when worse.

    Args:
        contrast: of log(metric), new minus base.
        direction: +1 when a larger value is slower (a latency), −1 when a smaller one is (a throughput).
    """
    if direction not in (1, -1):
        raise ValueError(f"direction is +1 (larger is slower) or -1 (smaller is slower), not {direction}")
    return Contrast(
        estimate=direction * contrast.estimate, standard_error=contrast.standard_error, df=contrast.df
    )


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Outcomes of many comparisons, elementwise; `slower` and `faster` exclude each other."""

    slower: BoolArray
    faster: BoolArray
    excluded: BoolArray

    @property
    def passed(self) -> BoolArray:
        """Where the margin is excluded and no certain change beyond the tolerance was found."""
        return self.excluded & ~self.slower & ~self.faster


def decide(
    slowdown: Contrast,
    *,
    tolerance: float | FloatArray,
    margin: float | FloatArray,
    p_slower: FloatArray,
    p_faster: FloatArray,
    alpha: float | FloatArray = ALPHA,
    pass_level: float = 1 - (1 - CONFIDENCE) / 2,
) -> Findings:
    """Decide oriented contrasts: certain slowdown or gain beyond the tolerance, and margin excluded or not.

    Args:
        slowdown: oriented contrasts (`orient`), log units.
        tolerance: log units.
        margin: log units.
        p_slower: p-values for a slowdown, adjusted for multiplicity where that is due.
        p_faster: p-values for a gain.
        alpha: one-sided level of both.
        pass_level: confidence of the one-sided upper bound that must stay below the margin.
    """
    return Findings(
        slower=slowdown.known & (p_slower <= alpha) & (slowdown.estimate > tolerance),
        faster=slowdown.known & (p_faster <= alpha) & (slowdown.estimate < -np.asarray(tolerance)),
        # The same as bound(pass_level) <= margin, and cheaper over many.
        excluded=slowdown.known & (slowdown.p_less(margin) <= 1 - pass_level),
    )


def judge(
    difference: Difference,
    *,
    direction: int,
    tolerance: float,
    margin: float,
    alpha: float = ALPHA,
    confidence: float = CONFIDENCE,
    pass_level: float | None = None,
    power: float = POWER,
    adjusted_p: float | None = None,
    can_fail: bool = True,
) -> Judgement:
    """Judge one metric.

    Args:
        difference: of log(metric), new minus base.
        direction: +1 when a larger value is slower (a latency), −1 when a smaller one is (a throughput).
        tolerance: fraction; the estimate must exceed it for REGRESSION, and −it for IMPROVEMENT.
        margin: fraction; the upper bound must stay below it for PASS.
        alpha: one-sided level at which a change counts as certain.
        confidence: two-sided confidence of the reported interval.
        pass_level: confidence of the upper bound that decides PASS; None for the upper end of the interval.
        power: power to which the smallest detectable effect refers.
        adjusted_p: p-value for a slowdown after correction for the other comparisons; None for the plain one.
        can_fail: False where a failure would rest on too little (no noise model, no fresh data): a slowdown is then
            INCONCLUSIVE at worst.

    Raises:
        ValueError: direction, thresholds or levels make no sense.
    """
    if not 0 <= tolerance < math.inf or not 0 < margin < math.inf:
        raise ValueError(f"tolerance and margin are fractions of 0 and above, not {tolerance} and {margin}")
    if not 0 < confidence < 1 or not 0 < alpha < 1:
        raise ValueError(f"confidence and alpha must lie between 0 and 1, not {confidence} and {alpha}")
    slowdown = orient(difference.contrast, direction)
    log_tolerance = math.log1p(tolerance)
    tail = (1 - confidence) / 2
    p_slower = float(slowdown.p_greater()) if adjusted_p is None else adjusted_p
    found = decide(
        slowdown,
        tolerance=log_tolerance,
        margin=math.log1p(margin),
        p_slower=np.asarray(p_slower),
        p_faster=slowdown.p_less(),
        alpha=alpha,
        pass_level=1 - tail if pass_level is None else pass_level,
    )
    if found.slower and can_fail:
        outcome = Outcome.REGRESSION
    elif found.faster and can_fail:
        outcome = Outcome.IMPROVEMENT
    elif found.excluded and not found.slower:
        outcome = Outcome.PASS
    else:
        outcome = Outcome.INCONCLUSIVE
    lower, upper = float(slowdown.bound(tail)), float(slowdown.bound(1 - tail))
    return Judgement(
        outcome=outcome,
        slowdown=_fraction(float(slowdown.estimate)),
        lower=_fraction(lower),
        upper=_fraction(upper),
        confidence=confidence,
        p_value=p_slower,
        smallest_detectable=_fraction(
            difference.smallest_detectable(alpha=alpha, power=power, tolerance=log_tolerance)
        ),
        tolerated=outcome is Outcome.PASS and lower > 0,
        tolerance=tolerance,
        margin=margin,
    )


def _fraction(log_ratio: float) -> float:
    """e^x − 1, infinite rather than an overflow."""
    try:
        return math.expm1(log_ratio)
    except OverflowError:
        return math.inf
