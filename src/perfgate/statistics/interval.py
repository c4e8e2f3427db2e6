"""One comparison of two groups of boot means: estimate, interval, smallest detectable effect and judgement.

Values are logarithms of a metric, so a difference of 0.05 is a ratio of e^0.05. `compare` measures the difference;
`judge` turns it into an outcome, given which way is worse and the two thresholds of the metric.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from perfgate.statistics.contrast import (
    Contrast,
    FloatArray,
    moderated,
    student_quantile,
    welch,
    winsorise,
    with_drift,
)


class Outcome(enum.StrEnum):
    """What the data say about one metric."""

    PASS = "PASS"
    REGRESSION = "REGRESSION"
    IMPROVEMENT = "IMPROVEMENT"
    INCONCLUSIVE = "INCONCLUSIVE"
    SUSPECT = "SUSPECT"


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What other measurements of the same kind say about the variance of one replicate.

    Attributes:
        df: d₀, how many degrees of freedom the prior is worth; above 0, possibly infinite.
        variance: s₀², log² units; above 0.
    """

    df: float
    variance: float

    def __post_init__(self) -> None:
        if not self.df > 0:
            raise ValueError(f"prior degrees of freedom must be above 0, not {self.df}")
        if not 0 < self.variance < math.inf:
            raise ValueError(f"prior variance must be above 0 and finite, not {self.variance}")

    @property
    def sd(self) -> float:
        """s₀, log units."""
        return math.sqrt(self.variance)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far two sessions lie apart although nothing was changed; it never averages out within a session.

    Attributes:
        sd: τ, standard deviation of a session effect, log units.
        df: degrees of freedom with which τ is known.
        base_sessions: over how many sessions the reference's replicates are spread.
        new_sessions: over how many sessions the judged replicates are spread.
        upper_sd: upper bound of τ, for decisions where too small a drift would let a slowdown through or would
            accuse wrongly; None for ``sd``.
    """

    sd: float
    upper_sd: float | None = None
    df: float = math.inf
    base_sessions: int = 1
    new_sessions: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.sd < math.inf:
            raise ValueError(f"session drift must be 0 or above and finite, not {self.sd}")
        if self.upper_sd is not None and not self.sd <= self.upper_sd < math.inf:
            raise ValueError(f"upper bound of the session drift must be finite and not below {self.sd}")
        if not self.df > 0:
            raise ValueError(f"degrees of freedom of the session drift must be above 0, not {self.df}")
        if self.base_sessions < 1 or self.new_sessions < 1:
            raise ValueError("each side of a comparison has at least one session")

    @property
    def variance(self) -> float:
        """Variance of the difference of the two sides' session effects; 2τ² for one session a side."""
        return self.sd**2 * (1 / self.base_sessions + 1 / self.new_sessions)

    def cautious(self) -> Drift:
        """The same with τ at its upper bound."""
        return self if self.upper_sd is None else replace(self, sd=self.upper_sd)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far the new replicates lie from the reference's, log units.

    Attributes:
        estimate: mean(new) − mean(base); NaN if a side is empty.
        standard_error: infinite where the data cannot carry an interval.
        df: degrees of freedom; 0 where there are none.
        base_size: replicates of the reference.
        new_size: replicates of what is judged.
        moderated: whether a prior lent its variance.
    """

    estimate: float
    standard_error: float
    df: float
    base_size: int
    new_size: int
    moderated: bool

    @property
    def contrast(self) -> Contrast:
        """The same numbers as arrays without axes."""
        return Contrast(
            estimate=np.asarray(self.estimate),
            standard_error=np.asarray(self.standard_error),
            df=np.asarray(self.df),
        )

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval of the true log-ratio; infinite where the data cannot tell."""
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
        contrast = self.contrast
        tail = (1 - confidence) / 2
        return float(contrast.bound(tail)), float(contrast.bound(1 - tail))

    def p_greater(self, shift: float = 0.0) -> float:
        """One-sided p-value against "the true log-ratio is at most ``shift``"."""
        return float(self.contrast.p_greater(shift))

    def p_less(self, shift: float = 0.0) -> float:
        """One-sided p-value against "the true log-ratio is at least ``shift``"."""
        return float(self.contrast.p_less(shift))

    def smallest_detectable(
        self, *, alpha: float = 0.01, power: float = 0.8, tolerance: float = 0.0
    ) -> float:
        """The smallest true log-ratio that this much data would show with probability ``power``.

        To be shown, an estimate must be significant at one-sided ``alpha`` and exceed ``tolerance`` (log units).
        (t_{1−α} + t_{power})·SE, the usual planning formula; infinite where the data cannot carry an interval.
        """
        return smallest_detectable(
            self.standard_error, self.df, alpha=alpha, power=power, tolerance=tolerance
        )


def smallest_detectable(
    standard_error: float, df: float, *, alpha: float = 0.01, power: float = 0.8, tolerance: float = 0.0
) -> float:
    """The smallest true log-ratio that a comparison with this standard error would show (log units)."""
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"alpha and power must lie between 0 and 1, not {alpha} and {power}")
    if not (df > 0 and math.isfinite(standard_error)):
        return math.inf
    needed = max(float(student_quantile(1 - alpha, df)) * standard_error, tolerance)
    return needed + float(student_quantile(power, df)) * standard_error


def replicates(values: Iterable[float]) -> FloatArray:
    """Boot means of log(metric) as an array; raises ValueError on NaN and infinities, which are never data."""
    array = np.asarray(list(values), dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"replicates are one number a boot, not an array of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"replicate {bad[0]} is {array[bad[0]]}: a measurement must be finite")
    return array


def compare(
    base: Iterable[float],
    new: Iterable[float],
    *,
    prior: Prior | None = None,
    drift: Drift | None = None,
    winsor_width: float | None = None,
) -> Difference:
    """Difference of two groups of boot means of log(metric), of any sizes from 0.

    Without a prior this is Welch's comparison, and the interval is infinite unless both sides have two replicates.
    With a prior it is the moderated comparison, which needs one replicate a side.

    Args:
        base: the reference's boot means.
        new: the judged boot means.
        prior: what the noise model lends; None for plain Welch.
        drift: session drift between the two sides; None when both were measured interleaved.
        winsor_width: with a prior, pull in replicates further than this many s₀ from their side's median; see `winsorise`.

    Raises:
        ValueError: a value is NaN or infinite, or ``winsor_width`` is given without a prior.
    """
    reference, judged = replicates(base), replicates(new)
    if prior is None:
        if winsor_width is not None:
            raise ValueError("winsorising needs a scale from other data: give a prior")
        contrast = welch(reference, judged)
        if drift is not None:
            contrast = with_drift(contrast, drift.variance, drift.df)
    else:
        if winsor_width is not None:
            reference = winsorise(reference, prior.sd, df=prior.df, width=winsor_width)
            judged = winsorise(judged, prior.sd, df=prior.df, width=winsor_width)
        contrast = moderated(
            reference,
            judged,
            prior_df=prior.df,
            prior_variance=prior.variance,
            drift_variance=drift.variance if drift else 0.0,
            drift_df=drift.df if drift else math.inf,
        )
    return Difference(
        estimate=float(contrast.estimate),
        standard_error=float(contrast.standard_error),
        df=float(contrast.df),
        base_size=reference.size,
        new_size=judged.size,
        moderated=prior is not None,
    )
