"""Variance components and two-state boots."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from perfgate.statistics import two_states
from perfgate.statistics.components import fit_replicates, fit_runs, pad
from perfgate.statistics.contrast import winsorise

VALUES = st.floats(-10, 10)


def test_components_by_hand() -> None:
    """Two sessions of two boots: the nested analysis of variance, done by hand."""
    # Sessions (0, 2) and (6, 8): within 2 + 2 on 2 df → 2; means 1 and 7 → between 18; τ² = 18 − 2/2 = 17.
    found = fit_replicates(np.asarray([[[0.0, 2.0], [6.0, 8.0]]]))
    assert found.variance == pytest.approx(2)
    assert found.cell_df.tolist() == [2]
    assert found.session_variance == pytest.approx(17)
    assert found.session_df == 1


def test_components_of_simulated_histories_are_right_on_average() -> None:
    """Over 4000 histories the mean estimates are the true variances of boots and sessions."""
    rng = np.random.default_rng(2)
    shape = (4000, 12, 4, 3)
    y = 0.02 * rng.standard_normal(shape) + 0.03 * rng.standard_normal((*shape[:-1], 1))
    found = fit_replicates(y)
    assert found.variance.mean() == pytest.approx(0.02**2, rel=0.02)
    assert found.session_variance.mean() == pytest.approx(0.03**2, rel=0.02)
    above = (found.session_variance_upper > 0.03**2).mean()
    assert 0.72 < above < 0.88


def test_ragged_histories_count_what_is_there() -> None:
    """Padding of ragged cells is no data: missing boots and sessions change nothing."""
    ragged = fit_replicates(*pad([[[0.0, 2.0], [6.0, 8.0]], [[5.0]], []]))
    assert ragged.variance == pytest.approx(2)
    assert ragged.session_variance == pytest.approx(17)
    assert np.isnan(ragged.cell_variance[1:]).all()


def test_heavy_outliers_are_set_aside() -> None:
    """Three per cent of replicates that are 30% slower leave the fitted variance where it was."""
    rng = np.random.default_rng(4)
    y = 0.01 * rng.standard_normal((500, 12, 4, 3))
    hit = rng.random(y.shape) < 0.03
    found = fit_replicates(y + 0.3 * hit)
    assert np.sqrt(np.median(found.variance)) == pytest.approx(0.01, rel=0.02)
    assert np.sqrt(np.median(found.session_variance)) < 0.004
    assert found.outliers.sum() == pytest.approx(hit.sum(), rel=0.05)


def test_two_outliers_in_a_session_of_three_do_not_outvote_the_cell() -> None:
    """A session in which two of three boots were hit is judged by the other sessions of the cell."""
    y = np.asarray([[[0.0, 0.01, 0.02], [0.01, 0.0, 0.01], [0.02, 0.0, 0.01], [0.01, 0.02, 0.0]]] * 4)
    y[2, 1, :2] = 0.5, 0.8
    found = fit_replicates(y)
    assert found.outliers == 2
    assert not found.kept[2, 1, :2].any()


def test_a_frequent_state_is_no_outlier() -> None:
    """When a quarter of the boots are slow, the variance contains them instead of their neighbours alone."""
    rng = np.random.default_rng(6)
    y = 0.005 * rng.standard_normal((12, 4, 4))
    y += 0.04 * (rng.random(y.shape) < 0.25)
    found = fit_replicates(y)
    assert math.sqrt(float(found.variance)) > 2 * 0.005


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.lists(st.lists(VALUES, max_size=4), max_size=3), max_size=4))
def test_any_history_is_fitted_or_known_to_be_too_small(cells: list[list[list[float]]]) -> None:
    """For any ragged history, sizes 0 and 1 and ties included, variances are NaN or not negative."""
    if not any(boots for cell in cells for boots in cell):
        cells = [*cells, [[0.0]]]
    found = fit_replicates(*pad(cells))
    for variance in (float(found.variance), float(found.session_variance)):
        assert math.isnan(variance) or variance >= 0
    if not any(len(boots) > 1 for cell in cells for boots in cell):
        assert math.isnan(float(found.variance))


def test_runs_of_a_boot() -> None:
    """The variance of runs is pooled within boots and knows nothing of the distance between boots."""
    found = fit_runs([[0.0, 2.0], [10.0, 12.0], [5.0]])
    assert found.variance == pytest.approx(2)
    assert found.df == 2
    assert found.inverse_runs == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert fit_runs([[1.0], [2.0]]).variance is None
    assert fit_runs([]).variance is None


def test_two_states_are_found_with_their_means() -> None:
    """Boots around two levels are split where they part."""
    found = two_states([0.00, 0.01, 0.005, 0.30, 0.31, 0.305, 0.002, 0.295])
    assert found is not None
    assert found.low == pytest.approx(0.00425)
    assert found.gap == pytest.approx(0.29825)
    assert found.high_share == 0.5


def test_one_normal_state_is_rarely_split() -> None:
    """Boots of one normal state are called two states about as rarely as the level says."""
    rng = np.random.default_rng(9)
    alarms = sum(two_states(rng.standard_normal(12), alpha=0.05) is not None for _ in range(1000))
    assert 25 <= alarms <= 80


@pytest.mark.parametrize(
    "values", [[], [1.0], [1.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.5] * 9, [0.0] * 9 + [5.0]]
)
def test_too_few_boots_or_a_single_outlier_are_no_states(values: list[float]) -> None:
    """Few boots, equal boots and one far boot never make two states."""
    assert two_states(values) is None


def test_states_of_nan_are_refused() -> None:
    """NaN is no boot."""
    with pytest.raises(ValueError, match="finite"):
        two_states([0.0] * 6 + [math.nan])


@settings(deadline=None)
@given(values=st.lists(VALUES, max_size=6), scale=st.floats(0.01, 5))
def test_winsorising_keeps_the_median_and_the_reach(values: list[float], scale: float) -> None:
    """After winsorising the median is the same and nothing lies further than 2.5 scales from it."""
    pulled = winsorise(np.asarray(values), scale)
    if values:
        assert np.median(pulled) == pytest.approx(np.median(values))
        assert np.abs(pulled - np.median(values)).max() <= 2.5 * scale * (1 + 1e-9)
    else:
        assert pulled.size == 0


def test_winsorising_reaches_as_far_as_the_scale_is_unknown() -> None:
    """The reach grows with Student's quantile from 2.5 scales at 20 degrees of freedom and more to many at one."""
    far = np.asarray([-100.0, 0.0, 100.0])
    reach = {df: float(winsorise(far, 1.0, df=df)[-1]) for df in (1.0, 2.0, 5.0, 10.0, 20.0, 1e9)}
    level = stats.norm.cdf(2.5)
    for df, found in reach.items():
        expected = 2.5 * stats.t.ppf(level, min(df, 20.0)) / stats.t.ppf(level, 20.0)
        assert found == pytest.approx(expected)
    assert list(reach.values()) == sorted(reach.values(), reverse=True)
    assert reach[1.0] > 40
    assert reach[1e9] == reach[20.0] == 2.5
