"""One server against its stored baselines: screened first, and whatever is suspected confirmed on fresh data."""

from __future__ import annotations

from collections.abc import Sequence

from perfgate.diagnosis import diagnose
from perfgate.errors import PerfgateError
from perfgate.experiment.bench import Bench, Made
from perfgate.experiment.confirm import overrule, questions_of, suspects, verdicts_from
from perfgate.experiment.gate import Settled
from perfgate.experiment.notes import limit_notes, setting_notes, view_notes, void_notes
from perfgate.experiment.plans import FEWEST_PAIRS, Allowance
from perfgate.experiment.sides import old_side
from perfgate.metrics import METRICS
from perfgate.records import Baseline, Measurement
from perfgate.selection import Target
from perfgate.verdict import boot_means, invalid, invalidity, metric_verdict

DEFAULT_REPLICATES = 3


def screen(bench: Bench, cells: Sequence[Target], made: Made) -> None:
    """Measures the cells of one server and judges them; ``made`` takes what comes out as it comes."""
    replicates = bench.options.replicates or cells[0].gpu.replicates or DEFAULT_REPLICATES
    bench.confirmer().announce_screen(
        cells,
        bench.baselines(cells),
        replicates=replicates,
        cost=bench.cost(cells),
        position=bench.positions.upcoming,
    )
    measured = bench.lab.measure(cells, replicates=replicates, label=bench.session)
    made.measurements.extend(measured.values())
    for cell in cells:
        workload = cell.cell.workload
        made.settled[workload] = _annotated(
            bench, bench.gate.judge(cell, measured[workload]), cell, measured[workload]
        )
    doubtful = [
        cell
        for cell in cells
        if made.settled[cell.cell.workload].recorded is None
        and suspects(made.settled[cell.cell.workload].verdict)
    ]
    allowance = bench.allowance()
    confirmable: list[tuple[Target, Target]] = []
    gone: list[tuple[Target, Baseline, str]] = []
    for cell in doubtful:
        baseline = bench.gate.store.read(cell.cell).baseline
        old = old_side(cell, baseline, measured[cell.cell.workload])
        if cell.server.launcher.kind == "attach":
            made.settled[cell.cell.workload] = _unconfirmed(made.settled[cell.cell.workload])
        elif isinstance(old, str):
            gone.append((cell, baseline, old))
        else:
            confirmable.append((cell, old))
    if confirmable:
        _confirm(bench, [cell for cell, _ in confirmable], [old for _, old in confirmable], made, allowance)
    for cell, baseline, reason in gone:
        _look(bench, cell, baseline, reason, made, allowance)


def _annotated(bench: Bench, settled: Settled, cell: Target, measured: Measurement) -> Settled:
    """With what the server's counters and the hardware's bounds say beside the verdict."""
    said = [
        *void_notes(measured.boots),
        *limit_notes(cell, measured),
        *setting_notes(cell.server, measured.boots),
        *view_notes(measured.boots),
    ]
    try:
        before = bench.gate.store.read(cell.cell).baseline.boots
    except PerfgateError:
        before = ()
    said += diagnose(settled.verdict, before, measured.boots)
    verdict = settled.verdict.model_copy(update={"notes": (*settled.verdict.notes, *said)})
    return settled._replace(verdict=verdict)


def _unconfirmed(settled: Settled) -> Settled:
    """Of an attached server there is one boot, and no number of runs on it tells whether the boot or the version is slow."""
    note = (
        "not confirmed: an attached server is one boot, however often it is measured; "
        "let perfgate boot it (launcher local or docker), or measure again after a restart"
    )
    verdict = settled.verdict.model_copy(update={"notes": (*settled.verdict.notes, note)})
    return settled._replace(verdict=verdict)


def _confirm(
    bench: Bench, cells: Sequence[Target], old: Sequence[Target], made: Made, allowance: Allowance
) -> None:
    """By an A/B: the old side still boots."""
    asked = [
        question
        for cell in cells
        for question in questions_of(cell, bench.noise, suspects(made.settled[cell.cell.workload].verdict))
    ]
    judged, fresh = bench.confirmer().interleaved(
        old,
        cells,
        asked,
        cost=bench.cost(cells),
        allowance=allowance,
        pairs=cells[0].gpu.pairs,
        own_variance=False,
        position=bench.positions.take(),
        label=f"{bench.session}-confirm",
    )
    made.measurements.extend(fresh.all())
    for cell in cells:
        screened = made.settled[cell.cell.workload].verdict
        reason = fresh.invalid(cell.cell.workload)
        if reason is not None:
            made.settled[cell.cell.workload] = Settled(invalid(cell.cell, f"confirmation: {reason}"))
            continue
        if fresh.pairs < FEWEST_PAIRS:
            continue
        labels = [METRICS[one.metric].label for one in asked if one.cell == str(cell.cell)]
        notes = [
            f"{', '.join(labels)}: suspected by the screen, then measured on {fresh.pairs} interleaved pairs of fresh boots",
            *void_notes(fresh.old[cell.cell.workload].boots, side="of these pairs, old side: "),
            *void_notes(fresh.new[cell.cell.workload].boots, side="of these pairs, new side: "),
        ]
        made.settled[cell.cell.workload] = Settled(
            overrule(screened, verdicts_from(judged, fresh, cell, asked), *notes)
        )


def _look(
    bench: Bench, cell: Target, baseline: Baseline, reason: str, made: Made, allowance: Allowance
) -> None:
    """By growing fresh data against the stored baseline: the old side does not boot any more."""
    screened = made.settled[cell.cell.workload].verdict
    asked = questions_of(cell, bench.noise, suspects(screened))
    bench.announce(f"{cell.cell} cannot be confirmed by A/B: {reason}")
    # Every primary metric screened in the session shares the stored references, so each look pays for all of them.
    family = len(bench.targets) * sum(verdict.primary for verdict in screened.metrics)
    judged, fresh = bench.confirmer().looks(
        cell,
        baseline,
        asked,
        cost=bench.cost([cell]),
        allowance=allowance,
        family=family,
        label=f"{bench.session}-looks",
    )
    if fresh is None:
        return
    made.measurements.append(fresh)
    problem = invalidity(fresh.boots)
    if problem is not None:
        made.settled[cell.cell.workload] = Settled(invalid(cell.cell, problem))
        return
    verdicts = [
        metric_verdict(
            METRICS[one.metric],
            judged[one.key],
            boot_means(baseline.replicates(one.metric)),
            boot_means(fresh.replicates(one.metric)),
            moderated=one.prior is not None,
        )
        for one in asked
        if one.key in judged
    ]
    note = f"not confirmed by A/B ({reason}); judged on {len(fresh.boots)} fresh boots against the stored baseline"
    made.settled[cell.cell.workload] = Settled(overrule(screened, verdicts, note))
