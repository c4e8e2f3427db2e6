"""Baseline + measurement → verdict: per metric with interval and smallest detectable effect, per cell the worst of the primary ones.

The replicate is the boot: runs of one boot share its state, so their logarithms are averaged first. Change is reported as users read
it (new / old − 1 of the metric itself); what decides is the slowdown, which is positive when worse whatever the metric's direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from perfgate.metrics import METRICS, Metric
from perfgate.noise import NoiseClass, NoiseModel
from perfgate.records import (
    Baseline,
    BootRecord,
    Cell,
    CellVerdict,
    Measurement,
    MetricVerdict,
    Outcome,
    replicates,
)
from perfgate.statistics.gate import Policy
from perfgate.statistics.interval import Prior, compare
from perfgate.statistics.judgement import Judgement, judge
from perfgate.statistics.procedure import Question, Screen
from perfgate.tails import replication_notes, with_bound

MIN_BOOTS = 2
DECLARED_DF = 4
"""What a declared noise is worth: as much as the difference of three boots a side."""


def boot_means(boots: Sequence[Sequence[float]]) -> list[float]:
    """Mean of log(value) per boot; boots without a positive value are left out (their logarithm does not exist)."""
    means: list[float] = []
    for values in boots:
        logs = [math.log(value) for value in values if value > 0]
        if logs and len(logs) == len(values):
            means.append(math.fsum(logs) / len(logs))
    return means


def geometric_mean(boots: Sequence[Sequence[float]]) -> float | None:
    """Geometric mean over boots of the geometric mean of their runs; None without data."""
    means = boot_means(boots)
    return _geometric(means) if means else None


def question(
    cell: Cell,
    metric: Metric,
    *,
    noise: NoiseClass | None = None,
    runs: int = 1,
    margin: float | None = None,
    tolerance: float | None = None,
) -> Question:
    """What the gate has to decide about one metric of one cell.

    Args:
        cell: the cell.
        metric: its direction, margin and tolerance.
        noise: the class of the noise model; None without one.
        runs: valid runs on each boot, to which the model's variance is scaled.
        margin: replaces the metric's own, relative.
        tolerance: replaces the metric's own, relative.
    """
    return Question(
        cell=str(cell),
        metric=metric.name,
        direction=metric.sign,
        tolerance=metric.tolerance if tolerance is None else tolerance,
        margin=metric.margin if margin is None else margin,
        prior=noise.prior(runs) if noise is not None else None,
        drift=noise.drift() if noise is not None else None,
        advisory=metric.advisory,
    )


def metric_verdict(
    metric: Metric,
    judgement: Judgement,
    base: Sequence[float],
    now: Sequence[float],
    *,
    moderated: bool = False,
    ab: bool = False,
) -> MetricVerdict:
    """A judgement in the words and numbers of its metric.

    Args:
        metric: the metric.
        judgement: about its slowdown.
        base: boot means of its logarithm that the judgement rests on, reference side.
        now: likewise, judged side.
        moderated: whether a noise model lent its variance.
        ab: whether it is of an A/B that was asked for, which stores nothing and may fail by its own variance.
    """
    outcome = Outcome(judgement.outcome.value)
    lower, upper = _change_interval(metric, judgement)
    return MetricVerdict(
        metric=metric.name,
        outcome=outcome,
        baseline=_geometric(base) if base else None,
        now=_geometric(now) if now else None,
        change=_geometric(now) / _geometric(base) - 1 if base and now else None,
        lower=lower,
        upper=upper,
        confidence=judgement.confidence,
        margin=judgement.margin,
        tolerance=judgement.tolerance,
        smallest_detectable=_finite(judgement.smallest_detectable),
        baseline_boots=len(base),
        now_boots=len(now),
        primary=metric.primary,
        reason=_reason(metric, outcome, judgement, len(base), len(now)),
        next_step=_next_step_of_ab(outcome, judgement, min(len(base), len(now)), moderated)
        if ab
        else _next_step(outcome, judgement, len(base), moderated),
    )


def judge_metric(
    metric: Metric,
    base: Sequence[Sequence[float]],
    now: Sequence[Sequence[float]],
    *,
    asked: Question | None = None,
) -> MetricVerdict:
    """Judges one metric against a stored baseline.

    A timed metric is screened: PASS, IMPROVEMENT, SUSPECT or INCONCLUSIVE, because a stored baseline alone convicts nobody. A size that is
    computed (KV tokens) does not drift from session to session, so it is decided here.

    Args:
        metric: the metric.
        base: run values of the baseline, one inner sequence a boot.
        now: run values of what is judged, likewise.
        asked: the question with its thresholds and what the noise model lends; the metric's own without one.
    """
    old, new = boot_means(base), boot_means(now)
    asked = asked or question(Cell(gpu="any", model="any", server="any", workload="any"), metric)
    if metric.noise is None:
        found = Screen().judge(asked, old, new)
        return metric_verdict(metric, found, old, new, moderated=asked.prior is not None)
    found = judge(
        compare(old, new, prior=Prior(df=DECLARED_DF, variance=metric.noise**2)),
        direction=metric.sign,
        tolerance=asked.tolerance,
        margin=asked.margin,
    )
    return metric_verdict(metric, found, old, new, moderated=True)


def judge_cell(
    baseline: Baseline,
    now: Measurement,
    *,
    incomparable: Sequence[str] = (),
    noise: NoiseModel | None = None,
    margins: Mapping[str, float] | None = None,
    tolerances: Mapping[str, float] | None = None,
    baseline_file: str | None = None,
    notes: Sequence[str] = (),
) -> CellVerdict:
    """Judges everything that both sides measured.

    Args:
        baseline: the reference.
        now: what was measured.
        incomparable: why the two may not be compared (other hardware); any reason ends the judgement.
        noise: the machine's noise model; without one the outcome is PASS or INCONCLUSIVE.
        margins: by metric name, replacing the metric table's; from the GPU or workload entry.
        tolerances: likewise.
        baseline_file: shown, and annotated in reports.
        notes: shown beside the verdict.
    """
    if incomparable:
        return CellVerdict(
            cell=now.cell,
            outcome=Outcome.INCOMPARABLE,
            reason="; ".join(incomparable),
            next_step="Record a baseline on this machine: --update-baselines replaces the stored one.",
            baseline_file=baseline_file,
            notes=tuple(notes),
        )
    invalid = invalidity(now.boots)
    if invalid is not None:
        return CellVerdict(
            cell=now.cell,
            outcome=Outcome.INVALID,
            reason=invalid,
            next_step="Remove the cause and measure again; an invalid run says nothing about speed.",
            baseline_file=baseline_file,
            notes=tuple(notes),
        )
    verdicts: list[MetricVerdict] = []
    for metric in METRICS.values():
        base, new = baseline.replicates(metric.name), replicates(now.boots, metric.name)
        if base and new:
            asked = question(
                now.cell,
                metric,
                noise=noise.find(metric.name, now.workload) if noise is not None else None,
                runs=min(map(len, new)),
                margin=(margins or {}).get(metric.name),
                tolerance=(tolerances or {}).get(metric.name),
            )
            found = judge_metric(metric, base, new, asked=asked)
            verdicts.append(with_bound(metric, found, now.boots) if metric.advisory else found)
    advisory = [metric.name for metric in METRICS.values() if metric.advisory]
    return whole(now.cell, verdicts, baseline_file, (*notes, *replication_notes(verdicts, advisory)))


def no_baseline(cell: Cell, reason: str, remedy: str, *, file: str | None = None) -> CellVerdict:
    """The verdict of a cell that has nothing to be judged against."""
    return CellVerdict(
        cell=cell, outcome=Outcome.NO_BASELINE, reason=reason, next_step=remedy, baseline_file=file
    )


def invalid(cell: Cell, reason: str, next_step: str = "") -> CellVerdict:
    """The verdict of a cell whose measurement cannot be believed, or could not be made."""
    return CellVerdict(cell=cell, outcome=Outcome.INVALID, reason=reason, next_step=next_step)


def invalidity(boots: Sequence[BootRecord]) -> str | None:
    """Why a measurement as a whole cannot be believed, or None.

    A boot whose every attempt at a run was invalid is not a replicate; one such boot makes the measurement invalid, because leaving
    it out would be a choice made after seeing the data.
    """
    if not boots:
        return "nothing was measured"
    for number, boot in enumerate(boots, 1):
        if boot.void or boot.valid_runs():
            continue
        reasons = [reason for run in boot.runs for reason in run.invalid] or ["the boot has no runs"]
        distinct = list(dict.fromkeys(reasons))
        return f"boot {number} of {len(boots)}: {'; '.join(distinct[:3])}"
    if all(boot.void for boot in boots):
        return f"every boot was void: {boots[0].void[0]}"
    return None


def whole(
    cell: Cell, verdicts: Sequence[MetricVerdict], file: str | None, notes: Sequence[str]
) -> CellVerdict:
    """A cell's verdict from those of its metrics: the worst of the primary ones."""
    primary = [verdict for verdict in verdicts if verdict.primary]
    if not primary:
        return CellVerdict(
            cell=cell,
            outcome=Outcome.NO_BASELINE,
            reason="the baseline and this measurement have no primary metric in common",
            next_step="Record the baseline again with --update-baselines.",
            metrics=tuple(verdicts),
            baseline_file=file,
            notes=tuple(notes),
        )
    worst = min(primary, key=lambda verdict: verdict.outcome.severity)
    if worst.outcome is Outcome.IMPROVEMENT and any(v.outcome is Outcome.PASS for v in primary):
        worst = next(v for v in primary if v.outcome is Outcome.IMPROVEMENT)
    return CellVerdict(
        cell=cell,
        outcome=worst.outcome,
        reason="; ".join(v.reason for v in primary if v.outcome is worst.outcome),
        next_step=worst.next_step,
        metrics=tuple(verdicts),
        baseline_file=file,
        notes=tuple(notes),
    )


def _geometric(logs: Sequence[float]) -> float:
    return math.exp(math.fsum(logs) / len(logs)) if logs else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _change_interval(metric: Metric, judgement: Judgement) -> tuple[float | None, float | None]:
    """The interval of the metric's own change: for a throughput, a slowdown s is the change 1/(1 + s) − 1."""
    if metric.sign > 0:
        ends = (judgement.lower, judgement.upper)
    else:
        ends = (
            1 / (1 + judgement.upper) - 1,
            1 / (1 + judgement.lower) - 1 if judgement.lower > -1 else math.inf,
        )
    if not (math.isfinite(judgement.upper) and judgement.lower > -1):
        return None, None
    return _finite(ends[0]), _finite(ends[1])


def _reason(metric: Metric, outcome: Outcome, judgement: Judgement, old: int, new: int) -> str:
    size = f"{judgement.slowdown:+.1%}"
    interval = f"{judgement.lower:+.1%} to {judgement.upper:+.1%}"
    boots = f"{new} boots against {old}"
    if outcome in (Outcome.REGRESSION, Outcome.SUSPECT):
        return f"{metric.label} {_worse(metric)} by {size} ({interval}, {boots}), tolerance {judgement.tolerance:.0%}"
    if outcome is Outcome.IMPROVEMENT:
        return f"{metric.label} faster: slowdown {size} ({interval}, {boots})"
    if outcome is Outcome.PASS:
        if judgement.tolerated:
            return f"{metric.label}: real, tolerated {size} ({interval})"
        return f"{metric.label}: slowdown below {judgement.upper:.1%}, margin {judgement.margin:.0%}"
    if old < MIN_BOOTS or new < MIN_BOOTS:
        return f"{metric.label}: {boots} cannot tell noise from change"
    return f"{metric.label}: slowdown {size} ({interval}, {boots}) does not exclude the margin of {judgement.margin:.0%}"


def _worse(metric: Metric) -> str:
    """The word for a change for the worse: a size is not slow."""
    if metric.of != "boot" or metric.noise is None:
        return "slower"
    return "smaller" if metric.better == "higher" else "larger"


def _next_step(outcome: Outcome, judgement: Judgement, old: int, moderated: bool) -> str:
    match outcome:
        case Outcome.REGRESSION:
            return "If the change is meant, record it with --update-baselines and say why in the commit."
        case Outcome.SUSPECT:
            return "Confirm it by interleaved A/B boots: pytest -m serving does so where the old side can be booted; else give --against."
        case Outcome.IMPROVEMENT:
            return "Keep it: --update-baselines makes it the new reference."
        case Outcome.INCONCLUSIVE:
            if not moderated:
                return (
                    "There is no noise model for this metric here, so only a PASS can be told: record sessions of several boots,"
                    " then perfgate noise fit."
                )
            more = "the baseline (--update-baselines)" if old < MIN_BOOTS else "more boots (--replicates)"
            return f"{_seen(judgement)}measure {more}, or run on a quieter machine."
        case _:
            return ""


def _next_step_of_ab(outcome: Outcome, judgement: Judgement, pairs: int, moderated: bool) -> str:
    match outcome:
        case Outcome.REGRESSION:
            return "If it is not meant, --attribute finds the setting or the moved default that makes it."
        case Outcome.INCONCLUSIVE | Outcome.SUSPECT:
            needed = Policy().own_variance_pairs
            few = f" Without a noise model at least {needed} pairs can show a slowdown."
            more = f"{_seen(judgement)}measure more pairs (--replicates), or run on a quieter machine."
            return more + (few if not moderated and pairs < needed else "")
        case _:
            return ""


def _seen(judgement: Judgement) -> str:
    detectable = _finite(judgement.smallest_detectable)
    return f"smallest detectable slowdown {detectable:.0%}; " if detectable is not None else ""
