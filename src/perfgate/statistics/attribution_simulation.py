"""Searches on simulated servers: how often they name the right settings, and what that costs, beside two simpler designs.

Each simulated machine has a noise of its own around the class's (as in `perfgate.statistics.simulation`), the search is lent the class's
prior, and the truth is fixed: which settings slow, by how much, and whether only together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from perfgate.statistics.attribution import Search
from perfgate.statistics.attribution_evidence import Response
from perfgate.statistics.attribution_findings import Ended
from perfgate.statistics.attribution_units import Boot
from perfgate.statistics.contrast import FloatArray, student_quantile
from perfgate.statistics.interval import Prior

KINDS = ("none", "one", "two", "three", "only together", "more together", "one beside a faster one")
TOLERANCE, MARGIN = 0.02, 0.05
PRIOR_DF = 20.0
ERROR = 0.025
"""Of naming any setting that does nothing, for the simpler designs: less than what may go wrong altogether, which is 5%."""
MOST_REPLICATES = 60
_KEY = ("cell", "metric")


@dataclass(frozen=True, kw_only=True)
class World:
    """What is true.

    Attributes:
        settings: k.
        sigma: s₀ of the class, log units.
        kind: one of `KINDS`.
        size: slowdown by one setting (``only together``: by two, which do nothing alone), a fraction. The faster one of ``one beside a
            faster one`` takes half of it back.
        outlier_share: probability that something else slows a boot by 5 to 50%.
    """

    settings: int
    sigma: float
    kind: str
    size: float
    outlier_share: float = 0.0

    def terms(self, rng: np.random.Generator) -> dict[int, float]:
        """The terms of the truth at random settings: bits → log slowdown."""
        first, second, third = (1 << int(place) for place in rng.choice(self.settings, 3, replace=False))
        effect = math.log1p(self.size)
        return {
            "none": {},
            "one": {first: effect},
            "two": {first: effect, second: effect},
            "three": {first: effect, second: effect, third: effect},
            "only together": {first | second: effect},
            "more together": {first: effect, second: effect, first | second: effect},
            "one beside a faster one": {first: effect, second: -effect / 2},
        }[self.kind]

    def noise(self, deviation: float, count: int, rng: np.random.Generator) -> FloatArray:
        """Noise of so many boots, log units."""
        values = deviation * rng.standard_normal(count)
        if self.outlier_share:
            hit = rng.random(count) < self.outlier_share
            values = values + np.where(hit, np.log1p(rng.uniform(0.05, 0.5, count)), 0.0)
        return np.asarray(values, dtype=np.float64)

    def deviation(self, rng: np.random.Generator) -> float:
        """Standard deviation of one machine's boots."""
        return self.sigma / math.sqrt(float(rng.chisquare(PRIOR_DF)) / PRIOR_DF)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One simulated search.

    Attributes:
        confirmed: whether the total effect was confirmed, without which nothing is searched.
        right: whether exactly the right settings were named.
        innocent: whether a setting was named that does nothing.
        finished: whether it ended before the largest number of boots.
        boots: all of them.
        ends: of those, with nothing or everything applied before the search.
    """

    confirmed: bool
    right: bool
    innocent: bool
    finished: bool
    boots: int
    ends: int


def search_once(world: World, rng: np.random.Generator) -> Searched:
    """One search in a world, from the first boot to the answer."""
    truth, deviation = world.terms(rng), world.deviation(rng)
    prior = Prior(df=PRIOR_DF, variance=world.sigma**2)
    search = Search(world.settings, [Response(key=_KEY, tolerance=TOLERANCE, margin=MARGIN, prior=prior)])
    while (chosen := search.next()) is not None:
        bits = sum(1 << item for item in chosen)
        value = level(truth, bits) + float(world.noise(deviation, 1, rng)[0])
        search.add(Boot(applied=chosen, values={_KEY: value}))
    found = search.findings()
    guilty = _guilty(truth)
    named = sum(1 << unit for unit in found.responsible)
    return Searched(
        confirmed=any(answer.confirmed for answer in found.answers),
        right=named == guilty and found.ended is not Ended.BUDGET,
        innocent=bool(named & ~guilty),
        finished=found.ended is not Ended.BUDGET,
        boots=found.boots,
        ends=2 * search.pairs,
    )


def level(truth: Mapping[int, float], bits: int) -> float:
    """Log slowdown of a subset under a truth."""
    return math.fsum(effect for term, effect in truth.items() if bits & term == term)


def one_at_a_time(world: World, replicates: int, times: int, rng: np.random.Generator) -> float:
    """Share of right answers where each setting is put on the old side alone, ``replicates`` boots of each and of the old side.

    A setting is named when its difference is significant after Bonferroni and above the tolerance; the noise is known.
    """
    right = 0
    for _ in range(times):
        truth, deviation = world.terms(rng), world.deviation(rng)
        means = np.asarray(
            [
                level(truth, bits) + world.noise(deviation, replicates, rng).mean()
                for bits in (0, *(1 << unit for unit in range(world.settings)))
            ]
        )
        error = world.sigma * math.sqrt(2 / replicates)
        right += _named(means[1:] - means[0], error, world.settings) == _guilty(truth)
    return right / times


def full_factorial(world: World, replicates: int, times: int, rng: np.random.Generator) -> float:
    """Share of right answers where every subset is booted ``replicates`` times.

    Contrasts of single settings and pairs, Bonferroni over all of them; a pair that is named names both.
    """
    count = world.settings
    subsets = np.arange(1 << count)
    signs = np.stack([np.where(subsets >> unit & 1, 1.0, -1.0) for unit in range(count)])
    contrasts = [(1 << unit, signs[unit]) for unit in range(count)]
    contrasts += [(1 << a | 1 << b, signs[a] * signs[b]) for a, b in combinations(range(count), 2)]
    matrix = np.stack([sign for _, sign in contrasts]) * (2 / len(subsets))
    error = 2 * world.sigma / math.sqrt(len(subsets) * replicates)
    cut = float(student_quantile(1 - ERROR / 2 / len(contrasts), PRIOR_DF + len(subsets)))
    right = 0
    for _ in range(times):
        truth, deviation = world.terms(rng), world.deviation(rng)
        y = np.asarray([level(truth, int(bits)) for bits in subsets])
        noise = world.noise(deviation, len(subsets) * replicates, rng).reshape(len(subsets), replicates)
        found = matrix @ (y + noise.mean(axis=1))
        named = 0
        for (bits, _), value in zip(contrasts, found, strict=True):
            # An effect that acts only together shows half of itself in each single contrast.
            named |= bits if value > max(cut * error, math.log1p(TOLERANCE) / 2) else 0
        right += named == _guilty(truth)
    return right / times


def replicates_needed(
    design: str, world: World, times: int, rng: np.random.Generator, *, wanted: float = 0.95
) -> int | None:
    """The fewest replicates with which a design names the right settings as often as wanted.

    One more than `MOST_REPLICATES` where it takes more than those; None where even they are hardly ever right, because more of the same
    cannot help.

    Args:
        design: ``one at a time`` or ``full factorial``.
        world: what is true.
        times: simulated experiments a step.
        rng: random numbers.
        wanted: share of right answers.
    """
    count, share = 1, 0.0
    while count <= MOST_REPLICATES:
        share = (
            one_at_a_time(world, count, times, rng)
            if design == "one at a time"
            else full_factorial(world, count, times, rng)
        )
        if share >= wanted:
            return count
        count += 1 if count < 8 else 4
    return MOST_REPLICATES + 1 if share > 0.1 else None


def _named(differences: FloatArray, error: float, settings: int) -> int:
    cut = float(student_quantile(1 - ERROR / settings, PRIOR_DF + settings)) * error
    floor = math.log1p(TOLERANCE)
    return sum(1 << unit for unit, value in enumerate(differences) if value > max(cut, floor))


def _guilty(truth: Mapping[int, float]) -> int:
    """What slows; what makes it faster is no fault."""
    return int(np.bitwise_or.reduce([0, *(bits for bits, effect in truth.items() if effect > 0)]))
