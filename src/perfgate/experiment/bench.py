"""What the judgement of one server works with, and what comes out of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perfgate.errors import BaselineError, PerfgateError
from perfgate.experiment.confirm import Confirmer
from perfgate.experiment.gate import Gate, Settled
from perfgate.experiment.lab import Lab
from perfgate.experiment.options import SuiteOptions
from perfgate.experiment.plans import Allowance, Cost, expected_minutes
from perfgate.noise import NoiseModel
from perfgate.records import Baseline, Measurement
from perfgate.selection import Catalogues, Target


class Positions:
    """Counts confirmations over all workers of a session, so that none of them spends another's share of the error.

    Args:
        worker: which of how many processes of the session this is.
    """

    def __init__(self, worker: tuple[int, int]) -> None:
        index, self._step = worker
        self.upcoming = index + 1
        """The how-manieth confirmation of the session the next one is."""

    def take(self) -> int:
        """The position of a confirmation that is made now."""
        self.upcoming += self._step
        return self.upcoming - self._step


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The session as a judgement sees it."""

    session: str
    options: SuiteOptions
    catalogues: Catalogues
    targets: Sequence[Target]
    """Every cell of the session: they share its error."""
    lab: Lab
    gate: Gate
    noise: NoiseModel | None
    announce: Callable[[str], None]
    positions: Positions

    @property
    def max_minutes(self) -> float:
        """Bound on everything beyond the screen."""
        return self.options.max_minutes or math.inf

    def confirmer(self) -> Confirmer:
        """Carries confirmations out."""
        return Confirmer(lab=self.lab, noise=self.noise, tell=self.announce)

    def allowance(self) -> Allowance:
        """The minutes of one server, beginning now."""
        return Allowance(minutes=self.max_minutes)

    def baselines(self, cells: Sequence[Target]) -> dict[str, Baseline]:
        """The stored baselines of these cells by workload; those that cannot be read are not among them."""
        found = {}
        for cell in cells:
            with contextlib.suppress(BaselineError):
                found[cell.cell.workload] = self.gate.store.read(cell.cell).baseline
        return found

    def cost(self, cells: Sequence[Target]) -> Cost:
        """What one more boot with these cells takes, by the boots of this session and of their baselines."""
        runs = sum(cell.workload.runs for cell in cells)
        stored = self.baselines(cells)
        known = len(stored) == len(cells)
        minutes = expected_minutes(
            ready_s=self.lab.boot_seconds,
            loaded_s=self.lab.loaded_seconds,
            stored=[one.boots for one in stored.values()] if known else [],
        )
        return Cost(replicate=minutes, runs=runs)


@dataclass
class Made:
    """What came out for one server: by workload the verdict, all measurements, or why there are none."""

    settled: dict[str, Settled] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    error: PerfgateError | None = None
