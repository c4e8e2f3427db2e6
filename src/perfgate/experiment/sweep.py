"""A sweep over flags: every combination of values boots servers of its own, in an order that no drift can favour.

Each replicate is a round over all points with the same prompts. The first round's order is drawn at random, the second is its mirror
image, the third is drawn again, and so on: a linear drift over a pair of rounds hits all points alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from perfgate.errors import InputError
from perfgate.experiment.interleaved import SideRun, run_rounds
from perfgate.experiment.sweep_points import Point, grid
from perfgate.findings import Axis, Findings, SweepFinding, SweptCell, SweptPoint, SweptValue
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel
from perfgate.records import Measurement
from perfgate.selection import Target
from perfgate.statistics.interval import Prior
from perfgate.statistics.pareto import ALPHA, Objective, Range, Standing, ranges, standings, winner
from perfgate.verdict import boot_means, invalidity
from perfgate.workload import generator

if TYPE_CHECKING:
    from perfgate.experiment.suite import Suite

OBJECTIVES = ("mean_ttft_ms", "mean_tpot_ms", "output_throughput")
DEFAULT_ROUNDS = 3
TRIES = 2
"""A boot that fails is made again: with hundreds of boots one fails by chance, and must not cost a point its others."""


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
    """Measures all points of one server; every measurement is kept in the session's results, and what a sweep that breaks off found.

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

    def found(made: int, *, interrupted: bool = False) -> SweepFinding:
        alpha = ALPHA / len(cells)
        return SweepFinding(
            server=cells[0].server.name,
            axes=tuple(axes),
            rounds=made,
            asked_rounds=rounds,
            interrupted=interrupted,
            alpha=alpha,
            cells=tuple(_swept(cell, points, sides, suite.noise, alpha) for cell in cells),
        )

    try:
        made = run_rounds(
            suite.lab,
            sides,
            round_orders(len(points), rounds, token=suite.session),
            label=f"{suite.session}-sweep",
            max_minutes=suite.options.max_minutes or math.inf,
        )
    except BaseException:
        # Ctrl-C, or a machine that fails: each boot took a minute or more, and what they say stays true.
        if any(side.measured for side in sides):
            whole = min((side.boots for side in sides if side.problem is None), default=0)
            suite.keep_broken_off(Findings(sweeps=(found(whole, interrupted=True),)))
        raise
    finally:
        suite.keep(one for side in sides for one in side.measured.values())
    return found(made)


def _side(cells: Sequence[Target], point: Point) -> SideRun:
    server = cells[0].server.with_changes(point.words)
    said = tuple(map(server.secrets().mask, point.words))
    return SideRun(
        targets=[replace(cell, server=server, changes=(*cell.changes, *said)) for cell in cells],
        watched=tuple(word.removeprefix("--").partition("=")[0] for word in point.words),
        tries=TRIES,
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
    data = [_data(side.measured.get(workload)) for side in sides]
    # Where a workload has no such metric (no time per token of one token), it must not keep the others from deciding.
    left_out = [name for name in OBJECTIVES if measured and not any(data[index][name] for index in used)]
    names = [name for name in OBJECTIVES if name not in left_out]
    objectives = [_objective(name, cell, measured, noise) for name in names]
    found = standings([data[index] for index in used], objectives, alpha=alpha)
    by_index = dict(zip(used, found, strict=True))
    best = winner(found)

    def row(index: int) -> SweptPoint:
        standing = by_index.get(index) or Standing(
            dominated_by=(), ranges=ranges(data[index], [data[other] for other in used], objectives)
        )
        return SweptPoint(
            point=str(points[index]),
            boots=max(len(means) for means in data[index].values()),
            problem=problems[index],
            repeated=tuple(sides[index].repeated),
            values=tuple(_value(name, standing.ranges[name]) for name in names),
            dominated_by=tuple(str(points[used[other]]) for other in standing.dominated_by),
        )

    return SweptCell(
        cell=str(cell.cell),
        rows=tuple(map(row, range(len(points)))),
        # With a point missing nobody has beaten every other one.
        winner=str(points[used[best]]) if best is not None and len(used) == len(points) else None,
        left_out=tuple(left_out),
    )


def _data(measured: Measurement | None) -> dict[str, list[float]]:
    """Boot means by metric."""
    return {name: boot_means(measured.replicates(name)) if measured else [] for name in OBJECTIVES}


def _problem(side: SideRun, workload: str) -> str:
    if side.problem is not None:
        return side.problem
    if workload not in side.measured:
        return "not measured before the sweep was interrupted"
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
