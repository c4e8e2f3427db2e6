"""What is kept of an attribution: every boot in words and raw values, and what was found, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from perfgate.experiment.attribution_settings import Setting
from perfgate.experiment.attribution_sizes import Sizes, size_notes, sizes
from perfgate.experiment.confirm import Measured
from perfgate.metrics import METRICS
from perfgate.records import (
    AttributedMetric,
    AttributedPart,
    Attribution,
    AttributionBoot,
    CellVerdict,
    Measurement,
    replicates,
)
from perfgate.selection import Target
from perfgate.shortening import shortened
from perfgate.statistics.attribution_findings import Answer, Ended, Findings, Part
from perfgate.statistics.attribution_units import Key
from perfgate.verdict import boot_means


@dataclass(kw_only=True)
class Log:
    """What happened in one search."""

    kind: Literal["settings", "versions"]
    settings: tuple[Setting, ...]
    notes: list[str]
    direction: Literal["slower", "faster"] = "slower"
    boots: list[tuple[AttributionBoot, dict[str, dict[str, tuple[float, ...]]]]] = field(default_factory=list)
    """Each boot, and its run values by cell and metric."""
    sized: list[tuple[frozenset[str], dict[str, Sizes]]] = field(default_factory=list)
    """What each boot had applied, and its computed sizes by cell."""
    ab_boots: int = 0
    minutes: float = 0.0
    stopped: Literal["time", "interrupted", "unbelieved", "unpinnable"] | None = None
    """What ended the search before it was over."""

    def add(
        self,
        picked: Sequence[Setting],
        measured: Mapping[str, Measurement],
        keys: Sequence[Key],
        *,
        minutes: float,
        problem: str,
    ) -> None:
        """Keeps one boot."""
        values: dict[str, dict[str, tuple[float, ...]]] = {}
        for measurement in measured.values():
            for cell, metric in keys:
                found = replicates(measurement.boots, metric) if str(measurement.cell) == cell else ()
                if found:
                    values.setdefault(cell, {})[metric] = tuple(value for runs in found for value in runs)
        self.size([setting.words for setting in picked], measured)
        last = next((m.boots[-1].id for m in measured.values() if m.boots), None)
        boot = AttributionBoot(
            applied=tuple(setting.words for setting in picked), id=last, minutes=minutes, problem=problem
        )
        self.boots.append((boot, values))

    def size(self, applied: Sequence[str], measured: Mapping[str, Measurement]) -> None:
        """Keeps the computed sizes of one boot."""
        found = {str(one.cell): sizes(one) for one in measured.values()}
        self.sized.append((frozenset(applied), found))


def record(
    log: Log,
    findings: Findings | None,
    cell: Target,
    fresh: Measured,
    *,
    confirmed: bool,
    verdict: CellVerdict | None = None,
) -> Attribution:
    """The result for one cell.

    Args:
        log: of the search.
        findings: of the search; None where there was nothing to search, or nothing that boots.
        cell: the cell.
        fresh: what the A/B measured: across versions shares are of its difference.
        confirmed: whether the A/B confirmed a difference of this cell in the direction that is traced.
        verdict: of the A/B, for the sizes that are computed rather than timed.
    """
    words = [setting.words for setting in log.settings]
    own = str(cell.cell)
    answers = [answer for answer in findings.answers if answer.key[0] == own] if findings is not None else []
    units = (
        [tuple(words[item] for item in unit) for unit in findings.units]
        if findings is not None
        else [(word,) for word in words]
    )
    notes = list(log.notes)
    if findings is not None:
        notes += [
            f"kept together, because they do not boot apart: {', '.join(shortened(words[item]) for item in unit)}"
            for unit in findings.merged
        ]
    metrics = tuple(
        _metric(
            answer, units, _difference(answer, cell, fresh, log.direction) if log.kind == "versions" else None
        )
        for answer in answers
    )
    named = {unit for answer in answers for unit in answer.named}
    if log.kind == "versions":
        notes += [_comes_back(answer, cell, fresh, log.direction) for answer in answers]
    if verdict is not None and log.kind == "settings":
        notes += size_notes(verdict, words, [(applied, found.get(own, {})) for applied, found in log.sized])
    ended = _ended(log, findings, answers, confirmed=confirmed)
    undecided = findings.undecided if findings is not None and answers else ()
    return Attribution(
        kind=log.kind,
        direction=log.direction,
        settings=tuple(words),
        units=tuple(units),
        responsible=tuple(word for unit in sorted(named) for word in units[unit]),
        undecided=tuple(word for unit in undecided for word in units[unit]),
        ended=ended,
        stopped=log.stopped if ended == "budget" else None,
        search_boots=len(log.boots),
        ab_boots=log.ab_boots,
        failed_boots=findings.failed if findings is not None else sum(bool(b.problem) for b, _ in log.boots),
        minutes=log.minutes,
        metrics=metrics,
        boots=tuple(boot.model_copy(update={"metrics": values.get(own, {})}) for boot, values in log.boots),
        notes=tuple(notes),
    )


_HOW_TO_GO_ON = {
    "time": "Give the search more time (--max-minutes).",
    "interrupted": "Let the search run to its end.",
    "unbelieved": "Give the servers a machine of their own, and search again.",
    "unpinnable": "Pin some of the moved defaults yourself (--vllm-arg), and compare again.",
    None: "The boots do not tell the rest apart: compare what is left undecided in pairs (--against-server).",
}


def next_step(found: Attribution) -> str:
    """What to do about what was found; empty where there is nothing to do."""
    named = " and ".join(map(shortened, found.responsible))
    match found.ended:
        case "explained" if found.direction == "faster":
            return f"Keep {named}." if found.kind == "settings" else ""
        case "elsewhere" if found.direction == "faster":
            return ""
        case "explained" if found.kind == "versions":
            return f"Set {named} to have it back."
        case "explained":
            return f"If it is not meant, take {named} back."
        case "elsewhere":
            return "No setting brings it back: measure the releases between the two (--against), or report it to vLLM."
        case "budget":
            rest = _HOW_TO_GO_ON[found.stopped]
            return f"Begin with {named}. {rest}" if named else rest
        case _:
            return ""


def _ended(
    log: Log, findings: Findings | None, answers: Sequence[Answer], *, confirmed: bool
) -> Literal["explained", "no effect", "elsewhere", "budget"]:
    if not confirmed:
        return "no effect"
    if findings is None:
        # Nothing moved that a flag can set, or the pins do not boot together.
        return "budget" if log.boots or log.stopped else "elsewhere"
    if findings.ended is Ended.BUDGET:
        return "budget"
    if log.kind == "versions" and not any(answer.confirmed for answer in answers):
        return "elsewhere"
    return "explained" if findings.ended is Ended.EXPLAINED else "no effect"


def _metric(answer: Answer, units: Sequence[tuple[str, ...]], whole: float | None) -> AttributedMetric:
    rest = answer.unexplained
    return AttributedMetric(
        metric=answer.key[1],
        total=_finite(answer.total.estimate) or 0.0,
        lower=_finite(answer.total.lower),
        upper=_finite(answer.total.upper),
        unexplained=_finite(rest.estimate) if rest is not None else None,
        unexplained_lower=_finite(rest.lower) if rest is not None else None,
        unexplained_upper=_finite(rest.upper) if rest is not None else None,
        settled=answer.settled,
        parts=tuple(_part(part, units, whole) for part in answer.parts),
    )


def _part(part: Part, units: Sequence[tuple[str, ...]], whole: float | None) -> AttributedPart:
    share = math.log1p(part.effect.estimate) / whole if whole else part.share
    return AttributedPart(
        settings=tuple(word for unit in part.units for word in units[unit]),
        effect=_finite(part.effect.estimate) or 0.0,
        lower=_finite(part.effect.lower),
        upper=_finite(part.effect.upper),
        share=_finite(share),
        probability=part.probability,
        named=part.named,
        together=len(part.units) > 1,
        boots=part.boots,
    )


def _difference(answer: Answer, cell: Target, fresh: Measured, direction: str) -> float:
    """How much slower, or faster, the new version is in the A/B, log units."""
    workload, metric = cell.cell.workload, answer.key[1]
    old, new = (boot_means(side[workload].replicates(metric)) for side in (fresh.old, fresh.new))
    sign = METRICS[metric].sign * (1 if direction == "slower" else -1)
    return sign * (math.fsum(new) / len(new) - math.fsum(old) / len(old))


def _comes_back(answer: Answer, cell: Target, fresh: Measured, direction: str) -> str:
    whole = _difference(answer, cell, fresh, direction)
    back = math.log1p(answer.total.estimate) / whole if whole else math.nan
    return (
        f"{METRICS[answer.key[1]].label} is {direction} by {math.expm1(whole):+.1%} on the new version; "
        f"with all of these pinned {back:.0%} of it {'comes back' if direction == 'slower' else 'is lost'}"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
