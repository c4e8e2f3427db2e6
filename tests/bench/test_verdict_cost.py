"""What verdicts cost: one comparison, the confirmation of a suite, the fit of a noise model, a thousand simulated suites.

Times are printed, never asserted: they belong to the machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from perfgate.statistics import Confirmation, Policy, Prior, Question, Screen, compare, judge
from perfgate.statistics.calibration import tally
from perfgate.statistics.components import fit_replicates
from perfgate.statistics.simulation import Scenario
from perfgate.statistics.spending import _bounds, pocock_bounds

pytestmark = pytest.mark.bench

PRIOR = Prior(df=16, variance=0.02**2)
BASE, NEW = [0.0, 0.01, -0.01, 0.02, 0.0], [0.05, 0.06, 0.04]


def _question(number: int) -> Question:
    return Question(
        cell=f"c{number}", metric="mean_ttft_ms", direction=1, tolerance=0.03, margin=0.10, prior=PRIOR
    )


def test_one_judgement(benchmark: Any) -> None:
    """One moderated comparison and its judgement."""
    found = benchmark(lambda: judge(compare(BASE, NEW, prior=PRIOR), direction=1, tolerance=0.03, margin=0.1))
    assert math.isfinite(found.upper)


def test_one_screen(benchmark: Any) -> None:
    """One metric through the screen."""
    assert benchmark(Screen().judge, _question(0), BASE, NEW).p_value < 0.05


def test_a_confirmed_suite(benchmark: Any) -> None:
    """Thirty-six metrics of fresh pairs judged together."""
    questions = tuple(_question(number) for number in range(36))
    confirmation = Confirmation(questions=questions)
    measured = {question.key: (BASE, BASE) for question in questions}
    assert len(benchmark(confirmation.judge, measured)) == 36


def test_boundaries_of_three_looks(benchmark: Any) -> None:
    """The α-spending boundaries of three looks, not cached."""

    def solve() -> tuple[float, ...]:
        _bounds.cache_clear()
        return pocock_bounds([3 / 7, 5 / 7, 1.0], 0.01)

    assert len(benchmark(solve)) == 3


def test_a_noise_fit(benchmark: Any) -> None:
    """The variance components of 12 cells × 4 sessions × 3 boots."""
    values = np.random.default_rng(1).standard_normal((12, 4, 3))
    assert float(benchmark(fit_replicates, values).variance) > 0


def test_a_thousand_suites(benchmark: Any) -> None:
    """A thousand simulated suites of 12 tests × 3 metrics through the whole gate and its rivals."""
    scenario = Scenario(sigma=0.02, slowdown=0.05)
    counts = benchmark.pedantic(
        tally, args=(scenario, 1000, (1,)), kwargs={"policy": Policy()}, rounds=3, iterations=1
    )
    assert counts.suites == 1000
