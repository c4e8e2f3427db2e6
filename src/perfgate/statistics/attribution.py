"""Which of the settings that two servers differ in make the difference: which subset to boot next, when to stop, what was found.

A search begins with both ends, nothing applied and everything applied, measured in turn. Where no metric is certainly slower it ends: no
setting is to be named. Otherwise each boot applies the subset that would tell most about *which* settings are involved, given all boots
so far (`perfgate.statistics.attribution_model`): halves where the effect is large against the noise, as in group testing, and mixed
subsets that inform about every setting at once, as in a fractional factorial design, where it is not.

Error is controlled over the whole search, not by boot. A setting is named when the boots are k·m/α times as probable with it as without
it (k settings, m metrics). Under "it does nothing" that ratio is a nonnegative martingale from boot to boot, whatever subsets are chosen
and whenever one stops, so by Ville's inequality it ever gets there with probability at most α/(k·m); the sum over settings and metrics
is α (averaged over the prior of what the other settings do, with noise that is normal).

No model has the last word. The search ends when the boots of what is named show by themselves that it is enough (alone it is as slow as
everything) and needed (everything but it is as fast as nothing), but for what is small; when no setting can be struck off, because the
rest is enough and needed too, as in delta debugging, where a set without a superfluous member is called 1-minimal (Zeller & Hildebrandt
2002); and when the answer rests on no single boot, because something else may have slowed that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np

from perfgate.statistics.attribution_evidence import Direct, Evidence, Response, SearchPolicy
from perfgate.statistics.attribution_findings import Answer, Ended, Findings, answer, numbers, unconfirmed
from perfgate.statistics.attribution_model import MOST_UNITS, Belief, Spread, believe, explanations
from perfgate.statistics.attribution_units import Boot, Key, Units
from perfgate.statistics.contrast import FloatArray, winsor_reach
from perfgate.statistics.planning import pairs_needed


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

    @property
    def evidence(self) -> Evidence:
        """What the boots say by themselves."""
        return Evidence(boots=self._boots, units=self._units, policy=self.policy, pairs=self.pairs)

    def next(self) -> frozenset[int] | None:
        """The items to apply on the next boot, or None when the search is over."""
        opening = self._opening()
        if opening is not None:
            return opening if self._failures(opening) <= self.pairs else None
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
            hinge = self._hinge(beliefs)
            if hinge is not None:
                return hinge
            narrower = self._units.narrowed(self._responsible(beliefs), most=MOST_UNITS)
            if narrower is None:
                return None
            self._units = narrower

    def _failures(self, applied: frozenset[int]) -> int:
        return sum(boot.applied == applied and boot.failed for boot in self._boots)

    def _opening(self) -> frozenset[int] | None:
        ends = (frozenset[int](), self._units.everything)
        booted = [boot.applied for boot in self._boots if boot.applied in ends and not boot.failed]
        have = [booted.count(end) for end in ends]
        if min(have) >= (1 if self._given else self.pairs):
            return None
        if have[0] != have[1]:
            return ends[int(have[0] > have[1])]
        return booted[-1] if booted else ends[0]

    def _confirmed(self) -> tuple[Response, ...]:
        """The metrics that are certainly slower with everything applied; decided once, by both ends alone."""
        if self._active is None:
            policy = self.policy
            level = policy.total_alpha / len(self.responses)
            found = []
            for response in self.responses:
                difference = self.evidence.difference(response)
                if difference.p_greater() <= level and difference.estimate > math.log1p(response.tolerance):
                    found.append(response)
            self._active = tuple(found)
        return self._active

    def _searched(self) -> int:
        return sum(boot.applied not in (frozenset(), self._units.everything) for boot in self._boots)

    def _beliefs(self) -> dict[Key, Belief]:
        return {response.key: self._belief(response) for response in self._confirmed()}

    def _belief(self, response: Response) -> Belief:
        evidence = self.evidence
        prior, effect = evidence.prior(response), evidence.effect(response)
        spread = Spread(df=prior.df, variance=prior.variance, effect=effect, trend=response.trend)
        subsets, values, times = self._units.rows(self._boots, response.key)
        reach = math.inf
        if response.prior is not None:
            reach = float(winsor_reach(response.prior.sd, response.prior.df, self.policy.winsor_width))
        return believe(explanations(len(self._units.units)), subsets, values, times, spread, reach=reach)

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

    def _least(self, response: Response, belief: Belief) -> int:
        """The named units without those that the boots themselves show to be none of the fault: the rest is enough and needed."""
        named, factors = self._named(belief), belief.bayes_factors
        for unit in sorted(numbers(named), key=lambda one: factors[one]):
            less = named & ~(1 << unit)
            if less and self._suffices(response, less) is Direct.SHOWN:
                named = less
        return named

    def _suffices(self, response: Response, less: int) -> Direct:
        """Whether a part of what is named is enough and needed. To strike a setting off takes as much as to call it explained."""
        evidence, doubt = self.evidence, self.policy.overlook
        enough = evidence.enough(response, less, doubt=doubt)
        return evidence.needed(response, less, doubt=doubt) if enough is Direct.SHOWN else enough

    def _settled(self, response: Response, belief: Belief) -> bool:
        named = self._least(response, belief)
        everything = self.evidence.everything
        if not named:
            # What both ends seemed to show may not last.
            return belief.slower(everything, 0, math.log1p(response.tolerance))[1] <= self.policy.overlook
        return named != self._named(belief) or all(
            belief.slower(one, other, self.evidence.small(response))[1] <= self.policy.overlook
            for one, other in ((everything, named), (everything & ~named, 0))
        )

    def _check(self, beliefs: Mapping[Key, Belief]) -> int | None:
        """A subset that must still be booted before the boots themselves, no model between, say the same.

        What is named alone, everything but it, and what is named without one of it: were the rest enough and needed, that one would
        not be part of the *smallest* set.
        """
        if not beliefs or not all(self._settled(r, beliefs[r.key]) for r in self._confirmed()):
            return None
        evidence, doubt = self.evidence, self.policy.doubt
        for response in self._confirmed():
            named = self._least(response, beliefs[response.key])
            if evidence.enough(response, named, doubt=doubt) in (Direct.OPEN, Direct.UNLIKELY):
                return named
            if evidence.needed(response, named, doubt=doubt) in (Direct.OPEN, Direct.UNLIKELY):
                return evidence.everything & ~named
            for less in (named & ~(1 << unit) for unit in numbers(named)):
                if less and self._suffices(response, less) is Direct.OPEN:
                    alone = evidence.enough(response, less, doubt=self.policy.overlook) is Direct.OPEN
                    return less if alone else evidence.everything & ~less
        return None

    def _contradicted(self, response: Response, belief: Belief) -> bool:
        """Whether the boots themselves speak against the model: what is named is not all of it."""
        named, doubt = self._least(response, belief), self.policy.doubt
        said = (
            self.evidence.enough(response, named, doubt=doubt),
            self.evidence.needed(response, named, doubt=doubt),
        )
        return Direct.REFUTED in said

    def _hinge(self, beliefs: Mapping[Key, Belief]) -> frozenset[int] | None:
        """What to boot again because the answer rests on one boot of it: without that boot another set would be named.

        Something else may have slowed that boot, and some set of settings fits any one boot exactly.
        """
        for number, boot in enumerate(self._boots):
            if sum(other.applied == boot.applied for other in self._boots) >= self.pairs:
                continue
            without = self.copy()
            del without._boots[number]  # noqa: SLF001 - of its own class
            if any(
                self._rests_on(response, beliefs[response.key], without)
                for response in self._confirmed()
                if response.key in boot.values
            ):
                return boot.applied
        return None

    def _rests_on(self, response: Response, belief: Belief, without: Search) -> bool:
        other = without._belief(response)
        lost = any(other.involved[unit] <= 0.5 for unit in numbers(self._least(response, belief)))
        return lost or bool(without._certain(other) & ~self._certain(belief))

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
        return int(np.bitwise_or.reduce([0, *(self._least(r, beliefs[r.key]) for r in self._confirmed())]))

    def findings(self) -> Findings:
        """What is known now; also in the middle of a search, when time has run out."""
        complete = self._opening() is None
        confirmed = self._confirmed() if complete else ()
        beliefs = self._beliefs() if complete else {}
        answers = tuple(
            self._answer(response, beliefs[response.key])
            if response.key in beliefs
            else unconfirmed(response.key, self.evidence.difference(response), self.policy.confidence)
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
        elif (
            all(answer.settled for answer in answers if answer.confirmed)
            and self._check(beliefs) is None
            and not any(self._contradicted(response, beliefs[response.key]) for response in confirmed)
        ):
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
        named, evidence = self._least(response, belief), self.evidence
        without = self._units.everything - self._units.items_of(named)
        rest = evidence.likened(response, evidence.of(response, frozenset()), evidence.of(response, without))
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
