"""What the gate's error rates are: scenarios, tallies over simulated suites, and Monte-Carlo intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy import special

from perfgate.statistics.contrast import FloatArray
from perfgate.statistics.gate import Policy
from perfgate.statistics.replay import replay
from perfgate.statistics.rivals import RIVALS
from perfgate.statistics.simulation import (
    DIRECTIONS,
    Cells,
    RecordedCells,
    RecordedPool,
    Scenario,
    SimulatedCells,
    draw,
)

Counts = npt.NDArray[np.int64]

#: Suites simulated at once: small enough for the caches, large enough for numpy.
CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts over simulated suites; tallies of one scenario add up.

    Attributes:
        suites: simulated.
        confirmations: cells that went to a confirmation.
        pairs: pairs of boots measured in confirmations.
        look_boots: fresh boots measured by looks instead.
        alarms: suites with a false REGRESSION (in the first test only where it is clean).
        online_alarms: likewise, with each test judged at once.
        look_alarms: likewise, with looks instead of pairs.
        rival_alarms: likewise for each rival, in the order of `RIVALS`.
        found: suites whose slowed first test has a REGRESSION.
        online_found: likewise, with each test judged at once and the slowed one last.
        look_found: likewise, with looks.
        rival_found: likewise for each rival.
        metric_found: per metric of the first test.
        metric_suspect: per metric of the first test, by the screen.
        metric_passed: per metric of the first test: a false pass where the slowdown is the margin.
        look_passed: per metric of the first test, with looks.
        clean_passed: per metric, clean cells that passed.
        clean_cells: cells behind ``clean_passed``.
    """

    suites: int
    confirmations: int
    pairs: int
    look_boots: int
    alarms: int
    online_alarms: int
    look_alarms: int
    rival_alarms: Counts
    found: int
    online_found: int
    look_found: int
    rival_found: Counts
    metric_found: Counts
    metric_suspect: Counts
    metric_passed: Counts
    look_passed: Counts
    clean_passed: Counts
    clean_cells: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def tally(
    scenario: Scenario,
    suites: int,
    seed: tuple[int, ...],
    *,
    policy: Policy,
    pairs: int | None = None,
    recorded: tuple[RecordedPool, ...] | None = None,
) -> Tally:
    """Run the whole gate and its rivals on ``suites`` suites drawn from one seed.

    Args:
        scenario: what is true.
        suites: how many.
        seed: of the random numbers; the same seed gives the same suites whoever computes them.
        policy: constants of the gate.
        pairs: this many pairs per confirmation instead of as many as planned.
        recorded: resample these boots instead of simulating cells.
    """
    rng = np.random.default_rng(seed)
    cells: Cells
    if recorded is None:
        cells = SimulatedCells.draw(scenario, suites, rng)
    else:
        assignment = np.arange(scenario.tests) % len(recorded)
        cells = RecordedCells(pools=recorded, assignment=assignment, suites=suites)
    drawn = draw(scenario, cells, rng, policy)
    result = replay(drawn, rng, policy, pairs=pairs)
    slowed = bool(drawn.effect.any())
    rivals = [rule(drawn) for rule in RIVALS.values()]

    def alarms(flags: npt.NDArray[np.bool_]) -> int:
        return int(flags[:, slowed:].any(axis=(1, 2)).sum())

    def found(flags: npt.NDArray[np.bool_]) -> int:
        return int(flags[:, 0].any(axis=-1).sum()) if slowed else 0

    def first(flags: npt.NDArray[np.bool_]) -> Counts:
        return np.asarray(flags[:, 0].sum(axis=0), dtype=np.int64)

    return Tally(
        suites=suites,
        confirmations=int((result.pairs > 0).sum()),
        pairs=int(result.pairs.sum()),
        look_boots=int(result.look_replicates.sum()),
        alarms=alarms(result.regression),
        online_alarms=alarms(result.online_regression),
        look_alarms=alarms(result.look_regression),
        rival_alarms=np.asarray([alarms(flags) for flags in rivals], dtype=np.int64),
        found=found(result.regression),
        online_found=found(result.online_regression),
        look_found=found(result.look_regression),
        rival_found=np.asarray([found(flags) for flags in rivals], dtype=np.int64),
        metric_found=first(result.regression),
        metric_suspect=first(result.suspect),
        metric_passed=first(result.passed),
        look_passed=first(result.look_passed),
        clean_passed=np.asarray(result.passed[:, slowed:].sum(axis=(0, 1)), dtype=np.int64),
        clean_cells=suites * (scenario.tests - slowed),
    )


def binomial_interval(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson interval of a probability: what the Monte-Carlo error leaves open."""
    if of < 1:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(special.betaincinv(count, of - count + 1, tail))
    high = 1.0 if count == of else float(special.betaincinv(count + 1, of - count, 1 - tail))
    return low, high


def best_power(
    sigma: float, effect: float, *, baseline: int, pairs: int, policy: Policy, screen: int
) -> float:
    """Upper bound of the power on one metric: variance known, no drift, no outliers, nothing else to correct for.

    Args:
        sigma: standard deviation of one replicate, log units.
        effect: true slowdown, log units.
        baseline: stored replicates.
        pairs: fresh pairs.
        policy: its two levels.
        screen: fresh replicates of the screen.
    """

    def power(error: float, alpha: float) -> float:
        return float(special.ndtr(effect / error - special.ndtri(1 - alpha)))

    screened = power(sigma * math.sqrt(1 / screen + 1 / baseline), policy.screen_alpha)
    return screened * power(sigma * math.sqrt(2 / pairs), policy.alpha)


def pools_from(groups: Mapping[str, Mapping[str, Mapping[str, FloatArray]]]) -> tuple[RecordedPool, ...]:
    """Pools of recorded boots: class → cell → session → boot means of shape (boots, M) as log(metric).

    Boots stay whole, so the correlation between metrics of one boot is kept; a session with one boot gives none.
    """
    pools: list[RecordedPool] = []
    for cells in groups.values():
        boots: list[FloatArray] = []
        sessions: list[FloatArray] = []
        for by_session in cells.values():
            means = np.asarray([values.mean(axis=0) for values in by_session.values()])
            boots += [_residuals(values) for values in by_session.values() if len(values) > 1]
            if len(means) > 1:
                sessions.append(_residuals(means))
        if not boots:
            continue
        size = np.mean([len(values) for by_session in cells.values() for values in by_session.values()])
        pooled = np.concatenate(boots)
        pools.append(
            RecordedPool(
                boots=pooled * np.asarray(DIRECTIONS),
                sessions=_without_boots(sessions, pooled, float(size)) * np.asarray(DIRECTIONS),
            )
        )
    return tuple(pools)


def _residuals(values: FloatArray) -> FloatArray:
    """Rows around their mean, scaled so that their variance is unbiased."""
    centred: FloatArray = values - values.mean(axis=0)
    return centred * math.sqrt(len(values) / (len(values) - 1))


def _without_boots(sessions: list[FloatArray], boots: FloatArray, size: float) -> FloatArray:
    """Session effects shrunk to the variance that the boots of a session do not explain."""
    if not sessions:
        return np.zeros((0, boots.shape[1]))
    raw = np.concatenate(sessions)
    observed = np.square(raw).mean(axis=0)
    explained = np.square(boots).mean(axis=0) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        shrink: FloatArray = np.where(observed > 0, np.sqrt(np.maximum(0.0, 1 - explained / observed)), 0.0)
    return np.asarray(raw * shrink)
