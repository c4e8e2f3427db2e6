"""``perfgate calibrate``: the error rates of the whole gate, by simulation and on recorded A/A data, beside its rivals'."""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from perfgate.commands.noise import read_sessions
from perfgate.errors import InputError
from perfgate.noise import recorded
from perfgate.records import SessionResults
from perfgate.report.attribution_calibration import Tried
from perfgate.report.attribution_calibration import document as attribution_document
from perfgate.report.calibration import Simulated, document
from perfgate.statistics.attribution_model import MOST_UNITS
from perfgate.statistics.attribution_simulation import KINDS, World, replicates_needed, search_once
from perfgate.statistics.calibration import CHUNK, Tally, pools_from, tally
from perfgate.statistics.contrast import FloatArray
from perfgate.statistics.gate import Policy
from perfgate.statistics.simulation import RecordedPool, Scenario

HELP = "print the gate's false alarms, power, false passes and cost, by simulation, beside the rules of other tools"

T = TypeVar("T")

SUITES = 2000
SEARCHES = 100
"""A search weighs every explanation anew before each boot, which costs far more than a simulated suite."""
SIGMAS = (0.005, 0.01, 0.02, 0.03)
EFFECTS = (0.02, 0.03, 0.05, 0.10)
SETTINGS = (5, 8)
ATTRIBUTION_SIGMAS = (0.01, 0.02, 0.03)

#: The metrics of a suite, in the order of `perfgate.statistics.simulation.DIRECTIONS`.
METRICS = ("output_throughput", "mean_tpot_ms", "mean_ttft_ms")

DISTURBANCES: dict[str, dict[str, float]] = {
    "clean": {},
    "clean, independent metrics": {"correlation": 0.0},
    "3% outliers": {"outlier_share": 0.03},
    "1% drift": {"drift": 0.01},
    "2% drift": {"drift": 0.02},
    "two-state boots (20% at +4%)": {"slow_boot_share": 0.2, "slow_boot_gap": 0.04},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scenario to simulate: its table, its label, and how many pairs (None: as planned)."""

    table: str
    label: str
    scenario: Scenario
    pairs: int | None = None


def rows() -> list[Row]:
    """Every scenario of the printed tables."""
    found = [
        Row(table="alarms", label=name, scenario=Scenario(sigma=sigma, **changes))  # type: ignore[arg-type]
        for name, changes in DISTURBANCES.items()
        for sigma in SIGMAS
    ]
    for sigma in SIGMAS:
        found += [
            Row(table="power", label=f"+{effect:.0%}", scenario=Scenario(sigma=sigma, slowdown=effect))
            for effect in EFFECTS
        ]
        pairs = 5 if sigma <= 0.01 else 7
        five, ten = Scenario(sigma=sigma, slowdown=0.05), Scenario(sigma=sigma, slowdown=0.10)
        found += [
            Row(table="fixed", label="+5%", scenario=five, pairs=pairs),
            Row(table="fixed", label="+10%", scenario=ten, pairs=5),
            Row(table="single", label="+5%", scenario=replace(five, slowed=1), pairs=pairs),
            Row(table="margin", label="at the margin", scenario=Scenario(sigma=sigma, at_margin=True)),
        ]
    return found


def recorded_rows(tests: int) -> list[Row]:
    """The scenarios for recorded boots; their noise is what was recorded."""
    base = Scenario(sigma=math.nan, tests=tests)
    return [
        Row(table="recorded", label="A/A", scenario=base),
        *(
            Row(table="recorded", label=f"+{effect:.0%}", scenario=replace(base, slowdown=effect))
            for effect in EFFECTS
        ),
        Row(table="recorded", label="at the margin", scenario=replace(base, at_margin=True)),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much, from which seed, on which data."""
    parser.add_argument(
        "--suites",
        type=int,
        metavar="N",
        help=f"suites a scenario (default: {SUITES}), or searches a row with --attribution (default: {SEARCHES})",
    )
    parser.add_argument("--seed", type=int, default=8, metavar="N", help="of the random numbers (default: 8)")
    parser.add_argument(
        "--attribution",
        action="store_true",
        help="instead: how often the search for the settings at fault is right, and its boots",
    )
    parser.add_argument(
        "--settings",
        type=int,
        nargs="+",
        default=SETTINGS,
        metavar="K",
        help="with --attribution: how many settings differ (default: 5 8)",
    )
    parser.add_argument(
        "--sigma",
        type=float,
        nargs="+",
        default=ATTRIBUTION_SIGMAS,
        metavar="S",
        help="with --attribution: noise of one boot (default: 0.01 0.02 0.03)",
    )
    parser.add_argument(
        "--recorded",
        nargs="+",
        type=Path,
        default=[],
        metavar="RESULTS",
        help="also on these results files or folders: whole boots and sessions are resampled",
    )
    parser.add_argument(
        "--boot-minutes", type=float, default=3.0, metavar="M", help="of one boot (default: 3)"
    )
    parser.add_argument("--run-minutes", type=float, default=1.0, metavar="M", help="of one run (default: 1)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: cores)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the tables there instead of stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Simulates and prints.

    Returns:
        0; the goals that are missed are marked in the tables, they are no exit status.

    Raises:
        InputError: an option makes no sense, or the recorded results hold too little.
        ResultsError: a results file cannot be read.
    """
    args.suites = args.suites if args.suites is not None else SEARCHES if args.attribution else SUITES
    for name in ("suites", "workers"):
        if getattr(args, name) < 1:
            raise InputError(
                f"--{name} {getattr(args, name)}: at least 1 is needed", remedy=f"Give --{name} 1 or more."
            )
    if args.seed < 0 or min(args.boot_minutes, args.run_minutes) < 0:
        raise InputError("seeds and minutes cannot be negative", remedy="Give 0 or more.")
    if args.attribution:
        worlds = attribution_worlds(args.settings, args.sigma)
        _write(_attribution(worlds, args.suites, args.seed, args.workers), args.output)
        return 0
    policy = Policy()
    begin = time.perf_counter()
    simulated = simulate(rows(), args.suites, args.seed, policy, args.workers)
    elapsed = time.perf_counter() - begin
    replayed: list[tuple[Row, Tally]] = []
    if args.recorded:
        pools, tests = recorded_pools(read_sessions(args.recorded))
        replayed = simulate(recorded_rows(tests), args.suites, args.seed, policy, args.workers, pools)
    text = document(
        [
            Simulated(table=row.table, label=row.label, scenario=row.scenario, pairs=row.pairs, counts=counts)
            for row, counts in [*simulated, *replayed]
        ],
        policy=policy,
        seed=args.seed,
        boot_minutes=args.boot_minutes,
        run_minutes=args.run_minutes,
    )
    _write(text, args.output)
    total = args.suites * len(simulated)
    sys.stderr.write(
        f"{total} simulated suites in {elapsed:.1f} s with {args.workers} processes: "
        f"20,000 suites take {20_000 / total * elapsed:.1f} s\n"
    )
    return 0


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written: {error.strerror}", remedy="Choose another --output."
        ) from error


AttributionTask = tuple[World, int, tuple[int, int]]
"""A truth, how many searches, and the seed."""


def attribution_worlds(
    settings: Sequence[int] = SETTINGS, sigmas: Sequence[float] = ATTRIBUTION_SIGMAS
) -> list[World]:
    """Every truth of the attribution table, for these numbers of settings and noises.

    Raises:
        InputError: too few settings for a truth, more than are told apart at once, or a noise that is none.
    """
    for count in settings:
        if not 3 <= count <= MOST_UNITS:
            raise InputError(
                f"--settings {count}: between 3 and {MOST_UNITS} are simulated", remedy="Give fewer or more."
            )
    for sigma in sigmas:
        if not 0 < sigma < 1:
            raise InputError(
                f"--sigma {sigma:g}: a noise lies between 0 and 1", remedy="Give 0.02 for two per cent."
            )
    found = []
    for count, sigma in itertools.product(settings, sigmas):
        found.append(World(settings=count, sigma=sigma, kind="none", size=0.0))
        found += [
            World(settings=count, sigma=sigma, kind=kind, size=size)
            for size in (0.10, 0.05)
            for kind in KINDS[1:]
        ]
        found += [
            World(settings=count, sigma=sigma, kind=kind, size=0.10, outlier_share=0.03)
            for kind in ("one", "two")
        ]
    return found


def attribution_tasks(worlds: Sequence[World], times: int, seed: int) -> list[AttributionTask]:
    """What to simulate, each world with a seed of its own: the same one, whichever others are asked for with it."""
    every = attribution_worlds(range(3, MOST_UNITS + 1), ATTRIBUTION_SIGMAS)
    return [
        (world, times, (seed, every.index(world) if world in every else len(every) + number))
        for number, world in enumerate(worlds)
    ]


def _attribution(worlds: Sequence[World], times: int, seed: int, workers: int) -> str:
    tasks = attribution_tasks(worlds, times, seed)
    if workers == 1:
        found = list(_shown(map(_tried, tasks), len(tasks)))
    else:
        with _processes(workers) as pool:
            found = list(_shown(pool.map(_tried, tasks), len(tasks)))
    return attribution_document(found, times=times, seed=seed)


def _processes(count: int) -> ProcessPoolExecutor:
    # Spawned, because a fork of a process that has threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Makes this process end when the one that started it does, which a pool's own processes do not where that one was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _shown(results: Iterable[T], total: int) -> Iterable[T]:
    """The results, with a bar on a terminal's stderr while they come."""
    console = Console(stderr=True)
    return track(
        results,
        "simulating",
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _tried(task: AttributionTask) -> Tried:
    world, times, seed = task
    searches = tuple(search_once(world, np.random.default_rng((*seed, 0, number))) for number in range(times))
    if world.kind == "none":
        return Tried(world=world, searches=searches)
    rng = np.random.default_rng((*seed, 1))
    return Tried(
        world=world,
        searches=searches,
        one_at_a_time=replicates_needed("one at a time", world, 200, rng),
        full_factorial=replicates_needed("full factorial", world, 200, rng),
    )


def simulate(
    wanted: Sequence[Row],
    suites: int,
    seed: int,
    policy: Policy,
    workers: int,
    pools: tuple[RecordedPool, ...] | None = None,
) -> list[tuple[Row, Tally]]:
    """Tallies of all rows; the counts depend on the seed alone, not on the number of processes."""
    tasks = [
        (row, size, (seed, number, chunk), policy, pools)
        for number, row in enumerate(wanted)
        for chunk, size in enumerate(_chunks(suites))
    ]
    if workers == 1:
        tallies = list(_shown(map(_task, tasks), len(tasks)))
    else:
        with _processes(workers) as pool:
            tallies = list(_shown(pool.map(_task, tasks, chunksize=4), len(tasks)))
    found: list[tuple[Row, Tally]] = []
    for row, group in itertools.groupby(zip(tasks, tallies, strict=True), key=lambda pair: pair[0][0]):
        counts = [one for _, one in group]
        found.append((row, sum(counts[1:], start=counts[0])))
    return found


def _chunks(suites: int) -> list[int]:
    return [min(CHUNK, suites - begin) for begin in range(0, suites, CHUNK)]


Task = tuple[Row, int, tuple[int, ...], Policy, tuple[RecordedPool, ...] | None]


def _task(task: Task) -> Tally:
    row, size, seed, policy, pools = task
    return tally(row.scenario, size, seed, policy=policy, pairs=row.pairs, recorded=pools)


def recorded_pools(sessions: Sequence[SessionResults]) -> tuple[tuple[RecordedPool, ...], int]:
    """Pools of whole boots per concurrency class, and how many cells were recorded.

    Raises:
        InputError: no cell has two boots of one session with all three metrics.
    """
    gpus = sorted({measurement.cell.gpu for one in sessions for measurement in one.measurements})
    groups: dict[str, dict[str, dict[str, FloatArray]]] = {}
    for gpu in gpus:
        by_metric = recorded(sessions, gpu)
        for concurrency in sorted({concurrency for _, concurrency in by_metric}):
            means: list[dict[tuple[str, str], list[float]]] = []
            for metric in METRICS:
                boots: dict[tuple[str, str], list[float]] = {}
                for group in by_metric.get((metric, concurrency), []):
                    boots.setdefault((group.cell, group.session), []).extend(group.means)
                means.append(boots)
            for cell, session in means[0]:
                columns = [one.get((cell, session), []) for one in means]
                if len({len(column) for column in columns}) == 1 and columns[0]:
                    by_cell = groups.setdefault(f"{gpu} {concurrency}", {}).setdefault(cell, {})
                    by_cell[session] = np.asarray(columns).T
    pools = pools_from(groups)
    if not pools:
        raise InputError(
            f"the recorded results hold no two boots of one cell and session with {', '.join(METRICS)}",
            remedy="Record A/A data first: pytest -m serving --replicates 5, twice or more.",
        )
    return pools, sum(len(cells) for cells in groups.values())
