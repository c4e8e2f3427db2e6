"""Distribution-free bounds of a quantile from order statistics.

If X₍ₖ₎ is the k-th smallest of n independent values, then P(X₍ₖ₎ ≥ Q_p) ≥ P(Bin(n, p) ≤ k − 1), whatever the
distribution (equality for a continuous one). So the smallest k with that probability ≥ γ gives an upper bound of
confidence γ; there is none as long as 1 − pⁿ < γ. Lower bounds mirror this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

#: Below this many pooled requests a P99 stays advisory (its bound exists from 299, but is its largest value).
P99_REQUESTS = 1000


@dataclass(frozen=True, kw_only=True)
class QuantileBounds:
    """A sample quantile between two one-sided distribution-free bounds.

    Attributes:
        probability: which quantile.
        estimate: linear-interpolation quantile of the sample; NaN for an empty one.
        lower: one-sided lower bound; −infinity where the sample is too small.
        upper: one-sided upper bound; infinity where the sample is too small.
        confidence: of each of the two bounds.
        size: number of values.
    """

    probability: float
    estimate: float
    lower: float
    upper: float
    confidence: float
    size: int


def smallest_sample(probability: float, confidence: float) -> int:
    """The smallest sample with a one-sided upper bound: 299 for P99 at 95%, 459 at 99%."""
    _check(probability, confidence)
    return math.ceil(math.log1p(-confidence) / math.log(probability))


def upper_rank(size: int, probability: float, confidence: float) -> int | None:
    """Rank k (from 1) of the order statistic that is an upper bound, or None if the sample has none."""
    _check(probability, confidence)
    if size < 1:
        return None
    ranks = np.arange(1, size + 1)
    enough = special.bdtr((ranks - 1).astype(np.float64), size, probability)
    found = int(np.searchsorted(enough, confidence, side="left"))
    return found + 1 if found < size else None


def lower_rank(size: int, probability: float, confidence: float) -> int | None:
    """Rank k (from 1) of the order statistic that is a lower bound, or None if the sample has none."""
    mirrored = upper_rank(size, 1 - probability, confidence)
    return None if mirrored is None else size + 1 - mirrored


def quantile_bounds(
    values: Iterable[float], *, probability: float = 0.99, confidence: float = 0.95
) -> QuantileBounds:
    """Bounds of a quantile of independent values.

    Requests of one run share its boot and its queue, so these bounds are too narrow for a comparison of boots: a
    quantile may ask for replication and never fails alone.

    Raises:
        ValueError: a value is NaN, or probability or confidence is outside (0, 1).
    """
    data = np.sort(np.asarray(list(values), dtype=np.float64))
    if np.isnan(data).any():
        raise ValueError("a NaN has no place in an order")
    up, low = upper_rank(data.size, probability, confidence), lower_rank(data.size, probability, confidence)
    return QuantileBounds(
        probability=probability,
        estimate=float(np.quantile(data, probability)) if data.size else math.nan,
        lower=-math.inf if low is None else float(data[low - 1]),
        upper=math.inf if up is None else float(data[up - 1]),
        confidence=confidence,
        size=data.size,
    )


def _check(probability: float, confidence: float) -> None:
    if not (0 < probability < 1 and 0 < confidence < 1):
        raise ValueError(
            f"probability and confidence must lie between 0 and 1, not {probability}, {confidence}"
        )
