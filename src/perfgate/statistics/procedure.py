"""The two-stage gate for real boots: what to measure next, and what the measurements then say.

`Screen` compares fresh replicates with the stored baseline. What it suspects goes to a `Confirmation`, which plans
interleaved pairs and judges them alone: data of the screen never enter. Where the old side cannot be booted, `Looks`
judge growing fresh data against the stored baseline. The same steps on arrays are in `perfgate.statistics.gate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from perfgate.statistics.gate import Policy, look_levels
from perfgate.statistics.interval import Difference, Drift, Outcome, Prior, compare
from perfgate.statistics.judgement import Judgement, judge
from perfgate.statistics.multiplicity import holm
from perfgate.statistics.planning import Design, abba, pairs_needed

Replicates = Iterable[float]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One metric of one cell, about which the gate has to decide.

    Attributes:
        cell: name of the cell; its metrics are measured together.
        metric: name of the metric.
        direction: +1 when a larger value is slower, −1 when a smaller one is.
        tolerance: fraction; a certain slowdown up to it is reported, not failed.
        margin: fraction; a PASS excludes it.
        prior: of one replicate, from the noise model; None without one.
        drift: of a session, from the noise model; None while it has not seen two sessions.
        advisory: a tail quantile; it may ask for replication and never fails alone.
    """

    cell: str
    metric: str
    direction: int
    tolerance: float
    margin: float
    prior: Prior | None = None
    drift: Drift | None = None
    advisory: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Cell and metric."""
        return self.cell, self.metric


@dataclass(frozen=True, kw_only=True)
class Screen:
    """The cheap comparison of a few fresh replicates with the stored baseline. It suspects; it never convicts."""

    policy: Policy = field(default_factory=Policy)

    def judge(self, question: Question, base: Replicates, new: Replicates) -> Judgement:
        """PASS, IMPROVEMENT, SUSPECT (confirm it) or INCONCLUSIVE (it cannot tell).

        Without a prior only PASS or INCONCLUSIVE.

        Args:
            question: what is asked.
            base: boot means of log(metric) of the stored baseline.
            new: fresh boot means of log(metric).
        """
        policy = self.policy
        base, new = tuple(base), tuple(new)
        drift = question.drift or Drift(sd=0.0, upper_sd=policy.assumed_drift)
        if question.prior is None:
            return judge(
                _difference(question, base, new, policy, drift.cautious()),
                direction=question.direction,
                tolerance=question.tolerance,
                margin=question.margin,
                alpha=policy.alpha,
                confidence=policy.screen_confidence,
                can_fail=False,
            )
        seen = _difference(question, base, new, policy, drift)
        suspicion = seen.p_greater() if question.direction > 0 else seen.p_less()
        found = judge(
            _difference(question, base, new, policy, drift.cautious()),
            direction=question.direction,
            tolerance=question.tolerance,
            margin=question.margin,
            alpha=policy.alpha,
            confidence=policy.screen_confidence,
            adjusted_p=1.0,  # a stored baseline alone convicts nobody
        )
        suspect = suspicion <= policy.screen_alpha and question.direction * seen.estimate > math.log1p(
            question.tolerance
        )
        shown = seen.smallest_detectable(alpha=policy.screen_alpha, tolerance=math.log1p(question.tolerance))
        return replace(
            found,
            outcome=Outcome.SUSPECT if suspect else found.outcome,
            tolerated=found.tolerated and not suspect,
            p_value=suspicion,
            smallest_detectable=math.expm1(shown) if math.isfinite(shown) else math.inf,
        )

    def detectable(self, question: Question, base_size: int, new_size: int) -> float:
        """The smallest slowdown, a fraction, that so many replicates will suspect with 80% power; infinite without a prior."""
        if question.prior is None or min(base_size, new_size) < 1:
            return math.inf
        design = Design(base_size=base_size, new_size=new_size, prior=question.prior, drift=question.drift)
        return math.expm1(
            design.smallest_detectable(
                alpha=self.policy.screen_alpha, tolerance=math.log1p(question.tolerance)
            )
        )


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What the confirmation of one cell will measure.

    Attributes:
        cell: its name.
        pairs: interleaved pairs of boots, old and new; 0 when the budget leaves nothing, and the cell stays SUSPECT.
        order: the sides in the order of their boots, 0 old and 1 new: A B B A …
        runs: runs on each boot.
        minutes: expected.
        smallest_detectable: slowdown, a fraction, that this shows with 80% power, by metric; infinite if unknown.
    """

    cell: str
    pairs: int
    order: tuple[int, ...]
    runs: int
    minutes: float
    smallest_detectable: Mapping[str, float]

    @property
    def boots(self) -> int:
        """Boots of both sides together."""
        return 2 * self.pairs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a confirmation will measure, cell by cell."""

    cells: tuple[CellPlan, ...]

    @property
    def boots(self) -> int:
        """All boots."""
        return sum(cell.boots for cell in self.cells)

    @property
    def detectable(self) -> list[tuple[str, float]]:
        """Metric and smallest detectable slowdown of every cell."""
        return [pair for cell in self.cells for pair in cell.smallest_detectable.items()]

    @property
    def minutes(self) -> float:
        """Expected minutes."""
        return math.fsum(cell.minutes for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Fresh interleaved pairs for everything that is in question, judged together.

    Attributes:
        questions: what is asked; Holm's correction runs over all of them that are not advisory.
        policy: constants of the gate.
        own_variance: whether a question without a prior may fail by the variance of its own replicates, as in an
            A/B experiment that was asked for; otherwise it can only pass or be inconclusive.
    """

    questions: tuple[Question, ...]
    policy: Policy = field(default_factory=Policy)
    own_variance: bool = False

    def __post_init__(self) -> None:
        keys = [question.key for question in self.questions]
        if len(set(keys)) != len(keys):
            raise ValueError("each metric of a cell is asked about once")

    def plan(
        self,
        *,
        boot_minutes: float,
        run_minutes: float,
        runs: int = 1,
        pairs: int | None = None,
        max_minutes: float = math.inf,
        position: int | None = None,
    ) -> Plan:
        """Pairs per cell, enough to show a slowdown as large as the margin, within a budget.

        Over budget every cell is cut down to as few as two pairs; then cells at the end are left out.

        Args:
            boot_minutes: of one boot of a cell's server.
            run_minutes: of one run.
            runs: on each boot.
            pairs: as many as asked instead of as many as needed.
            max_minutes: budget for all cells together.
            position: as `judge` will be given it; the smallest detectable slowdown depends on its level.
        """
        if not (boot_minutes >= 0 and run_minutes >= 0 and max_minutes >= 0) or runs < 1:
            raise ValueError("minutes cannot be negative, and a boot has at least one run")
        cells = {question.cell: 0 for question in self.questions}
        for cell in cells:
            cells[cell] = pairs if pairs is not None else self._pairs(cell)
        each = 2 * (boot_minutes + runs * run_minutes)
        while sum(cells.values()) * each > max_minutes and max(cells.values()) > 2:
            largest = max(cells, key=lambda cell: cells[cell])
            cells[largest] -= 1
        for cell in reversed(list(cells)):
            if sum(cells.values()) * each > max_minutes:
                cells[cell] = 0
        return Plan(
            cells=tuple(
                CellPlan(
                    cell=cell,
                    pairs=count,
                    order=abba(count) if count else (),
                    runs=runs,
                    minutes=count * each,
                    smallest_detectable={
                        question.metric: self._detectable(question, count, position)
                        for question in self.questions
                        if question.cell == cell
                    },
                )
                for cell, count in cells.items()
            )
        )

    def judge(
        self,
        measured: Mapping[tuple[str, str], tuple[Replicates, Replicates]],
        *,
        position: int | None = None,
    ) -> dict[tuple[str, str], Judgement]:
        """Outcomes of all questions; one that was not measured stays SUSPECT.

        Args:
            measured: fresh boot means of log(metric) of the old and the new side, by `Question.key`.
            position: None when these are all questions that the suite confirms; otherwise this is the
                ``position``-th confirmation of the suite (from 1), whose verdict is given before the others are
                known, and it gets its share of the suite's error (`Policy.level`).
        """
        policy = self.policy
        level = policy.level(position)
        differences = {
            question.key: _difference(question, *measured.get(question.key, ((), ())), policy, None)
            for question in self.questions
        }
        family = [question for question in self.questions if not question.advisory]
        raw = [_slower(differences[question.key], question.direction) for question in family]
        adjusted = dict(zip((question.key for question in family), holm(np.asarray(raw)), strict=True))
        judged: dict[tuple[str, str], Judgement] = {}
        for question in self.questions:
            difference = differences[question.key]
            found = judge(
                difference,
                direction=question.direction,
                tolerance=question.tolerance,
                margin=question.margin,
                alpha=level,
                confidence=policy.confirmation_confidence,
                adjusted_p=float(adjusted[question.key]) if question.key in adjusted else None,
                can_fail=self._may_fail(difference),
            )
            unmeasured = difference.base_size == 0 or difference.new_size == 0
            if unmeasured or (question.advisory and found.outcome is Outcome.REGRESSION):
                found = replace(found, outcome=Outcome.SUSPECT)
            judged[question.key] = found
        return judged

    def _may_fail(self, difference: Difference) -> bool:
        fewest = min(difference.base_size, difference.new_size)
        if difference.moderated:
            return fewest >= self.policy.least_pairs
        return self.own_variance and fewest >= self.policy.own_variance_pairs

    def _pairs(self, cell: str) -> int:
        """Enough pairs for every question of the cell; without a prior there is nothing to plan with."""
        policy = self.policy
        family = max(1, sum(not question.advisory for question in self.questions))
        needed = [
            int(
                pairs_needed(
                    math.log1p(question.margin),
                    prior_df=question.prior.df,
                    prior_variance=question.prior.variance,
                    alpha=policy.alpha / family,
                    power=policy.wanted_power,
                    fewest=policy.fewest_pairs,
                    most=policy.most_pairs,
                )
            )
            for question in self.questions
            if question.cell == cell and question.prior is not None
        ]
        return max(needed, default=policy.fewest_pairs)

    def _detectable(self, question: Question, pairs: int, position: int | None) -> float:
        if question.prior is None or pairs < 1:
            return math.inf
        family = max(1, sum(not other.advisory for other in self.questions))
        design = Design(base_size=pairs, new_size=pairs, prior=question.prior)
        return math.expm1(
            design.smallest_detectable(
                alpha=self.policy.level(position) / family, tolerance=math.log1p(question.tolerance)
            )
        )


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Growing fresh data against the stored baseline, where the old side cannot be booted any more.

    Attributes:
        question: what is asked.
        family: how many metrics were screened in the suite; the error is divided by it.
        policy: constants of the gate.
    """

    question: Question
    family: int
    policy: Policy = field(default_factory=Policy)

    def detectable(self, base_size: int) -> float:
        """The smallest slowdown, a fraction, that the last look shows with 80% power; infinite without a prior."""
        question, policy = self.question, self.policy
        if question.prior is None or base_size < 1:
            return math.inf
        drift = (question.drift or Drift(sd=0.0, upper_sd=policy.assumed_drift)).cautious()
        design = Design(base_size=base_size, new_size=policy.looks[-1], prior=question.prior, drift=drift)
        fail_level, _ = look_levels(policy, self.family)[-1]
        return math.expm1(
            design.smallest_detectable(alpha=fail_level, tolerance=math.log1p(question.tolerance))
        )

    def next_count(self, measured: int) -> int | None:
        """Fresh replicates to have at the next look, or None after the last."""
        return next((count for count in self.policy.looks if count > measured), None)

    def judge(self, base: Replicates, new: Sequence[float]) -> Judgement:
        """REGRESSION, PASS, IMPROVEMENT, SUSPECT (look again at `next_count`), or INCONCLUSIVE after the last look.

        Args:
            base: boot means of log(metric) of the stored baseline.
            new: fresh boot means in the order measured; data of the screen are not among them.

        Raises:
            ValueError: the number of replicates is none of the looks: looking at other times costs other error.
        """
        policy, question = self.policy, self.question
        if len(new) not in policy.looks:
            raise ValueError(f"looks are at {policy.looks} replicates, not at {len(new)}")
        at = policy.looks.index(len(new))
        fail_level, pass_level = look_levels(policy, self.family)[at]
        drift = (question.drift or Drift(sd=0.0, upper_sd=policy.assumed_drift)).cautious()
        difference = _difference(question, base, new, policy, drift)
        found = judge(
            difference,
            direction=question.direction,
            tolerance=question.tolerance,
            margin=question.margin,
            alpha=fail_level,
            confidence=1 - 2 * pass_level,
            can_fail=question.prior is not None and not question.advisory,
        )
        undecided = found.outcome is Outcome.INCONCLUSIVE and self.next_count(len(new)) is not None
        return replace(found, outcome=Outcome.SUSPECT) if undecided else found


def _difference(
    question: Question, base: Replicates, new: Replicates, policy: Policy, drift: Drift | None
) -> Difference:
    """Moderated and winsorised where the question has a prior, Welch's otherwise."""
    width = policy.winsor_width if question.prior is not None else None
    return compare(base, new, prior=question.prior, drift=drift, winsor_width=width)


def _slower(difference: Difference, direction: int) -> float:
    """One-sided p-value against "it did not get slower"."""
    return difference.p_greater() if direction > 0 else difference.p_less()
