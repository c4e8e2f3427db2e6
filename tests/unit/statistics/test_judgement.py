"""From a difference to an outcome."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfgate.statistics import Difference, Judgement, Outcome, Prior, compare, judge


def _difference(estimate: float, se: float, df: float = 20.0) -> Difference:
    return Difference(estimate=estimate, standard_error=se, df=df, base_size=5, new_size=5, moderated=True)


def _judged(estimate: float, se: float, **changes: object) -> Judgement:
    return judge(_difference(estimate, se), direction=1, tolerance=0.02, margin=0.05, **changes)  # type: ignore[arg-type]


def test_no_change_measured_well_passes() -> None:
    """A small estimate whose upper bound is below the margin passes."""
    assert _judged(0.001, 0.005).outcome is Outcome.PASS


def test_a_certain_large_slowdown_is_a_regression() -> None:
    """A significant slowdown above the tolerance is a regression."""
    assert _judged(0.06, 0.01).outcome is Outcome.REGRESSION


def test_a_certain_small_slowdown_is_tolerated() -> None:
    """A certain slowdown within the tolerance passes and is called tolerated."""
    tolerated = _judged(0.015, 0.002)
    assert tolerated.outcome is Outcome.PASS
    assert tolerated.tolerated
    assert not _judged(0.001, 0.005).tolerated


def test_a_certain_slowdown_between_tolerance_and_margin_is_a_regression() -> None:
    """A certain slowdown beyond the tolerance fails even when the margin is excluded."""
    assert _judged(0.03, 0.004).outcome is Outcome.REGRESSION


def test_a_large_but_uncertain_slowdown_is_inconclusive() -> None:
    """Effect size without significance is not a regression."""
    assert _judged(0.06, 0.05).outcome is Outcome.INCONCLUSIVE


def test_no_change_measured_badly_is_inconclusive() -> None:
    """An interval that reaches over the margin cannot pass."""
    assert _judged(0.0, 0.03).outcome is Outcome.INCONCLUSIVE


def test_a_certain_gain_is_an_improvement() -> None:
    """A significant gain beyond the tolerance is an improvement; a smaller one passes."""
    assert _judged(-0.06, 0.01).outcome is Outcome.IMPROVEMENT
    assert _judged(-0.015, 0.002).outcome is Outcome.PASS


def test_the_direction_flips_the_sign() -> None:
    """For a throughput a smaller value is the slowdown, and the slowdown is still positive."""
    slower = judge(_difference(-0.06, 0.01), direction=-1, tolerance=0.02, margin=0.05)
    assert slower.outcome is Outcome.REGRESSION
    assert slower.slowdown == pytest.approx(math.expm1(0.06))
    assert slower.lower < slower.slowdown < slower.upper


def test_without_leave_to_fail_the_worst_is_inconclusive() -> None:
    """Where a failure would rest on too little, a certain slowdown is inconclusive and a gain passes."""
    assert _judged(0.06, 0.01, can_fail=False).outcome is Outcome.INCONCLUSIVE
    assert _judged(0.03, 0.004, can_fail=False).outcome is Outcome.INCONCLUSIVE
    assert _judged(-0.06, 0.01, can_fail=False).outcome is Outcome.PASS


def test_an_adjusted_p_value_decides() -> None:
    """The p-value corrected for the other comparisons replaces the plain one."""
    assert _judged(0.06, 0.01, adjusted_p=0.2).outcome is Outcome.INCONCLUSIVE
    assert _judged(0.06, 0.01, adjusted_p=0.2).p_value == 0.2


def test_a_stricter_pass_level_withholds_the_pass() -> None:
    """A pass may ask more confidence than the printed interval has."""
    assert _judged(0.0, 0.022, pass_level=0.975).outcome is Outcome.PASS
    assert _judged(0.0, 0.022, pass_level=0.995).outcome is Outcome.INCONCLUSIVE


def test_nothing_known_is_inconclusive() -> None:
    """An infinite interval never passes and never fails."""
    unknown = _judged(0.2, math.inf)
    assert unknown.outcome is Outcome.INCONCLUSIVE
    assert (unknown.lower, unknown.upper) == (-1.0, math.inf)
    assert unknown.smallest_detectable == math.inf


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": 0},
        {"direction": 2},
        {"tolerance": -0.1},
        {"tolerance": math.nan},
        {"margin": 0.0},
        {"margin": math.inf},
        {"alpha": 0.0},
        {"confidence": 95},
    ],
)
def test_senseless_thresholds_are_refused(changes: dict[str, float]) -> None:
    """Directions, thresholds and levels that make no sense are refused."""
    arguments = {"direction": 1, "tolerance": 0.02, "margin": 0.05} | changes
    with pytest.raises(ValueError, match=r"not "):
        judge(_difference(0.0, 0.01), **arguments)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    base=st.lists(st.floats(-5, 5), max_size=5),
    new=st.lists(st.floats(-5, 5), max_size=5),
    prior=st.sampled_from([None, Prior(df=20, variance=4e-4)]),
    direction=st.sampled_from([1, -1]),
)
def test_outcomes_keep_their_promises(
    base: list[float], new: list[float], prior: Prior | None, direction: int
) -> None:
    """A pass excludes the margin, a regression is significant and large, and the mirror image mirrors."""
    there = compare(base, new, prior=prior)
    result = judge(there, direction=direction, tolerance=0.02, margin=0.05)
    if result.outcome is Outcome.PASS:
        assert result.upper < 0.05
    if result.outcome is Outcome.REGRESSION:
        assert result.slowdown > 0.02
        assert result.p_value <= 0.01
        assert result.lower > 0
    mirrored = judge(compare(new, base, prior=prior), direction=-direction, tolerance=0.02, margin=0.05)
    assert mirrored.outcome is result.outcome
