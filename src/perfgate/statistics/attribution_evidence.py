"""What the boots of a search say by themselves, no explanation between: the totals, the noise, and whether one subset is like another."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfgate.statistics.attribution_units import Boot, Key, Units
from perfgate.statistics.interval import Difference, Prior, compare


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
        doubt: one-sided level at which the boots of a subset must speak for themselves.
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


class Direct(enum.Enum):
    """What a subset's own boots say of its being like another: no more than what is small lies between."""

    SHOWN = enum.auto()
    """They exclude more."""
    OPEN = enum.auto()
    """They do not tell yet."""
    UNLIKELY = enum.auto()
    """More is likelier than less so far."""
    UNKNOWN = enum.auto()
    """It does not boot, or as many boots as an end has could not exclude more."""
    REFUTED = enum.auto()
    """Nor is it to be expected: so many boots show that there is more."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The boots so far.

    Attributes:
        boots: all of them.
        units: what is told apart.
        policy: constants.
        pairs: how often both ends are booted.
    """

    boots: Sequence[Boot]
    units: Units
    policy: SearchPolicy
    pairs: int

    @property
    def everything(self) -> int:
        """The bits of all units."""
        return (1 << len(self.units.units)) - 1

    def of(self, response: Response, applied: frozenset[int]) -> list[float]:
        """Values of the boots with exactly these items applied."""
        key = response.key
        return [boot.values[key] for boot in self.boots if boot.applied == applied and key in boot.values]

    def ends(self, response: Response) -> tuple[list[float], list[float]]:
        """Values of the boots with nothing applied, and with everything."""
        return self.of(response, frozenset()), self.of(response, self.units.everything)

    def difference(self, response: Response) -> Difference:
        """How much slower everything applied is than nothing."""
        return self._compare(response, *self.ends(response), response.prior)

    def likened(self, response: Response, one: Sequence[float], other: Sequence[float]) -> Difference:
        """How much slower other boots are than some, either of which may be a single one."""
        return self._compare(response, one, other, self.prior(response))

    def _compare(
        self, response: Response, one: Sequence[float], other: Sequence[float], prior: Prior | None
    ) -> Difference:
        width = self.policy.winsor_width if response.prior is not None else None
        return compare(one, other, prior=prior, winsor_width=width)

    def prior(self, response: Response) -> Prior:
        """The spread of one boot that is assumed: the noise model's, or without one a weak guess from both ends."""
        return response.prior or _own_prior(*self.ends(response), self.effect(response))

    def level(self, response: Response) -> float:
        """The mean value of the boots with nothing applied, log units; 0 while there is none."""
        base, _ = self.ends(response)
        return float(np.mean(base)) if base else 0.0

    def total(self, response: Response) -> float:
        """That difference, log units; 0 while an end is missing."""
        return self.difference(response).estimate if all(self.ends(response)) else 0.0

    def effect(self, response: Response) -> float:
        """Spread of a setting's effect, log units: of the size of the total, or of the largest change that two boots agree on.

        Two settings that nearly cancel have effects far above their total.
        """
        level = self.level(response)
        apart = sorted(
            abs(boot.values[response.key] - level) for boot in self.boots if response.key in boot.values
        )
        largest = apart[-2] if len(apart) > 1 else 0.0
        return 0.7 * max(abs(self.total(response)), largest, 2 * math.log1p(response.tolerance))

    def small(self, response: Response) -> float:
        """A slowdown half-way between tolerance and margin, or a small share of a large total; log units."""
        half_way = math.sqrt(math.log1p(response.tolerance) * math.log1p(response.margin))
        return max(half_way, self.policy.small_share * self.total(response))

    def enough(self, response: Response, subset: int, *, doubt: float) -> Direct:
        """Whether everything applied is no slower than the subset alone, by the subset's own boots.

        Args:
            response: the metric.
            subset: bits of the units.
            doubt: one-sided level while there are fewer boots than an end has; with as many it is the policy's.
        """
        return self._like_end(response, subset, doubt, full=True)

    def needed(self, response: Response, subset: int, *, doubt: float) -> Direct:
        """Whether everything but the subset is no slower than nothing, by the own boots of just that."""
        return self._like_end(response, self.everything & ~subset, doubt, full=False)

    def _like_end(self, response: Response, subset: int, doubt: float, *, full: bool) -> Direct:
        applied = self.units.items_of(subset)
        if applied == (self.units.everything if full else frozenset()):
            return Direct.SHOWN
        own = self.of(response, applied)
        often = sum(boot.applied == applied for boot in self.boots) >= self.pairs
        unlikely, refuted = False, False
        if own:
            base, end = self.ends(response)
            left = self.likened(response, own, end) if full else self.likened(response, base, own)
            small = self.small(response)
            if left.p_less(small) <= (max(doubt, self.policy.doubt) if often else doubt):
                return Direct.SHOWN
            unlikely, refuted = left.estimate > small, left.p_greater(small) <= self.policy.doubt
        if not often and self.may_boot(subset):
            return Direct.UNLIKELY if unlikely else Direct.OPEN
        return Direct.REFUTED if refuted else Direct.UNKNOWN

    def may_boot(self, subset: int) -> bool:
        """Whether no failure says that the subset does not come up."""
        return self.units.may_boot([subset], self.boots)[0] > 0


def _own_prior(base: Sequence[float], full: Sequence[float], effect: float) -> Prior:
    """A weak prior where there is no noise model: one degree of freedom, at what the ends themselves scatter."""
    squares = sum(float(np.square(np.asarray(side) - np.mean(side)).sum()) for side in (base, full) if side)
    df = len(base) + len(full) - 2
    scatter = squares / df if df > 0 and squares > 0 else (effect / 4) ** 2
    return Prior(df=1.0, variance=max(scatter, 1e-8))
