"""Where a session's baselines and noise model are.

A CPU baseline belongs to one machine, so it is written to the machine's own folder; a GPU's is written to the project's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import perfgate
from perfgate.baseline import BaselineStore, DirectoryStore, LayeredStore, ReadOnlyStore
from perfgate.errors import NoiseError, NoiseMissingError, PerfgateError
from perfgate.noise import NoiseModel, fit, noise_path, read_noise, write_noise
from perfgate.results import read_results
from perfgate.selection import CPU

WORK = Path(".perfgate")
BASELINES = Path("baselines")

Announce = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders of one GPU entry in one project."""

    root: Path
    gpu: str
    given: Path | None = None
    """``--baselines``: the one folder that is read and written."""

    def folders(self) -> tuple[Path, ...]:
        """Folders of baselines in the order in which they are read; the first is written."""
        if self.given is not None:
            return (self.given,)
        project, own = self.root / BASELINES, self.root / WORK / BASELINES
        return (own, project) if self.gpu == CPU else (project,)

    def store(self) -> BaselineStore:
        """The baselines of these folders."""
        first, *others = self.folders()
        if not others:
            return DirectoryStore(first)
        return LayeredStore(
            DirectoryStore(first), *(ReadOnlyStore(DirectoryStore(other)) for other in others)
        )

    def noise(self, announce: Announce) -> NoiseModel | None:
        """The noise model of the GPU, or None; one that cannot be read is announced."""
        for folder in self.folders():
            try:
                return read_noise(noise_path(folder, self.gpu))
            except NoiseMissingError:
                continue
            except NoiseError as error:
                announce(f"the noise model is not used: {error}")
        return None

    def fit_noise(self, results: Path, announce: Announce) -> None:
        """Fits the noise model from all sessions in a folder of results; why none could be fitted is announced."""
        sessions = []
        for file in sorted(results.glob("*.json")):
            try:
                sessions.append(read_results(file))
            except PerfgateError as error:
                announce(f"left out of the noise model: {error.message}")
        try:
            model = fit(sessions, self.gpu, at=datetime.now(UTC), version=perfgate.__version__)
            write_noise(noise_path(self.folders()[0], self.gpu), model)
            for states in model.two_states:
                announce(str(states))
        except NoiseError as error:
            announce(f"no noise model was fitted: {error}")
