"""The DGX Spark study as a test: what its few numbers can carry and what they cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from perfgate.statistics import (
    Confirmation,
    Drift,
    Judgement,
    Looks,
    Outcome,
    Prior,
    Question,
    Screen,
    compare,
    quantile_bounds,
)

BASELINE_TTFT = 4855.0  # ms, workload B, one run
PHASE_3_TTFT = (5857.0, 5678.0, 5793.0)  # ms, seeds 42, 123, 456

TTFT = Question(cell="B", metric="mean_ttft_ms", direction=1, tolerance=0.03, margin=0.10)
P99 = Question(cell="C", metric="p99_ttft_ms", direction=1, tolerance=0.06, margin=0.20, advisory=True)


def _logs(*values: float) -> list[float]:
    return [math.log(value) for value in values]


def _with_noise(question: Question, sigma: float, tau: float = 0.01) -> Question:
    return replace(question, prior=Prior(df=16, variance=sigma**2), drift=Drift(sd=tau, upper_sd=1.25 * tau))


def _pairs(ratio: float, sigma: float, *, pairs: int = 7, seed: int = 42) -> tuple[list[float], list[float]]:
    """Fresh A/B boots around the study's baseline, with B slower by ``ratio``."""
    rng = np.random.default_rng(seed)
    old = math.log(BASELINE_TTFT) + sigma * rng.standard_normal(pairs)
    new = math.log(BASELINE_TTFT) + math.log(ratio) + sigma * rng.standard_normal(pairs)
    return old.tolist(), new.tolist()


def test_phase_3_is_slower_by_nineteen_per_cent_of_its_single_run() -> None:
    """The three seeds of phase 3 lie 18.9% above the one run of the baseline, geometrically."""
    found = compare(_logs(BASELINE_TTFT), _logs(*PHASE_3_TTFT), prior=Prior(df=16, variance=0.02**2))
    assert math.expm1(found.estimate) == pytest.approx(0.189, abs=0.001)


@pytest.mark.parametrize("sigma", [0.015, 0.02, 0.03])
def test_phase_3_is_suspect_against_its_one_run_baseline(sigma: float) -> None:
    """With 1.5 to 3% of noise borrowed, B's TTFT is suspect: one stored run convicts nobody."""
    found = Screen().judge(_with_noise(TTFT, sigma), _logs(BASELINE_TTFT), _logs(*PHASE_3_TTFT))
    assert found.outcome is Outcome.SUSPECT
    assert found.p_value < 0.01


def test_phase_3_without_a_noise_model_is_inconclusive() -> None:
    """Without borrowed variance one run of a reference carries no interval."""
    found = Screen().judge(TTFT, _logs(BASELINE_TTFT), _logs(*PHASE_3_TTFT))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.upper == math.inf


def test_phase_3_against_phase_2_5a_by_its_own_variance() -> None:
    """Against 5249 ms, the run before the tuned MoE file, the estimate is +10.0%; its own three seeds alone give p = .017."""
    previous, seeds = math.log(5249.0), _logs(*PHASE_3_TTFT)
    estimate = float(np.mean(seeds)) - previous
    assert math.expm1(estimate) == pytest.approx(0.100, abs=0.001)
    error = float(np.std(seeds, ddof=1)) * math.sqrt(1 + 1 / 3)
    assert stats.t.sf(estimate / error, 2) == pytest.approx(0.017, abs=0.002)


@pytest.mark.parametrize(("sigma", "low", "high"), [(0.015, 1e-6, 1e-4), (0.03, 1e-3, 2e-2)])
def test_phase_3_against_phase_2_5a_with_borrowed_variance(sigma: float, low: float, high: float) -> None:
    """Borrowed noise of 1.5% to 3% turns the same three seeds into p between 1e-5 and 1e-2, and they stay suspect."""
    question = _with_noise(TTFT, sigma, tau=0.0)
    found = Screen().judge(question, _logs(5249.0), _logs(*PHASE_3_TTFT))
    assert low < found.p_value < high
    assert found.outcome is Outcome.SUSPECT


@pytest.mark.parametrize("sigma", [0.015, 0.02, 0.03])
def test_phase_3_is_a_regression_once_pairs_of_that_size_are_measured(sigma: float) -> None:
    """Seven interleaved pairs with phase 3's +10% turn the suspicion into a confirmed regression."""
    question = replace(_with_noise(TTFT, sigma), tolerance=0.03)
    found = Confirmation(questions=(question,)).judge({question.key: _pairs(1.10, sigma)})[question.key]
    assert found.outcome is Outcome.REGRESSION
    assert found.lower > 0


def test_the_confirmation_can_clear_a_suspect() -> None:
    """The same number of pairs without any slowdown clears the suspicion."""
    question = _with_noise(TTFT, 0.02)
    found = Confirmation(questions=(question,)).judge({question.key: _pairs(1.0, 0.02)})[question.key]
    assert found.outcome is Outcome.PASS


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.10])
def test_the_outlier_of_seed_42_never_fails_alone(sigma: float) -> None:
    """C's P99 TTFT of 8269 ms at seed 42 is suspect or inconclusive at every stage and never a regression."""
    question = _with_noise(P99, sigma)
    screened = Screen().judge(question, _logs(5917.0), _logs(8269.0))
    confirmed = Confirmation(questions=(question,)).judge(
        {question.key: (_logs(5917.0), _logs(8269.0, 5283.0))}
    )[question.key]
    looked = Looks(question=question, family=1).judge(_logs(5917.0), _logs(8269.0, 8269.0, 8269.0))
    assert screened.outcome in (Outcome.SUSPECT, Outcome.INCONCLUSIVE)
    assert confirmed.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.SUSPECT)
    assert looked.outcome in (Outcome.SUSPECT, Outcome.INCONCLUSIVE)


def test_the_second_seed_takes_the_outlier_back() -> None:
    """With seed 123 beside it, the P99 of phase 7 is no longer certainly slower than phase 6."""
    question = _with_noise(P99, 0.05)
    both = Screen().judge(question, _logs(5917.0), _logs(8269.0, 5283.0))
    assert both.outcome is not Outcome.REGRESSION
    assert both.slowdown < 0.13


def test_64_requests_carry_no_p99() -> None:
    """A run of 64 requests has no distribution-free upper bound of P99 at all."""
    assert quantile_bounds([float(value) for value in range(64)]).upper == math.inf


def _phase_7(
    metric: str, direction: int, base: float, now: float, sigma: float, *, advisory: bool = False
) -> Judgement:
    question = _with_noise(
        Question(
            cell="C", metric=metric, direction=direction, tolerance=0.03, margin=0.10, advisory=advisory
        ),
        sigma,
        tau=0.005,
    )
    return Screen().judge(question, _logs(base), _logs(now))


def test_phases_6_to_7_improve_c() -> None:
    """C's mean TTFT (4943 → 4146 ms) and throughput (193.24 → 207.92 tok/s) come out as improvements at 1.5% of noise."""
    assert _phase_7("mean_ttft_ms", 1, 4943.0, 4146.0, 0.015).outcome is Outcome.IMPROVEMENT
    assert _phase_7("output_throughput", -1, 193.24, 207.92, 0.015).outcome is Outcome.IMPROVEMENT


def test_phases_6_to_7_may_cost_b_its_tail() -> None:
    """B's P99 TPOT (39 → 50 ms) is suspect: a possible cost that asks for replication and fails nothing."""
    found = _phase_7("p99_tpot_ms", 1, 39.0, 50.0, 0.05, advisory=True)
    assert found.outcome is Outcome.SUSPECT
