"""Stored measurements: of a baseline file, a folder of baselines, a results file, or the newest of a folder of results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perfgate.baseline.document import BASELINE, decode_baseline
from perfgate.documents import read_bytes
from perfgate.errors import InputError
from perfgate.noise import FILE_NAME
from perfgate.records import Measurement, SessionResults
from perfgate.results import newest, read_results
from perfgate.selection import Catalogues, user_files
from perfgate.targets import GpuSpec

Side = Literal["now", "old"]

DEPTH = 4
"""Levels of a folder of baselines: GPU, model, server, and the files."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A measurement, and the file that it is in."""

    measurement: Measurement
    file: Path


def read_stored(path: Path, *, side: Side | None = None) -> tuple[Stored, ...]:
    """The measurements in a file or folder.

    Args:
        path: a baseline or results file; a folder whose newest file is results; or a folder of baselines, such as ``baselines`` or one
            below it.
        side: of a session with A/Bs only this side of them; the old sides are left out where not given.

    Raises:
        InputError: nothing there.
        BaselineError: a baseline that cannot be used.
        ResultsError: results that cannot be used.
    """
    if not path.is_dir():
        return tuple(_of_file(path, side))
    if any(path.glob("[!.]*.json")) and _is_session(newest(path)):
        return tuple(_of_file(newest(path), side))
    files = [
        file
        for depth in range(DEPTH)
        for file in sorted(path.glob("*/" * depth + "*.json"))
        if file.name != FILE_NAME and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        raise InputError(
            f"{path}: no baseline and no results file in this folder",
            remedy="Give a folder of baselines (baselines/), a folder of results (.perfgate/results), or a file of either.",
        )
    return tuple(stored for file in files for stored in _of_file(file, side))


def cell_names(stored: Sequence[Stored]) -> str:
    """The cells in words, not without end."""
    names = sorted({str(one.measurement.cell) for one in stored})
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "no measurement"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Margins and tolerances of stored measurements, as the catalogues here have them."""

    gpus: Mapping[str, GpuSpec]

    @classmethod
    def load(cls, given: Sequence[Path]) -> Limits:
        """From the shipped catalogue with the user's file over it.

        Args:
            given: instead of ``perfgate.toml`` in the working directory.

        Raises:
            CatalogueError: a mistake in one of them.
        """
        for file in given:
            if not file.is_file():
                raise InputError(f"--perfgate-config {file}: no such file", remedy="Give a perfgate.toml.")
        gpus = Catalogues.load(user_files(Path(), given)).gpus
        return cls(gpus={name: entry.parse(GpuSpec) for name, entry in gpus.items()})

    def margins(self, measurement: Measurement) -> dict[str, float]:
        """By metric: the workload's own over the GPU entry's; none where the GPU has no entry here."""
        gpu = self.gpus.get(measurement.cell.gpu)
        return {**(gpu.margins if gpu else {}), **measurement.workload.get("margins", {})}

    def tolerances(self, measurement: Measurement) -> dict[str, float]:
        """By metric, the GPU entry's."""
        gpu = self.gpus.get(measurement.cell.gpu)
        return dict(gpu.tolerances) if gpu else {}


def _of_file(path: Path, side: Side | None) -> Iterator[Stored]:
    try:
        content = read_bytes(path, kind=BASELINE)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file", remedy="Give a baseline or results file that exists."
        ) from None
    if _has_session(content):
        for measurement in _present(read_results(path), side):
            yield Stored(measurement=measurement, file=path)
        return
    baseline = decode_baseline(content, source=str(path))
    yield Stored(
        measurement=Measurement(
            cell=baseline.cell,
            fingerprint=baseline.fingerprint,
            server=baseline.server,
            workload=baseline.workload,
            boots=baseline.boots,
        ),
        file=path,
    )


def _is_session(path: Path) -> bool:
    return _has_session(read_bytes(path, kind=BASELINE))


def _has_session(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except ValueError:
        return False
    return isinstance(document, dict) and "session" in document


def _present(results: SessionResults, side: Side | None) -> tuple[Measurement, ...]:
    """What was judged in a session: of several stages of a cell the first, its screen; of one side of its A/Bs the last."""
    of_ab = side is not None and any(one.side == "old" for one in results.measurements)
    stages = [one for one in results.measurements if one.side == (side if of_ab else "now")]
    first: dict[str, Measurement] = {}
    for measurement in reversed(stages) if of_ab else stages:
        first.setdefault(str(measurement.cell), measurement)
    return tuple(first.values())
