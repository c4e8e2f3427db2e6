"""A sweep over flags: every combination of values boots servers of its own, in an order that no drift can favour.

Each replicate is a round over all points with the same prompts. The first round's order is drawn at random, the second is its mirror
image, the third is drawn again, and so on: a linear drift over a pair of rounds hits all points alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from perfgate.errors import InputError
from perfgate.experiment.interleaved import SideRun, run_rounds
from perfgate.findings import Axis, SweepFinding, SweptCell, SweptPoint, SweptValue
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel
from perfgate.records import Measurement, Record
from perfgate.selection import Target
from perfgate.server.spec import OWN_FLAGS, flag_name
from perfgate.statistics.interval import Prior
from perfgate.statistics.pareto import ALPHA, Objective, Range, standings, winner
from perfgate.verdict import boot_means, invalidity
from perfgate.workload import generator

if TYPE_CHECKING:
    from perfgate.experiment.suite import Suite

OBJECTIVES = ("mean_ttft_ms", "mean_tpot_ms", "output_throughput")
DEFAULT_ROUNDS = 3
MOST_POINTS = 64
"""A grid beyond this is a typing error or days of boots."""
_TRUTH = {"true": True, "false": False}


class Point(Record):
    """One combination of values."""

    settings: tuple[tuple[str, str], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """As on vLLM's command line; ``true`` is the bare flag, ``false`` its ``--no-`` form."""
        return tuple(
            f"--{flag}={value}"
            if value not in _TRUTH
            else f"--{flag if _TRUTH[value] else flag_name('no-' + flag)}"
            for flag, value in self.settings
        )

    def __str__(self) -> str:
        return " ".join(f"{flag}={value}" for flag, value in self.settings)


def parse_sweeps(texts: Sequence[str]) -> tuple[Axis, ...]:
    """``FLAG=VALUE,VALUE,…`` each; several make a grid.

    Raises:
        InputError: no ``=``, no flag's name, an empty or doubled value, a flag that perfgate sets itself or that is given twice, a
            grid of fewer than two points or of more than `MOST_POINTS`.
    """
    axes = [_axis(text) for text in texts]
    flags = [axis.flag for axis in axes]
    twice = next((flag for flag in flags if flags.count(flag) > 1), None)
    if twice is not None:
        raise InputError(f"--sweep gives {twice} twice", remedy="Give all its values in one --sweep.")
    size = math.prod(len(axis.values) for axis in axes)
    if axes and size < 2:
        raise InputError(
            f"--sweep {texts[0]}: one point is nothing to compare",
            remedy="Give at least two values, such as --sweep max-num-seqs=1,16.",
        )
    if size > MOST_POINTS:
        raise InputError(
            f"--sweep: {size} points ({' × '.join(str(len(axis.values)) for axis in axes)}) are more than {MOST_POINTS}",
            remedy="Each point boots servers of its own: sweep fewer values at a time.",
        )
    return tuple(axes)


def _axis(text: str) -> Axis:
    name, equals, listed = text.partition("=")
    flag = flag_name(name.strip())
    example = "Write it as --sweep max-num-batched-tokens=4096,16384,65536."
    if not equals or not flag or not flag[0].isalpha() or any(letter.isspace() for letter in flag):
        raise InputError(f"--sweep {text}: not FLAG=VALUE,VALUE", remedy=example)
    if flag in OWN_FLAGS:
        raise InputError(
            f"--sweep {text}: --{flag} cannot be swept", remedy=f"{OWN_FLAGS[flag].capitalize()}."
        )
    values = tuple(value.strip() for value in listed.split(","))
    if not all(values):
        raise InputError(f"--sweep {text}: an empty value", remedy=example)
    if len(set(values)) < len(values):
        raise InputError(f"--sweep {text}: a value is given twice", remedy="Give each value once.")
    return Axis(flag=flag, values=values)


def grid(axes: Sequence[Axis]) -> tuple[Point, ...]:
    """All combinations, the last axis fastest."""
    combinations = itertools.product(*(axis.values for axis in axes))
    return tuple(
        Point(settings=tuple(zip((axis.flag for axis in axes), values, strict=True)))
        for values in combinations
    )


def round_orders(points: int, rounds: int, *, token: str) -> list[tuple[int, ...]]:
    """The order of the points in each round: every odd one (from 0) mirrors the one before it."""
    random = generator(seed=0, boot=token, run=0, purpose="sweep")
    orders: list[tuple[int, ...]] = []
    for number in range(rounds):
        if number % 2:
            orders.append(orders[-1][::-1])
        else:
            orders.append(tuple(int(index) for index in random.permutation(points)))
    return orders


def run_sweep(suite: Suite, cells: Sequence[Target], axes: Sequence[Axis]) -> SweepFinding:
    """Measures all points of one server; every measurement is kept in the session's results.

    Args:
        suite: the session.
        cells: of one server; each boot runs all of them.
        axes: what is swept.

    Raises:
        InputError: the server is attached, so that no point of it can be booted, or a value is no flag's.
    """
    if cells[0].server.launcher.kind == "attach":
        raise InputError(
            f"server {cells[0].server.name!r} is attached: perfgate cannot boot it with other flags",
            remedy="Sweep a server with a local or docker launcher.",
        )
    points = grid(axes)
    sides = [_side(cells, point) for point in points]
    rounds = suite.options.replicates or cells[0].gpu.replicates or DEFAULT_ROUNDS
    suite.announce(
        f"sweeping {cells[0].server.name}: {len(points)} points × {rounds} rounds, {len(points) * rounds} boots"
    )
    try:
        made = run_rounds(
            suite.lab,
            sides,
            round_orders(len(points), rounds, token=suite.session),
            label=f"{suite.session}-sweep",
            max_minutes=suite.options.max_minutes or math.inf,
        )
    finally:
        suite.keep(one for side in sides for one in side.measured.values())
    alpha = ALPHA / len(cells)
    return SweepFinding(
        server=cells[0].server.name,
        axes=tuple(axes),
        rounds=made,
        asked_rounds=rounds,
        alpha=alpha,
        cells=tuple(_swept(cell, points, sides, suite.noise, alpha) for cell in cells),
    )


def _side(cells: Sequence[Target], point: Point) -> SideRun:
    server = cells[0].server.with_changes(point.words)
    return SideRun(
        targets=[replace(cell, server=server, changes=(*cell.changes, *point.words)) for cell in cells],
        watched=tuple(word.removeprefix("--").partition("=")[0] for word in point.words),
    )


def _swept(
    cell: Target,
    points: Sequence[Point],
    sides: Sequence[SideRun],
    noise: NoiseModel | None,
    alpha: float,
) -> SweptCell:
    workload = cell.cell.workload
    problems = [_problem(side, workload) for side in sides]
    # A point that cannot be believed is compared with nothing; the indices of those that are left.
    used = [index for index, problem in enumerate(problems) if not problem]
    measured = [sides[index].measured[workload] for index in used]
    objectives = [_objective(name, cell, measured, noise) for name in OBJECTIVES]
    found = standings(
        [{name: boot_means(one.replicates(name)) for name in OBJECTIVES} for one in measured],
        objectives,
        alpha=alpha,
    )
    by_index = dict(zip(used, found, strict=True))
    best = winner(found)
    return SweptCell(
        cell=str(cell.cell),
        rows=tuple(
            SweptPoint(
                point=str(point),
                boots=len(sides[index].measured[workload].boots) if workload in sides[index].measured else 0,
                problem=problems[index],
                values=tuple(_value(name, by_index[index].ranges[name]) for name in OBJECTIVES)
                if index in by_index
                else (),
                dominated_by=tuple(str(points[used[other]]) for other in by_index[index].dominated_by)
                if index in by_index
                else (),
            )
            for index, point in enumerate(points)
        ),
        # With a point missing nobody has beaten every other one.
        winner=str(points[used[best]]) if best is not None and len(used) == len(points) else None,
    )


def _problem(side: SideRun, workload: str) -> str:
    if side.problem is not None:
        return side.problem
    if workload not in side.measured:
        return "not measured (--max-minutes)"
    return invalidity(side.measured[workload].boots) or ""


def _objective(
    name: str, cell: Target, measured: Sequence[Measurement], noise: NoiseModel | None
) -> Objective:
    metric = METRICS[name]
    return Objective(
        name=name,
        direction=metric.sign,
        # A GPU entry's wider margin allows for its noise; here the noise is in the comparison itself.
        margin=cell.workload.margins.get(name, metric.margin),
        tolerance=metric.tolerance,
        prior=_prior(name, cell, measured, noise),
    )


def _prior(
    name: str, cell: Target, measured: Sequence[Measurement], noise: NoiseModel | None
) -> Prior | None:
    if noise is None or any(tuple(noise.hardware) != one.fingerprint.hardware() for one in measured):
        return None
    found = noise.find(name, cell.workload.model_dump(mode="json"))
    return found.prior(cell.workload.runs) if found is not None else None


def _value(name: str, found: Range) -> SweptValue:
    if math.isnan(found.estimate):
        return SweptValue(metric=name)
    known = math.isfinite(found.lower) and math.isfinite(found.upper)
    return SweptValue(
        metric=name,
        value=math.exp(found.estimate),
        lower=math.exp(found.lower) if known else None,
        upper=math.exp(found.upper) if known else None,
    )
