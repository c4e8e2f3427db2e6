"""What a verdict may rest on: fresh, interleaved boots of both sides, or, where the old side is gone, growing fresh data.

Data of the screen never enter. The plan is told before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from perfgate.experiment.gate import quoting_moved
from perfgate.experiment.lab import GoOn, Lab
from perfgate.experiment.plans import FEWEST_PAIRS, Allowance, Cost, duration, shows, size
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel
from perfgate.records import (
    Baseline,
    BootRecord,
    CellVerdict,
    Measurement,
    MetricVerdict,
    Outcome,
    replicates,
)
from perfgate.selection import Target
from perfgate.statistics.gate import Policy
from perfgate.statistics.interval import Outcome as Said
from perfgate.statistics.judgement import Judgement
from perfgate.statistics.planning import abba
from perfgate.statistics.procedure import Confirmation, Looks, Plan, Question, Screen
from perfgate.verdict import boot_means, invalidity, judge_metric, metric_verdict, question, whole


@dataclass(frozen=True, kw_only=True)
class Confirmer:
    """Carries confirmations out."""

    lab: Lab
    noise: NoiseModel | None
    tell: Callable[[str], None]
    """Told the plan, and what is going on, in words."""
    policy: Policy = field(default_factory=Policy)

    def announce_screen(
        self,
        cells: Sequence[Target],
        baselines: Mapping[str, Baseline],
        *,
        replicates: int,
        cost: Cost,
        position: int,
    ) -> None:
        """Tells what a screen will cost and what it can suspect, and what confirming all of it would cost and show.

        Args:
            cells: of one server.
            baselines: by workload, of the cells that have one.
            replicates: fresh boots.
            cost: what a boot is expected to take.
            position: which confirmation of the session this would be.
        """
        what = f"{cells[0].server.name}: {size(replicates, cost)}"
        if cells[0].server.launcher.kind == "attach":
            # However often it is measured, of a server that somebody else booted there is one boot.
            what = f"{cells[0].server.name}: attached, one boot, {replicates * cost.runs} runs"
            replicates = 1
        judged = [cell for cell in cells if cell.cell.workload in baselines]
        if not judged:
            self.tell(f"measuring {what}; there is no baseline to judge it against")
            return
        if self.noise is None:
            self.tell(
                f"screening {what}; without a noise model of this machine it can only pass or be inconclusive "
                "(record two sessions of several boots, then perfgate noise fit)"
            )
            return
        primary = [metric.name for metric in METRICS.values() if metric.primary and metric.of == "run"]
        screen, asked, detectable = Screen(policy=self.policy), [], []
        for cell in judged:
            stored = baselines[cell.cell.workload]
            for one in questions_of(cell, self.noise, primary):
                asked.append(one)
                base = len(stored.replicates(one.metric))
                detectable.append((one.metric, screen.detectable(one, base, replicates)))
        if cells[0].server.launcher.kind == "attach":
            self.tell(f"screening {what}{shows(detectable)}; what it suspects cannot be confirmed")
            return
        plan = Confirmation(questions=tuple(asked), policy=self.policy).plan(
            boot_minutes=0.0, run_minutes=0.0, pairs=cells[0].gpu.pairs, position=position
        )
        pairs = max(cell.pairs for cell in plan.cells)
        self.tell(
            f"screening {what}{shows(detectable)}; what it suspects is confirmed by {pairs} interleaved pairs, "
            f"{size(2 * pairs, cost)}{shows(plan.detectable)}"
        )

    def interleaved(
        self,
        old: Sequence[Target],
        new: Sequence[Target],
        asked: Sequence[Question],
        *,
        cost: Cost,
        allowance: Allowance,
        pairs: int | None,
        own_variance: bool,
        position: int,
        label: str,
    ) -> tuple[dict[tuple[str, str], Judgement], Measured]:
        """Boots both sides in turn and judges the questions.

        Args:
            old: cells of the old side.
            new: cells of the new side, the same workloads in the same order.
            asked: the questions; all cells of the server are measured on the same boots.
            cost: what a boot is expected to take.
            allowance: what everything may take.
            pairs: as many as asked instead of as many as the noise model asks for.
            own_variance: whether a metric without noise model may fail by its own variance, as in an A/B that was asked for.
            position: the how-manieth confirmation of the session this is, from 1: its verdict cannot wait for the others, so it gets its
                share of the suite's error.
            label: part of the prompts' seed.
        """
        confirmation = Confirmation(questions=tuple(asked), policy=self.policy, own_variance=own_variance)

        def planned(count: int | None) -> Plan:
            return confirmation.plan(
                boot_minutes=cost.replicate or 0.0,
                run_minutes=0.0,
                runs=cost.runs,
                pairs=count,
                position=position,
            )

        # The cells of a server share its boots, so the largest plan of a cell is the plan of the server.
        wanted = max((cell.pairs for cell in planned(pairs).cells), default=0)
        count = wanted
        while cost.replicate is not None and count and not allowance.allows(2 * count * cost.replicate):
            count -= 1
        server = new[0].server.name
        if count < FEWEST_PAIRS:
            minutes = (
                f"{wanted} pairs take {duration(2 * wanted * (cost.replicate or 0.0))}, --max-minutes leaves "
            )
            self.tell(
                f"{server} is not confirmed: {minutes}{max(allowance.minutes - allowance.spent, 0):.1f} min; it stays SUSPECT"
            )
            return confirmation.judge({}), Measured()
        doing = "A/B of" if own_variance else "confirming"
        cut = f" (of {wanted}; --max-minutes)" if count < wanted else ""
        self.tell(
            f"{doing} {server}: {count} interleaved pairs{cut}, {size(2 * count, cost)}{shows(planned(count).detectable)}"
        )
        before, after = self.lab.interleave(
            (old, new), abba(count), label=label, go_on=self._watch(server, count, cost, allowance)
        )
        measured = Measured(old=before, new=after)
        if measured.pairs < FEWEST_PAIRS:
            return confirmation.judge({}), measured
        return confirmation.judge(measured.logs(new, asked), position=position), measured

    def _watch(self, server: str, count: int, cost: Cost, allowance: Allowance) -> GoOn:
        """Ends an A/B that nobody would believe any more, or that would take longer than it may."""
        begun = allowance.spent

        def go_on(pairs: int, records: Sequence[BootRecord]) -> bool:
            if any(not record.void and invalidity([record]) for record in records):
                return False
            each = (allowance.spent - begun) / pairs
            if not allowance.allows(each):
                self.tell(f"{server}: the time is over (--max-minutes) after {pairs} of {count} pairs")
                return False
            if cost.replicate is None and pairs == 1:
                self.tell(f"{server}: a pair takes {duration(each)}, all of them {duration(each * count)}")
            return True

        return go_on

    def looks(
        self,
        target: Target,
        baseline: Baseline,
        asked: Sequence[Question],
        *,
        cost: Cost,
        allowance: Allowance,
        family: int,
        label: str,
    ) -> tuple[dict[tuple[str, str], Judgement], Measurement | None]:
        """Measures growing fresh data against a baseline whose side cannot be booted any more.

        What is still SUSPECT when the time is over stays so.
        """
        procedures = {
            question.key: Looks(question=question, family=family, policy=self.policy) for question in asked
        }
        old = {question.key: boot_means(baseline.replicates(question.metric)) for question in asked}
        looks = " or ".join(map(str, self.policy.looks))
        detectable = [(q.metric, procedures[q.key].detectable(len(old[q.key]))) for q in asked]
        self.tell(
            f"looking at {target.cell} against the stored baseline, after {looks} fresh boots: "
            f"at most {size(self.policy.looks[-1], cost)}{shows(detectable)}"
        )
        judged: dict[tuple[str, str], Judgement] = {}
        measurement: Measurement | None = None
        count = 0
        for wanted in self.policy.looks:
            open_questions = [
                q for q in asked if q.key not in judged or judged[q.key].outcome is Said.SUSPECT
            ]
            if not open_questions:
                break
            if not allowance.allows(cost.minutes(wanted - count) or 0.0):
                self.tell(f"{target.cell}: the time is over (--max-minutes) after {count} fresh boots")
                break
            try:
                more = self.lab.measure([target], replicates=wanted - count, label=f"{label}-{count}")[
                    target.cell.workload
                ]
            except BaseException:
                if measurement is not None:
                    self.lab.give_up(measurement)
                raise
            boots = (*(measurement.boots if measurement else ()), *more.boots)
            measurement = more.model_copy(update={"boots": boots})
            count = wanted
            for q in open_questions:
                new = boot_means(replicates(measurement.boots, q.metric))
                if len(new) in self.policy.looks:
                    judged[q.key] = procedures[q.key].judge(old[q.key], new)
        return judged, measurement


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Both sides of an A/B by workload."""

    old: Mapping[str, Measurement] = field(default_factory=dict)
    new: Mapping[str, Measurement] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Boots of the side that has fewer."""
        return min((len(one.boots) for side in (self.old, self.new) for one in side.values()), default=0)

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
    judged: Mapping[tuple[str, str], Judgement],
    measured: Measured,
    target: Target,
    asked: Sequence[Question],
    *,
    ab: bool = False,
) -> list[MetricVerdict]:
    """Metric verdicts of a cell that rest on interleaved pairs, of a confirmation or (``ab``) of an A/B that was asked for."""
    found = []
    for one in asked:
        if one.cell == str(target.cell):
            old, new = measured.sides(target.cell.workload, one.metric)
            found.append(
                metric_verdict(
                    METRICS[one.metric], judged[one.key], old, new, moderated=one.prior is not None, ab=ab
                )
            )
    return found


def computed_verdicts(measured: Measured, target: Target) -> list[MetricVerdict]:
    """Verdicts about sizes of the boots that are computed, not timed, such as KV tokens: they repeat, so the boots at hand decide."""
    old, new = measured.old[target.cell.workload], measured.new[target.cell.workload]
    margins, tolerances = target.margins(), target.gpu.tolerances
    found = []
    for name, metric in METRICS.items():
        before, now = old.replicates(name), new.replicates(name)
        if metric.of == "boot" and metric.noise is not None and before and now:
            asked = question(target.cell, metric, margin=margins.get(name), tolerance=tolerances.get(name))
            found.append(judge_metric(metric, before, now, asked=asked))
    return found


def overrule(screened: CellVerdict, fresh: Sequence[MetricVerdict], *notes: str) -> CellVerdict:
    """The screen's verdict with the confirmed metrics in place of the suspected ones."""
    by_name = {verdict.metric: verdict for verdict in fresh}
    metrics = [by_name.get(verdict.metric, verdict) for verdict in screened.metrics]
    return quoting_moved(whole(screened.cell, metrics, screened.baseline_file, (*screened.notes, *notes)))


def suspects(verdict: CellVerdict) -> list[str]:
    """The primary metrics that the screen suspects."""
    return [m.metric for m in verdict.metrics if m.primary and m.outcome is Outcome.SUSPECT]
