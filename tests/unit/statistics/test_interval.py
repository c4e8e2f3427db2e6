"""Comparisons of two groups of boot means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from perfgate.statistics import Drift, Prior, compare, smallest_detectable

VALUES = st.floats(min_value=-20, max_value=20, allow_nan=False)
GROUP = st.lists(VALUES, max_size=6)
PRIOR = Prior(df=20.0, variance=0.02**2)


def test_welch_agrees_with_scipy() -> None:
    """Without a prior the interval and the p-value are scipy's Welch test."""
    base, new = [1.0, 1.1, 0.95, 1.05], [1.2, 1.25, 1.1]
    ours = compare(base, new)
    theirs = stats.ttest_ind(new, base, equal_var=False, alternative="greater")
    assert ours.df == pytest.approx(theirs.df)
    assert ours.p_greater() == pytest.approx(theirs.pvalue)
    two_sided = stats.ttest_ind(new, base, equal_var=False).confidence_interval(0.95)
    assert ours.interval(0.95) == pytest.approx((two_sided.low, two_sided.high))


def test_a_prior_worth_nothing_is_students_pooled_test() -> None:
    """A prior of almost no degrees of freedom leaves the pooled two-sample t test."""
    base, new = [1.0, 1.1, 0.95, 1.05], [1.2, 1.25, 1.1]
    ours = compare(base, new, prior=Prior(df=1e-9, variance=1.0))
    theirs = stats.ttest_ind(new, base, alternative="greater")
    assert ours.p_greater() == pytest.approx(theirs.pvalue, rel=1e-6)


def test_an_infinite_prior_is_the_z_test() -> None:
    """A prior of infinite degrees of freedom replaces the sample's variance altogether."""
    ours = compare([0.0, 0.5], [0.1], prior=Prior(df=math.inf, variance=0.01))
    se = 0.1 * math.sqrt(1 / 2 + 1)
    assert ours.standard_error == pytest.approx(se)
    assert ours.interval(0.95)[1] - ours.estimate == pytest.approx(stats.norm.ppf(0.975) * se)


def test_one_replicate_a_side_has_an_interval_only_with_a_prior() -> None:
    """A single replicate a side is compared through the prior's variance, and not at all without one."""
    assert compare([0.0], [0.1]).interval() == (-math.inf, math.inf)
    lent = compare([0.0], [0.1], prior=PRIOR)
    half = stats.t.ppf(0.975, 20) * 0.02 * math.sqrt(2)
    assert lent.df == 20
    assert lent.interval() == pytest.approx((0.1 - half, 0.1 + half))


@pytest.mark.parametrize(("base", "new"), [([], []), ([], [1.0]), ([1.0], []), ([1.0, 2.0], [])])
@pytest.mark.parametrize("prior", [None, PRIOR])
def test_an_empty_side_knows_nothing(base: list[float], new: list[float], prior: Prior | None) -> None:
    """With an empty side there is no estimate, the interval is infinite and nothing is significant."""
    nothing = compare(base, new, prior=prior)
    assert math.isnan(nothing.estimate)
    assert nothing.interval() == (-math.inf, math.inf)
    assert nothing.p_greater() == nothing.p_less() == 1.0
    assert nothing.smallest_detectable() == math.inf


def test_equal_values_do_not_make_a_narrow_interval() -> None:
    """Replicates without any spread give an infinite interval, not one of width zero."""
    tied = compare([0.1, 0.1, 0.1], [0.3, 0.3])
    assert tied.estimate == pytest.approx(0.2)
    assert tied.interval() == (-math.inf, math.inf)
    assert tied.p_greater() == 1.0


def test_equal_values_lean_on_the_prior() -> None:
    """Replicates without any spread keep the prior's share of the variance."""
    tied = compare([0.1] * 3, [0.1] * 3, prior=PRIOR)
    assert tied.standard_error == pytest.approx(0.02 * math.sqrt(20 / 24) * math.sqrt(2 / 3))


def test_drift_does_not_shrink_with_replicates() -> None:
    """However many replicates, the standard error stays above the drift between two sessions."""
    drift = Drift(sd=0.01)
    many = compare([0.0, 0.01] * 500, [0.0, 0.01] * 500, prior=PRIOR, drift=drift)
    assert many.standard_error >= 0.01 * math.sqrt(2)
    spread = Drift(sd=0.01, base_sessions=4, new_sessions=4)
    less = compare([0.0, 0.01] * 500, [0.0, 0.01] * 500, prior=PRIOR, drift=spread)
    assert less.standard_error < 0.6 * many.standard_error


def test_drift_known_from_few_sessions_costs_degrees_of_freedom() -> None:
    """Drift that dominates the error brings its own degrees of freedom."""
    vague = compare([0.0, 0.01], [0.0, 0.01], prior=PRIOR, drift=Drift(sd=1.0, df=3))
    assert vague.df == pytest.approx(3, rel=0.01)
    welch = compare([0.0, 0.01, 0.02], [0.0, 0.01, 0.02], drift=Drift(sd=1.0, df=3))
    assert welch.df == pytest.approx(3, rel=0.01)
    assert compare([0.0], [0.0, 0.1], drift=Drift(sd=1.0)).interval() == (-math.inf, math.inf)


def test_one_outlier_is_pulled_in() -> None:
    """Winsorising moves one wild boot to 2.5 prior standard deviations from its side's median."""
    wild = compare([0.0] * 5, [0.0, 0.0, 0.0, 0.0, 3.0], prior=PRIOR, winsor_width=2.5)
    assert wild.estimate == pytest.approx(0.05 / 5)


def test_a_scale_of_three_boots_pulls_nothing_in() -> None:
    """Boots of one server that differ by 15% are not made to agree by a prior of 0.14% that rests on one degree of freedom."""
    old, new = [math.log(2.557), math.log(2.980)], [math.log(2.258)]  # mean TPOT in ms of an A/A on an H100
    lucky = Prior(df=0.95, variance=1.87e-6)
    found = compare(old, new, prior=lucky, winsor_width=2.5)
    assert found == compare(old, new, prior=lucky)
    lower, upper = found.interval()
    assert lower < 0 < upper


def test_winsorising_needs_a_scale() -> None:
    """Winsorising without a prior is refused: its own spread cannot say what is an outlier."""
    with pytest.raises(ValueError, match="prior"):
        compare([0.0], [0.0], winsor_width=2.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_measurement_are_refused(bad: float) -> None:
    """NaN and infinities are refused with their position, never averaged."""
    with pytest.raises(ValueError, match="replicate 1 is"):
        compare([0.0, bad], [0.0, 0.1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prior(df=0, variance=1),
        lambda: Prior(df=math.nan, variance=1),
        lambda: Prior(df=1, variance=0),
        lambda: Prior(df=1, variance=math.inf),
        lambda: Drift(sd=-1),
        lambda: Drift(sd=math.nan),
        lambda: Drift(sd=1, df=0),
        lambda: Drift(sd=1, base_sessions=0),
    ],
)
def test_impossible_priors_and_drifts_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    """Priors and drifts that cannot be are refused when made."""
    with pytest.raises(ValueError, match=r"must be|has at least"):
        make()


@settings(deadline=None)
@given(base=GROUP, new=GROUP, prior=st.sampled_from([None, PRIOR]))
def test_any_sizes_give_an_ordered_interval(base: list[float], new: list[float], prior: Prior | None) -> None:
    """For any sizes the interval is ordered, holds the estimate, and is infinite where a side cannot vary."""
    difference = compare(base, new, prior=prior)
    lower, upper = difference.interval()
    assert lower <= upper
    assert 0 <= difference.p_greater() <= 1
    if math.isfinite(upper):
        assert lower <= difference.estimate <= upper
    if prior is None and (len(base) < 2 or len(new) < 2):
        assert (lower, upper) == (-math.inf, math.inf)


@settings(deadline=None)
@given(base=st.lists(VALUES, min_size=2, max_size=6), new=st.lists(VALUES, min_size=2, max_size=6))
def test_swapping_sides_flips_the_sign(base: list[float], new: list[float]) -> None:
    """Swapping the two sides negates the interval."""
    one, other = compare(base, new, prior=PRIOR), compare(new, base, prior=PRIOR)
    assert one.interval()[0] == pytest.approx(-other.interval()[1])
    assert one.p_greater() == pytest.approx(other.p_less(), abs=1e-12)


def test_smallest_detectable_effect_is_found_as_often_as_it_says() -> None:
    """A simulated shift of the smallest detectable effect is found in 80% of comparisons."""
    rng = np.random.default_rng(5)
    se = 0.02 * math.sqrt(2 / 5)
    effect = smallest_detectable(se, 28, alpha=0.01, power=0.8)
    prior = Prior(df=20.0, variance=0.02**2)
    hits = [
        compare(rng.normal(0, 0.02, 5), rng.normal(effect, 0.02, 5), prior=prior).p_greater() <= 0.01
        for _ in range(2000)
    ]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.03)


def test_smallest_detectable_effect_clears_the_tolerance() -> None:
    """What must exceed a tolerance to count cannot be detected below that tolerance."""
    assert smallest_detectable(1e-6, 20, tolerance=0.02) > 0.02
    assert smallest_detectable(math.inf, 20) == math.inf
    with pytest.raises(ValueError, match="alpha and power"):
        smallest_detectable(0.1, 20, alpha=0)


def test_confidence_must_be_a_probability() -> None:
    """A confidence of 95 instead of 0.95 is refused."""
    with pytest.raises(ValueError, match="95"):
        compare([0.0, 0.1], [0.0, 0.1]).interval(95)
