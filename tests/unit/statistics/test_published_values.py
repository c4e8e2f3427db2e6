"""Methods held against values that others published or another library computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from perfgate.statistics import Prior, compare, quantile_bounds, runs_per_boot
from perfgate.statistics.multiplicity import holm, online_level
from perfgate.statistics.planning import Design, abba, pairs_needed
from perfgate.statistics.prior import fit_prior, inverse_trigamma, prior_from
from perfgate.statistics.quantile import lower_rank, smallest_sample, upper_rank
from perfgate.statistics.spending import (
    information_fractions,
    nominal_levels,
    pocock_bounds,
    pocock_spent,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_five_looks_have_the_published_boundaries() -> None:
    """Five equal looks at one-sided 2.5% have the boundaries that Lan & DeMets' programs print."""
    published = (2.4380, 2.4268, 2.4101, 2.3966, 2.3859)
    assert pocock_bounds([0.2, 0.4, 0.6, 0.8, 1.0], 0.025) == pytest.approx(published, abs=2e-4)


def test_two_looks_agree_with_the_bivariate_normal() -> None:
    """The error of two looks, integrated by scipy, is what was to be spent."""
    fractions, alpha = [0.5, 1.0], 0.01
    first, second = pocock_bounds(fractions, alpha)
    assert special.ndtr(-first) == pytest.approx(pocock_spent(alpha, 0.5))
    rho = math.sqrt(0.5)
    inside = stats.multivariate_normal(mean=[0, 0], cov=[[1, rho], [rho, 1]]).cdf([first, second])
    assert 1 - inside == pytest.approx(alpha, rel=1e-4)


def test_one_look_is_the_plain_test() -> None:
    """A single look at full information spends all at once."""
    assert nominal_levels([1.0], 0.01) == pytest.approx((0.01,))


def test_a_random_walk_crosses_as_often_as_was_spent() -> None:
    """Simulated looks at 3, 5 and 7 replicates cross the boundary with probability α."""
    rng = np.random.default_rng(11)
    walk = np.cumsum(rng.standard_normal((200_000, 7)), axis=1)[:, [2, 4, 6]] / np.sqrt([3, 5, 7])
    crossed = (walk > pocock_bounds([3 / 7, 5 / 7, 1], 0.05)).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=0.002)


def test_counting_fresh_replicates_alone_is_cautious() -> None:
    """Information fractions that know of the stored side and the drift lie closer together than the default."""
    plain = information_fractions([3, 5, 7])
    assert plain == pytest.approx((3 / 7, 5 / 7, 1))
    knowing = information_fractions([3, 5, 7], base_size=5, drift_ratio=0.5)
    assert all(a < b for a, b in zip(plain[:-1], knowing[:-1], strict=True))


@pytest.mark.parametrize("fractions", [[], [0.0, 1.0], [0.5, 0.5], [0.5, 1.2], [0.7, 0.3]])
def test_looks_that_do_not_rise_are_refused(fractions: list[float]) -> None:
    """Information fractions must rise within (0, 1]."""
    with pytest.raises(ValueError, match="rise"):
        pocock_bounds(fractions, 0.01)
    with pytest.raises(ValueError, match="alpha"):
        pocock_bounds([1.0], 0.5)
    with pytest.raises(ValueError, match="fraction"):
        pocock_spent(0.01, 1.5)
    with pytest.raises(ValueError, match="replicate"):
        information_fractions([0])


def test_p99_needs_299_and_459_requests() -> None:
    """The smallest samples with an upper bound for P99 are the published 299 (95%) and 459 (99%)."""
    assert smallest_sample(0.99, 0.95) == 299
    assert smallest_sample(0.99, 0.99) == 459
    assert smallest_sample(0.95, 0.95) == 59
    assert upper_rank(298, 0.99, 0.95) is None
    assert upper_rank(299, 0.99, 0.95) == 299


def test_the_median_of_ten_lies_below_the_ninth() -> None:
    """Conover's textbook ranks for the median of 10 at one-sided 95%: the 2nd and the 9th value."""
    assert upper_rank(10, 0.5, 0.95) == 9
    assert lower_rank(10, 0.5, 0.95) == 2


@settings(deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), max_size=60), probability=st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_quantile_bounds_hold_the_quantile_between_them(values: list[float], probability: float) -> None:
    """Bounds are values of the sample or infinite, in order, for any size and with ties."""
    bounds = quantile_bounds(values, probability=probability)
    assert bounds.lower <= bounds.upper
    assert bounds.upper in values or bounds.upper == math.inf
    assert bounds.lower in values or bounds.lower == -math.inf
    if len(values) < smallest_sample(probability, 0.95):
        assert bounds.upper == math.inf


def test_the_upper_bound_covers_as_often_as_it_says() -> None:
    """Over simulated samples of 500 the upper bound of P99 lies above the true quantile in at least 95%."""
    rng = np.random.default_rng(3)
    rank = upper_rank(500, 0.99, 0.95)
    assert rank is not None
    tops = np.sort(rng.exponential(size=(20_000, 500)), axis=1)[:, rank - 1]
    covered = float((tops >= -math.log(0.01)).mean())
    assert 0.95 - 0.005 <= covered <= 0.985


def test_nan_and_nonsense_have_no_quantile() -> None:
    """NaN values and probabilities outside (0, 1) are refused."""
    with pytest.raises(ValueError, match="NaN"):
        quantile_bounds([1.0, math.nan])
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile_bounds([1.0], probability=1.0)


def test_holm_on_a_textbook_example() -> None:
    """Four p-values, adjusted by hand: .005 × 4, .01 × 3, .03 × 2, and .04 held up by the one before."""
    adjusted = holm(np.asarray([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(deadline=None)
@given(p_values=P_VALUES)
def test_holm_steps_down_as_defined(p_values: list[float]) -> None:
    """Rejecting adjusted p ≤ α is Holm's procedure: compare the k-th smallest with α/(m − k + 1), stop at the first miss."""
    adjusted, count = holm(np.asarray(p_values)), len(p_values)
    for alpha in (0.006, 0.05, 0.3):
        rejected = 0
        for position, p in enumerate(sorted(p_values)):
            if p * (count - position) > alpha:
                break
            rejected += 1
        assert int((adjusted <= alpha).sum()) == rejected


@settings(deadline=None)
@given(p_values=P_VALUES, data=st.data())
def test_holm_leaves_out_what_was_not_asked(p_values: list[float], data: st.DataObject) -> None:
    """Within an array, only the questions asked count, and the others come back as 1."""
    asked = np.asarray(data.draw(st.lists(st.booleans(), min_size=len(p_values), max_size=len(p_values))))
    whole = holm(np.asarray(p_values), asked)
    assert whole[asked] == pytest.approx(holm(np.asarray(p_values)[asked]))
    assert np.all(whole[~asked] == 1.0)


def test_holm_refuses_what_is_no_p_value() -> None:
    """NaN among the p-values asked about is refused."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(np.asarray([0.1, math.nan]))
    assert holm(np.zeros(0)).size == 0


def test_online_levels_never_exceed_the_whole() -> None:
    """The levels of any number of successive families sum to no more than α."""
    assert online_level(0.01, 1) == 0.005
    assert sum(online_level(0.01, position) for position in range(1, 60)) <= 0.01
    with pytest.raises(ValueError, match="from 1"):
        online_level(0.01, 0)


def test_inverse_trigamma_inverts() -> None:
    """ψ′ of the inverse gives the value back over twelve orders of magnitude."""
    values = np.logspace(-7, 7, 60)
    assert special.polygamma(1, inverse_trigamma(values)) == pytest.approx(values, rel=1e-5)
    assert inverse_trigamma(np.asarray([0.0]))[0] == math.inf
    assert math.isnan(inverse_trigamma(np.asarray([-1.0]))[0])


def test_the_prior_of_three_variances_by_hand() -> None:
    """Smyth's moment equations, solved by hand for three variances with 4 degrees of freedom each."""
    s2 = np.asarray([0.5, 1.0, 8.0])
    # e = log s² − ψ(2) + log 2 with ψ(2) = 0.4227843351; var(e) − ψ′(2) = ψ′(d₀/2) with ψ′(2) = 0.6449340668.
    e = np.log(s2) - 0.4227843351 + math.log(2)
    excess = e.var(ddof=1) - 0.6449340668
    d0 = 2 * stats_inverse(excess)
    s02 = math.exp(e.mean() + special.digamma(d0 / 2) - math.log(d0 / 2))
    df, variance = fit_prior(s2, np.full(3, 4.0), most_df=math.inf)
    assert 1 / df == pytest.approx(1 / d0 + 1 / 12)
    assert variance == pytest.approx(s02)


def stats_inverse(value: float) -> float:
    """Trigamma inverse by bisection, as a second opinion."""
    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if special.polygamma(1, middle) > value else (low, middle)
    return low


def test_many_variances_give_back_their_prior() -> None:
    """From 20,000 variances drawn with d₀ = 6 and s₀² = 4 the fit recovers both."""
    rng = np.random.default_rng(7)
    sigma2 = 4.0 * 6 / rng.chisquare(6, 20_000)
    s2 = sigma2 * rng.chisquare(4, 20_000) / 4
    df, variance = fit_prior(s2, np.full(20_000, 4.0))
    assert df == pytest.approx(6, rel=0.05)
    assert variance == pytest.approx(4, rel=0.03)


def test_equal_true_variances_lend_the_cap() -> None:
    """Cells that do not differ beyond chance lend the cap, less the error of s₀² itself."""
    rng = np.random.default_rng(8)
    s2 = rng.chisquare(4, 5000) / 4
    df, variance = fit_prior(s2, np.full(5000, 4.0), most_df=20)
    assert df == pytest.approx(20, rel=0.01)
    assert variance == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("s2", "nu"), [([], []), ([1.0], [0.0]), ([0.0, 0.0], [4.0, 4.0])])
def test_nothing_lends_nothing(s2: list[float], nu: list[float]) -> None:
    """No samples, no degrees of freedom or no variance at all give no prior."""
    assert prior_from(s2, nu) is None


def test_one_cell_lends_no_more_than_it_has() -> None:
    """A single cell lends its own variance with fewer than its own degrees of freedom."""
    prior = prior_from([4.0], [3.0])
    assert prior is not None
    assert prior.variance == pytest.approx(4.0)
    assert prior.df < 3


def test_the_moderated_t_by_hand() -> None:
    """s̃² = (d₀s₀² + νs²)/(d₀ + ν) and t = d / (s̃√(1/n + 1/m)) on d₀ + ν degrees of freedom, by hand."""
    base, new = [1.0, 3.0], [4.0, 5.0, 9.0]
    # ν = 1 + 2 = 3, Σ squares = 2 + 14 = 16; s̃² = (4·2 + 16)/(4 + 3) = 24/7; d = 6 − 2 = 4
    found = compare(base, new, prior=Prior(df=4, variance=2))
    t = 4 / math.sqrt(24 / 7 * (1 / 2 + 1 / 3))
    assert found.df == 7
    assert found.estimate / found.standard_error == pytest.approx(t)
    assert found.p_greater() == pytest.approx(stats.t.sf(t, 7))


@pytest.mark.parametrize(
    ("costs", "variances", "runs"),
    [
        ((120, 30), (1.0, 4.0), 4),
        ((100, 100), (1.0, 1.0), 1),
        ((10, 90), (1.0, 1.0), 1),
        ((120, 30), (0.0, 1.0), 10),
        ((120, 30), (1.0, 0.0), 1),
        ((0, 30), (1.0, 9.0), 1),
    ],
)
def test_runs_per_boot_by_hand(costs: tuple[float, float], variances: tuple[float, float], runs: int) -> None:
    """⌈√((boot cost / run cost)·(σ_r²/σ_b²))⌉ by hand, at least 1 and at most the cap."""
    found = runs_per_boot(
        boot_cost=costs[0], run_cost=costs[1], boot_variance=variances[0], run_variance=variances[1]
    )
    assert found == runs


def test_costs_cannot_be_negative() -> None:
    """A run that costs nothing is refused."""
    with pytest.raises(ValueError, match="cost"):
        runs_per_boot(boot_cost=1, run_cost=0, boot_variance=1, run_variance=1)


def test_power_with_a_known_variance_is_the_z_tests() -> None:
    """The power of n against n with a known variance is that of the two-sample z test."""
    ours = Design(base_size=5, new_size=5, prior=Prior(df=1e7, variance=0.02**2)).power(0.05, alpha=0.01)
    z = 0.05 / (0.02 * math.sqrt(2 / 5)) - stats.norm.ppf(0.99)
    assert ours == pytest.approx(stats.norm.cdf(z), abs=1e-4)


def test_pairs_are_added_until_the_effect_shows() -> None:
    """The pairs chosen have a smallest detectable effect within the effect wanted; one fewer has not."""
    variance, effect = 0.02**2, 0.05
    pairs = int(
        pairs_needed(effect, prior_df=16, prior_variance=variance, alpha=0.006, power=0.9, fewest=2, most=20)
    )
    prior = Prior(df=16, variance=variance)
    enough = Design(base_size=pairs, new_size=pairs, prior=prior)
    short = Design(base_size=pairs - 1, new_size=pairs - 1, prior=prior)
    assert enough.smallest_detectable(alpha=0.006, power=0.9) <= effect
    assert short.smallest_detectable(alpha=0.006, power=0.9) > effect
    with pytest.raises(ValueError, match="pairs"):
        pairs_needed(0.1, prior_df=1, prior_variance=1, alpha=0.01, power=0.9, fewest=3, most=2)


def test_an_empty_design_shows_nothing() -> None:
    """A design without replicates has no power and detects nothing."""
    empty = Design(base_size=0, new_size=5, prior=Prior(df=5, variance=1))
    assert empty.power(10.0) == 0.0
    assert empty.smallest_detectable() == math.inf


@pytest.mark.parametrize("pairs", [2, 4, 6])
def test_abba_cancels_a_trend(pairs: int) -> None:
    """Over an even number of pairs both sides have the same mean position."""
    order = np.asarray(abba(pairs))
    positions = np.arange(order.size)
    assert positions[order == 0].mean() == positions[order == 1].mean()
    with pytest.raises(ValueError, match="pair"):
        abba(0)
