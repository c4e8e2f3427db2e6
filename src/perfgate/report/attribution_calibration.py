"""The tables of ``perfgate calibrate --attribution``: how often a search names the right settings, and its boots beside other designs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfgate.statistics.attribution_simulation import MOST_REPLICATES, Searched, World
from perfgate.statistics.calibration import binomial_interval


@dataclass(frozen=True, kw_only=True)
class Tried:
    """All simulated searches of one world.

    Attributes:
        world: what was true.
        searches: each.
        one_at_a_time: replicates with which one setting at a time is right as often as wanted, as `replicates_needed` has them.
        full_factorial: likewise for all subsets.
    """

    world: World
    searches: tuple[Searched, ...]
    one_at_a_time: int | None = None
    full_factorial: int | None = None


def document(results: Sequence[Tried], *, times: int, seed: int) -> str:
    """The tables as Markdown.

    Args:
        results: one a world, in the order to be shown.
        times: searches of each.
        seed: of the random numbers.
    """
    header = (
        "| settings | σ | truth | right set | undecided | wrong set | an innocent one named | A/B confirms | boots: search "
        "| with the A/B, mean | 90% below | one at a time | full factorial |\n|--:|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    lines = [
        f"{times} searches a row (`perfgate calibrate --attribution --suites {times} --seed {seed}`), brackets are 95% intervals of the "
        "simulation's own error (Clopper–Pearson).",
        "",
        header,
    ]
    return "\n".join([*lines, *map(_row, results)]) + "\n"


def _row(tried: Tried) -> str:
    world = tried.world
    nothing = world.kind == "none"
    searched = [one for one in tried.searches if one.confirmed or nothing]
    right = sum(one.right for one in searched)
    undecided = sum(not one.finished for one in searched)
    innocent = sum(one.innocent for one in searched)
    confirmed = sum(one.confirmed for one in tried.searches)
    boots = np.asarray([one.boots for one in searched]) if searched else np.zeros(1)
    ends = searched[0].ends if searched else 0
    noise = f"{world.sigma * 100:g}%" + (
        f", {world.outlier_share:.0%} outliers" if world.outlier_share else ""
    )
    truth = "none" if nothing else f"{world.kind}, +{world.size:.0%}"
    count = 1 << world.settings
    cells = (
        str(world.settings),
        noise,
        truth,
        _rate(right, len(searched)),
        _share(undecided, len(searched)),
        _share(len(searched) - right - undecided, len(searched)),
        _share(innocent, len(searched)),
        f"{confirmed / len(tried.searches):.1%}",
        f"{max(0.0, float(boots.mean()) - ends):.1f}",
        f"{boots.mean():.1f}",
        f"{np.percentile(boots, 90):.0f}",
        "" if nothing else _boots(tried.one_at_a_time, world.settings + 1),
        "" if nothing else _boots(tried.full_factorial, count),
    )
    return f"| {' | '.join(cells)} |"


def _boots(replicates: int | None, each: int) -> str:
    if replicates is None:
        return "never"
    return f"over {MOST_REPLICATES * each}" if replicates > MOST_REPLICATES else str(replicates * each)


def _share(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else ""


def _rate(count: int, of: int) -> str:
    if not of:
        return "none searched"
    low, high = binomial_interval(count, of)
    return f"{count / of:.1%} [{low:.1%}, {high:.1%}]"
