"""The two-stage gate on arrays: screen, confirmation, looks. Leading axes are comparisons or simulated suites.

`perfgate.statistics.procedure` drives real boots through the same steps; tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfgate.statistics.contrast import BoolArray, Contrast, FloatArray, moderated, winsorise, with_drift
from perfgate.statistics.judgement import Findings, decide
from perfgate.statistics.multiplicity import online_level
from perfgate.statistics.spending import nominal_levels


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The constants of the gate; `perfgate calibrate` shows what they buy.

    Attributes:
        screen_replicates: fresh replicates of the screen.
        screen_alpha: one-sided level at which the screen suspects a metric.
        alpha: nominal error of the whole suite for false regressions. 0.6% rather than 1%, because the prior is an
            estimate and winsorised outliers keep some influence: with 3% outliers the realised error is then 1%.
        online_alpha: the same where cells are confirmed one after the other and each verdict is given at once, so that
            the k-th has a share of 1/2ᵏ (`perfgate.statistics.multiplicity.online_level`); less is spent on average.
        winsor_width: replicates are pulled in to this many s₀ from their side's median; further where s₀ is badly known.
        screen_confidence: two-sided confidence of the screen's interval; its upper end decides PASS.
        confirmation_confidence: likewise for fresh data. A metric can pass in two places, so each has its share of
            the 2.5% of false passes: 1.5% and 1%.
        fewest_pairs: interleaved pairs of a confirmation, at least.
        most_pairs: and at most.
        least_pairs: with fewer than these nothing is convicted, whatever was asked for: of one boot a side nobody knows
            whether the boot or the version was slow.
        wanted_power: pairs are added until a slowdown as large as the margin is shown with this power.
        looks: fresh replicates at each look, where the old side cannot be booted.
        assumed_drift: τ assumed for a PASS and for looks while no noise model has seen two sessions.
        own_variance_pairs: replicates a side from which a comparison without a noise model may fail, where that was
            asked for: Student's own variance is then used.
    """

    screen_replicates: int = 3
    screen_alpha: float = 0.05
    alpha: float = 0.006
    online_alpha: float = 0.01
    winsor_width: float = 2.5
    screen_confidence: float = 0.97
    confirmation_confidence: float = 0.98
    fewest_pairs: int = 5
    most_pairs: int = 7
    least_pairs: int = 2
    wanted_power: float = 0.95
    looks: tuple[int, ...] = (3, 5, 7)
    assumed_drift: float = 0.01
    own_variance_pairs: int = 3

    def __post_init__(self) -> None:
        for name in (
            "screen_alpha",
            "alpha",
            "online_alpha",
            "screen_confidence",
            "confirmation_confidence",
            "wanted_power",
        ):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.screen_replicates < 1 or not 1 <= self.fewest_pairs <= self.most_pairs:
            raise ValueError("a screen needs a replicate, and fewest_pairs lies between 1 and most_pairs")
        if not self.looks or any(b <= a for a, b in zip((0, *self.looks), self.looks, strict=False)):
            raise ValueError(f"looks must rise from at least 1, not {self.looks}")

    def level(self, position: int | None = None) -> float:
        """Level for the p-values of a family after Holm's correction within it.

        Args:
            position: None for one family over everything that is confirmed in the suite; k for the k-th family whose
                verdict is given at once.
        """
        return self.alpha if position is None else online_level(self.online_alpha, position)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Per metric, broadcast against the leading axes: direction ±1, tolerance and margin in log units."""

    direction: FloatArray
    tolerance: FloatArray
    margin: FloatArray


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Per metric: prior of one replicate, and variance of the difference of two session effects.

    Attributes:
        prior_df: d₀.
        prior_variance: s₀², log² units.
        drift_variance: its estimate, which the screen uses for its suspicion.
        drift_upper: its upper bound, which a PASS of the screen and the looks use.
    """

    prior_df: FloatArray
    prior_variance: FloatArray
    drift_variance: FloatArray | float = 0.0
    drift_upper: FloatArray | float = 0.0


@dataclass(frozen=True, kw_only=True)
class ScreenFindings:
    """Of a screen, elementwise; the three exclude each other and the rest is inconclusive."""

    slowdown: Contrast
    suspect: BoolArray
    passed: BoolArray
    faster: BoolArray


def _slowdown(
    base: FloatArray,
    new: FloatArray,
    noise: Noise,
    thresholds: Thresholds,
    policy: Policy,
) -> Contrast:
    """Slowdown without any drift."""
    scale = np.sqrt(noise.prior_variance)
    contrast = moderated(
        winsorise(base, scale, df=noise.prior_df, width=policy.winsor_width),
        winsorise(new, scale, df=noise.prior_df, width=policy.winsor_width),
        prior_df=noise.prior_df,
        prior_variance=noise.prior_variance,
    )
    return Contrast(
        estimate=thresholds.direction * contrast.estimate,
        standard_error=contrast.standard_error,
        df=contrast.df,
    )


def screen(
    base: FloatArray, new: FloatArray, *, noise: Noise, thresholds: Thresholds, policy: Policy
) -> ScreenFindings:
    """Compare fresh replicates with the stored baseline.

    Suspect is what is slower at ``screen_alpha`` by more than the tolerance: what would be tolerated when confirmed
    need not be confirmed.

    Args:
        base: stored replicates, shape (..., n).
        new: fresh replicates, shape (..., m).
        noise: per metric.
        thresholds: per metric.
        policy: constants of the gate.
    """
    plain = _slowdown(base, new, noise, thresholds, policy)
    slowdown = with_drift(plain, noise.drift_variance)
    cautious = with_drift(plain, noise.drift_upper)
    suspect = (slowdown.p_greater() <= policy.screen_alpha) & (slowdown.estimate > thresholds.tolerance)
    found = decide(
        cautious,
        tolerance=thresholds.tolerance,
        margin=thresholds.margin,
        p_slower=np.ones(slowdown.estimate.shape),
        p_faster=cautious.p_less(),
        alpha=policy.alpha,
        pass_level=_upper(policy.screen_confidence),
    )
    faster = found.faster & ~suspect
    return ScreenFindings(
        slowdown=slowdown, suspect=suspect, passed=found.excluded & ~suspect & ~faster, faster=faster
    )


def pairs_slowdown(
    base: FloatArray, new: FloatArray, *, noise: Noise, thresholds: Thresholds, policy: Policy
) -> Contrast:
    """Slowdown by fresh interleaved pairs, shapes (..., n); no drift, both sides were measured now."""
    return _slowdown(base, new, noise, thresholds, policy)


def confirm(
    slowdown: Contrast,
    *,
    adjusted: FloatArray,
    thresholds: Thresholds,
    policy: Policy,
    alpha: float | FloatArray | None = None,
) -> Findings:
    """Judge slowdowns by fresh pairs.

    Args:
        slowdown: of `pairs_slowdown`.
        adjusted: its p-values for a slowdown after Holm's correction over everything that was asked.
        thresholds: per metric.
        policy: constants of the gate.
        alpha: replaces the policy's error of the family.
    """
    return decide(
        slowdown,
        tolerance=thresholds.tolerance,
        margin=thresholds.margin,
        p_slower=adjusted,
        p_faster=slowdown.p_less(),
        alpha=policy.alpha if alpha is None else alpha,
        pass_level=_upper(policy.confirmation_confidence),
    )


@dataclass(frozen=True, kw_only=True)
class LookFindings:
    """Of a sequence of looks, elementwise; neither slower nor passed is inconclusive after the last look."""

    slower: BoolArray
    passed: BoolArray
    replicates: FloatArray


def look_levels(policy: Policy, family: int) -> tuple[tuple[float, float], ...]:
    """Per look the one-sided levels for a regression and for a PASS.

    The reference is the same stored one that the screen used, so what the screen suspected is not a fresh question:
    the error is divided by the number of metrics that were screened (Bonferroni), not only by the suspected ones.
    Information is counted in fresh replicates alone, which errs on the safe side.
    """
    if family < 1:
        raise ValueError(f"at least one metric is judged, not {family}")
    fractions = [count / policy.looks[-1] for count in policy.looks]
    failing = nominal_levels(fractions, policy.alpha / family)
    passing = nominal_levels(fractions, 1 - _upper(policy.confirmation_confidence))
    return tuple(zip(failing, passing, strict=True))


def look(
    base: FloatArray,
    new: FloatArray,
    *,
    noise: Noise,
    thresholds: Thresholds,
    policy: Policy,
    family: int,
) -> LookFindings:
    """Judge a stored reference against growing fresh data, α spent over the looks, drift in the error.

    Args:
        base: stored replicates, shape (..., n).
        new: fresh replicates in the order measured, shape (..., at least the last look's count).
        noise: per metric; the upper bound of the drift counts.
        thresholds: per metric.
        policy: constants of the gate.
        family: how many metrics were screened.
    """
    shape = new.shape[:-1]
    slower = np.zeros(shape, dtype=np.bool_)
    passed = np.zeros(shape, dtype=np.bool_)
    used = np.zeros(shape)
    for count, (fail_level, pass_level) in zip(policy.looks, look_levels(policy, family), strict=True):
        pending = ~(slower | passed)
        used = np.where(pending, float(count), used)
        plain = _slowdown(base, new[..., :count], noise, thresholds, policy)
        slowdown = with_drift(plain, noise.drift_upper)
        slow, fine = judge_look(slowdown, thresholds, fail_level, pass_level)
        slower |= pending & slow
        passed |= pending & fine
    return LookFindings(slower=slower, passed=passed, replicates=used)


def judge_look(
    slowdown: Contrast, thresholds: Thresholds, fail_level: float, pass_level: float
) -> tuple[BoolArray, BoolArray]:
    """Regression and PASS of one look, elementwise."""
    slow = (slowdown.p_greater() <= fail_level) & (slowdown.estimate > thresholds.tolerance)
    fine = (slowdown.p_less(thresholds.margin) <= pass_level) & ~slow
    return slow, fine


def _upper(confidence: float) -> float:
    return 1 - (1 - confidence) / 2
