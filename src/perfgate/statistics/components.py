"""Where the noise sits: variance between runs of a boot, boots of a session, and sessions of a cell.

y = cell + session + boot + run. All estimates are the nested analysis of variance with unweighted session means,
which for balanced data equals REML whenever REML lies inside its bounds, and needs no iteration, so that a hundred
thousand simulated histories are fitted by the same lines as one recorded history. Values far outside the rest are
set aside first: a variance that contains them would hide every regression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfgate.statistics.contrast import BoolArray, FloatArray

#: A replicate further than this many robust scales from its group's median is an outlier.
OUTLIER_WIDTH = 5.0
#: A larger share than this is no accident: such values stay in the variance.
MOST_OUTLIERS = 0.08
_MOST_STEPS = 2
#: Median of |difference of two standard normals|.
_PAIR_MEDIAN = 0.9538725524


@dataclass(frozen=True, kw_only=True)
class ReplicateNoise:
    """Spread of the replicates of one class.

    Attributes:
        cell_variance: variance between boots of one session, per cell, shape (..., C); NaN without a repeated boot.
        cell_df: its degrees of freedom, shape (..., C).
        variance: pooled over cells, shape (...); NaN where no cell has a repeated boot.
        session_variance: τ², shape (...); NaN where no cell has two sessions.
        session_error: standard error of τ², shape (...).
        session_df: sessions − 1, summed over cells, shape (...).
        outliers: number of replicates set aside, shape (...).
        kept: which replicates were used, shape (..., C, S, B).
    """

    cell_variance: FloatArray
    cell_df: FloatArray
    variance: FloatArray
    session_variance: FloatArray
    session_error: FloatArray
    session_df: FloatArray
    outliers: FloatArray
    kept: BoolArray

    @property
    def session_variance_upper(self) -> FloatArray:
        """Upper 80% bound of τ²: what a comparison across sessions should assume."""
        return self.session_variance + 0.8416 * self.session_error


def fit_replicates(values: FloatArray, present: BoolArray | None = None) -> ReplicateNoise:
    """Variance of replicates within and between sessions, pooled over the cells of a class.

    Args:
        values: boot means of log(metric), shape (..., C cells, S sessions, B boots).
        present: which of them exist (ragged data are padded); None for all.
    """
    y = np.asarray(values, dtype=np.float64)
    here = np.ones(y.shape, dtype=np.bool_) if present is None else np.broadcast_to(present, y.shape)
    kept = _without_outliers(y, here)
    filled = np.where(kept, y, 0.0)
    counts = kept.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = filled.sum(axis=-1) / counts
        squares = np.where(kept, np.square(y - means[..., None]), 0.0).sum(axis=-1)
    dfs = np.maximum(counts - 1, 0)
    cell_df = dfs.sum(axis=-1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        cell_variance = np.where(counts > 0, squares, 0.0).sum(axis=-1) / cell_df
        variance = np.where(cell_df > 0, cell_variance * cell_df, 0.0).sum(axis=-1) / cell_df.sum(axis=-1)
    session_variance, session_error, session_df = _sessions(means, counts, variance, cell_df.sum(axis=-1))
    return ReplicateNoise(
        cell_variance=cell_variance,
        cell_df=cell_df,
        variance=variance,
        session_variance=session_variance,
        session_error=session_error,
        session_df=session_df,
        outliers=np.asarray((here & ~kept).sum(axis=(-3, -2, -1)), dtype=np.float64),
        kept=kept,
    )


def _without_outliers(y: FloatArray, here: BoolArray) -> BoolArray:
    """What is left after setting outliers aside, first against the whole cell, then against the own session.

    The first step finds two outliers in a session of three, which the second alone would take for the rule. Where
    more than `MOST_OUTLIERS` would go, all stay: then it is a state of the server, not an accident.
    """
    whole = (*y.shape[:-2], 1, y.shape[-2] * y.shape[-1])
    kept = here & ~_outlying(y.reshape(whole), here.reshape(whole)).reshape(y.shape)
    kept &= ~_outlying(y, kept)
    total = here.sum(axis=(-3, -2, -1), keepdims=True)
    rare: BoolArray = (here & ~kept).sum(axis=(-3, -2, -1), keepdims=True) <= np.maximum(
        1, MOST_OUTLIERS * total
    )
    return np.where(rare, kept, here)


def _outlying(y: FloatArray, here: BoolArray) -> BoolArray:
    """Replicates far from the median of their group (last axis), in units of the class's median difference."""
    size = y.shape[-1]
    if size < 2:
        return np.zeros(y.shape, dtype=np.bool_)
    present = np.where(here, y, np.nan)
    # Neighbours in order of measurement suffice: all pairs would cost far more and say little more.
    steps = range(1, min(size, _MOST_STEPS + 1))
    gaps = np.concatenate([np.abs(present[..., step:] - present[..., :-step]) for step in steps], axis=-1)
    scale = _median(gaps.reshape(*gaps.shape[:-3], -1)) / _PAIR_MEDIAN
    with np.errstate(invalid="ignore"):
        far = np.abs(y - _median(present)[..., None]) > OUTLIER_WIDTH * scale[..., None, None, None]
    # With a scale of 0 everything that differs at all would be an outlier.
    outlying: BoolArray = far & here & (scale[..., None, None, None] > 0)
    return outlying


def _median(values: FloatArray) -> FloatArray:
    """Median over the last axis, NaNs left out; NaN where nothing is left."""
    if not np.isnan(values).any():
        return np.asarray(np.median(values, axis=-1))
    ordered = np.sort(values, axis=-1)  # NaNs go last
    count = (~np.isnan(ordered)).sum(axis=-1)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-1] - 1)[..., None], axis=-1)[
        ..., 0
    ]
    return np.where(count > 0, (low + high) / 2.0, np.nan)


def _sessions(
    means: FloatArray,
    counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    variance: FloatArray,
    df: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """τ², its standard error and degrees of freedom from session means of shape (..., C, S)."""
    filled = counts > 0
    sessions = filled.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = np.where(filled, means, 0.0).sum(axis=-1) / sessions
        squares = np.where(filled, np.square(means - centre[..., None]), 0.0).sum(axis=-1)
        inverse = np.where(filled, 1.0 / np.maximum(counts, 1), 0.0).sum(axis=-1) / sessions
    repeated = sessions >= 2
    dfs = np.where(repeated, sessions - 1, 0)
    total = dfs.sum(axis=-1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.where(repeated, squares, 0.0).sum(axis=-1) / total
        share = np.where(repeated, inverse * dfs, 0.0).sum(axis=-1) / total
        raw = between - share * variance
        error = np.sqrt(2.0 * between**2 / total + 2.0 * (share * variance) ** 2 / df)
    return np.where(total > 0, np.maximum(raw, 0.0), np.nan), error, total


def pad(cells: Sequence[Sequence[Sequence[float]]]) -> tuple[FloatArray, BoolArray]:
    """Ragged cells → sessions → boot means as an array of shape (C, S, B), and where it holds data."""
    sessions = max((len(cell) for cell in cells), default=0)
    boots = max((len(session) for cell in cells for session in cell), default=0)
    values = np.zeros((len(cells), sessions, boots))
    present = np.zeros(values.shape, dtype=np.bool_)
    for c, cell in enumerate(cells):
        for s, session in enumerate(cell):
            values[c, s, : len(session)] = session
            present[c, s, : len(session)] = True
    return values, present


@dataclass(frozen=True, kw_only=True)
class RunNoise:
    """Spread of the runs of one boot.

    Attributes:
        variance: σ_r², log² units; None where no boot has two runs.
        df: its degrees of freedom.
        outliers: runs set aside.
        inverse_runs: mean over boots of 1 / runs; σ_r² times this is the runs' share of a replicate's variance.
    """

    variance: float | None
    df: int
    outliers: int
    inverse_runs: float


def fit_runs(boots: Sequence[Sequence[float]]) -> RunNoise:
    """Variance between runs of a boot, pooled over boots: one inner sequence of log values a boot."""
    filled = [np.asarray(boot, dtype=np.float64) for boot in boots if len(boot)]
    inverse = math.fsum(1.0 / boot.size for boot in filled) / len(filled) if filled else 1.0
    if not any(boot.size > 1 for boot in filled):
        return RunNoise(variance=None, df=0, outliers=0, inverse_runs=inverse)
    values, present = pad([[boot.tolist() for boot in filled]])
    fitted = fit_replicates(values, present)
    df = int(fitted.cell_df.sum())
    return RunNoise(
        variance=float(fitted.variance) if df else None,
        df=df,
        outliers=int(fitted.outliers),
        inverse_runs=inverse,
    )
