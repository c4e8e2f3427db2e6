"""What is told apart in a search: single settings, settings kept together, bundles that are opened later; and what failures to boot say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

Key = tuple[str, str]

FAILURES_UNTIL_SURE = 2
"""Times that a subset must fail, and never come up, before it counts as one that does not boot."""
FAILURES_UNTIL_MERGED = 3
"""Failed boots after which the likeliest pair is kept together, although others would explain the failures too."""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """One boot of a search.

    Attributes:
        applied: the items that were applied.
        values: log(metric) as a slowdown (larger is slower) by metric; empty where it did not come up or cannot be believed.
        failed: it did not come up.
    """

    applied: frozenset[int]
    values: Mapping[Key, float] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Units:
    """Items by unit. A unit is applied as a whole or not at all.

    Attributes:
        units: the items of each.
        everything: all items of the search.
        fixed: units that must stay together; another unit of several items is a bundle that can be opened.
        merged: those of them that failures to boot put together.
    """

    units: tuple[tuple[int, ...], ...]
    everything: frozenset[int]
    fixed: frozenset[tuple[int, ...]] = frozenset()
    merged: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, items: int, groups: Sequence[Sequence[int]], *, most: int) -> Units:
        """Each group is a unit, each other item one of its own; where that is more than ``most``, neighbours are bundled.

        Raises:
            ValueError: no item, an item in two groups, or one that does not exist.
        """
        grouped = [item for group in groups for item in group]
        if items < 1 or len(set(grouped)) != len(grouped) or not set(grouped) <= set(range(items)):
            raise ValueError("a search has at least one item, and each is in at most one group")
        fixed = [tuple(sorted(group)) for group in groups if group]
        units = sorted([*fixed, *((item,) for item in range(items) if item not in grouped)])
        return cls(
            units=_bundled(units, most),
            everything=frozenset(range(items)),
            fixed=frozenset(group for group in fixed if len(group) > 1),
        )

    def items_of(self, mask: int) -> frozenset[int]:
        """The items of a subset of units."""
        return frozenset(
            item for number, unit in enumerate(self.units) if mask >> number & 1 for item in unit
        )

    def mask(self, applied: Collection[int]) -> int | None:
        """The subset of units that a boot had applied; None where it parted one."""
        found = 0
        for number, unit in enumerate(self.units):
            inside = sum(item in applied for item in unit)
            if inside not in (0, len(unit)):
                return None
            found |= bool(inside) << number
        return found

    def rows(self, boots: Sequence[Boot], key: Key) -> tuple[list[int], list[float], list[float]]:
        """Subsets, values and times (tens of boots) of the boots that count for one metric."""
        found = [
            (mask, boot.values[key], number / 10)
            for number, boot in enumerate(boots)
            if key in boot.values and (mask := self.mask(boot.applied)) is not None
        ]
        subsets, values, times = zip(*found, strict=True) if found else ((), (), ())
        return list(subsets), list(values), list(times)

    def narrowed(self, responsible: int, *, most: int) -> Units | None:
        """The bundles among the responsible units opened, the units that are not responsible left away.

        Where that leaves more than ``most``, neighbours are bundled again; None where nothing would be told apart that was not before.
        """
        chosen = [unit for number, unit in enumerate(self.units) if responsible >> number & 1]
        bundles = [unit for unit in chosen if len(unit) > 1 and unit not in self.fixed]
        if not bundles:
            return None
        inner = [piece for unit in chosen for piece in (self._pieces(unit) if unit in bundles else [unit])]
        units = _bundled(inner, most)
        return replace(self, units=units) if set(units) != set(chosen) else None

    def _pieces(self, unit: tuple[int, ...]) -> list[tuple[int, ...]]:
        together = [group for group in self.fixed if set(group) <= set(unit)]
        held = {item for group in together for item in group}
        return sorted([*together, *((item,) for item in unit if item not in held)])

    def may_boot(self, masks: Sequence[int], boots: Sequence[Boot]) -> list[float]:
        """How probable it is that each subset boots, from the failures so far; 0 where it has failed already.

        A failure says that some unit inside the subset needs one outside. Every pair that a boot which came up has not ruled out is
        as likely as the others.
        """
        suspects = self._suspects(boots)
        chances = []
        for mask in masks:
            chance = 1.0
            for failed, pairs in suspects:
                broken = sum(
                    bool(mask >> inside & 1) and not mask >> outside & 1 for inside, outside in pairs
                )
                chance *= 0.0 if failed == mask else 1 - broken / len(pairs) if pairs else 1.0
            chances.append(chance)
        return chances

    def after_failures(self, boots: Sequence[Boot]) -> Units:
        """The units with those merged that failures to boot have shown to belong together."""
        found = self
        while True:
            suspects = [(failed, pairs) for failed, pairs in found._suspects(boots) if pairs]
            certain = next((pairs[0] for _, pairs in suspects if len(pairs) == 1), None)
            if certain is None and len(suspects) >= FAILURES_UNTIL_MERGED:
                counted: dict[tuple[int, int], int] = {}
                for _, pairs in suspects:
                    for pair in pairs:
                        counted[pair] = counted.get(pair, 0) + 1
                certain = max(counted, key=lambda pair: counted[pair])
            if certain is None:
                return found
            found = found._merged(*certain)

    def _merged(self, one: int, other: int) -> Units:
        both = tuple(sorted((*self.units[one], *self.units[other])))
        gone = {self.units[one], self.units[other]}
        units = tuple(sorted([*(unit for unit in self.units if unit not in gone), both]))
        return replace(
            self,
            units=units,
            fixed=frozenset({*(self.fixed - gone), both}),
            merged=(*(unit for unit in self.merged if unit not in gone), both),
        )

    def _suspects(self, boots: Sequence[Boot]) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
        """For each failed subset the pairs (inside, outside) of units that may have made it fail."""
        if not any(boot.failed for boot in boots):
            return []
        up = {mask for boot in boots if not boot.failed and (mask := self.mask(boot.applied)) is not None}
        down = Counter(
            mask for boot in boots if boot.failed and (mask := self.mask(boot.applied)) is not None
        )
        failed = {mask for mask, times in down.items() if times >= FAILURES_UNTIL_SURE and mask not in up}
        found = []
        for mask in sorted(failed):
            pairs = tuple(
                (inside, outside)
                for inside in range(len(self.units))
                for outside in range(len(self.units))
                if mask >> inside & 1
                and not mask >> outside & 1
                and not any(fine >> inside & 1 and not fine >> outside & 1 for fine in up)
            )
            found.append((mask, pairs))
        return found


def _bundled(units: Sequence[tuple[int, ...]], most: int) -> tuple[tuple[int, ...], ...]:
    if len(units) <= most:
        return tuple(units)
    size, larger = divmod(len(units), most)
    bundles, begin = [], 0
    for number in range(most):
        end = begin + size + (number < larger)
        bundles.append(tuple(item for unit in units[begin:end] for item in unit))
        begin = end
    return tuple(bundles)
