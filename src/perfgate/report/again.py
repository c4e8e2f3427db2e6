"""The command that a reader types next: the cell's own, with the option that the advice names."""

from __future__ import annotations

import re
import shlex

from perfgate.records import CellVerdict, Outcome

_COMMAND = re.compile(r"(?:pytest|perfgate|make) ")
_WRITING = ("--update-baselines", "--new-baselines")
_LEAST = 5
"""Boots that are asked for where there were too few."""


def command(verdict: CellVerdict) -> str:
    """Measures this cell alone again, and does what the advice says; empty where it passed or the advice is a command itself."""
    if verdict.outcome is Outcome.PASS:
        return ""
    advice = verdict.next_step or next(
        (m.next_step for m in verdict.metrics if m.primary and m.outcome is verdict.outcome), ""
    )
    if _COMMAND.match(advice):
        return ""
    cell = verdict.cell
    words = [
        "pytest",
        "-m",
        "serving",
        "--gpu",
        cell.gpu,
        "--server",
        cell.server,
        "--workload",
        cell.workload,
    ]
    words += [option for option in _WRITING if option in advice][:1]
    if "--replicates" in advice:
        boots = max((metric.now_boots for metric in verdict.metrics), default=0)
        words += ["--replicates", str(max(_LEAST, 2 * boots))]
    return shlex.join(words)
