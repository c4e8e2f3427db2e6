"""The difference of two groups of replicates, with its standard error and degrees of freedom.

Everything here works on arrays whose last axis holds the replicates of one comparison and whose other axes hold
comparisons, so that one comparison and a hundred thousand simulated ones go through the same lines.

A replicate is the mean of log(metric) over the runs of one boot. The runs of one boot share its boot effect, so they
are never counted as replicates of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Differences of group means on the log scale, elementwise.

    Attributes:
        estimate: mean(new) − mean(base), log units; NaN where a group is empty.
        standard_error: of the estimate, log units; infinite where the data cannot tell.
        df: degrees of freedom of the t distribution of estimate / standard_error; 0 where it has none.
    """

    estimate: FloatArray
    standard_error: FloatArray
    df: FloatArray

    def bound(self, level: float) -> FloatArray:
        """The one-sided ``level`` confidence bound of the true difference (0.025 lower, 0.975 upper)."""
        bounds = self.estimate + student_quantile(level, self.df) * self.standard_error
        return np.where(self.known, bounds, np.inf if level >= 0.5 else -np.inf)

    @property
    def known(self) -> BoolArray:
        """Where the data carry an interval at all."""
        known: BoolArray = np.isfinite(self.estimate) & np.isfinite(self.standard_error) & (self.df > 0)
        return known

    def p_greater(self, shift: float | FloatArray = 0.0) -> FloatArray:
        """One-sided p-value against "the true difference is at most ``shift``"; 1 where nothing is known."""
        return self._p(self.estimate - shift)

    def p_less(self, shift: float | FloatArray = 0.0) -> FloatArray:
        """One-sided p-value against "the true difference is at least ``shift``"; 1 where nothing is known."""
        return self._p(shift - self.estimate)

    def _p(self, excess: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.known, special.stdtr(self.df, -excess / self.standard_error), 1.0)


def student_quantile(level: float | FloatArray, df: float | FloatArray) -> FloatArray:
    """Quantile of Student's t; NaN where ``df`` is not positive, the normal quantile where it is infinite."""
    degrees = np.asarray(df, dtype=np.float64)
    safe = np.where(degrees > 0, degrees, 1.0)
    return np.where(degrees > 0, special.stdtrit(safe, level), np.nan)


def moments(values: FloatArray) -> tuple[int, FloatArray, FloatArray]:
    """Size, mean and sum of squared deviations over the last axis; NaN mean for size 0."""
    size = values.shape[-1]
    if size == 0:
        return 0, np.full(values.shape[:-1], np.nan), np.zeros(values.shape[:-1])
    mean = values.mean(axis=-1)
    residuals = values - mean[..., None]
    # Equal values must give exactly zero: the rounding error of their mean is not a spread.
    ties = np.all(values == values[..., :1], axis=-1)
    return size, mean, np.where(ties, 0.0, np.square(residuals).sum(axis=-1))


def welch(base: FloatArray, new: FloatArray) -> Contrast:
    """Welch's contrast: each group has its own variance (Welch 1947, degrees of freedom after Satterthwaite 1946).

    Args:
        base: replicates of the reference, shape (..., n).
        new: replicates of what is judged, shape (..., m).

    Returns:
        A contrast of shape (...). The standard error is infinite where a group has fewer than two replicates or
        where neither group varies: equal values say that the clock is coarse, not that the metric is exact.
    """
    n, base_mean, base_squares = moments(base)
    m, new_mean, new_squares = moments(new)
    estimate = new_mean - base_mean
    if n < 2 or m < 2:
        return Contrast(
            estimate=estimate, standard_error=np.full(estimate.shape, np.inf), df=np.zeros(estimate.shape)
        )
    base_part = base_squares / (n - 1) / n
    new_part = new_squares / (m - 1) / m
    variance = base_part + new_part
    df = satterthwaite(base_part, n - 1, new_part, m - 1)
    degenerate = variance <= 0
    return Contrast(
        estimate=estimate,
        standard_error=np.where(degenerate, np.inf, np.sqrt(variance)),
        df=np.where(degenerate, 0.0, df),
    )


def moderated(
    base: FloatArray,
    new: FloatArray,
    *,
    prior_df: float | FloatArray,
    prior_variance: float | FloatArray,
    drift_variance: float | FloatArray = 0.0,
    drift_df: float | FloatArray = np.inf,
) -> Contrast:
    """The moderated contrast: the replicate variance is shrunk towards a prior, so one replicate a side suffices.

    Posterior variance (d₀s₀² + νs²)/(d₀ + ν) with d₀ + ν degrees of freedom, where s² is pooled over both groups
    (Smyth 2004, "Linear models and empirical Bayes methods", equation for s̃²). A drift between the sessions of the
    two groups adds its variance to the squared standard error; the degrees of freedom of the sum are Satterthwaite's.

    Args:
        base: replicates of the reference, shape (..., n), n ≥ 1.
        new: replicates of what is judged, shape (..., m), m ≥ 1.
        prior_df: d₀ > 0.
        prior_variance: s₀² > 0, log² units, of one replicate.
        drift_variance: variance of the difference of the session effects of the two groups (2τ² for one session a
            side); 0 when both were measured interleaved in one session.
        drift_df: degrees of freedom with which ``drift_variance`` is known.
    """
    n, base_mean, base_squares = moments(base)
    m, new_mean, new_squares = moments(new)
    estimate = new_mean - base_mean
    if n < 1 or m < 1:
        return Contrast(
            estimate=estimate, standard_error=np.full(estimate.shape, np.inf), df=np.zeros(estimate.shape)
        )
    own_df = (n - 1) + (m - 1)
    total_df = np.asarray(prior_df, dtype=np.float64) + own_df
    with np.errstate(invalid="ignore"):
        posterior = (np.asarray(prior_df) * prior_variance + base_squares + new_squares) / total_df
    posterior = np.where(np.isinf(total_df), prior_variance, posterior)
    plain = Contrast(
        estimate=estimate,
        standard_error=np.broadcast_to(np.sqrt(posterior * (1.0 / n + 1.0 / m)), estimate.shape),
        df=np.broadcast_to(total_df, estimate.shape),
    )
    return with_drift(plain, drift_variance, drift_df)


def with_drift(contrast: Contrast, variance: float | FloatArray, df: float | FloatArray = np.inf) -> Contrast:
    """The contrast with the variance of a session drift added to its squared standard error."""
    sampling = np.square(contrast.standard_error)
    return Contrast(
        estimate=contrast.estimate,
        standard_error=np.sqrt(sampling + variance),
        df=np.where(contrast.known, satterthwaite(sampling, contrast.df, variance, df), 0.0),
    )


def satterthwaite(
    first: float | FloatArray,
    first_df: float | FloatArray,
    second: float | FloatArray,
    second_df: float | FloatArray,
) -> FloatArray:
    """Degrees of freedom of the sum of two independent variance estimates (Satterthwaite 1946)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # Shares rather than fourth powers: tiny variances would underflow.
        share = np.asarray(first) / (np.asarray(first) + second)
        return np.asarray(1.0 / (share**2 / first_df + (1.0 - share) ** 2 / second_df))


#: Degrees of freedom at which a scale counts as known: no prior is worth more.
KNOWN_DF = 20.0


def winsorise(
    values: FloatArray,
    scale: float | FloatArray,
    *,
    df: float | FloatArray = KNOWN_DF,
    width: float = 2.5,
) -> FloatArray:
    """Pull replicates further than ``width`` × ``scale`` from their group's median in to that distance.

    A scale that few boots stand behind may be far too small by chance, and would cut honest replicates down to agreement. So the reach
    grows as Student's quantile does: with one degree of freedom it is 19 times as wide, which pulls in nothing.

    Args:
        values: replicates, shape (..., n).
        scale: standard deviation of one replicate known from *other* data, shape (...) or a number.
        df: degrees of freedom of the scale, likewise; more than 20 count as 20.
        width: how many scales away a replicate may lie where the scale is known. 2.5 changes 1.2% of normal replicates.
    """
    if values.shape[-1] == 0:
        return values
    centre = np.median(values, axis=-1, keepdims=True)
    reach = winsor_reach(scale, df, width)[..., None]
    return np.clip(values, centre - reach, centre + reach)


def winsor_reach(scale: float | FloatArray, df: float | FloatArray, width: float) -> FloatArray:
    """How far from its centre a replicate may lie before it is pulled in; see `winsorise`."""
    level = float(special.ndtr(width))
    wider = student_quantile(level, np.minimum(df, KNOWN_DF)) / student_quantile(level, KNOWN_DF)
    return np.asarray(width * wider * np.asarray(scale, dtype=np.float64))
