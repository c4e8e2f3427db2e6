"""Which settings move a metric: every small explanation weighed by the boots of all subsets that were tried.

A *subset* is which of k units (settings, or settings kept together) a boot had applied, as bits. An *explanation* is a set of terms; a
term is the bits that must all be applied for it to act: one bit is a setting's own effect, two bits a pair that does something together
that neither does alone. For each explanation the boots follow a linear model on the log scale,

    y = level + Σ terms that act + trend·time + noise,

with normal effects whose spread is of the size of the total, and noise whose variance borrows from the noise model: the normal–inverse
gamma family, in which the probability of the data under an explanation has a closed form (Bernardo & Smith 1994, section 5.2; Box &
Meyer 1993 use it to find active factors in unreplicated designs). All boots of a search count, whatever subset they had and why it was
chosen; that the choice depended on earlier boots changes no likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import special

from perfgate.statistics.contrast import FloatArray

IntArray = npt.NDArray[np.intp]

MOST_UNITS = 8
"""Units that are told apart at once; more are bundled first."""
SIZE_RATIO = 0.5
"""Prior: an explanation with one setting more is half as probable, before it is shared among all sets of that size."""
INTERACTION_SHARE = 0.15
"""Prior probability that settings do something together that they do not do alone."""
NOTHING_SHARE = 0.05
"""Prior probability that no setting matters, although a total effect was confirmed."""
_PLANNED_WITH = 100
"""The next boot is chosen with the most probable explanations only."""
_COMPARED = 32
"""Candidates among which it is chosen exactly."""
_BINS = 32
"""Into which the value of a planned boot is sorted."""
_PASSES, _STILL = 8, 0.01
"""Boots are pulled in so many times at most, and until none moves by more than this part of the reach."""
_LEVEL, _TREND, _FIRST_TERM = 1, 2, 3
"""Columns of the design; column 0 is empty and fills up shorter explanations."""


@dataclass(frozen=True, kw_only=True)
class Explanations:
    """Every explanation over k units.

    Attributes:
        units: k.
        terms: bits of each term.
        columns: shape (S, P): columns of the design that an explanation uses, 0 where it uses fewer.
        involved: shape (S,): the bits of all its terms together.
        log_prior: shape (S,).
    """

    units: int
    terms: tuple[int, ...]
    columns: IntArray
    involved: IntArray
    log_prior: FloatArray

    def acting(self, subsets: Sequence[int]) -> FloatArray:
        """Which terms act under which subsets: shape (N, terms), 0 or 1."""
        masks, terms = np.asarray(subsets, dtype=np.intp)[:, None], np.asarray(self.terms, dtype=np.intp)
        return np.asarray((masks & terms) == terms, dtype=np.float64)

    @property
    def prior_inclusion(self) -> FloatArray:
        """Prior probability of each unit to be involved, shape (k,)."""
        return inclusion(self, np.exp(self.log_prior))


@lru_cache(maxsize=32)
def explanations(units: int) -> Explanations:
    """All explanations that are considered for so many units.

    Every set of single effects; with them one pair that acts together, with or without single
    effects of its two and beside at most one other setting (beside any others up to five units); three settings that act only together.

    Raises:
        ValueError: fewer than one unit or more than `MOST_UNITS`.
    """
    if not 1 <= units <= MOST_UNITS:
        raise ValueError(f"between 1 and {MOST_UNITS} units are told apart at once, not {units}")
    everyone = range(units)
    single = [(), *(chosen for size in range(1, units + 1) for chosen in combinations(everyone, size))]
    beside = units if units <= 5 else 1
    found = [(_bits(chosen), _share(len(chosen), units) * (1 - INTERACTION_SHARE)) for chosen in single]
    together: list[tuple[tuple[int, ...], float]] = []
    for pair in combinations(everyone, 2):
        others = [unit for unit in everyone if unit not in pair]
        for size in range(min(beside, len(others)) + 1):
            for extra in combinations(others, size):
                for own in ((), (pair[0],), (pair[1],), pair):
                    terms = (*_bits((*own, *extra)), _mask(pair))
                    together.append((terms, SIZE_RATIO ** len(terms) / math.comb(units, 2 + size)))
    together += [
        ((_mask(triple),), SIZE_RATIO**2 / math.comb(units, 3)) for triple in combinations(everyone, 3)
    ]
    mass = math.fsum(weight for _, weight in together)
    found += [(terms, INTERACTION_SHARE * weight / mass) for terms, weight in together]
    terms = tuple(dict.fromkeys(term for chosen, _ in found for term in chosen))
    position = {term: _FIRST_TERM + number for number, term in enumerate(terms)}
    width = 2 + max(len(chosen) for chosen, _ in found)
    columns = np.zeros((len(found), width), dtype=np.intp)
    for row, (chosen, _) in enumerate(found):
        columns[row, : 2 + len(chosen)] = [_LEVEL, _TREND, *(position[term] for term in chosen)]
    weights = np.asarray([weight for _, weight in found])
    return Explanations(
        units=units,
        terms=terms,
        columns=columns,
        involved=np.asarray([int(np.bitwise_or.reduce([0, *chosen])) for chosen, _ in found], dtype=np.intp),
        log_prior=np.log(weights / weights.sum()),
    )


def _bits(chosen: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 << unit for unit in chosen)


def _mask(chosen: Sequence[int]) -> int:
    return sum(1 << unit for unit in chosen)


def _share(size: int, units: int) -> float:
    """Prior probability of one certain set of that size, up to a factor."""
    if size == 0:
        return NOTHING_SHARE
    return SIZE_RATIO**size / math.comb(units, size)


def inclusion(space: Explanations, weights: FloatArray) -> FloatArray:
    """Probability of each unit to be involved, shape (k,), from the weights of the explanations, shape (S,)."""
    bits = (space.involved[:, None] >> np.arange(space.units)) & 1
    return np.asarray(weights @ bits, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What is assumed of one metric before the search.

    Attributes:
        df: degrees of freedom that the noise variance is worth, above 0.
        variance: of one boot, log² units, above 0.
        effect: standard deviation of a setting's effect, log units: the size of the total.
        trend: standard deviation of the session's trend over ten boots, log units.
    """

    df: float
    variance: float
    effect: float
    trend: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What the boots so far say about one metric.

    Attributes:
        space: the explanations.
        weights: probability of each, shape (S,).
        coefficients: posterior means of the columns of each, shape (S, P).
        covariance: posterior covariance over the noise variance, shape (S, P, P).
        variance: noise variance under each, shape (S,).
        df: degrees of freedom of all.
    """

    space: Explanations
    weights: FloatArray
    coefficients: FloatArray
    covariance: FloatArray
    variance: FloatArray
    df: float

    @property
    def involved(self) -> FloatArray:
        """Probability of each unit to be part of the explanation, shape (k,)."""
        return inclusion(self.space, self.weights)

    @property
    def bayes_factors(self) -> FloatArray:
        """For each unit how much more probable the boots are with it than without it, averaged over the rest, shape (k,)."""
        now, before = self.involved, self.space.prior_inclusion
        without = np.maximum(1 - now, 1e-300)
        return np.asarray((now / without) / (before / (1 - before)), dtype=np.float64)

    def relevant(self, tolerance: float) -> FloatArray:
        """Probability that each unit is involved in a term whose size exceeds ``tolerance`` (log units), shape (k,)."""
        kept = np.flatnonzero(self.weights > 1e-7)
        columns = self.space.columns[kept]
        spread = np.sqrt(self.variance[kept, None] * np.diagonal(self.covariance[kept], axis1=1, axis2=2))
        mean = self.coefficients[kept]
        beyond = special.stdtr(self.df, (mean - tolerance) / spread) + special.stdtr(
            self.df, (-mean - tolerance) / spread
        )
        terms = np.asarray((*(0,) * _FIRST_TERM, *self.space.terms), dtype=np.intp)[columns]
        bits = (terms[:, :, None] >> np.arange(self.space.units)) & 1
        largest = (beyond[:, :, None] * bits).max(axis=1)
        return np.asarray(self.weights[kept] @ largest, dtype=np.float64)

    def gain(self, candidates: Sequence[int], when: float) -> FloatArray:
        """How much a boot of each candidate subset would tell about *which* units are involved, in nats, shape (C,).

        The mutual information of the set of involved units and the boot's value, Lindley's measure of an experiment (Lindley 1956),
        with the value sorted into bins, which can only lose some of it.
        """
        kept = np.argsort(-self.weights)[:_PLANNED_WITH]
        kept = kept[self.weights[kept] > 1e-5]
        weights = self.weights[kept] / self.weights[kept].sum()
        sets, member = np.unique(self.space.involved[kept], return_inverse=True)
        belongs = np.zeros((len(sets), len(kept)))
        belongs[member, np.arange(len(kept))] = weights
        rows = self._design(candidates, when)[:, self.space.columns[kept]].transpose(1, 0, 2)
        mean = (rows @ self.coefficients[kept][:, :, None])[:, :, 0]
        told = np.zeros(len(candidates))
        # Candidates under which all explanations predict much the same tell nothing: the integral is spared them.
        spread = weights @ np.square(mean - weights @ mean)
        closer = np.argsort(-spread)[:_COMPARED]
        mean, rows = mean[:, closer], rows[:, closer]
        error = np.sqrt(self.variance[kept, None] * (1 + ((rows @ self.covariance[kept]) * rows).sum(axis=2)))
        edges = np.linspace((mean - 3 * error).min(), (mean + 3 * error).max(), _BINS - 1)
        below = special.ndtr((edges - mean[:, :, None]) / error[:, :, None])
        share = np.diff(below, axis=2, prepend=0.0, append=1.0)
        shape = (len(sets), *share.shape[1:])
        by_set = np.maximum(belongs @ share.reshape(len(kept), -1), 1e-12).reshape(shape)
        expected = belongs.sum(axis=1)[:, None, None] * by_set.sum(axis=0)
        told[closer] = (by_set * np.log(by_set / expected)).sum(axis=(0, 2))
        return told

    def contrast(self, which: int, one: int, other: int) -> tuple[float, float]:
        """How much slower subset ``one`` is than ``other`` under one explanation, with its standard error, log units."""
        both = self._design([one, other], 0.0)[:, self.space.columns[which]]
        row = both[0] - both[1]
        error = math.sqrt(max(0.0, float(self.variance[which] * (row @ self.covariance[which] @ row))))
        return float(row @ self.coefficients[which]), error

    def slower(self, one: int, other: int, margin: float) -> tuple[float, float]:
        """How much slower subset ``one`` is than ``other``, log units, and the probability that it is by more than ``margin``."""
        if one == other:
            return 0.0, 0.0
        kept = np.flatnonzero(self.weights > 1e-7)
        both = self._design([one, other], 0.0)[:, self.space.columns[kept]]
        rows = both[0] - both[1]
        mean = (rows * self.coefficients[kept]).sum(axis=1)
        square = np.einsum("sp,spq,sq->s", rows, self.covariance[kept], rows)
        error = np.sqrt(np.maximum(self.variance[kept] * square, 1e-18))
        weights = self.weights[kept]
        return float(weights @ mean), float(weights @ special.stdtr(self.df, (mean - margin) / error))

    def term(self, which: int, bits: int) -> tuple[float, float] | None:
        """Size of one term of an explanation with its standard error, or None where it is no part of it."""
        if bits not in self.space.terms:
            return None
        place = np.flatnonzero(self.space.columns[which] == _FIRST_TERM + self.space.terms.index(bits))
        if not place.size:
            return None
        at = int(place[0])
        error = math.sqrt(float(self.variance[which] * self.covariance[which, at, at]))
        return float(self.coefficients[which, at]), error

    def best(self, involved: int | None = None) -> int:
        """The most probable explanation, of all or of those with exactly these bits."""
        weights = (
            self.weights if involved is None else np.where(self.space.involved == involved, self.weights, -1)
        )
        return int(np.argmax(weights))

    def interacting(self, pair: int) -> float:
        """Probability that the bits of ``pair`` do something together that they do not do alone."""
        if pair not in self.space.terms:
            return 0.0
        column = _FIRST_TERM + self.space.terms.index(pair)
        return float(self.weights[(self.space.columns == column).any(axis=1)].sum())

    def _design(self, subsets: Sequence[int], when: float) -> FloatArray:
        times = np.full(len(subsets), when)
        return design(self.space, subsets, times)


def design(space: Explanations, subsets: Sequence[int], times: FloatArray) -> FloatArray:
    """The columns of all explanations for these boots, shape (N, columns); times in tens of boots."""
    count = len(subsets)
    return np.column_stack((np.zeros(count), np.ones(count), times, space.acting(subsets)))


def believe(
    space: Explanations,
    subsets: Sequence[int],
    values: Sequence[float],
    times: Sequence[float],
    spread: Spread,
    *,
    reach: float = math.inf,
) -> Belief:
    """Weighs every explanation by the boots of one metric.

    Args:
        space: the explanations.
        subsets: bits of each boot, N ≥ 1 of them.
        values: slowdown of each boot, log units, from any common level.
        times: when each boot was, in tens of boots.
        spread: what is assumed before.
        reach: a boot further than this from what the explanations together expect of it, log units, is pulled in to that distance, as in
            Huber's estimate (Huber 1964): what slowed one boot alone is none of the settings.

    Raises:
        ValueError: no boot, or numbers that do not belong together.
    """
    y = np.asarray(values, dtype=np.float64)
    if not len(subsets) or not len(subsets) == len(y) == len(times) or not np.all(np.isfinite(y)):
        raise ValueError("each boot has a subset, a finite value and a time, and there is at least one")
    y = y - y.mean()
    moment = np.asarray(times, dtype=np.float64)
    moment = moment - moment.mean()
    columns = design(space, subsets, moment)
    prior = np.full(columns.shape[1], spread.effect**2 / spread.variance)
    prior[0], prior[_LEVEL] = 1.0, max(1.0, 100 * spread.effect**2) / spread.variance
    prior[_TREND] = max(spread.trend, 1e-6) ** 2 / spread.variance
    gram, chosen = columns.T @ columns, space.columns
    precision = gram[chosen[:, :, None], chosen[:, None, :]]
    diagonal = np.arange(chosen.shape[1])
    precision[:, diagonal, diagonal] += 1 / prior[chosen]
    covariance: FloatArray = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    _, determinant = np.linalg.slogdet(precision)
    known = space.log_prior - 0.5 * (determinant + np.log(prior[chosen]).sum(axis=1))
    df, observed = spread.df + len(y), y
    for _ in range(_PASSES):
        sums = (columns.T @ y)[chosen]
        coefficients = np.einsum("spq,sq->sp", covariance, sums)
        squares = np.maximum(
            spread.df * spread.variance + y @ y - np.einsum("sp,sp->s", sums, coefficients), 1e-300
        )
        score = known - 0.5 * df * np.log(squares)
        weights = np.exp(score - score.max())
        weights /= weights.sum()
        if not math.isfinite(reach):
            break
        likely = np.flatnonzero(weights > 1e-3)
        together = np.zeros(columns.shape[1])
        np.add.at(together, chosen[likely], weights[likely, None] * coefficients[likely])
        expected = columns @ together
        pulled = np.clip(observed, expected - reach, expected + reach)
        moved, y = float(np.abs(pulled - y).max()), pulled
        if moved < _STILL * reach:
            break
    return Belief(
        space=space,
        weights=weights,
        coefficients=coefficients,
        covariance=covariance,
        variance=squares / df,
        df=df,
    )
