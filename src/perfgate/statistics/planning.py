"""How much to measure: runs per boot, replicates, and what they can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from perfgate.statistics.contrast import FloatArray, student_quantile
from perfgate.statistics.interval import Drift, Prior, smallest_detectable

MAX_RUNS = 10


def runs_per_boot(
    *,
    boot_variance: float,
    run_variance: float,
    boot_cost: float,
    run_cost: float,
    most: int = MAX_RUNS,
) -> int:
    """Runs worth taking on one boot: ⌈√((boot cost / run cost)·(σ_r²/σ_b²))⌉ (Kalibera & Jones 2013).

    Args:
        boot_variance: σ_b², log² units; 0 when boots do not differ, which asks for as many runs as allowed.
        run_variance: σ_r², log² units.
        boot_cost: seconds a boot costs beyond its runs.
        run_cost: seconds of one run, above 0.
        most: never more than this.
    """
    if min(boot_variance, run_variance, boot_cost) < 0 or not run_cost > 0 or most < 1:
        raise ValueError("variances and costs cannot be negative, and a run costs something")
    if run_variance == 0:
        return 1
    if boot_variance == 0:
        return most
    wanted = math.sqrt(boot_cost / run_cost * (run_variance / boot_variance))
    # The tolerance keeps √4.000000001 at 2.
    return min(most, max(1, math.ceil(wanted - 1e-9)))


@dataclass(frozen=True, kw_only=True)
class Design:
    """How many replicates each side has or will have, and what is known about their spread.

    Attributes:
        base_size: replicates of the reference.
        new_size: replicates of what is judged.
        prior: spread of one replicate.
        drift: session drift between the two sides; None when interleaved.
    """

    base_size: int
    new_size: int
    prior: Prior
    drift: Drift | None = None

    @property
    def standard_error(self) -> float:
        """Expected standard error of the difference; infinite when a side is empty."""
        if self.base_size < 1 or self.new_size < 1:
            return math.inf
        sampling = self.prior.variance * (1 / self.base_size + 1 / self.new_size)
        return math.sqrt(sampling + (self.drift.variance if self.drift else 0.0))

    @property
    def df(self) -> float:
        """Degrees of freedom of the moderated t; 0 when a side is empty."""
        if self.base_size < 1 or self.new_size < 1:
            return 0.0
        return self.prior.df + self.base_size + self.new_size - 2

    def smallest_detectable(
        self, *, alpha: float = 0.01, power: float = 0.8, tolerance: float = 0.0
    ) -> float:
        """The smallest true slowdown, log units, shown with that power."""
        return smallest_detectable(
            self.standard_error, self.df, alpha=alpha, power=power, tolerance=tolerance
        )

    def power(self, effect: float, *, alpha: float = 0.01, tolerance: float = 0.0) -> float:
        """Probability that a true slowdown ``effect`` (log units) is significant and beyond the tolerance."""
        error = self.standard_error
        if not (math.isfinite(error) and self.df > 0):
            return 0.0
        needed = max(float(student_quantile(1 - alpha, self.df)), tolerance / error)
        df = min(self.df, 1e6)  # the noncentral t of scipy needs finite degrees of freedom
        return float(np.clip(1.0 - special.nctdtr(df, effect / error, needed), 0.0, 1.0))


def pairs_needed(
    effect: FloatArray | float,
    *,
    prior_df: FloatArray | float,
    prior_variance: FloatArray | float,
    alpha: FloatArray | float,
    power: float,
    fewest: int,
    most: int,
) -> npt.NDArray[np.int64]:
    """The fewest interleaved pairs whose smallest detectable effect is at most ``effect``, elementwise.

    Args:
        effect: log units.
        prior_df: d₀ of the prior.
        prior_variance: s₀² of one replicate.
        alpha: one-sided level after correction for multiplicity.
        power: wanted probability.
        fewest: never fewer pairs; with 2 a side one outlier decides.
        most: never more pairs; returned also where they do not reach the power.
    """
    if not 1 <= fewest <= most:
        raise ValueError(f"pairs: at least 1, and fewest ({fewest}) not above most ({most})")
    effect = np.asarray(effect, dtype=np.float64)
    needed = np.full(np.broadcast(effect, prior_variance, prior_df, alpha).shape, most, dtype=np.int64)
    for pairs in range(most - 1, fewest - 1, -1):
        df = np.asarray(prior_df) + 2 * (pairs - 1)
        shown = (student_quantile(1 - np.asarray(alpha), df) + student_quantile(power, df)) * np.sqrt(
            np.asarray(prior_variance) * 2 / pairs
        )
        needed = np.where(shown <= effect, pairs, needed)
    return needed


def abba(pairs: int) -> tuple[int, ...]:
    """Order of ``pairs`` interleaved pairs: A B B A A B B A …, with 0 for A and 1 for B; cancels a linear trend.

    With an odd number of pairs the last pair is A B or B A as the pattern has it, and a small part of a trend stays.
    """
    if pairs < 1:
        raise ValueError(f"at least one pair, not {pairs}")
    return tuple(side for pair in range(pairs) for side in ((0, 1) if pair % 2 == 0 else (1, 0)))
