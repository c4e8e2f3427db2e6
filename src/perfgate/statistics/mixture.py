"""Boots in two states: some servers come up fast or slow, and stay so until they are restarted.

A mean over such boots describes neither state. The test asks whether the best split of the sorted boots into two
groups explains more of their spread than it would for one normal population; its null distribution is simulated, so
it is exact for every size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perfgate.statistics.contrast import FloatArray
from perfgate.statistics.interval import replicates

_SIMULATIONS = 20_000
FEWEST_BOOTS = 6


@dataclass(frozen=True, kw_only=True)
class TwoStates:
    """A split of boots into two states.

    Attributes:
        low: mean of the lower state, log units.
        high: mean of the upper state, log units.
        high_share: share of boots in the upper state.
        p_value: probability of a split this clean from one normal population.
        size: number of boots.
    """

    low: float
    high: float
    high_share: float
    p_value: float
    size: int

    @property
    def gap(self) -> float:
        """Distance of the states, log units."""
        return self.high - self.low


def two_states(boot_means: Iterable[float], *, alpha: float = 0.001) -> TwoStates | None:
    """The two states of a server's boots, or None where one state explains them.

    Both states must hold at least two boots: a single far boot is an outlier, not a state. Below six boots nothing
    can be told.

    Args:
        boot_means: log values, one a boot, of one cell and session.
        alpha: level of the test.
    """
    values = np.sort(replicates(boot_means))
    if values.size < FEWEST_BOOTS or values[0] == values[-1]:
        return None
    explained, cut = _best_split(values[None, :])
    null = _null(values.size)
    p = float((1 + np.count_nonzero(null >= explained[0])) / (1 + null.size))
    if p > alpha:
        return None
    at = int(cut[0])
    return TwoStates(
        low=float(values[:at].mean()),
        high=float(values[at:].mean()),
        high_share=1 - at / values.size,
        p_value=p,
        size=values.size,
    )


def _best_split(ordered: FloatArray) -> tuple[FloatArray, np.ndarray[tuple[int, ...], np.dtype[np.intp]]]:
    """Share of the sum of squares explained by the best two-group split of sorted rows, and where it cuts."""
    size = ordered.shape[-1]
    centred = ordered - ordered.mean(axis=-1, keepdims=True)
    left = np.cumsum(centred, axis=-1)[..., 1 : size - 2]
    n = np.arange(2, size - 1)
    between = np.square(left) * size / (n * (size - n))
    total = np.square(centred).sum(axis=-1)
    best = between.argmax(axis=-1)
    return between.max(axis=-1) / total, best + 2


@lru_cache(maxsize=64)
def _null(size: int) -> FloatArray:
    rng = np.random.default_rng(size)
    draws = np.sort(rng.standard_normal((_SIMULATIONS, size)), axis=-1)
    return _best_split(draws)[0]
