"""Looking several times at growing data without raising the error rate: α spending.

The boundaries solve the recursion of Armitage, McPherson & Rowe (1969) for a Brownian motion observed at the
information fractions of the looks, with the error spent so far prescribed by Lan & DeMets (1983).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from perfgate.statistics.contrast import FloatArray

_NODES = 160
_REACH = 8.5  # beyond this many standard deviations a normal density is no longer felt in double precision


def pocock_spent(alpha: float, fraction: float) -> float:
    """Error spent when ``fraction`` of the information is in: α·ln(1 + (e − 1)t), the Pocock-type function."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"an information fraction lies between 0 and 1, not {fraction}")
    return alpha * math.log1p((math.e - 1) * fraction)


def pocock_bounds(fractions: Sequence[float], alpha: float) -> tuple[float, ...]:
    """One-sided critical z values of each look, α spent after Lan–DeMets–Pocock.

    Args:
        fractions: information fractions of the looks, rising, the last one at most 1.
        alpha: one-sided error over all looks together.

    Returns:
        One z value a look.

    Raises:
        ValueError: fractions do not rise within (0, 1] or alpha is not in (0, 0.5).
    """
    times = tuple(float(value) for value in fractions)
    if not times or any(b <= a for a, b in zip((0.0, *times), times, strict=False)) or times[-1] > 1:
        raise ValueError(f"information fractions must rise from above 0 to at most 1, not {list(fractions)}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"one-sided alpha must lie between 0 and 0.5, not {alpha}")
    return _bounds(times, alpha)


def nominal_levels(fractions: Sequence[float], alpha: float) -> tuple[float, ...]:
    """The same boundaries as p-values: a look rejects where its own one-sided p-value is at or below its level."""
    return tuple(float(special.ndtr(-z)) for z in pocock_bounds(fractions, alpha))


def information_fractions(
    counts: Sequence[int], *, base_size: float = math.inf, drift_ratio: float = 0.0
) -> tuple[float, ...]:
    """Information at each look relative to the last, for a mean of ``counts`` replicates against a stored one.

    The variance of the difference is σ²(1/n + 1/m) + drift variance. What does not shrink from look to look (m and
    the drift) makes the looks more alike, so fractions that ignore it, the default, err on the safe side.

    Args:
        counts: replicates at each look.
        base_size: replicates of the stored side, m.
        drift_ratio: variance of the session drift of the difference over σ².
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"a look needs at least one replicate: {list(counts)}")
    information = [1.0 / (1.0 / count + 1.0 / base_size + drift_ratio) for count in counts]
    return tuple(value / information[-1] for value in information)


@lru_cache(maxsize=256)
def _bounds(times: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    spent = 0.0
    bounds: list[float] = []
    grid: FloatArray = np.zeros(1)
    mass: FloatArray = np.ones(
        1
    )  # density × weight of the paths that have not crossed yet, in Brownian units
    before = 0.0
    for now in times:
        target = pocock_spent(alpha, now) - spent
        step = math.sqrt(now - before)
        here, there = grid, mass

        def crossing(
            bound: float, step: float = step, here: FloatArray = here, there: FloatArray = there
        ) -> float:
            return float(there @ special.ndtr((here - bound) / step))

        reach = _REACH * math.sqrt(now)
        cut = float(optimize.brentq(lambda b, t=target, c=crossing: c(b) - t, -reach, reach, xtol=1e-12))
        bounds.append(cut / math.sqrt(now))
        spent += target
        half = (cut + reach) / 2
        nodes = half * points + (cut - reach) / 2
        kernel = np.exp(-0.5 * ((nodes[:, None] - here[None, :]) / step) ** 2) / (
            step * math.sqrt(2 * math.pi)
        )
        grid, mass = nodes, (kernel @ there) * weights * half
        before = now
    return tuple(bounds)
