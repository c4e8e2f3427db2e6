"""Simulated suites: a history to learn the noise from, a stored baseline, a screen, and fresh pairs.

Every value is log(metric) of one replicate: cell + session + boot + run, with heavy outliers and boots in two states
where the scenario has them. Cells can also be resampled from recorded boots, whole boots and whole sessions, never
single runs. The gate sees only what it would see in a real suite; in particular its noise model is fitted anew from
each history, with the errors of a fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from perfgate.statistics.contrast import FloatArray
from perfgate.statistics.gate import Policy, Thresholds
from perfgate.statistics.planning import abba

#: Direction, tolerance and margin of the three metrics of a suite: tok/s, mean TPOT, mean TTFT.
DIRECTIONS = (-1.0, 1.0, 1.0)
TOLERANCES = (0.02, 0.02, 0.03)
MARGINS = (0.05, 0.05, 0.10)

Positions = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is true in a simulated suite.

    Attributes:
        sigma: s₀ of the class: standard deviation of one replicate, log units.
        slowdown: true slowdown of the first test, a fraction; 0 for a clean suite.
        at_margin: each metric of the first test is slower by exactly its margin instead.
        slowed: how many metrics of the first test the slowdown hits.
        outlier_share: probability that a replicate is hit by something that slows it by 5 to 50%.
        drift: τ of a session effect; within a session metrics also trend by as much from begin to end.
        slow_boot_share: probability that a boot comes up in its slow state.
        slow_boot_gap: how much slower that state is, a fraction.
        correlation: between the metrics of one test within a replicate.
        tests: cells of the suite.
        spread_df: cells differ in their variance like s₀² F: degrees of freedom of that spread.
        baseline: replicates of the stored baseline.
        history_sessions: sessions from which the noise model is fitted.
        history_boots: replicates per session and cell there.
    """

    sigma: float
    slowdown: float = 0.0
    at_margin: bool = False
    slowed: int = 3
    outlier_share: float = 0.0
    drift: float = 0.0
    slow_boot_share: float = 0.0
    slow_boot_gap: float = 0.0
    correlation: float = 0.5
    tests: int = 12
    spread_df: float = 20.0
    baseline: int = 5
    history_sessions: int = 4
    history_boots: int = 3

    @property
    def metrics(self) -> int:
        """Metrics per test."""
        return len(DIRECTIONS)

    def effect(self) -> FloatArray:
        """True slowdown of each metric of the first test, log units, shape (metrics,)."""
        sizes = np.asarray(MARGINS) if self.at_margin else np.full(self.metrics, self.slowdown)
        return np.where(np.arange(self.metrics) < self.slowed, np.log1p(sizes), 0.0)


class Cells(Protocol):
    """Where the values of N × T cells come from; slowdowns around 0, log units."""

    def replicates(self, count: int, rng: np.random.Generator, where: Positions | None = None) -> FloatArray:
        """Boots of one session: shape (N, T, M, count), or (K, M, count) at K positions."""

    def sessions(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Session effects: shape (N, T, M, count)."""

    def trend(self, rng: np.random.Generator, where: Positions) -> FloatArray | None:
        """Change over one session at K positions: shape (K, M); None for none."""


@dataclass(frozen=True, kw_only=True)
class SimulatedCells:
    """Cells of a scenario, with their own standard deviations of shape (N, T, M)."""

    scenario: Scenario
    deviation: FloatArray

    @classmethod
    def draw(cls, scenario: Scenario, suites: int, rng: np.random.Generator) -> SimulatedCells:
        """Draw the cells of N suites."""
        cells = (suites, scenario.tests, scenario.metrics)
        spread = rng.chisquare(scenario.spread_df, cells) / scenario.spread_df
        return cls(scenario=scenario, deviation=scenario.sigma / np.sqrt(spread))

    def replicates(self, count: int, rng: np.random.Generator, where: Positions | None = None) -> FloatArray:
        """See `Cells`."""
        scenario = self.scenario
        deviation = self.deviation if where is None else self.deviation[where]
        values = rng.standard_normal((*deviation.shape, count))
        shared = (*deviation.shape[:-1], 1, count)
        rho = scenario.correlation
        if rho > 0:
            values *= math.sqrt(1 - rho)
            values += math.sqrt(rho) * rng.standard_normal(shared)
        values *= deviation[..., None]
        if scenario.outlier_share > 0:
            hit = rng.random(shared) < scenario.outlier_share
            values += np.where(hit, np.log1p(rng.uniform(0.05, 0.5, shared)), 0.0)
        if scenario.slow_boot_share > 0:
            slow = rng.random(shared) < scenario.slow_boot_share
            values += np.where(slow, math.log1p(scenario.slow_boot_gap), 0.0)
        return values

    def sessions(self, count: int, rng: np.random.Generator) -> FloatArray:
        """See `Cells`; independent per metric and test, the hardest case for a suite of many."""
        shape = (*self.deviation.shape, count)
        if self.scenario.drift == 0:
            return np.zeros(shape)
        return self.scenario.drift * rng.standard_normal(shape)

    def trend(self, rng: np.random.Generator, where: Positions) -> FloatArray | None:
        """See `Cells`."""
        if self.scenario.drift == 0:
            return None
        return self.scenario.drift * rng.standard_normal((len(where[0]), self.scenario.metrics))


@dataclass(frozen=True, kw_only=True)
class RecordedPool:
    """Recorded boots of one class of cells, as slowdowns around their own cell and session.

    Attributes:
        boots: shape (P, M): a boot minus the mean of its session, scaled by √(n/(n−1)) for the mean it lost.
        sessions: shape (Q, M): a session mean minus the mean of its cell, scaled likewise, with the part that boots
            explain taken off; Q = 0 where no cell was measured in two sessions.
    """

    boots: FloatArray
    sessions: FloatArray


@dataclass(frozen=True, kw_only=True)
class RecordedCells:
    """Cells that resample recorded boots and sessions whole, with replacement.

    Attributes:
        pools: one a class.
        assignment: which pool each test draws from, shape (T,).
        suites: N.
    """

    pools: tuple[RecordedPool, ...]
    assignment: npt.NDArray[np.intp]
    suites: int

    def replicates(self, count: int, rng: np.random.Generator, where: Positions | None = None) -> FloatArray:
        """See `Cells`."""
        if where is None:
            shape: tuple[int, ...] = (self.suites, len(self.assignment))
            pool_of = np.broadcast_to(self.assignment, shape)
        else:
            pool_of = self.assignment[where[1]]
            shape = pool_of.shape
        return self._resampled([pool.boots for pool in self.pools], pool_of, shape, count, rng)

    def sessions(self, count: int, rng: np.random.Generator) -> FloatArray:
        """See `Cells`."""
        shape = (self.suites, len(self.assignment))
        pool_of = np.broadcast_to(self.assignment, shape)
        return self._resampled([pool.sessions for pool in self.pools], pool_of, shape, count, rng)

    def trend(self, rng: np.random.Generator, where: Positions) -> FloatArray | None:  # noqa: ARG002 - the protocol's
        """See `Cells`; whatever trends there were are in the recorded boots."""
        return None

    def _resampled(
        self,
        sources: list[FloatArray],
        pool_of: npt.NDArray[np.intp],
        shape: tuple[int, ...],
        count: int,
        rng: np.random.Generator,
    ) -> FloatArray:
        metrics = len(DIRECTIONS)
        values = np.zeros((*shape, metrics, count))
        for number, source in enumerate(sources):
            here = np.nonzero(pool_of == number)
            if len(source) and here[0].size:
                picked = source[rng.integers(len(source), size=(here[0].size, count))]
                values[here] = np.swapaxes(picked, -1, -2)
        return values


@dataclass(frozen=True, kw_only=True)
class Suites:
    """N suites of T tests × M metrics; arrays hold log(metric), last axis replicates.

    Attributes:
        cells: where more values come from.
        effect: true slowdown of the metrics of the first test, log units, shape (M,).
        history: shape (N, T, M, sessions, boots); noise is learnt from it.
        base: shape (N, T, M, baseline replicates).
        new: shape (N, T, M, fresh replicates); the screen uses the first, the looks those after the screen's.
    """

    cells: Cells
    effect: FloatArray
    history: FloatArray
    base: FloatArray
    new: FloatArray


def thresholds() -> Thresholds:
    """Those of the three metrics, shape (M,)."""
    return Thresholds(
        direction=np.asarray(DIRECTIONS), tolerance=np.log1p(TOLERANCES), margin=np.log1p(MARGINS)
    )


def draw(scenario: Scenario, cells: Cells, rng: np.random.Generator, policy: Policy) -> Suites:
    """Draw suites up to and including the screen and the looks, with the sizes and the effect of a scenario."""
    direction = np.asarray(DIRECTIONS)[:, None]
    fresh = policy.screen_replicates + policy.looks[-1]
    boots = scenario.history_sessions * scenario.history_boots
    values = cells.replicates(boots + scenario.baseline + fresh, rng)
    sessions = cells.sessions(scenario.history_sessions + 2, rng)
    shape = (*values.shape[:-1], scenario.history_sessions, scenario.history_boots)
    history = values[..., :boots].reshape(shape) + sessions[..., :-2, None]
    base = values[..., boots : boots + scenario.baseline] + sessions[..., -2:-1]
    new = values[..., boots + scenario.baseline :] + sessions[..., -1:]
    new[:, 0] += scenario.effect()[:, None]
    return Suites(
        cells=cells,
        effect=scenario.effect(),
        history=history * direction[..., None],
        base=base * direction,
        new=new * direction,
    )


def draw_pairs(
    suites: Suites, where: Positions, pairs: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Fresh interleaved pairs (A B B A …) in one session at K (suite, test) positions.

    Returns:
        Old and new side, each of shape (K, M, pairs).
    """
    values = suites.cells.replicates(2 * pairs, rng, where)
    # The session's level is the same on both sides; its trend is not, and the order has to cancel it.
    trend = suites.cells.trend(rng, where)
    if trend is not None:
        values = values + trend[..., None] * np.linspace(0.0, 1.0, 2 * pairs)
    order = np.asarray(abba(pairs))
    old, new = values[..., order == 0], values[..., order == 1]
    new = new + np.where(where[1] == 0, 1.0, 0.0)[:, None, None] * suites.effect[:, None]
    direction = np.asarray(DIRECTIONS)[:, None]
    return old * direction, new * direction
