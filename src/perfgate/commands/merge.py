"""``perfgate merge``: the sessions of several machines as one, for one report."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfgate.errors import ResultsConflictError, ResultsError, ResultsMissingError
from perfgate.findings import Findings
from perfgate.records import Cell, CellVerdict, Measurement, SessionResults
from perfgate.results import read_results, write_file

HELP = "join the results of several sessions (a matrix of machines, say) in one file"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One session and the path that it was read from."""

    path: Path
    results: SessionResults

    def about(self, cell: Cell) -> tuple[tuple[Measurement, ...], tuple[CellVerdict, ...]]:
        """What this session says about the cell."""
        return (
            tuple(measurement for measurement in self.results.measurements if measurement.cell == cell),
            tuple(verdict for verdict in self.results.verdicts if verdict.cell == cell),
        )

    def cells(self) -> list[Cell]:
        """The cells it says anything about."""
        measured = (measurement.cell for measurement in self.results.measurements)
        judged = (verdict.cell for verdict in self.results.verdicts)
        return list(dict.fromkeys([*measured, *judged]))


def merge(sources: Sequence[Source], *, newest: bool = False) -> SessionResults:
    """Joins sessions; the order of the sources does not matter.

    A cell comes from one session. Where several have it and say the same it is taken once; where they differ that is a conflict,
    because a verdict belongs to the measurement it was made from and the two cannot be averaged after the fact.

    Args:
        sources: at least one session.
        newest: take a cell from the session that started last instead of refusing.

    Raises:
        ResultsConflictError: two sessions differ about a cell; both files and all such cells are named.
    """
    ordered = sorted(sources, key=lambda source: (source.results.started, source.results.session))
    owner: dict[Cell, Source] = {}
    conflicts: dict[Cell, tuple[Source, Source]] = {}
    for source in ordered:
        for cell in source.cells():
            other = owner.get(cell)
            if other is not None and other.about(cell) != source.about(cell):
                conflicts.setdefault(cell, (other, source))
            if other is None or newest:
                owner[cell] = source
    if conflicts and not newest:
        lines = [f"  {cell}: {one.path} and {two.path}" for cell, (one, two) in conflicts.items()]
        raise ResultsConflictError(
            "\n".join([f"{len(conflicts)} cells were measured by more than one session:", *lines]),
            remedy="Leave one of the files out, or add --newest to take each cell from the session that started last.",
        )
    cells = sorted(owner, key=str)
    sessions = sorted({source.results.session for source in sources})
    return SessionResults(
        session="merged-" + hashlib.sha256("\n".join(sessions).encode()).hexdigest()[:12],
        started=ordered[0].results.started,
        command="\n".join(dict.fromkeys(source.results.command for source in ordered)),
        perfgate=", ".join(sorted({source.results.perfgate for source in sources})),
        measurements=tuple(item for cell in cells for item in owner[cell].about(cell)[0]),
        verdicts=tuple(item for cell in cells for item in owner[cell].about(cell)[1]),
        findings=_findings(ordered),
    )


def _findings(ordered: Sequence[Source]) -> Findings:
    """Those of all sessions; what two of them say alike is taken once."""
    every = sum((source.results.findings for source in ordered), Findings())
    return Findings(
        claims=tuple(dict.fromkeys(every.claims)),
        sweeps=tuple(dict.fromkeys(every.sweeps)),
        changes=tuple(dict.fromkeys(every.changes)),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sources and the file to write."""
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="results file, or a folder for its newest one",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--newest",
        action="store_true",
        help="where sessions differ about a cell, take the one that started last",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the joined file, once all sources are read.

    Returns:
        0.

    Raises:
        ResultsError: a source that cannot be read, a conflict, or an output that is something other than results.
    """
    merged = merge(
        [Source(path=path, results=read_results(path)) for path in args.results], newest=args.newest
    )
    _check_output(args.output)
    write_file(args.output, merged)
    sys.stdout.write(
        f"{args.output}: {len(merged.verdicts)} verdicts, {len(merged.measurements)} measurements "
        f"from {len(args.results)} sessions\n"
    )
    return 0


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ResultsConflictError(f"{path}: is a folder", remedy="Give the path of a file as --output.")
    try:
        read_results(path)
    except ResultsMissingError:
        return
    except ResultsError as error:
        raise ResultsConflictError(
            f"{path}: exists and is no results file, so it was not replaced",
            remedy="Choose another --output.",
        ) from error
