"""The command that a person types next for one cell: what this session asked for, and the option that the advice names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest

from perfgate.records import CellVerdict, Outcome

_COMMAND = re.compile(r"(?:pytest|perfgate|make) ")
_WRITING = ("--update-baselines", "--new-baselines")
_CHANGES = ("--vllm-arg", "--env")
_SIDES = ("--against", "--against-server")
_KEPT = (
    "--model",
    *_CHANGES,
    *_SIDES,
    "--server-python",
    "--perfgate-config",
    "--baselines",
    "--load-processes",
)
"""What makes a session measure something else, or elsewhere; the rest is the advice's to change."""
_LEAST = 5
"""Boots that are asked for where there were too few."""


def command(verdict: CellVerdict, config: pytest.Config, mask: Callable[[str], str] = str) -> str:
    """Measures this cell alone again, as the session did, and does what the advice says.

    A slowdown that came with changed settings, or of one side against another, is traced to the settings: such a measurement is
    never recorded as a baseline.

    Args:
        verdict: of the cell.
        config: what the session was asked for.
        mask: takes secrets out of a word; quoting comes after it, since a quoted secret looks different.

    Returns:
        The command; empty where the cell passed, or where the advice is a command itself.
    """
    if verdict.outcome is Outcome.PASS:
        return ""
    advice = verdict.next_step or next(
        (m.next_step for m in verdict.metrics if m.primary and m.outcome is verdict.outcome), ""
    )
    if _COMMAND.match(advice):
        return ""
    cell = verdict.cell
    words = ["pytest", "-m", "serving", "--gpu", cell.gpu]
    words += ["--server", cell.server, "--workload", cell.workload]
    for option in _KEPT:
        words += _typed(option, config.getoption(option))
    if any(config.getoption(option) for option in (*_CHANGES, *_SIDES)):
        words += (
            ["--attribute"] if verdict.outcome is Outcome.REGRESSION and verdict.attribution is None else []
        )
    else:
        words += [option for option in _WRITING if option in advice][:1]
    if "--replicates" in advice:
        boots = max((metric.now_boots for metric in verdict.metrics), default=0)
        words += ["--replicates", str(max(_LEAST, 2 * boots))]
    return shlex.join(map(mask, words))


def _typed(option: str, value: object) -> list[str]:
    """The option as a person types it; nothing where it was not given, or is what it would be anyway."""
    if value in (None, [], ()) or (option, value) == ("--load-processes", 1):
        return []
    values = value if isinstance(value, list | tuple) else [value]
    # A value may begin with dashes itself (--vllm-arg=--max-num-seqs=1).
    return [f"{option}={one}" for one in values]
