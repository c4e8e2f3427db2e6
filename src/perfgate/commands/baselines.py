"""``perfgate baselines``: which cells have a baseline, which have none."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from perfgate.errors import BaselineError
from perfgate.experiment.options import SuiteOptions
from perfgate.experiment.suite import Suite
from perfgate.records import Cell
from perfgate.selection import Target

HELP = "list the cells of this machine and their baselines; with --missing, exit 1 if any has none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The choice of cells is pytest's: --gpu, --model, --server, --workload."""
    _add_choice(parser)
    parser.add_argument(
        "--missing", action="store_true", help="only cells without a baseline; exit 1 if there are any"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing, only set the exit status")
    parser.add_argument(
        "pytest",
        nargs="*",
        metavar="-- OPTION",
        help="a pytest command line, of which only the choice of cells is looked at",
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", default="auto", metavar="NAME", help="GPU entry (default: auto)")
    parser.add_argument("--model", metavar="NAME", help="model entry")
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME", help="server entry; repeatable"
    )
    parser.add_argument(
        "--workload", action="append", default=[], metavar="NAME", help="workload entry; repeatable"
    )
    parser.add_argument("--baselines", type=Path, metavar="DIR", help="folder of baselines")
    parser.add_argument(
        "--perfgate-config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="instead of ./perfgate.toml",
    )


def run(options: argparse.Namespace) -> int:
    """Prints one line a cell.

    Returns:
        0, or 1 with ``--missing`` if a cell has no baseline.
    """
    if options.pytest:
        choice = argparse.ArgumentParser(prog="pytest", add_help=False, allow_abbrev=False)
        _add_choice(choice)
        choice.parse_known_args(options.pytest, namespace=options)
    suite = Suite(
        SuiteOptions(
            root=Path.cwd(),
            command="perfgate baselines",
            gpu=options.gpu,
            model=options.model,
            servers=options.server,
            workloads=options.workload,
            baselines=options.baselines,
            config=options.perfgate_config,
        )
    )
    missing = {target.cell for target in suite.missing()}
    for target in suite.targets:
        if options.missing and target.cell not in missing:
            continue
        if not options.quiet:
            sys.stdout.write(f"{target.cell}  {_state(suite, target, missing)}\n")
    return 1 if options.missing and missing else 0


def _state(suite: Suite, target: Target, missing: Collection[Cell]) -> str:
    if target.cell in missing:
        return "no baseline"
    try:
        stored = suite.store.read(target.cell)
    except BaselineError as error:
        return f"unusable: {error.message}"
    baseline = stored.baseline
    when = f"{baseline.provenance.recorded:%Y-%m-%d}" if baseline.provenance.recorded else "undated"
    boots = "boot" if len(baseline.boots) == 1 else "boots"
    return f"{len(baseline.boots)} {boots}, {when}, {baseline.provenance.source}  ({stored.location})"
