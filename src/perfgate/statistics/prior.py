"""Borrowed variance: the prior that many small samples of the same kind lend to each other.

Cells of one class (GPU × metric × concurrency) have variances that differ a little. Modelling them as
s²_g ~ s₀² F(ν_g, d₀) gives the two hyperparameters by matching the moments of log s² (Smyth 2004, section 6.2).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from perfgate.statistics.contrast import KNOWN_DF, FloatArray
from perfgate.statistics.interval import Prior

#: A prior is never worth more than this many degrees of freedom: its cells are not the cell that is judged.
MOST_DF = KNOWN_DF


def inverse_trigamma(values: FloatArray) -> FloatArray:
    """The x > 0 with ψ′(x) = value, for values > 0; infinite for value 0 and NaN below (Newton, Smyth 2004 appendix)."""
    y = np.asarray(values, dtype=np.float64)
    inside = y > 0
    safe = np.clip(np.where(inside, y, 1.0), 1e-6, 1e6)
    x = np.where(safe > 3.0, 1.0 / np.sqrt(safe), 0.5 + 1.0 / safe)
    for _ in range(6):  # 1/ψ′ is nearly linear and convex: convergence is quadratic and monotone
        trigamma = special.polygamma(1, x)
        x = x + trigamma * (1.0 - trigamma / safe) / special.polygamma(2, x)
    extreme = np.where(y > 1e6, 1.0 / np.sqrt(np.where(inside, y, 1.0)), x)
    return np.where(inside, np.where(y < 1e-6, 1.0 / np.where(inside, y, 1.0), extreme), _outside(y))


def _outside(y: FloatArray) -> FloatArray:
    return np.where(y == 0, np.inf, np.nan)


def fit_prior(
    variances: FloatArray, dfs: FloatArray, *, most_df: float = MOST_DF
) -> tuple[FloatArray, FloatArray]:
    """Prior degrees of freedom and variance from sample variances, along the last axis.

    Args:
        variances: shape (..., G), sample variances s²_g ≥ 0.
        dfs: shape (..., G), their degrees of freedom ν_g; samples with ν_g = 0 are ignored.
        most_df: cap of d₀ before the error of s₀² itself is counted, which has Σν_g degrees of freedom: 1/d = 1/d₀ + 1/Σν_g.

    Returns:
        d₀ and s₀², each of shape (...). NaN variance where no sample has a degree of freedom or all variances are 0.
    """
    s2, nu = np.broadcast_arrays(np.asarray(variances, dtype=np.float64), np.asarray(dfs, dtype=np.float64))
    used = nu > 0
    count = used.sum(axis=-1)
    total = np.where(used, nu, 0.0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = np.where(used, nu * s2, 0.0).sum(axis=-1) / total
    # A variance of exactly 0 (ties) has no logarithm: it is taken for a very small one.
    floor = np.where(pooled > 0, pooled, 1.0) * 1e-5
    half = np.where(used, nu, 2.0) / 2.0
    e = np.log(np.maximum(np.where(used, s2, 1.0), floor[..., None])) - special.digamma(half) + np.log(half)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(used, e, 0.0).sum(axis=-1) / count
        spread = np.where(used, np.square(e - mean[..., None]), 0.0).sum(axis=-1) / (count - 1)
        expected = np.where(used, special.polygamma(1, half), 0.0).sum(axis=-1) / count
    excess = spread - expected
    informative = (count >= 3) & (excess > 0)
    d0 = np.where(informative, 2.0 * inverse_trigamma(np.where(informative, excess, 1.0)), np.inf)
    half_d0 = np.where(np.isfinite(d0), d0, 2.0) / 2.0
    matched = np.exp(np.where(informative, mean, 0.0) + special.digamma(half_d0) - np.log(half_d0))
    s02 = np.where(np.isfinite(d0), matched, pooled)
    # s₀² is itself an estimate with Σν degrees of freedom; relative variances 2/d add.
    with np.errstate(divide="ignore"):
        capped = 1.0 / (1.0 / np.minimum(d0, most_df) + 1.0 / total)
    known = (total > 0) & (pooled > 0)
    return np.where(known, capped, np.nan), np.where(known, s02, np.nan)


def prior_from(
    variances: FloatArray | list[float], dfs: FloatArray | list[float], *, most_df: float = MOST_DF
) -> Prior | None:
    """The same for one class; None where the samples carry no variance."""
    df, variance = fit_prior(
        np.asarray(variances, dtype=np.float64), np.asarray(dfs, dtype=np.float64), most_df=most_df
    )
    if not (math.isfinite(float(df)) and math.isfinite(float(variance))):
        return None
    return Prior(df=float(df), variance=float(variance))
