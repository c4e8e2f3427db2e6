"""Correction for asking many questions at once."""

from __future__ import annotations

import numpy as np

from perfgate.statistics.contrast import BoolArray, FloatArray


def holm(p_values: FloatArray, family: BoolArray | None = None) -> FloatArray:
    """Holm's step-down adjusted p-values (Holm 1979), along the last axis.

    Args:
        p_values: shape (..., m), each between 0 and 1.
        family: shape (..., m); which of them are asked at all. None for all. The others are returned as 1 and do
            not count.

    Returns:
        Adjusted p-values, shape (..., m): rejecting those at or below α keeps the probability of any false rejection
        at or below α, whatever the dependence.

    Raises:
        ValueError: a p-value of the family is NaN or outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    inside = np.ones(p.shape, dtype=np.bool_) if family is None else np.broadcast_to(family, p.shape)
    if not np.all(np.where(inside, (p >= 0) & (p <= 1), True)):
        raise ValueError("p-values must lie between 0 and 1")
    if p.shape[-1] == 0:
        return p.copy()
    asked = np.where(inside, p, np.inf)
    order = np.argsort(asked, axis=-1, kind="stable")
    ranked = np.take_along_axis(asked, order, axis=-1)
    size = inside.sum(axis=-1, keepdims=True)
    remaining = size - np.arange(p.shape[-1])
    with np.errstate(invalid="ignore"):
        scaled = np.where(remaining > 0, ranked * remaining, 0.0)
    stepped = np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0)
    adjusted = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return np.where(inside, adjusted, 1.0)


def online_level(alpha: float, position: int) -> float:
    """The share of ``alpha`` for the ``position``-th family (from 1) when it is not known how many will follow.

    α/2, α/4, α/8, … sum to α, so by the union bound any number of families keeps the level. It replaces a correction
    over the whole suite where a verdict cannot wait until everything has been screened.
    """
    if position < 1:
        raise ValueError(f"positions count from 1, not {position}")
    return alpha * 0.5**position
