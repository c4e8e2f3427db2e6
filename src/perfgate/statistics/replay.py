"""The whole gate on simulated suites: noise fit, screen, planned pairs, correction, and the looks instead of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfgate.statistics.components import fit_replicates
from perfgate.statistics.contrast import BoolArray, Contrast, FloatArray
from perfgate.statistics.gate import Noise, Policy, Thresholds, confirm, look, pairs_slowdown, screen
from perfgate.statistics.multiplicity import holm
from perfgate.statistics.planning import pairs_needed
from perfgate.statistics.prior import fit_prior
from perfgate.statistics.simulation import Positions, Suites, draw_pairs, thresholds


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What the gate said, per suite, test and metric: shape (N, T, M) unless noted.

    Attributes:
        suspect: by the screen.
        regression: confirmed by pairs.
        passed: by the screen or by the pairs.
        pairs: pairs per confirmed test, 0 where there was no confirmation, shape (N, T).
        look_regression: confirmed by looks against the stored baseline instead.
        look_passed: by the screen or by the looks.
        look_replicates: fresh replicates that the looks used, 0 where there was no suspicion, shape (N, T).
        online_regression: by the same pairs, where each test is judged at once, in its own family. The first test comes
            last: of all places in the queue that leaves it the least error to spend.
    """

    suspect: BoolArray
    regression: BoolArray
    passed: BoolArray
    pairs: npt.NDArray[np.int64]
    look_regression: BoolArray
    look_passed: BoolArray
    look_replicates: FloatArray
    online_regression: BoolArray


def learn(history: FloatArray) -> Noise:
    """The noise model of each metric, fitted over the tests of each simulated history of shape (N, T, M, S, B).

    Returns:
        Arrays of shape (N, 1, M).
    """
    fitted = fit_replicates(np.moveaxis(history, 2, 1))
    df, variance = fit_prior(fitted.cell_variance, fitted.cell_df)
    two_sessions = 2.0  # one session a side, each with its own effect
    return Noise(
        prior_df=df[:, None, :],
        prior_variance=variance[:, None, :],
        drift_variance=two_sessions * fitted.session_variance[:, None, :],
        drift_upper=two_sessions * fitted.session_variance_upper[:, None, :],
    )


def replay(suites: Suites, rng: np.random.Generator, policy: Policy, *, pairs: int | None = None) -> Replay:
    """Run the whole gate on simulated suites.

    Args:
        suites: drawn by `perfgate.statistics.simulation.draw`.
        rng: for the fresh pairs.
        policy: constants of the gate.
        pairs: this many pairs per confirmation instead of as many as planned.
    """
    limits = thresholds()
    noise = learn(suites.history)
    first = policy.screen_replicates
    screened = screen(suites.base, suites.new[..., :first], noise=noise, thresholds=limits, policy=policy)
    suspect = screened.suspect
    rows, columns = np.nonzero(suspect.any(axis=-1))
    tests = rows, columns
    local = _at(noise, tests, suspect.shape)
    counts = _planned(suspect, tests, local, limits, policy)
    if pairs is not None:
        counts = np.full_like(counts, pairs)
    asked = suspect[tests]
    slowdown = _pairs(suites, tests, counts, local, limits, policy, rng)
    p = np.ones(suspect.shape)
    p[tests] = slowdown.p_greater()
    family = (len(suspect), suspect.shape[1] * suspect.shape[2])
    adjusted = holm(p.reshape(family), suspect.reshape(family)).reshape(suspect.shape)
    confirmed = confirm(slowdown, adjusted=adjusted[tests], thresholds=limits, policy=policy)
    confirmed_tests = np.asarray(suspect.any(axis=-1))
    queue = np.cumsum(confirmed_tests[:, ::-1], axis=1)[:, ::-1]
    at_once = confirm(
        slowdown,
        adjusted=holm(p[tests], asked),
        thresholds=limits,
        policy=policy,
        alpha=np.asarray(policy.online_alpha * 0.5 ** queue[tests], dtype=np.float64)[:, None],
    )
    looked = look(
        suites.base[tests],
        suites.new[..., first:][tests],
        noise=local,
        thresholds=limits,
        policy=policy,
        family=family[1],
    )
    pair_counts = np.zeros(suspect.shape[:2], dtype=np.int64)
    pair_counts[tests] = counts
    regression, passed = np.zeros_like(suspect), screened.passed.copy()
    regression[tests] = confirmed.slower & asked
    passed[tests] |= confirmed.passed & asked
    online_regression = np.zeros_like(suspect)
    online_regression[tests] = at_once.slower & asked
    look_regression, look_passed = np.zeros_like(suspect), screened.passed.copy()
    look_regression[tests] = looked.slower & asked
    look_passed[tests] |= looked.passed & asked
    look_replicates = np.zeros(suspect.shape[:2])
    look_replicates[tests] = np.where(asked, looked.replicates, 0.0).max(axis=-1, initial=0.0)
    return Replay(
        suspect=suspect,
        regression=regression,
        passed=passed,
        pairs=pair_counts,
        look_regression=look_regression,
        look_passed=look_passed,
        look_replicates=look_replicates,
        online_regression=online_regression,
    )


def _at(noise: Noise, tests: Positions, shape: tuple[int, ...]) -> Noise:
    """The noise of the given (suite, test) positions: arrays of shape (K, M)."""
    return Noise(
        prior_df=np.broadcast_to(noise.prior_df, shape)[tests],
        prior_variance=np.broadcast_to(noise.prior_variance, shape)[tests],
        drift_variance=np.broadcast_to(noise.drift_variance, shape)[tests],
        drift_upper=np.broadcast_to(noise.drift_upper, shape)[tests],
    )


def _planned(
    suspect: BoolArray, tests: Positions, noise: Noise, limits: Thresholds, policy: Policy
) -> npt.NDArray[np.int64]:
    """Pairs of each confirmed test: enough for each of its suspected metrics."""
    family = suspect.sum(axis=(1, 2))[tests[0]]
    each = pairs_needed(
        limits.margin,
        prior_df=noise.prior_df,
        prior_variance=noise.prior_variance,
        alpha=policy.alpha / family[:, None],
        power=policy.wanted_power,
        fewest=policy.fewest_pairs,
        most=policy.most_pairs,
    )
    most: npt.NDArray[np.int64] = np.where(suspect[tests], each, 0).max(axis=-1, initial=policy.fewest_pairs)
    return most


def _pairs(
    suites: Suites,
    tests: Positions,
    counts: npt.NDArray[np.int64],
    noise: Noise,
    limits: Thresholds,
    policy: Policy,
    rng: np.random.Generator,
) -> Contrast:
    """Slowdown of each confirmed test by its number of pairs: arrays of shape (K, M)."""
    shape = (counts.size, suites.effect.size)
    whole = Contrast(estimate=np.zeros(shape), standard_error=np.zeros(shape), df=np.zeros(shape))
    for count in np.unique(counts):
        rows = np.nonzero(counts == count)[0]
        old, new = draw_pairs(suites, (tests[0][rows], tests[1][rows]), int(count), rng)
        here = Noise(prior_df=noise.prior_df[rows], prior_variance=noise.prior_variance[rows])
        found = pairs_slowdown(old, new, noise=here, thresholds=limits, policy=policy)
        whole.estimate[rows] = found.estimate
        whole.standard_error[rows] = found.standard_error
        whole.df[rows] = found.df
    return whole
