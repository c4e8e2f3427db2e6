"""An interval against a claimed band of changes."""

import math

import pytest

from perfgate.statistics.band import Band, judge_band, together
from perfgate.statistics.interval import Difference, Prior, compare


def difference(estimate: float, error: float = 0.01, df: float = 20) -> Difference:
    return Difference(estimate=estimate, standard_error=error, df=df, base_size=3, new_size=3, moderated=True)


@pytest.mark.parametrize(
    ("estimate", "error", "band", "expected"),
    [
        (-0.20, 0.01, Band(most=-0.03), "holds"),
        (-0.04, 0.01, Band(most=-0.03), "undecidable"),
        (0.05, 0.01, Band(most=-0.03), "does not hold"),
        (0.0, 0.01, Band(least=-0.05, most=0.05), "holds"),
        (0.0, 0.05, Band(least=-0.05, most=0.05), "undecidable"),
        (0.2, 0.05, Band(least=-0.05, most=0.05), "does not hold"),
        (-0.4, 0.01, Band(least=-0.45, most=-0.22), "holds"),
        (-0.9, 0.01, Band(least=-0.45, most=-0.22), "does not hold"),
        (0.5, 0.01, Band(least=0.1), "holds"),
    ],
)
def test_inside_holds_outside_does_not_and_between_is_undecidable(estimate, error, band, expected):
    """The answer follows from where the whole interval lies, and from nothing else."""
    assert judge_band(difference(estimate, error), band).answer == expected


def test_no_interval_is_never_an_answer():
    """Two single replicates without a prior, or an empty side, decide nothing and could have shown nothing."""
    for base, new in (([1.0], [2.0]), ([], [1.0, 1.1]), ([1.0, 1.0], [2.0, 2.0])):
        found = judge_band(compare(base, new), Band(most=-0.01))
        assert found.answer == "undecidable"
        assert math.isinf(found.smallest_detectable)


def test_more_confidence_never_decides_more():
    """Raising the confidence can turn an answer into undecidable, never the other way."""
    answers = [
        judge_band(difference(-0.06), Band(most=-0.03), confidence=level).answer
        for level in (0.5, 0.8, 0.95, 0.999)
    ]
    assert answers == sorted(answers, key=lambda one: one == "undecidable")
    assert set(answers) == {"holds", "undecidable"}


def test_the_smallest_detectable_change_is_found_about_as_often_as_promised():
    """At a true change as large as ``smallest_detectable`` the interval excludes zero in about 80% of simulated comparisons."""
    import numpy as np

    prior = Prior(df=math.inf, variance=0.02**2)
    shown = math.log1p(
        judge_band(compare([0.0] * 4, [0.0] * 4, prior=prior), Band(most=1.0)).smallest_detectable
    )
    random = np.random.default_rng(5)
    hits = 0
    for _ in range(2000):
        base, new = random.normal(0, 0.02, 4), random.normal(shown, 0.02, 4)
        hits += compare(base, new, prior=prior).interval(0.95)[0] > 0
    assert 0.76 < hits / 2000 < 0.84


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "undecidable"], "undecidable"),
        (["undecidable", "does not hold"], "does not hold"),
        ([], "undecidable"),
    ],
)
def test_a_claim_of_parts_needs_all_of_them(parts, expected):
    """All parts must hold; one that does not is enough against it; none at all decides nothing."""
    assert together(parts) == expected


@pytest.mark.parametrize("ends", [{"least": 0.1, "most": 0.1}, {"least": 0.2, "most": 0.1}, {}])
def test_a_band_claims_something(ends):
    """An empty band and one that allows everything are refused."""
    with pytest.raises(ValueError, match="band"):
        Band(**ends)
