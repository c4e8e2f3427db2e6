"""The gate's error rates, on small simulations, and the tallies they are counted with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from perfgate.statistics import Policy
from perfgate.statistics.calibration import (
    RIVALS,
    Tally,
    best_power,
    binomial_interval,
    pools_from,
    tally,
)
from perfgate.statistics.contrast import FloatArray
from perfgate.statistics.simulation import RecordedCells, Scenario, SimulatedCells, draw

POLICY = Policy()
SUITES = 1500


def _tally(scenario: Scenario, **changes: int) -> Tally:
    return tally(scenario, SUITES, (3, 1), policy=POLICY, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "disturbance",
    [{}, {"outlier_share": 0.03}, {"drift": 0.01}, {"correlation": 0.0}],
    ids=["clean", "outliers", "drift", "independent"],
)
def test_false_alarms_stay_near_one_per_cent(disturbance: dict[str, float]) -> None:
    """At σ = 2% the lower end of the interval of false alarms per suite lies below 1%: nothing is broken."""
    counts = _tally(Scenario(sigma=0.02, **disturbance))  # type: ignore[arg-type]
    assert binomial_interval(counts.alarms, counts.suites, 0.999)[0] <= 0.01
    assert binomial_interval(counts.online_alarms, counts.suites, 0.999)[0] <= 0.01
    assert binomial_interval(counts.look_alarms, counts.suites, 0.999)[0] <= 0.01


@pytest.mark.parametrize(("sigma", "pairs"), [(0.005, 5), (0.01, 5), (0.02, 7)])
def test_five_per_cent_is_found(sigma: float, pairs: int) -> None:
    """A test that is 5% slower is found in 95% of suites with 3 + 5 boots, at σ = 2% with 3 + 7."""
    counts = _tally(Scenario(sigma=sigma, slowdown=0.05), pairs=pairs)
    assert binomial_interval(counts.found, counts.suites, 0.999)[1] >= 0.95
    assert counts.found / counts.suites > 0.94


def test_ten_per_cent_is_found_in_loud_suites() -> None:
    """A test that is 10% slower is found in 99% of suites with 3 + 5 boots at σ = 3%."""
    counts = _tally(Scenario(sigma=0.03, slowdown=0.10), pairs=5)
    assert counts.found / counts.suites > 0.985


@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.03])
def test_the_margin_rarely_passes(sigma: float) -> None:
    """A metric that is slower by exactly its margin passes in at most 2.5% of suites, by either way."""
    counts = _tally(Scenario(sigma=sigma, at_margin=True))
    for passed in [*counts.metric_passed, *counts.look_passed]:
        assert binomial_interval(int(passed), counts.suites, 0.999)[0] <= 0.025


def test_clean_suites_cost_few_confirmations() -> None:
    """At most 1.5 cells of a clean suite go to a confirmation, at σ = 3% and with independent metrics."""
    counts = _tally(Scenario(sigma=0.03, correlation=0.0))
    assert counts.confirmations / counts.suites <= 1.5


def test_counts_depend_on_the_seed_alone() -> None:
    """The same seed gives the same counts, another seed other ones."""
    scenario = Scenario(sigma=0.02, drift=0.01)
    one, same, other = (tally(scenario, 50, seed, policy=POLICY) for seed in ((1,), (1,), (2,)))
    assert one.pairs == same.pairs
    assert one.clean_passed.tolist() == same.clean_passed.tolist()
    assert one.clean_passed.tolist() != other.clean_passed.tolist()
    assert (one + other).suites == 100
    assert (one + other).pairs == one.pairs + other.pairs


def test_rivals_see_the_same_data() -> None:
    """At σ = 2% one comparison of single runs by a 5% rule alarms about as often as two normals lie 5% apart."""
    counts = tally(Scenario(sigma=0.02, tests=1, correlation=0.0, spread_df=1e9), 20_000, (4,), policy=POLICY)
    single = stats.norm.sf(math.log(1.05) / (0.02 * math.sqrt(2)))
    suite = 1 - (1 - single) ** 3
    assert counts.rival_alarms[list(RIVALS).index("pytest-benchmark")] / 20_000 == pytest.approx(
        suite, rel=0.05
    )
    past = 12
    beyond = stats.t.sf(stats.t.ppf(0.99, past - 1) / math.sqrt(1 + 1 / past), past - 1)
    assert counts.rival_alarms[list(RIVALS).index("Bencher")] / 20_000 == pytest.approx(
        1 - (1 - beyond) ** 3, rel=0.1
    )


def test_the_bound_is_above_what_is_reached() -> None:
    """The power on a single metric stays below the bound with known variance, and the bound is what the z tests give."""
    bound = best_power(0.02, math.log(1.05), baseline=5, pairs=7, policy=POLICY, screen=3)
    screened = stats.norm.sf(stats.norm.isf(0.05) - math.log(1.05) / (0.02 * math.sqrt(1 / 3 + 1 / 5)))
    confirmed = stats.norm.sf(stats.norm.isf(0.006) - math.log(1.05) / (0.02 * math.sqrt(2 / 7)))
    assert bound == pytest.approx(screened * confirmed)
    counts = _tally(Scenario(sigma=0.02, slowdown=0.05, slowed=1), pairs=7)
    assert counts.found / counts.suites < bound


@settings(deadline=None)
@given(of=st.integers(1, 500), data=st.data())
def test_the_interval_of_a_rate_holds_the_rate(of: int, data: st.DataObject) -> None:
    """The interval contains the observed rate, agrees with scipy's, and is whole where nothing was counted."""
    count = data.draw(st.integers(0, of))
    low, high = binomial_interval(count, of)
    theirs = stats.binomtest(count, of).proportion_ci(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high))
    assert binomial_interval(0, 0) == (0.0, 1.0)


def _recorded(
    sigma: float, tau: float, boots: int = 6, sessions: int = 4
) -> dict[str, dict[str, FloatArray]]:
    rng = np.random.default_rng(5)
    return {
        f"cell{cell}": {
            f"s{session}": 7.0 + tau * rng.standard_normal(3) + sigma * rng.standard_normal((boots, 3))
            for session in range(sessions)
        }
        for cell in range(12)
    }


def test_recorded_boots_keep_their_spread() -> None:
    """Pools of recorded boots and sessions have the variances that the records had."""
    (pool,) = pools_from({"2-4": _recorded(0.02, 0.03)})
    assert pool.boots.shape == (12 * 4 * 6, 3)
    assert pool.sessions.shape == (12 * 4, 3)
    assert pool.boots.std() == pytest.approx(0.02, rel=0.1)
    assert pool.sessions.std() == pytest.approx(0.03, rel=0.2)


def test_recorded_boots_stay_whole() -> None:
    """Every resampled replicate is one recorded boot in all its metrics, never a mixture."""
    pools = pools_from({"a": _recorded(0.02, 0.0), "b": _recorded(0.05, 0.0)})
    cells = RecordedCells(pools=pools, assignment=np.asarray([0, 1, 0]), suites=4)
    values = cells.replicates(5, np.random.default_rng(1))
    assert values.shape == (4, 3, 3, 5)
    known = {tuple(row) for row in pools[1].boots.tolist()}
    for boot in np.moveaxis(values[:, 1], -1, 1).reshape(-1, 3).tolist():
        assert tuple(boot) in known


def test_recorded_aa_suites_raise_few_alarms() -> None:
    """The gate on resampled A/A boots keeps its false alarms near 1%."""
    pools = pools_from({"2-4": _recorded(0.02, 0.01)})
    counts = tally(Scenario(sigma=math.nan), SUITES, (6,), policy=POLICY, recorded=pools)
    assert binomial_interval(counts.alarms, counts.suites, 0.999)[0] <= 0.01
    assert counts.confirmations > 0


def test_single_boots_make_no_pool() -> None:
    """Sessions of one boot each show no spread, so they make no pool."""
    assert pools_from({"1": _recorded(0.02, 0.0, boots=1)}) == ()
    (pool,) = pools_from({"1": _recorded(0.02, 0.0, sessions=1)})
    assert pool.sessions.shape == (0, 3)


def test_the_slowdown_hits_the_first_test_only() -> None:
    """A scenario's slowdown is in the fresh data of the first test, in the direction in which each metric gets worse."""
    scenario = Scenario(sigma=1e-9, slowdown=0.10, slowed=2)
    rng = np.random.default_rng(1)
    drawn = draw(scenario, SimulatedCells.draw(scenario, 2, rng), rng, POLICY)
    change = drawn.new.mean(axis=-1) - drawn.base.mean(axis=-1)
    assert change[:, 0] == pytest.approx(np.tile([-math.log(1.1), math.log(1.1), 0.0], (2, 1)), abs=1e-7)
    assert change[:, 1:] == pytest.approx(0.0, abs=1e-7)
