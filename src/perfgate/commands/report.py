"""``perfgate report``: a session that was recorded, shown again as text, Markdown, JSON or HTML."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from perfgate.baseline import BaselineStore, DirectoryStore, LayeredStore
from perfgate.documents import encode, write_atomically
from perfgate.errors import BaselineError, BaselineMissingError, HistoryError, InputError
from perfgate.metrics import METRICS
from perfgate.records import Baseline, Cell, SessionResults
from perfgate.report import attribution, findings, github, terminal, trends
from perfgate.report.escape import visible
from perfgate.results import RESULTS, read_results

if TYPE_CHECKING:  # Jinja2 and the plots take a while to import, which no other subcommand should pay.
    from perfgate.history import Line
    from perfgate.report.html import HistoryLine

HELP = "show a recorded session: terminal table, Markdown, JSON, GitHub annotations or one HTML file"
FORMATS = ("terminal", "markdown", "json", "html", "github")
_BY_SUFFIX = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}
_REPORT = replace(RESULTS, word="report")
_RESULTS = Path(".perfgate/results")
_HISTORY = Path(".perfgate/history.sqlite")
_PAST = 100
"""Sessions of a line that are drawn."""
_BASELINES = (Path(".perfgate/baselines"), Path("baselines"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, how, and where to."""
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        default=_RESULTS,
        metavar="RESULTS",
        help=f"results file, or a folder for its newest one (default: {_RESULTS})",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="default: what the name given with -o ends with, else terminal; github prints annotations",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write there instead of standard output"
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="every metric and note (terminal)")
    parser.add_argument("-q", "--quiet", action="count", default=0, help="one line a cell (terminal)")
    parser.add_argument(
        "--baselines",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="folder of the baselines to plot, repeatable (default: .perfgate/baselines and baselines)",
    )
    parser.add_argument(
        "--history",
        metavar="FILE|URL",
        help=f"past sessions to plot (default: {_HISTORY} where it exists)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report. What it says is in it: a recorded regression is no failure of this command.

    Returns:
        0.

    Raises:
        ResultsError: the results cannot be read, or the output cannot be written.
        InputError: the output would replace the results.
    """
    results = read_results(args.results)
    text = _text(results, args)
    if args.output is None:
        sys.stdout.write(text)
        return 0
    if args.output.resolve() == args.results.resolve():
        raise InputError(f"{args.output}: is the results file itself", remedy="Give another name with -o.")
    write_atomically(args.output, text.encode("utf-8", errors="replace"), kind=_REPORT)
    return 0


def write_html(path: Path, results: SessionResults, *, baselines: Sequence[Path] = ()) -> list[str]:
    """Writes the session's page, whole; for ``--perfgate-html``.

    Returns:
        A sentence for each thing that could not be read and is missing from it.

    Raises:
        ResultsAccessError: the system refuses to write.
    """
    text, missing = html_report(results, baselines=baselines)
    write_atomically(path, text.encode("utf-8", errors="replace"), kind=_REPORT)
    return missing


def html_report(
    results: SessionResults, *, baselines: Sequence[Path] = (), history: str | Path | None = None
) -> tuple[str, list[str]]:
    """The session's page, with the stored baselines and the history that are at hand.

    Args:
        results: the session.
        baselines: folders of baselines, earlier ones first (default: .perfgate/baselines and baselines).
        history: SQLite file or database URL; by default the local file where it exists.

    Returns:
        The page, and a sentence for each thing that could not be read and is missing from it.
    """
    from perfgate.report.html import page

    missing: list[str] = []
    store = LayeredStore(*map(DirectoryStore, baselines or _BASELINES))
    known = _baselines(results, store, missing)
    lines = _history(results, history, missing)
    return page(results, baselines=known, history=lines), missing


def _text(results: SessionResults, args: argparse.Namespace) -> str:
    suffix = args.output.suffix.lower() if args.output else ""
    chosen = args.format or _BY_SUFFIX.get(suffix, "terminal")
    if chosen == "html":
        text, missing = html_report(results, baselines=args.baselines, history=args.history)
        for sentence in missing:
            print(f"perfgate report: {visible(sentence)}", file=sys.stderr)  # noqa: T201
        return text
    if chosen == "json":
        return encode(results).decode()
    if chosen == "markdown":
        return github.step_summary(results)
    if chosen == "github":
        return github.annotations(results.verdicts, workspace=os.environ.get("GITHUB_WORKSPACE", ""))
    colour = args.output is None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((100, 24)).columns
    parts = [f"{title}\n{text}\n" for title, text in findings.sections(results.findings)]
    if results.verdicts or not parts:
        table = terminal.table(
            results.verdicts, width=width, colour=colour, verbose=args.verbose - args.quiet
        )
        said = [
            table,
            *attribution.lines(results.verdicts, width=width),
            terminal.summary_line(results.verdicts),
        ]
        parts.append("\n".join(said) + "\n")
    return "\n".join(parts).lstrip("\n")


def _baselines(results: SessionResults, store: BaselineStore, missing: list[str]) -> dict[Cell, Baseline]:
    found: dict[Cell, Baseline] = {}
    judged = [verdict.cell for verdict in results.verdicts]
    for cell in dict.fromkeys([*judged, *(measurement.cell for measurement in results.measurements)]):
        try:
            baseline = store.read(cell).baseline
        except BaselineMissingError:
            continue
        except BaselineError as error:
            missing.append(f"baseline left out: {error.message}")
            continue
        recorded = baseline.provenance.recorded
        # A baseline that is younger than the session is not what the session was judged against.
        if recorded is None or recorded < results.started:
            found[cell] = baseline
    return found


def _history(results: SessionResults, location: str | Path | None, missing: list[str]) -> list[HistoryLine]:
    if location is None and not _HISTORY.exists():
        return []
    from perfgate.history import History, line

    cells = {verdict.cell for verdict in results.verdicts}
    primary = [name for name, metric in METRICS.items() if metric.primary]
    hardware = {m.cell: ", ".join(m.fingerprint.hardware()) for m in results.measurements}
    try:
        series = History(location or _HISTORY).series(metrics=primary)
    except HistoryError as error:
        missing.append(f"history left out: {error.message}")
        return []
    lines = [
        line(one)
        for one in series
        if one.cell in cells and one.points and hardware.get(one.cell, one.hardware) == one.hardware
    ]
    return [_drawn(one) for one in lines]


def _drawn(line: Line) -> HistoryLine:
    """The newest sessions of a line; what it shows is said in full."""
    from perfgate.report.html import HistoryLine

    points = line.series.points[-_PAST:]
    before = len(line.series.points) - len(points)
    changes = [
        (change.index - before, note)
        for change, note in zip(line.trend.changes, line.notes, strict=True)
        if change.index >= before
    ]
    return HistoryLine(
        cell=line.series.cell,
        metric=line.series.metric,
        times=tuple(point.started for point in points),
        values=tuple(point.level for point in points),
        changes=tuple(at for at, _ in changes),
        notes=tuple(note for _, note in changes),
        said=tuple(trends.sentences(line)),
    )
