"""No winner inside the noise: when a point of a sweep counts as dominated."""

import math

import numpy as np
import pytest

from perfgate.statistics.interval import Prior
from perfgate.statistics.pareto import Objective, standings, winner

TTFT = Objective(name="ttft", direction=1, margin=0.10, tolerance=0.03)
RATE = Objective(name="rate", direction=-1, margin=0.05, tolerance=0.02)


def point(ttft: float, rate: float, *, sd: float = 0.01, boots: int = 4, seed: int = 0) -> dict:
    random = np.random.default_rng([seed, int(1000 * ttft), int(1000 * rate)])
    return {
        "ttft": (math.log(ttft) + random.normal(0, sd, boots)).tolist(),
        "rate": (math.log(rate) + random.normal(0, sd, boots)).tolist(),
    }


def test_better_in_one_and_equal_in_the_other_dominates():
    """Half the TTFT at the same rate dominates, and such a point that beats all others is the winner."""
    found = standings([point(100, 50), point(50, 50, seed=1), point(120, 50, seed=2)], [TTFT, RATE])
    assert found[0].dominated_by == (1,)
    assert 1 in found[2].dominated_by
    assert winner(found) == 1


def test_a_trade_dominates_nothing():
    """Better in one metric and worse beyond the margin in the other: both are on the front and there is no winner."""
    found = standings([point(100, 50), point(50, 40, seed=1)], [TTFT, RATE])
    assert [one.dominated_by for one in found] == [(), ()]
    assert winner(found) is None


def test_no_margin_is_wide_enough_to_make_a_trade_a_domination():
    """A point certainly slower in one metric dominates nothing, even where the margin would forgive it."""
    forgiving = [Objective(name=one.name, direction=one.direction, margin=1.0) for one in (TTFT, RATE)]
    found = standings([point(100, 50), point(50, 40, seed=1), point(55, 45, seed=2)], forgiving)
    assert [one.dominated_by for one in found] == [(), (), ()]


def test_equal_points_dominate_nothing_in_most_sweeps():
    """Among five equal points any is called dominated in at most 5% of 150 simulated sweeps, with three boots each."""
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(150):
        points = [
            {"ttft": random.normal(0, 0.1, 3).tolist(), "rate": random.normal(0, 0.05, 3).tolist()}
            for _ in range(5)
        ]
        wrong += any(one.dominated_by for one in standings(points, [TTFT, RATE]))
    assert wrong / 150 <= 0.05


def test_not_worse_must_be_shown_not_assumed():
    """A point far better in TTFT does not dominate while the rate is too noisy to exclude a loss of the margin."""
    quiet, noisy = point(100, 50), point(50, 50, seed=1)
    noisy["rate"] = (math.log(50) + np.array([-0.2, 0.2, -0.15, 0.15])).tolist()
    assert not any(one.dominated_by for one in standings([quiet, noisy], [TTFT, RATE]))


def test_a_noise_model_lets_one_boot_speak():
    """With a prior, one boot a point suffices for a large difference; without one it never does."""
    points = [point(100, 50, boots=1), point(50, 50, boots=1, seed=1)]
    prior = Prior(df=20, variance=0.01**2)
    informed = [
        Objective(name=one.name, direction=one.direction, margin=one.margin, prior=prior)
        for one in (TTFT, RATE)
    ]
    assert standings(points, informed)[0].dominated_by == (1,)
    assert standings(points, [TTFT, RATE])[0].dominated_by == ()


def test_the_pair_itself_never_lends_its_own_spread():
    """With two points the comparison is Welch's: a third one changes it, the pair's own spread is not counted twice."""
    from perfgate.statistics.pareto import _borrowed

    points = [point(100, 50), point(50, 50, seed=1)]
    assert _borrowed(points, "ttft", {0, 1}) is None
    assert _borrowed([*points, point(70, 50, seed=2)], "ttft", {0, 1}).df < 3


@pytest.mark.parametrize("points", [[], [{"ttft": [1.0, 1.1], "rate": [2.0, 2.1]}], [{}, {}]])
def test_nothing_to_compare_has_no_winner(points):
    """No points, one point, points without data: nobody is dominated and nobody wins."""
    found = standings(points, [TTFT, RATE])
    assert not any(one.dominated_by for one in found)
    assert winner(found) is None


def test_single_values_have_an_infinite_interval():
    """One boot without anything to borrow from carries no interval; zero variance neither."""
    (one, same) = standings(
        [{"ttft": [1.0], "rate": [1.0]}, {"ttft": [2.0, 2.0], "rate": [1.0, 1.0]}], [TTFT, RATE]
    )
    assert math.isinf(one.ranges["ttft"].upper)
    assert math.isinf(same.ranges["ttft"].upper)


def test_objectives_make_sense():
    """A direction other than ±1, a margin of zero and no metric at all are refused."""
    with pytest.raises(ValueError, match="direction"):
        Objective(name="x", direction=0, margin=0.1)
    with pytest.raises(ValueError, match="margin"):
        Objective(name="x", direction=1, margin=0.0)
    with pytest.raises(ValueError, match="at least one metric"):
        standings([{}], [])
