"""What a verdict may rest on: fresh, interleaved boots of both sides, or, where the old side is gone, growing fresh data.

Data of the screen never enter. The plan is told before it starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from perfgate.experiment.gate import quoting_moved
from perfgate.experiment.lab import Lab
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel
from perfgate.records import Baseline, CellVerdict, Measurement, MetricVerdict, Outcome, replicates
from perfgate.selection import Target
from perfgate.statistics.gate import Policy
from perfgate.statistics.interval import Outcome as Said
from perfgate.statistics.judgement import Judgement
from perfgate.statistics.planning import abba
from perfgate.statistics.procedure import Confirmation, Looks, Plan, Question
from perfgate.verdict import boot_means, invalidity, metric_verdict, question, whole


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a confirmation may cost, and what one boot and one run took so far."""

    boot_minutes: float
    run_minutes: float
    pairs: int | None = None
    max_minutes: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A cell's verdict after fresh data, and the measurements it rests on."""

    verdict: CellVerdict
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Confirmer:
    """Carries confirmations out."""

    lab: Lab
    noise: NoiseModel | None
    tell: Callable[[str], None]
    """Told the plan, and what is going on, in words."""
    policy: Policy = field(default_factory=Policy)

    def interleaved(
        self,
        old: Sequence[Target],
        new: Sequence[Target],
        asked: Sequence[Question],
        budget: Budget,
        *,
        own_variance: bool,
        position: int,
        label: str,
    ) -> tuple[dict[tuple[str, str], Judgement], Measured, Plan]:
        """Boots both sides in turn and judges the questions.

        Args:
            old: cells of the old side.
            new: cells of the new side, the same workloads in the same order.
            asked: the questions; all cells of the server are measured on the same boots.
            budget: what it may cost.
            own_variance: whether a metric without noise model may fail by its own variance.
            position: the how-manieth confirmation of the session this is, from 1: its verdict cannot wait for the others, so it gets its
                share of the suite's error.
            label: part of the prompts' seed.
        """
        confirmation = Confirmation(questions=tuple(asked), policy=self.policy, own_variance=own_variance)
        runs = sum(target.workload.runs for target in new)
        plan = confirmation.plan(
            boot_minutes=budget.boot_minutes,
            run_minutes=budget.run_minutes,
            runs=runs,
            pairs=budget.pairs,
            max_minutes=math.inf,
        )
        # The cells of a server share its boots, so the largest plan of a cell is the plan of the server.
        pairs = max((cell.pairs for cell in plan.cells), default=0)
        each = 2 * (budget.boot_minutes + runs * budget.run_minutes)
        if each > 0:
            pairs = (
                min(pairs, max(int(budget.max_minutes / each), 0))
                if math.isfinite(budget.max_minutes)
                else pairs
            )
        if pairs < 1:
            self.tell(f"no time is left to confirm {new[0].server.name}: it stays SUSPECT")
            return {question.key: _unmeasured(confirmation, question) for question in asked}, Measured(), plan
        self.tell(describe(plan, new[0].server.name, pairs=pairs, minutes=pairs * each))
        before, after = self.lab.interleave((old, new), abba(pairs), label=label)
        measured = Measured(old=before, new=after)
        return confirmation.judge(measured.logs(new, asked), position=position), measured, plan

    def looks(
        self, target: Target, baseline: Baseline, asked: Sequence[Question], *, family: int, label: str
    ) -> tuple[dict[tuple[str, str], Judgement], Measurement | None]:
        """Measures growing fresh data against a baseline whose side cannot be booted any more."""
        procedures = {
            question.key: Looks(question=question, family=family, policy=self.policy) for question in asked
        }
        judged: dict[tuple[str, str], Judgement] = {}
        measurement: Measurement | None = None
        count = 0
        for wanted in self.policy.looks:
            open_questions = [
                q for q in asked if q.key not in judged or judged[q.key].outcome is Said.SUSPECT
            ]
            if not open_questions:
                break
            self.tell(f"looking at {target.cell}: {wanted} fresh boots against the stored baseline")
            more = self.lab.measure([target], replicates=wanted - count, label=f"{label}-{count}")[
                target.cell.workload
            ]
            boots = (*(measurement.boots if measurement else ()), *more.boots)
            measurement = more.model_copy(update={"boots": boots})
            count = wanted
            for q in open_questions:
                new = boot_means(replicates(measurement.boots, q.metric))
                if len(new) in self.policy.looks:
                    judged[q.key] = procedures[q.key].judge(boot_means(baseline.replicates(q.metric)), new)
        return judged, measurement


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Both sides of an A/B by workload."""

    old: Mapping[str, Measurement] = field(default_factory=dict)
    new: Mapping[str, Measurement] = field(default_factory=dict)

    def invalid(self, workload: str) -> str | None:
        """Why the workload's comparison cannot be believed, or None."""
        for side, words in ((self.old, "old side"), (self.new, "new side")):
            if workload in side and (reason := invalidity(side[workload].boots)) is not None:
                return f"{words}: {reason}"
        return None

    def sides(self, workload: str, metric: str) -> tuple[list[float], list[float]]:
        """Boot means of log(metric), old and new."""
        old, new = self.old.get(workload), self.new.get(workload)
        return (
            boot_means(old.replicates(metric)) if old else [],
            boot_means(new.replicates(metric)) if new else [],
        )

    def logs(
        self, targets: Sequence[Target], asked: Sequence[Question]
    ) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
        """What `Confirmation.judge` takes."""
        workloads = {str(target.cell): target.cell.workload for target in targets}
        return {question.key: self.sides(workloads[question.cell], question.metric) for question in asked}

    def all(self) -> tuple[Measurement, ...]:
        """Every measurement of both sides, the old one marked."""
        old = (measurement.model_copy(update={"side": "old"}) for measurement in self.old.values())
        return (*old, *self.new.values())


def questions_of(
    target: Target, noise: NoiseModel | None, metrics: Sequence[str], *, runs: int | None = None
) -> list[Question]:
    """The questions about some metrics of a cell."""
    workload = target.workload.model_dump(mode="json")
    margins = target.margins()
    return [
        question(
            target.cell,
            METRICS[name],
            noise=noise.find(name, workload) if noise is not None else None,
            runs=runs or target.workload.runs,
            margin=margins.get(name),
            tolerance=target.gpu.tolerances.get(name),
        )
        for name in metrics
    ]


def verdicts_from(
    judged: Mapping[tuple[str, str], Judgement], measured: Measured, target: Target, asked: Sequence[Question]
) -> list[MetricVerdict]:
    """Metric verdicts of a cell that rest on an A/B."""
    found = []
    for one in asked:
        if one.cell == str(target.cell):
            old, new = measured.sides(target.cell.workload, one.metric)
            found.append(
                metric_verdict(
                    METRICS[one.metric], judged[one.key], old, new, moderated=one.prior is not None
                )
            )
    return found


def overrule(screened: CellVerdict, fresh: Sequence[MetricVerdict], note: str) -> CellVerdict:
    """The screen's verdict with the confirmed metrics in place of the suspected ones."""
    by_name = {verdict.metric: verdict for verdict in fresh}
    metrics = [by_name.get(verdict.metric, verdict) for verdict in screened.metrics]
    return quoting_moved(whole(screened.cell, metrics, screened.baseline_file, (*screened.notes, note)))


def suspects(verdict: CellVerdict) -> list[str]:
    """The primary metrics that the screen suspects."""
    return [m.metric for m in verdict.metrics if m.primary and m.outcome is Outcome.SUSPECT]


def describe(plan: Plan, server: str, *, pairs: int, minutes: float) -> str:
    """The plan in words: boots, minutes, smallest detectable effect."""
    effects = [
        f"{METRICS[metric].label} {effect:+.0%}"
        for cell in plan.cells
        for metric, effect in cell.smallest_detectable.items()
        if math.isfinite(effect)
    ]
    shown = f"; shows a slowdown of {', '.join(dict.fromkeys(effects))} with 80% power" if effects else ""
    return (
        f"confirming {server}: {pairs} interleaved pairs, {2 * pairs} boots, about {minutes:.0f} min{shown}"
    )


def _unmeasured(confirmation: Confirmation, asked: Question) -> Judgement:
    return confirmation.judge({})[asked.key]
