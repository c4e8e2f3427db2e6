"""``perfgate history``: the lines of past sessions, where they changed, and which baselines are due for a new recording."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from perfgate.baseline import DirectoryStore, LayeredStore
from perfgate.errors import BaselineError, BaselineMissingError
from perfgate.metrics import METRICS, metric
from perfgate.records import Cell
from perfgate.report import trends, values
from perfgate.report.escape import visible
from perfgate.results import read_results

if TYPE_CHECKING:  # SQLAlchemy and scipy take a second to import, which no other subcommand should pay.
    from perfgate.history import Line, Series

HELP = "show past sessions as lines: levels, change points, slow drift, age of baselines"
LOCATION = Path(".perfgate") / "history.sqlite"
BARS = "▁▂▃▄▅▆▇█"
BAR_SESSIONS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which history, which lines, and sessions to add."""
    parser.add_argument(
        "--history",
        default=str(LOCATION),
        metavar="FILE|URL",
        help=f"SQLite file or postgresql:// URL (default: {LOCATION})",
    )
    parser.add_argument(
        "--add",
        nargs="+",
        type=Path,
        default=[],
        metavar="RESULTS",
        help="add these results files first (sessions already kept are replaced)",
    )
    for name in ("gpu", "model", "server", "workload"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only this {name}")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="only this metric, or 'all'; repeatable (default: the primary ones)",
    )
    parser.add_argument("--last", type=_positive, metavar="N", help="only the newest N sessions of each line")
    parser.add_argument(
        "--baselines",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="folder of baselines to advise on (default: .perfgate/baselines and baselines)",
    )


def run(args: argparse.Namespace) -> int:
    """Adds what was asked for, then prints the lines by cell.

    Returns:
        0.

    Raises:
        HistoryError: there is no history, or it cannot be read or added to.
        ResultsError: a file to add cannot be read; nothing was added then.
    """
    from perfgate.history import History, line

    history = History(args.history)
    sessions = [read_results(path) for path in args.add]
    for session in sessions:
        added = history.append(session)
        sys.stdout.write(f"added session {visible(session.session)}: {added} points\n")
    lines = history.series(
        gpu=args.gpu,
        model=args.model,
        server=args.server,
        workload=args.workload,
        metrics=_metrics(args.metric),
        limit=args.last,
    )
    if not lines:
        sys.stdout.write(f"{history.location}: no session has such a cell or metric\n")
    store = LayeredStore(
        *map(DirectoryStore, args.baselines or [Path(".perfgate/baselines"), Path("baselines")])
    )
    for (cell, hardware), group in groupby(
        sorted(lines, key=_place), key=lambda item: (item.cell, item.hardware)
    ):
        of_cell = list(group)
        sys.stdout.write(f"\n{cell}  ({visible(hardware)})\n")
        for words in (*_shown([line(series) for series in of_cell]), *_advice(store, cell, of_cell)):
            sys.stdout.write(f"  {words}\n")
    return 0


def _positive(given: str) -> int:
    number = int(given) if given.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number of sessions (1 or more)")
    return number


def _metrics(given: Sequence[str]) -> list[str]:
    if "all" in given:
        return []
    # Metrics of the boot are not in the table, and a history may hold them all the same: only what cannot be one is refused.
    for name in given:
        if not name.isidentifier():
            metric(name)
    return list(given) or [name for name, known in METRICS.items() if known.primary]


def _place(series: Series) -> tuple[str, str, str]:
    return (str(series.cell), series.hardware, series.metric)


def _shown(lines: Iterable[Line]) -> Iterable[str]:
    for item in lines:
        name, points = item.series.metric, item.series.points
        levels = [point.level for point in points]
        span = (
            f"{points[0].started:%Y-%m-%d}"
            if len(points) == 1
            else f"{points[0].started:%Y-%m-%d} to {points[-1].started:%Y-%m-%d}"
        )
        yield (
            f"{values.label(name):<14} {bars(levels[-BAR_SESSIONS:])}  {values.quantity(levels[-1], name)}  "
            f"({len(points)} session{'s' if len(points) > 1 else ''}, {span})"
        )
        for sentence in trends.sentences(item):
            yield f"  {visible(sentence)}"


def bars(levels: Sequence[float]) -> str:
    """The levels as one character each, lowest to highest."""
    low, high = min(levels), max(levels)
    if high == low:
        return BARS[3] * len(levels)
    return "".join(BARS[round((level - low) / (high - low) * (len(BARS) - 1))] for level in levels)


def _advice(store: LayeredStore, cell: Cell, lines: Sequence[Series]) -> Iterable[str]:
    from perfgate.history import refresh_advice

    try:
        stored = store.read(cell)
    except BaselineMissingError:
        return
    except BaselineError as error:
        yield f"baseline: {visible(error.message)}"
        return
    newest = max((point for series in lines for point in series.points), key=lambda point: point.started)
    for words in refresh_advice(stored.baseline, newest.fingerprint, at=datetime.now(UTC)):
        yield f"baseline: {visible(words)}"
