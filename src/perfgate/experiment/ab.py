"""One server against another side that was asked for: no stored baseline, every primary metric is a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perfgate.diagnosis import diagnose
from perfgate.errors import PerfgateError
from perfgate.experiment import attribution
from perfgate.experiment.attribution_record import next_step
from perfgate.experiment.attribution_settings import differences
from perfgate.experiment.bench import Bench, Made
from perfgate.experiment.confirm import Measured, computed_verdicts, questions_of, verdicts_from
from perfgate.experiment.gate import Settled, moved_notes, quoting_moved
from perfgate.experiment.notes import limit_notes, setting_notes, view_notes, void_notes
from perfgate.experiment.options import SuiteOptions
from perfgate.experiment.plans import FEWEST_PAIRS
from perfgate.experiment.sides import against, alike
from perfgate.metrics import METRICS
from perfgate.records import Attribution, CellVerdict
from perfgate.selection import Catalogues, Target
from perfgate.server import moved_defaults
from perfgate.verdict import invalid, whole


def compare(bench: Bench, cells: Sequence[Target], made: Made) -> None:
    """Boots both sides in turn and judges; ``made`` takes what comes out as it comes."""
    options = bench.options
    old = [other_side(options, bench.catalogues, cell) for cell in cells]
    if software := alike(cells[0], old[0]):
        bench.announce(f"both sides are {software} with the same settings: an A/B of them shows only noise")
    primary = [metric.name for metric in METRICS.values() if metric.primary and metric.of == "run"]
    asked = [question for cell in cells for question in questions_of(cell, bench.noise, primary)]
    judged, fresh = bench.confirmer().interleaved(
        old,
        cells,
        asked,
        cost=bench.cost(cells),
        allowance=bench.allowance(),
        pairs=options.replicates or _most(FEWEST_PAIRS, cells[0].gpu.replicates) or cells[0].gpu.pairs,
        own_variance=True,
        position=bench.positions.take(),
        label=bench.session,
    )
    made.measurements.extend(fresh.all())
    words = options.against or options.against_server or f"{cells[0].server.name} without the changes"
    for side, cell in zip(old, cells, strict=True):
        workload = cell.cell.workload
        reason = fresh.invalid(workload)
        if reason is not None or fresh.pairs < FEWEST_PAIRS:
            cut = (
                f"{fresh.pairs} pairs were measured, {FEWEST_PAIRS} are needed (--replicates, --max-minutes)"
            )
            settled = invalid(cell.cell, reason or cut)
        else:
            note = f"A/B against {words}: {fresh.pairs} interleaved pairs, baseline column = {words}"
            verdicts = [*verdicts_from(judged, fresh, cell, asked, ab=True), *computed_verdicts(fresh, cell)]
            settled = _annotated(whole(cell.cell, verdicts, None, (note,)), side, cell, fresh)
        made.settled[workload] = Settled(settled)
    if options.attribute and fresh.pairs >= FEWEST_PAIRS:
        _attribute(bench, old, cells, fresh, made)


def _annotated(verdict: CellVerdict, old: Target, cell: Target, fresh: Measured) -> CellVerdict:
    """With what moved between the sides unasked, what their servers say about the difference, and what the hardware allows."""
    before, now = fresh.old[cell.cell.workload], fresh.new[cell.cell.workload]
    said = [
        *moved_notes(moved_defaults(before, now)),
        *setting_notes(old.server, before.boots, side="old side: "),
        *setting_notes(cell.server, now.boots),
        *void_notes(before.boots, side="old side: "),
        *void_notes(now.boots),
        *limit_notes(cell, now),
        *view_notes(before.boots, side="old side: "),
        *view_notes(now.boots),
        *diagnose(verdict, before.boots, now.boots),
    ]
    return quoting_moved(verdict.model_copy(update={"notes": (*verdict.notes, *said)}))


def _most(fewest: int, wanted: int | None) -> int | None:
    return None if wanted is None else max(fewest, wanted)


def other_side(options: SuiteOptions, catalogues: Catalogues, cell: Target) -> Target:
    """What the cell is compared with.

    Raises:
        InputError: an unknown entry, no such Python, or a launcher that the option does not apply to.
    """
    if options.attribute and not (options.against or options.against_server):
        return attribution.entry(cell, options.request(cell.gpu.name), catalogues)
    old = against(
        cell,
        environment=options.against,
        server=options.against_server,
        catalogues=catalogues,
        model=options.model,
    )
    if options.attribute and not options.against:
        differences(old.server, cell.server)
    return old


def _attribute(
    bench: Bench, old: Sequence[Target], cells: Sequence[Target], fresh: Measured, made: Made
) -> None:
    """Traces what the A/B confirmed to settings; that it cannot be traced changes no verdict."""
    attributor = attribution.Attributor(
        lab=bench.lab, noise=bench.noise, tell=bench.announce, max_minutes=bench.max_minutes
    )
    verdicts = {workload: settled.verdict for workload, settled in made.settled.items()}

    def keep(found: Mapping[str, Attribution]) -> None:
        for workload, one in found.items():
            settled = made.settled[workload]
            update = {"attribution": one, "next_step": next_step(one) or settled.verdict.next_step}
            verdict = settled.verdict.model_copy(update=update)
            made.settled[workload] = settled._replace(verdict=verdict)

    try:
        attributor.attribute(
            old,
            cells,
            verdicts,
            fresh,
            versions=bool(bench.options.against),
            label=bench.session,
            keep=keep,
        )
    except PerfgateError as error:
        bench.announce(f"the attribution broke off: {error}")
