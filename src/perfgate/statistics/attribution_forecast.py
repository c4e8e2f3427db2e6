"""What a search will probably cost and show, told before it starts: the search itself, on simulated boots."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from perfgate.statistics.attribution import Search
from perfgate.statistics.attribution_evidence import Response
from perfgate.statistics.attribution_units import Boot, Key
from perfgate.statistics.contrast import student_quantile

MOST_SIMULATED = 40
"""Boots after which a simulated search is not followed any further."""


def forecast(search: Search, times: int, rng: np.random.Generator) -> int:
    """Boots that the search still needs if one setting alone makes the difference: the mean over simulated searches.

    Args:
        search: with the boots so far; it is not changed.
        times: simulated searches, each with another setting at fault.
        rng: random numbers.
    """
    needed = []
    everything = range(search.items)
    for number in range(times):
        culprit = int(rng.integers(search.items)) if times < search.items else number % len(everything)
        trial = search.copy()
        before = len(trial.boots)
        levels = {response.key: trial.evidence.level(response) for response in search.responses}
        effects = {response.key: trial.evidence.total(response) for response in search.responses}
        spreads = {
            response.key: math.sqrt(trial.evidence.prior(response).variance) for response in search.responses
        }
        while len(trial.boots) - before < MOST_SIMULATED and (chosen := trial.next()) is not None:
            trial.add(
                Boot(applied=chosen, values=_simulated(culprit in chosen, levels, effects, spreads, rng))
            )
        needed.append(len(trial.boots) - before)
    return math.ceil(float(np.mean(needed)))


def smallest_effect(search: Search, response: Response, boots: int, *, power: float = 0.8) -> float:
    """The smallest effect of one setting, a fraction, that so many more boots name with that power.

    As in a balanced design, in which half of all boots have the setting: standard error 2σ/√N.
    """
    prior = search.evidence.prior(response)
    total = max(2, boots + len(search.boots))
    error = 2 * math.sqrt(prior.variance / total)
    level = search.policy.alpha / (search.items * len(search.responses))
    df = prior.df + max(1, total - 2 - search.items)
    reach = float(student_quantile(1 - level, df)) + float(student_quantile(power, df))
    return math.expm1(max(reach * error, math.log1p(response.tolerance)))


def _simulated(
    slow: bool,
    levels: Mapping[Key, float],
    effects: Mapping[Key, float],
    spreads: Mapping[Key, float],
    rng: np.random.Generator,
) -> dict[Key, float]:
    return {
        key: levels[key] + slow * effect + spreads[key] * float(rng.standard_normal())
        for key, effect in effects.items()
    }
