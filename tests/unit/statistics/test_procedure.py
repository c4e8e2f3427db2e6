"""The two-stage gate for real boots, held against the gate on arrays."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfgate.statistics import Confirmation, Drift, Looks, Outcome, Policy, Prior, Question, Screen
from perfgate.statistics.gate import (
    Noise,
    Thresholds,
    confirm,
    look,
    pairs_slowdown,
    screen,
)
from perfgate.statistics.multiplicity import holm

POLICY = Policy()
QUESTION = Question(
    cell="B",
    metric="mean_ttft_ms",
    direction=1,
    tolerance=0.03,
    margin=0.10,
    prior=Prior(df=16.0, variance=0.02**2),
    drift=Drift(sd=0.005, upper_sd=0.01),
)
NEAR = st.floats(min_value=-0.3, max_value=0.3)
GROUP = st.lists(NEAR, min_size=1, max_size=7)
PAIRED = st.lists(NEAR, min_size=2, max_size=7)


def _noise(question: Question) -> Noise:
    assert question.prior is not None
    assert question.drift is not None
    return Noise(
        prior_df=np.asarray(question.prior.df),
        prior_variance=np.asarray(question.prior.variance),
        drift_variance=question.drift.variance,
        drift_upper=question.drift.cautious().variance,
    )


def _limits(question: Question) -> Thresholds:
    return Thresholds(
        direction=np.asarray(float(question.direction)),
        tolerance=np.asarray(math.log1p(question.tolerance)),
        margin=np.asarray(math.log1p(question.margin)),
    )


@settings(deadline=None)
@given(base=GROUP, new=GROUP, direction=st.sampled_from([1, -1]))
def test_the_screen_for_boots_is_the_screen_on_arrays(
    base: list[float], new: list[float], direction: int
) -> None:
    """The screen that real boots go through decides exactly like the simulated one."""
    question = replace(QUESTION, direction=direction)
    one = Screen(policy=POLICY).judge(question, base, new).outcome
    many = screen(
        np.asarray(base),
        np.asarray(new),
        noise=_noise(question),
        thresholds=_limits(question),
        policy=POLICY,
    )
    assert (one is Outcome.SUSPECT) == many.suspect
    assert (one is Outcome.PASS) == many.passed
    assert (one is Outcome.IMPROVEMENT) == many.faster


@settings(deadline=None)
@given(sides=st.lists(st.tuples(PAIRED, PAIRED), min_size=1, max_size=4), direction=st.sampled_from([1, -1]))
def test_the_confirmation_for_boots_is_the_confirmation_on_arrays(
    sides: list[tuple[list[float], list[float]]], direction: int
) -> None:
    """Confirmed pairs of real boots are judged exactly like simulated ones, Holm's correction included."""
    questions = tuple(
        replace(QUESTION, cell=f"cell{n}", direction=direction, drift=None) for n in range(len(sides))
    )
    judged = Confirmation(questions=questions).judge(
        {question.key: side for question, side in zip(questions, sides, strict=True)}
    )
    slowdowns = [
        pairs_slowdown(
            np.asarray(old),
            np.asarray(new),
            noise=_noise(QUESTION),
            thresholds=_limits(questions[0]),
            policy=POLICY,
        )
        for old, new in sides
    ]
    adjusted = holm(np.asarray([float(slowdown.p_greater()) for slowdown in slowdowns]))
    for question, slowdown, p in zip(questions, slowdowns, adjusted, strict=True):
        found = confirm(slowdown, adjusted=p, thresholds=_limits(question), policy=POLICY)
        outcome = judged[question.key].outcome
        assert (outcome is Outcome.REGRESSION) == found.slower
        assert (outcome is Outcome.IMPROVEMENT) == found.faster
        assert (outcome is Outcome.PASS) == found.passed


@given(new=st.floats(min_value=-3, max_value=3), more=st.lists(NEAR, max_size=6))
def test_one_boot_on_a_side_neither_convicts_nor_praises(new: float, more: list[float]) -> None:
    """With a single fresh boot on either side the outcome is PASS or INCONCLUSIVE, however far apart the sides are."""
    confirmation = Confirmation(questions=(QUESTION,))
    for sides in (([0.0, *more], [new]), ([0.0], [new, *more])):
        outcome = confirmation.judge({QUESTION.key: sides})[QUESTION.key].outcome
        assert outcome in (Outcome.PASS, Outcome.INCONCLUSIVE)


@settings(max_examples=60, deadline=None)
@given(base=GROUP, new=st.lists(NEAR, min_size=7, max_size=7))
def test_looks_for_boots_are_the_looks_on_arrays(base: list[float], new: list[float]) -> None:
    """Sequential looks at real boots end where the simulated ones end, and with the same outcome."""
    looks = Looks(question=QUESTION, family=36)
    count, outcome, used = looks.next_count(0), Outcome.SUSPECT, 0
    while outcome is Outcome.SUSPECT:
        assert count is not None
        used, outcome = count, looks.judge(base, new[:count]).outcome
        count = looks.next_count(used)
    many = look(
        np.asarray(base),
        np.asarray(new),
        noise=_noise(QUESTION),
        thresholds=_limits(QUESTION),
        policy=POLICY,
        family=36,
    )
    assert (outcome is Outcome.REGRESSION) == many.slower
    assert outcome in (Outcome.PASS, Outcome.IMPROVEMENT) or not many.passed
    if outcome is not Outcome.IMPROVEMENT:
        assert used == many.replicates


def _both_screens(question: Question, base: list[float], new: list[float]) -> tuple[Outcome, bool, bool]:
    """The outcome for boots, and whether the screen on arrays suspects and passes."""
    many = screen(
        np.asarray(base), np.asarray(new), noise=_noise(question), thresholds=_limits(question), policy=POLICY
    )
    return Screen(policy=POLICY).judge(question, base, new).outcome, bool(many.suspect), bool(many.passed)


def test_a_pass_of_the_screen_bears_the_upper_bound_of_the_drift() -> None:
    """Equal boots pass where the drift is surely small, and are inconclusive where it may be 5%."""
    base, new = [0.0, 0.01, -0.01], [0.0, 0.01, -0.01]
    sure = replace(QUESTION, drift=Drift(sd=0.0, upper_sd=0.001))
    unsure = replace(QUESTION, drift=Drift(sd=0.0, upper_sd=0.05))
    assert _both_screens(sure, base, new) == (Outcome.PASS, False, True)
    assert _both_screens(unsure, base, new) == (Outcome.INCONCLUSIVE, False, False)


def test_a_suspicion_bears_the_estimate_of_the_drift_only() -> None:
    """A drift that may be large does not hide a slowdown from the screen: a suspicion costs boots, not a verdict."""
    unsure = replace(QUESTION, drift=Drift(sd=0.0, upper_sd=0.2))
    assert _both_screens(unsure, [0.0] * 3, [0.08] * 3) == (Outcome.SUSPECT, True, False)
    drifting = replace(QUESTION, drift=Drift(sd=0.2, upper_sd=0.2))
    assert _both_screens(drifting, [0.0] * 3, [0.08] * 3) == (Outcome.INCONCLUSIVE, False, False)


def test_a_certain_slowdown_within_the_tolerance_is_not_suspected() -> None:
    """What would be tolerated when confirmed is not confirmed: it passes."""
    exact = replace(QUESTION, prior=Prior(df=16.0, variance=1e-6), drift=Drift(sd=0.0, upper_sd=0.0))
    assert _both_screens(exact, [0.0] * 3, [0.02] * 3) == (Outcome.PASS, False, True)
    assert _both_screens(exact, [0.0] * 3, [0.04] * 3) == (Outcome.SUSPECT, True, False)


def test_without_a_prior_the_screen_passes_or_is_inconclusive() -> None:
    """Without a noise model even a threefold slowdown is only inconclusive at the screen."""
    bare = replace(QUESTION, prior=None, drift=Drift(sd=0.0))
    screener = Screen()
    assert screener.judge(bare, [0.0, 0.001, -0.001], [1.0, 1.001, 0.999]).outcome is Outcome.INCONCLUSIVE
    assert screener.judge(bare, [0.0, 0.001, -0.001], [0.0, 0.001, 0.002]).outcome is Outcome.PASS
    assert screener.judge(bare, [0.0], [0.0]).outcome is Outcome.INCONCLUSIVE
    unsure = replace(bare, drift=Drift(sd=0.0, upper_sd=0.1))
    assert screener.judge(unsure, [0.0, 0.001, -0.001], [0.0, 0.001, 0.002]).outcome is Outcome.INCONCLUSIVE


def test_a_one_replicate_baseline_can_be_screened() -> None:
    """With a prior, a baseline of one replicate suspects a large slowdown."""
    assert Screen().judge(QUESTION, [0.0], [0.10, 0.11, 0.09]).outcome is Outcome.SUSPECT


def test_an_unknown_drift_is_assumed_for_a_pass() -> None:
    """While no noise model has seen two sessions, a PASS assumes 1% of drift and a suspicion none."""
    unknown = replace(QUESTION, drift=None)
    known = replace(QUESTION, drift=Drift(sd=0.0, upper_sd=0.01))
    base, new = [0.0, 0.01, -0.01], [0.01, 0.02, 0.0]
    assert Screen().judge(unknown, base, new) == Screen().judge(known, base, new)


def test_data_of_the_screen_do_not_enter_the_confirmation() -> None:
    """A confirmation judges what it is given and nothing remembered from the screen."""
    Screen().judge(QUESTION, [0.0] * 5, [0.5] * 3)
    fresh = {QUESTION.key: ([0.0, 0.01, -0.01, 0.0, 0.01], [0.0, 0.01, -0.01, 0.0, 0.01])}
    assert Confirmation(questions=(QUESTION,)).judge(fresh)[QUESTION.key].outcome is Outcome.PASS


def test_what_was_not_measured_stays_suspect() -> None:
    """A question without fresh data on both sides stays suspect: absence is never a pass."""
    confirmation = Confirmation(questions=(QUESTION,))
    assert confirmation.judge({})[QUESTION.key].outcome is Outcome.SUSPECT
    half = {QUESTION.key: ([], [0.0, 0.1])}
    assert confirmation.judge(half)[QUESTION.key].outcome is Outcome.SUSPECT


def test_a_tail_quantile_never_fails_alone() -> None:
    """An advisory metric that is certainly slower stays suspect, and costs the others no correction."""
    advisory = replace(QUESTION, metric="p99_ttft_ms", advisory=True)
    slow = ([0.0, 0.01, -0.01], [0.5, 0.51, 0.49])
    judged = Confirmation(questions=(advisory, QUESTION)).judge({advisory.key: slow, QUESTION.key: slow})
    alone = Confirmation(questions=(QUESTION,)).judge({QUESTION.key: slow})
    assert judged[advisory.key].outcome is Outcome.SUSPECT
    assert judged[QUESTION.key] == alone[QUESTION.key]
    with_looks = Looks(question=advisory, family=1).judge([0.0, 0.01, -0.01], [0.5] * 7)
    assert with_looks.outcome is Outcome.INCONCLUSIVE


def test_more_questions_need_more_evidence() -> None:
    """The same evidence that convicts alone does not convict among many questions."""
    data = ([0.0, 0.01, -0.01, 0.005, -0.005], [0.04, 0.05, 0.03, 0.045, 0.035])
    alone = Confirmation(questions=(QUESTION,)).judge({QUESTION.key: data})[QUESTION.key]
    others = tuple(replace(QUESTION, cell=f"c{n}") for n in range(30))
    quiet = {other.key: ([0.0, 0.01, -0.01], [0.0, 0.01, -0.01]) for other in others}
    among = Confirmation(questions=(QUESTION, *others)).judge({QUESTION.key: data} | quiet)[QUESTION.key]
    assert alone.outcome is Outcome.REGRESSION
    assert among.outcome is not Outcome.REGRESSION


def test_a_later_verdict_at_once_needs_more_evidence() -> None:
    """The third confirmation whose verdict cannot wait gets an eighth of the error, and asks for as much more evidence."""
    data = {QUESTION.key: ([0.0, 0.01, -0.01, 0.005, -0.005], [0.04, 0.05, 0.03, 0.045, 0.035])}
    confirmation = Confirmation(questions=(QUESTION,))
    p = confirmation.judge(data)[QUESTION.key].p_value
    assert POLICY.level(3) == pytest.approx(POLICY.online_alpha / 8)
    for position in range(1, 12):
        found = confirmation.judge(data, position=position)[QUESTION.key].outcome
        assert (found is Outcome.REGRESSION) == (p <= POLICY.level(position))


def test_own_variance_fails_only_when_asked_and_with_three_a_side() -> None:
    """An A/B experiment without a noise model may fail by its own variance from three boots a side."""
    bare = replace(QUESTION, prior=None)
    three = {bare.key: ([0.0, 0.001, -0.001], [0.5, 0.501, 0.499])}
    two = {bare.key: ([0.0, 0.001], [0.5, 0.501])}
    asked = Confirmation(questions=(bare,), own_variance=True)
    assert asked.judge(three)[bare.key].outcome is Outcome.REGRESSION
    assert asked.judge(two)[bare.key].outcome is Outcome.INCONCLUSIVE
    assert Confirmation(questions=(bare,)).judge(three)[bare.key].outcome is Outcome.INCONCLUSIVE


def test_the_plan_grows_with_the_noise_and_keeps_the_budget() -> None:
    """A noisier cell gets more pairs, and a budget cuts pairs first and cells from the end."""
    quiet = replace(QUESTION, cell="quiet", prior=Prior(df=16, variance=0.005**2), margin=0.05)
    loud = replace(QUESTION, cell="loud", prior=Prior(df=16, variance=0.03**2), margin=0.05)
    confirmation = Confirmation(questions=(quiet, loud))
    free = confirmation.plan(boot_minutes=2, run_minutes=1)
    assert [cell.pairs for cell in free.cells] == [POLICY.fewest_pairs, POLICY.most_pairs]
    assert free.boots == 2 * (POLICY.fewest_pairs + POLICY.most_pairs)
    assert free.minutes == pytest.approx(free.boots * 3)
    cut = confirmation.plan(boot_minutes=2, run_minutes=1, max_minutes=30)
    assert cut.minutes <= 30
    assert min(cell.pairs for cell in cut.cells) == 2
    starved = confirmation.plan(boot_minutes=2, run_minutes=1, max_minutes=12)
    assert [cell.pairs for cell in starved.cells] == [2, 0]
    assert starved.cells[1].order == ()
    assert starved.cells[1].smallest_detectable == {"mean_ttft_ms": math.inf}
    fixed = confirmation.plan(boot_minutes=2, run_minutes=1, pairs=4)
    assert [cell.pairs for cell in fixed.cells] == [4, 4]
    assert fixed.cells[0].order == (0, 1, 1, 0, 0, 1, 1, 0)
    assert (
        fixed.cells[0].smallest_detectable["mean_ttft_ms"]
        < fixed.cells[1].smallest_detectable["mean_ttft_ms"]
    )


def test_looking_at_other_times_is_refused() -> None:
    """A look at a count that spends no planned error is refused."""
    with pytest.raises(ValueError, match="not at 4"):
        Looks(question=QUESTION, family=1).judge([0.0], [0.0] * 4)


def test_impossible_policies_and_questions_are_refused() -> None:
    """Constants that make no sense, and a question asked twice, are refused when made."""
    for wrong in (
        {"alpha": 0.0},
        {"looks": (3, 3)},
        {"looks": ()},
        {"fewest_pairs": 9},
        {"screen_replicates": 0},
    ):
        with pytest.raises(ValueError, match=r"must|lies|needs"):
            Policy(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="once"):
        Confirmation(questions=(QUESTION, QUESTION))
    with pytest.raises(ValueError, match="negative"):
        Confirmation(questions=(QUESTION,)).plan(boot_minutes=-1, run_minutes=1)
