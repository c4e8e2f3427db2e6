"""What the judgement of one server works with, and what comes out of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from perfgate.errors import PerfgateError
from perfgate.experiment.confirm import Budget, Confirmer
from perfgate.experiment.gate import Gate, Settled
from perfgate.experiment.lab import Lab
from perfgate.experiment.options import SuiteOptions
from perfgate.noise import NoiseModel
from perfgate.records import Measurement
from perfgate.selection import Catalogues, Target


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
    positions: Iterator[int]
    """The how-manieth confirmation of the session the next one is."""

    @property
    def max_minutes(self) -> float:
        """Bound on everything beyond the screen."""
        return self.options.max_minutes or math.inf

    def confirmer(self) -> Confirmer:
        """Carries confirmations out."""
        return Confirmer(lab=self.lab, noise=self.noise, tell=self.announce)

    def budget(self, pairs: int | None) -> Budget:
        """What a confirmation may cost, as far as boots and runs took until now."""
        return Budget(
            boot_minutes=_mean(self.lab.boot_seconds) / 60,
            run_minutes=_mean(self.lab.run_seconds) / 60,
            pairs=pairs if pairs is not None else self.targets[0].gpu.pairs,
            max_minutes=self.max_minutes,
        )


@dataclass
class Made:
    """What came out for one server: by workload the verdict, all measurements, or why there are none."""

    settled: dict[str, Settled] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    error: PerfgateError | None = None


def positions(worker: tuple[int, int]) -> Iterator[int]:
    """Counts confirmations over all workers of a session, so that none of them spends another's share of the error.

    Args:
        worker: which of how many processes of the session this is.
    """
    index, count = worker
    return itertools.count(index + 1, count)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
