"""What a search has found: the responsible units, and what each unit does to each metric, alone and together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from perfgate.statistics.attribution_model import Belief
from perfgate.statistics.attribution_units import Key
from perfgate.statistics.contrast import student_quantile
from perfgate.statistics.interval import Difference


class Ended(StrEnum):
    """Why a search is over."""

    NO_EFFECT = "no effect"
    EXPLAINED = "explained"
    BUDGET = "budget"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A slowdown with its interval, fractions: 0.10 is ten per cent slower."""

    estimate: float
    lower: float
    upper: float

    @classmethod
    def of(cls, log_ratio: float, error: float, df: float, confidence: float) -> Effect:
        """From a log ratio with standard error and degrees of freedom."""
        reach = float(student_quantile(0.5 + confidence / 2, df)) * error
        return cls(
            estimate=_fraction(log_ratio),
            lower=_fraction(log_ratio - reach),
            upper=_fraction(log_ratio + reach),
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a unit does to one metric, alone or together with another.

    Attributes:
        units: one unit, or the two that act together.
        effect: slowdown by it, the other settings being equal.
        share: of the total, on the log scale.
        named: whether it is part of what is responsible.
        probability: that it is involved.
        boots: how many boots had it applied.
    """

    units: tuple[int, ...]
    effect: Effect
    share: float
    named: bool
    probability: float
    boots: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the search found for one metric.

    Attributes:
        key: the metric.
        total: slowdown with everything applied.
        confirmed: whether the total is certain; nothing is attributed otherwise.
        parts: one a unit, then the pairs that act together.
        unexplained: slowdown that is left with everything but what is named, by the boots of just that; None where there are none.
        settled: whether what is named explains the total.
    """

    key: Key
    total: Effect
    confirmed: bool
    parts: tuple[Part, ...]
    unexplained: Effect | None
    settled: bool

    @property
    def named(self) -> tuple[int, ...]:
        """The units that are responsible for this metric."""
        return tuple(part.units[0] for part in self.parts if part.named and len(part.units) == 1)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the search found.

    Attributes:
        units: items of each unit; several where they could not be told apart or do not boot alone.
        answers: one a metric.
        responsible: units that are named for any metric.
        undecided: units that are neither named nor cleared for some metric that is not settled.
        ended: why the search is over.
        boots: all boots that count, both ends included.
        failed: boots that did not come up.
        merged: the units that had to be merged because subsets that part them do not boot.
    """

    units: tuple[tuple[int, ...], ...]
    answers: tuple[Answer, ...]
    responsible: tuple[int, ...]
    undecided: tuple[int, ...]
    ended: Ended
    boots: int
    failed: int
    merged: tuple[tuple[int, ...], ...] = ()


def unconfirmed(key: Key, difference: Difference, confidence: float) -> Answer:
    """The answer for a metric whose total effect is not certain: there is nothing to attribute."""
    total = measured(difference, confidence)
    return Answer(key=key, total=total, confirmed=False, parts=(), unexplained=None, settled=False)


def measured(difference: Difference, confidence: float) -> Effect:
    """A difference of two groups of boots, no model between."""
    lower, upper = difference.interval(confidence)
    return Effect(estimate=_fraction(difference.estimate), lower=_fraction(lower), upper=_fraction(upper))


def answer(
    key: Key,
    belief: Belief,
    *,
    named: int,
    certain: int,
    masks: Sequence[int],
    rest: Difference,
    settled: bool,
    confidence: float,
    combined: float,
) -> Answer:
    """The answer for one metric.

    A unit's effect is that of the most probable explanation with all that is certain and that unit.

    Args:
        key: the metric.
        belief: about it.
        named: bits of the units that are responsible.
        certain: those, and units that are as certainly involved but make it faster.
        masks: the subsets that were booted.
        rest: between the boots of everything but what is named and those of nothing.
        settled: whether they explain the total.
        confidence: of the intervals.
        combined: probability from which an interaction is reported.
    """
    everything = (1 << belief.space.units) - 1
    best = belief.best(certain)
    total = belief.contrast(belief.best(), everything, 0)

    def part(units: tuple[int, ...], found: tuple[float, float], probability: float, bits: int) -> Part:
        return Part(
            units=units,
            effect=Effect.of(*found, belief.df, confidence),
            share=found[0] / total[0] if total[0] else math.nan,
            named=not bits & ~named,
            probability=probability,
            boots=sum(mask & bits == bits for mask in masks),
        )

    involved = belief.involved
    parts: list[Part] = []
    for unit in range(belief.space.units):
        bit = 1 << unit
        which = certain if certain & bit else certain | bit
        # More at once than any explanation has: nothing is known of this one.
        known = bool((belief.space.involved == which).any())
        size = belief.contrast(belief.best(which), bit, 0) if known else (0.0, math.inf)
        parts.append(part((unit,), size, float(involved[unit]), bit))
    for one in numbers(named):
        for other in numbers(named >> one + 1 << one + 1):
            pair = 1 << one | 1 << other
            chance, found = belief.interacting(pair), belief.term(best, pair)
            if chance >= combined and found is not None:
                parts.append(part((one, other), found, chance, pair))
    return Answer(
        key=key,
        total=Effect.of(*total, belief.df, confidence),
        confirmed=True,
        parts=tuple(parts),
        unexplained=measured(rest, confidence) if rest.base_size and rest.new_size else None,
        settled=settled,
    )


def numbers(bits: int) -> tuple[int, ...]:
    """The positions of the bits that are set."""
    return tuple(unit for unit in range(bits.bit_length()) if bits >> unit & 1)


def _fraction(log_ratio: float) -> float:
    try:
        return math.expm1(log_ratio)
    except OverflowError:
        return math.inf
