"""``perfgate noise``: fit the noise model of a GPU from recorded sessions, and show it."""

from __future__ import annotations

import argparse
import math
import sys
from datetime import UTC, datetime
from pathlib import Path

import perfgate
from perfgate.errors import InputError, ResultsMissingError
from perfgate.noise import NoiseClass, NoiseModel, fit, noise_path, read_noise, write_noise
from perfgate.records import SessionResults
from perfgate.results import read_results

HELP = "fit or show the noise model of a GPU: how much metrics vary although nothing was changed"

#: Assumed where no cost is given: a boot takes as long as four runs.
BOOT_PER_RUN = 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two actions: fit and show."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    fitting = actions.add_parser("fit", help="fit it from results files or folders of them")
    fitting.add_argument(
        "results", nargs="+", type=Path, metavar="RESULTS", help="results file, or a folder for all in it"
    )
    fitting.add_argument("--gpu", metavar="NAME", help="only this GPU (default: every GPU in the results)")
    fitting.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="write DIR/<gpu>/noise.json (default: baselines)",
    )
    fitting.add_argument("--dry-run", action="store_true", help="print, write nothing")
    showing = actions.add_parser("show", help="print a noise model")
    showing.add_argument("file", type=Path, metavar="FILE", help="a noise.json")


def run(args: argparse.Namespace) -> int:
    """Fits and writes, or shows.

    Returns:
        0.

    Raises:
        NoiseError: nothing can be fitted, or a file cannot be read or written.
        ResultsError: a results file cannot be read.
    """
    if args.action == "show":
        sys.stdout.write(table(read_noise(args.file)))
        return 0
    sessions = read_sessions(args.results)
    gpus = sorted({measurement.cell.gpu for one in sessions for measurement in one.measurements})
    if args.gpu is not None:
        if args.gpu not in gpus:
            raise InputError(
                f"no measurement of GPU {args.gpu!r} in the results",
                remedy=f"GPUs there: {', '.join(gpus) or 'none'}.",
            )
        gpus = [args.gpu]
    if not gpus:
        raise InputError("the results hold no measurement", remedy="Give results of pytest -m serving.")
    models = [fit(sessions, gpu, at=datetime.now(UTC), version=perfgate.__version__) for gpu in gpus]
    for model in models:
        path = noise_path(args.baselines, model.gpu)
        sys.stdout.write(table(model))
        if args.dry_run:
            sys.stdout.write(f"{path} was not written (--dry-run)\n")
        else:
            write_noise(path, model)
            sys.stdout.write(f"{path}\n")
    return 0


def read_sessions(paths: list[Path]) -> list[SessionResults]:
    """Every session in the given files and folders; a session that is there twice counts once.

    Raises:
        ResultsError: a file cannot be read, or a folder has none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            there = sorted(file for file in path.glob("*.json") if not file.name.startswith("."))
            if not there:
                raise ResultsMissingError(
                    f"{path}: no results file (*.json) in this folder",
                    remedy="Run pytest -m serving first, or give the path of a results file.",
                )
            files.extend(there)
        else:
            files.append(path)
    sessions = {results.session: results for results in map(read_results, files)}
    return list(sessions.values())


def table(model: NoiseModel) -> str:
    """The model as text: standard deviations in per cent of the metric."""
    lines = [
        f"noise of {model.gpu} ({' '.join(model.hardware)}), fitted {model.fitted:%Y-%m-%d} "
        f"from {len(model.sources)} session{'s' * (len(model.sources) != 1)}",
        f"{'metric':<26}{'streams':>8}{'run':>8}{'boot':>8}{'session':>9}{'s₀':>8}{'d₀':>7}"
        f"{'outliers':>10}{'cells':>7}{'boots':>7}{'runs':>6}{'R*':>4}",
    ]
    lines += [_row(one) for one in model.classes]
    lines.append(
        f"Standard deviations of the logarithm. R*: runs worth taking on a boot that costs {BOOT_PER_RUN:.0f} runs."
    )
    if any(one.session_variance is None for one in model.classes):
        lines.append(
            "session –: no cell was measured in two sessions; record a second session to learn the drift."
        )
    lines += map(str, model.two_states)
    return "\n".join(lines) + "\n"


def _row(one: NoiseClass) -> str:
    def sd(variance: float | None) -> str:
        return "–" if variance is None else f"{math.sqrt(variance):.2%}"

    return (
        f"{one.metric:<26}{one.concurrency:>8}{sd(one.run_variance):>8}{sd(one.boot_variance):>8}"
        f"{sd(one.session_variance):>9}{sd(one.prior_variance):>8}{one.prior_df:>7.1f}{one.outlier_share:>10.1%}"
        f"{one.cells:>7}{one.boots:>7}{one.runs:>6}{one.runs_per_boot(boot_cost=BOOT_PER_RUN, run_cost=1.0):>4}"
    )
