"""Which of the settings that two servers differ in make the difference: which subset to boot next, when to stop, what was found.

A search begins with both ends, nothing applied and everything applied, measured in turn. Where no metric is certainly slower it ends: no
setting is to be named. Otherwise each boot applies the subset that would tell most about *which* settings are involved, given all boots
so far (`perfgate.statistics.attribution_model`): halves where the effect is large against the noise, as in group testing, and mixed
subsets that inform about every setting at once, as in a fractional factorial design, where it is not.

Error is controlled over the whole search, not by boot. A setting is named when the boots are k·m/α times as probable with it as without
it (k settings, m metrics). Under "it does nothing" that ratio is a nonnegative martingale from boot to boot, whatever subsets are chosen
and whenever one stops, so by Ville's inequality it ever gets there with probability at most α/(k·m); the sum over settings and metrics
is α (averaged over the prior of what the other settings do). The search ends when what is named is enough and needed: with it alone the
metric is as slow as with everything, and with everything but it as fast as with nothing, but for what is small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from perfgate.statistics.attribution_findings import Answer, Ended, Findings, answer, numbers, unconfirmed
from perfgate.statistics.attribution_model import (
    MOST_UNITS,
    Belief,
    Spread,
    believe,
    explanations,
)
from perfgate.statistics.attribution_units import Boot, Key, Units
from perfgate.statistics.contrast import FloatArray, winsor_reach
from perfgate.statistics.interval import Difference, Prior, compare
from perfgate.statistics.planning import abba, pairs_needed


@dataclass(frozen=True, kw_only=True)
class SearchPolicy:
    """The constants of a search; ``perfgate calibrate --attribution`` shows what they buy.

    Attributes:
        alpha: error of naming any setting that does nothing, over the whole search.
        overlook: probability that what is named is not enough, or not needed, beyond the tolerance.
        total_alpha: one-sided level at which a total effect is confirmed, where the caller has not done so.
        fewest_pairs: boots of each end at least.
        most_pairs: and at most.
        wanted_power: the ends are booted until an effect as large as the margin is shown with this power.
        most_boots: of the search beyond the ends.
        small_share: of a total, on the log scale; what is left is small when it is below this, however large the total.
        confidence: of the intervals.
        combined: probability from which an interaction is reported.
        winsor_width: with a noise model, a boot counts as no further than so many of its standard deviations from where it is expected;
            further where few boots stand behind the model.
        doubt: one-sided level at which the boots of what is named, alone, and of everything but it, must speak for themselves.
    """

    alpha: float = 0.05
    overlook: float = 0.01
    total_alpha: float = 0.006
    fewest_pairs: int = 5
    most_pairs: int = 7
    wanted_power: float = 0.95
    most_boots: int = 120
    small_share: float = 0.15
    confidence: float = 0.95
    combined: float = 0.9
    winsor_width: float = 2.5
    doubt: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Response:
    """One metric of one cell that got slower.

    Attributes:
        key: its name, as `Question.key`.
        tolerance: fraction; a setting whose effect is smaller is of no interest.
        margin: fraction; plans how often both ends are booted.
        prior: of one boot; None where only the boots of the search tell the noise.
        trend: standard deviation of the session's trend over ten boots, log units.
    """

    key: Key
    tolerance: float
    margin: float = 0.05
    prior: Prior | None = None
    trend: float = 0.01


class Search:
    """Plans boots one by one and says what they mean. Items are numbered from 0.

    Args:
        items: how many settings differ.
        responses: the metrics that are to be explained.
        groups: items that must stay together.
        confirmed: whether the caller has shown that all responses have a total effect.
        pairs: how often both ends are booted; as often as the noise asks for where not given.
        policy: constants.

    Raises:
        ValueError: no item, no response, or an item in two groups.
    """

    def __init__(
        self,
        items: int,
        responses: Sequence[Response],
        *,
        groups: Sequence[Sequence[int]] = (),
        confirmed: bool = False,
        pairs: int | None = None,
        policy: SearchPolicy | None = None,
    ) -> None:
        if not responses:
            raise ValueError("a search explains at least one metric")
        self.policy = policy or SearchPolicy()
        self.responses = tuple(responses)
        self.items = items
        self._pairs = pairs
        self._units = Units.of(items, groups, most=MOST_UNITS)
        self._boots: list[Boot] = []
        self._given = confirmed
        self._active: tuple[Response, ...] | None = tuple(responses) if confirmed else None

    @property
    def pairs(self) -> int:
        """How often both ends are booted."""
        if self._pairs is not None:
            return self._pairs
        policy, family = self.policy, len(self.responses)
        return max(
            (
                int(
                    pairs_needed(
                        math.log1p(response.margin),
                        prior_df=response.prior.df,
                        prior_variance=response.prior.variance,
                        alpha=policy.total_alpha / family,
                        power=policy.wanted_power,
                        fewest=policy.fewest_pairs,
                        most=policy.most_pairs,
                    )
                )
                for response in self.responses
                if response.prior is not None
            ),
            default=policy.fewest_pairs,
        )

    def add(self, boot: Boot) -> None:
        """Takes what a boot showed, or that it did not come up."""
        self._boots.append(boot)
        if boot.failed:
            self._units = self._units.after_failures(self._boots)

    @property
    def boots(self) -> tuple[Boot, ...]:
        """Everything that was booted."""
        return tuple(self._boots)

    def copy(self) -> Search:
        """Another search that knows the same boots; what it is told stays its own."""
        other = copy(self)
        other._boots = list(self._boots)  # noqa: SLF001 - of its own class
        return other

    def level(self, response: Response) -> float:
        """The mean value of the boots with nothing applied, log units; 0 while there is none."""
        base, _ = self._ends(response)
        return float(np.mean(base)) if base else 0.0

    def total(self, response: Response) -> float:
        """How much slower everything applied is than nothing, log units, by the boots of both ends; 0 while one is missing."""
        base, full = self._ends(response)
        return self._compare(response, base, full).estimate if base and full else 0.0

    def prior(self, response: Response) -> Prior:
        """The spread of one boot that is assumed: the noise model's, or without one a weak guess from both ends."""
        return response.prior or _own_prior(*self._ends(response), self._effect(response))

    def next(self) -> frozenset[int] | None:
        """The items to apply on the next boot, or None when the search is over."""
        opening = self._opening()
        if opening is not None:
            return opening
        while True:
            if not self._confirmed() or self._searched() >= self.policy.most_boots:
                return None
            beliefs = self._beliefs()
            check = self._check(beliefs)
            if check is not None:
                return self._units.items_of(check)
            unsettled = [r for r in self._confirmed() if not self._settled(r, beliefs[r.key])]
            if unsettled:
                chosen = self._most_telling([beliefs[r.key] for r in unsettled])
                return self._units.items_of(chosen) if chosen is not None else None
            narrower = self._units.narrowed(self._responsible(beliefs))
            if narrower is None:
                return None
            self._units = narrower

    def _opening(self) -> frozenset[int] | None:
        ends = (frozenset[int](), self._units.everything)
        have = [sum(boot.applied == end and not boot.failed for boot in self._boots) for end in ends]
        if self._given and min(have) >= 1:
            return None
        pairs = self.pairs
        if min(have) >= pairs:
            return None
        if have[0] >= pairs or have[1] >= pairs:
            return ends[0 if have[0] < pairs else 1]
        return ends[abba(pairs)[sum(have)]]

    def _confirmed(self) -> tuple[Response, ...]:
        """The metrics that are certainly slower with everything applied; decided once, by both ends alone."""
        if self._active is None:
            policy = self.policy
            level = policy.total_alpha / len(self.responses)
            found = []
            for response in self.responses:
                difference = self._compare(response, *self._ends(response))
                if difference.p_greater() <= level and difference.estimate > math.log1p(response.tolerance):
                    found.append(response)
            self._active = tuple(found)
        return self._active

    def _ends(
        self, response: Response, other: frozenset[int] | None = None
    ) -> tuple[list[float], list[float]]:
        """Values of the boots with nothing applied, and with everything or another subset."""
        everything = self._units.everything if other is None else other
        usable = [boot for boot in self._boots if response.key in boot.values]
        return (
            [boot.values[response.key] for boot in usable if not boot.applied],
            [boot.values[response.key] for boot in usable if boot.applied == everything],
        )

    def _compare(
        self, response: Response, one: Sequence[float], other: Sequence[float], prior: Prior | None = None
    ) -> Difference:
        """Two groups of boots, no model between."""
        known = response.prior
        width = self.policy.winsor_width if known is not None else None
        return compare(one, other, prior=known or prior, winsor_width=width)

    def _searched(self) -> int:
        return sum(boot.applied not in (frozenset(), self._units.everything) for boot in self._boots)

    def _beliefs(self) -> dict[Key, Belief]:
        return {response.key: self._belief(response) for response in self._confirmed()}

    def _belief(self, response: Response) -> Belief:
        prior, effect = self.prior(response), self._effect(response)
        spread = Spread(df=prior.df, variance=prior.variance, effect=effect, trend=response.trend)
        subsets, values, times = self._units.rows(self._boots, response.key)
        reach = math.inf
        if response.prior is not None:
            reach = float(winsor_reach(response.prior.sd, response.prior.df, self.policy.winsor_width))
        return believe(explanations(len(self._units.units)), subsets, values, times, spread, reach=reach)

    def _effect(self, response: Response) -> float:
        """Spread of a setting's effect: of the size of the total."""
        return 0.7 * max(abs(self.total(response)), 2 * math.log1p(response.tolerance))

    def _certain(self, belief: Belief) -> int:
        """Bits of the units that are certainly involved."""
        needed = belief.space.units * len(self._confirmed()) / self.policy.alpha
        factors, involved = belief.bayes_factors, belief.involved
        return sum(
            1 << unit
            for unit in range(belief.space.units)
            if factors[unit] >= needed and involved[unit] > 0.5
        )

    def _named(self, belief: Belief) -> int:
        """Those that make it slower; one that makes it faster hides a part of the total, and is no fault."""
        certain = self._certain(belief)
        everything = (1 << belief.space.units) - 1
        return sum(
            1 << unit
            for unit in numbers(certain)
            if any(belief.slower(one, one & ~(1 << unit), 0.0)[0] > 0 for one in (everything, 1 << unit))
        )

    def _settled(self, response: Response, belief: Belief) -> bool:
        named = self._named(belief)
        everything = (1 << belief.space.units) - 1
        if not named:
            # What both ends seemed to show may not last.
            return belief.slower(everything, 0, math.log1p(response.tolerance))[1] <= self.policy.overlook
        return all(
            self._no_slower(response, belief, one, other)
            for one, other in ((everything, named), (everything & ~named, 0))
        )

    def _no_slower(self, response: Response, belief: Belief, one: int, other: int) -> bool:
        """Whether more than what is small is excluded."""
        return belief.slower(one, other, self._small(response))[1] <= self.policy.overlook

    def _small(self, response: Response) -> float:
        """A slowdown half-way between tolerance and margin, or a small share of a large total; log units."""
        half_way = math.sqrt(math.log1p(response.tolerance) * math.log1p(response.margin))
        return max(half_way, self.policy.small_share * self.total(response))

    def _check(self, beliefs: Mapping[Key, Belief]) -> int | None:
        """What is named, alone, and everything but it, must each have been booted, and show the same without any model."""
        if not beliefs or not all(self._settled(r, beliefs[r.key]) for r in self._confirmed()):
            return None
        everything = (1 << len(self._units.units)) - 1
        for response in self._confirmed():
            named = self._named(beliefs[response.key])
            for subset, slower in ((named, everything), (everything & ~named, 0)):
                if self._units.may_boot([subset], self._boots)[0] > 0 and not self._shown(
                    response, subset, slower
                ):
                    return subset
        return None

    def _shown(self, response: Response, subset: int, other: int) -> bool:
        """Whether the boots of a subset alone speak against more than what is small, or there are as many as of an end."""
        applied = self._units.items_of(subset)
        if applied in (frozenset(), self._units.everything):
            return True
        tried = [boot.values.get(response.key) for boot in self._boots if boot.applied == applied]
        if len(tried) >= self.pairs:
            return True
        own = [value for value in tried if value is not None]
        end = self._ends(response)[1 if other else 0]
        prior = self.prior(response)
        # Named alone must be as slow as everything; everything but it must be as fast as nothing.
        left = self._compare(response, own, end, prior) if other else self._compare(response, end, own, prior)
        return bool(own) and left.p_less(self._small(response)) <= self.policy.doubt

    def _most_telling(self, beliefs: Sequence[Belief]) -> int | None:
        every = range(1 << len(self._units.units))
        chances = self._units.may_boot(every, self._boots)
        candidates = [subset for subset in every if chances[subset] > 0]
        if not candidates:
            return None
        chance = np.asarray([chances[subset] for subset in candidates])
        when = len(self._boots) / 10
        gain: FloatArray = np.sum([belief.gain(candidates, when) for belief in beliefs], axis=0)
        return candidates[int(np.argmax(gain * chance))]

    def _responsible(self, beliefs: Mapping[Key, Belief]) -> int:
        return int(np.bitwise_or.reduce([0, *(self._named(beliefs[r.key]) for r in self._confirmed())]))

    def findings(self) -> Findings:
        """What is known now; also in the middle of a search, when time has run out."""
        complete = self._opening() is None
        confirmed = self._confirmed() if complete else ()
        beliefs = self._beliefs() if complete else {}
        answers = tuple(
            self._answer(response, beliefs[response.key])
            if response.key in beliefs
            else unconfirmed(
                response.key, self._compare(response, *self._ends(response)), self.policy.confidence
            )
            for response in self.responses
        )
        responsible = self._responsible(beliefs) if confirmed else 0
        undecided = 0
        for response in confirmed:
            belief = beliefs[response.key]
            if not self._settled(response, belief):
                level = self.policy.overlook / belief.space.units
                doubtful = belief.relevant(math.log1p(response.tolerance)) > level
                undecided |= sum(1 << int(unit) for unit in np.flatnonzero(doubtful))
        if not complete:
            ended = Ended.BUDGET
        elif not confirmed or (not responsible and all(answer.settled for answer in answers)):
            ended = Ended.NO_EFFECT
        elif all(answer.settled for answer in answers if answer.confirmed) and self._check(beliefs) is None:
            ended = Ended.EXPLAINED
        else:
            ended = Ended.BUDGET
        return Findings(
            units=self._units.units,
            answers=answers,
            responsible=numbers(responsible),
            undecided=numbers(undecided & ~responsible),
            ended=ended,
            boots=sum(not boot.failed for boot in self._boots),
            failed=sum(boot.failed for boot in self._boots),
            merged=self._units.merged,
        )

    def _answer(self, response: Response, belief: Belief) -> Answer:
        masks = [self._units.mask(boot.applied) for boot in self._boots if not boot.failed]
        named = self._named(belief)
        without = self._units.everything - self._units.items_of(named)
        rest = self._compare(response, *self._ends(response, without), self.prior(response))
        return answer(
            response.key,
            belief,
            named=named,
            certain=self._certain(belief),
            masks=[mask for mask in masks if mask is not None],
            rest=rest,
            settled=self._settled(response, belief),
            confidence=self.policy.confidence,
            combined=self.policy.combined,
        )


def _own_prior(base: Sequence[float], full: Sequence[float], effect: float) -> Prior:
    """A weak prior where there is no noise model: one degree of freedom, at what the ends themselves scatter."""
    squares = sum(float(np.square(np.asarray(side) - np.mean(side)).sum()) for side in (base, full) if side)
    df = len(base) + len(full) - 2
    scatter = squares / df if df > 0 and squares > 0 else (effect / 4) ** 2
    return Prior(df=1.0, variance=max(scatter, 1e-8))
