"""``perfgate compare BASELINE RESULT``: stored files judged as the suite judges them, offline."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import perfgate
from perfgate.baseline import comparable, workload_differences
from perfgate.errors import NoiseMissingError
from perfgate.metrics import METRICS
from perfgate.noise import FILE_NAME, NoiseModel, noise_path, read_noise, usable
from perfgate.records import (
    Baseline,
    Cell,
    CellVerdict,
    Measurement,
    MetricVerdict,
    Outcome,
    Provenance,
    SessionResults,
)
from perfgate.report import github, markdown, terminal
from perfgate.statistics.procedure import Confirmation
from perfgate.stored import DEPTH, Limits, Stored, cell_names, read_stored
from perfgate.verdict import (
    boot_means,
    invalid,
    invalidity,
    judge_cell,
    metric_verdict,
    no_baseline,
    question,
    whole,
)

HELP = (
    "judge a result against a baseline, both stored files (exit 0 pass, 1 regression, 2 invalid, 3 undecided)"
)

EXIT = {Outcome.PASS: 0, Outcome.IMPROVEMENT: 0, Outcome.REGRESSION: 1, Outcome.INVALID: 2}
EXIT_UNDECIDED = 3
"""INCONCLUSIVE, SUSPECT, or nothing comparable."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two files, and how they were measured."""
    parser.add_argument(
        "baseline",
        type=Path,
        help="a baseline file, a folder of baselines, a results file, or a folder of results (its newest)",
    )
    parser.add_argument("result", type=Path, help="likewise; what is judged")
    parser.add_argument(
        "--interleaved",
        action="store_true",
        help="both were measured in turn in one session (A B B A …), so that fresh pairs are judged and may convict; "
        "with the results file of an A/B given twice, its two sides",
    )
    parser.add_argument(
        "--perfgate-config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="margins and tolerances of the GPU and workload entries there (default: ./perfgate.toml)",
    )
    parser.add_argument(
        "--noise", type=Path, metavar="FILE", help=f"noise model (default: {FILE_NAME} of the baseline's GPU)"
    )
    parser.add_argument("--format", choices=("terminal", "markdown", "github", "json"), default="terminal")
    parser.add_argument("--verbose", action="store_true", help="every metric and every note")


def run(options: argparse.Namespace) -> int:
    """Prints the verdicts.

    Returns:
        the worst verdict's status: 0 pass or improvement, 1 regression, 2 invalid, 3 inconclusive or nothing comparable.
    """
    old = read_stored(options.baseline, side="old" if options.interleaved else None)
    new = read_stored(options.result, side="now" if options.interleaved else None)
    pairs = _pairs(old, [one.measurement for one in new])
    if not pairs:
        sys.stderr.write(
            f"nothing comparable: {options.baseline} has {cell_names(old)}, {options.result} has {cell_names(new)}\n"
        )
        return EXIT_UNDECIDED
    limits = Limits.load(options.perfgate_config)
    verdicts: list[CellVerdict] = []
    for gpu in dict.fromkeys(now.cell.gpu for _, now in pairs):
        noise = _noise(options.noise, options.baseline, gpu)
        of_gpu = [(before, now) for before, now in pairs if now.cell.gpu == gpu]
        if options.interleaved:
            sides = [(before.measurement, now) for before, now in of_gpu]
            verdicts += judge_interleaved(sides, noise, limits)
        else:
            verdicts += [_judge(before, now, noise, limits) for before, now in of_gpu]
    if pairs[0][0].measurement.cell == pairs[0][1].cell:
        verdicts += _without_reference([one.measurement for one in new], old, options.baseline)
    sys.stdout.write(_shown(verdicts, options, [now for _, now in pairs]))
    worst = min(verdicts, key=lambda verdict: verdict.outcome.severity)
    return EXIT.get(worst.outcome, EXIT_UNDECIDED)


def _without_reference(
    measured: Sequence[Measurement], old: Sequence[Stored], baselines: Path
) -> list[CellVerdict]:
    """What was measured and a folder of baselines has nothing for: absence is never a pass.

    A folder below the root, of one GPU, model or server, is meant for its cells alone, as a file is.
    """
    if not baselines.is_dir() or not old:
        return []
    above = max(0, DEPTH - len(old[0].file.relative_to(baselines).parts))
    known = {one.measurement.cell for one in old}
    meant = {_parts(cell)[:above] for cell in known}
    return [
        no_baseline(
            one.cell, f"{baselines}: no baseline is stored for {one.cell}", "Record one with --new-baselines."
        )
        for one in measured
        if one.cell not in known and _parts(one.cell)[:above] in meant
    ]


def _parts(cell: Cell) -> tuple[str, ...]:
    return cell.gpu, cell.model, cell.server, cell.workload


def judge_interleaved(
    pairs: Sequence[tuple[Measurement, Measurement]], noise: NoiseModel | None, limits: Limits
) -> list[CellVerdict]:
    """Judges pairs that were measured in turn: one family, fresh data, session drift on both sides alike.

    Args:
        pairs: old and new measurement of each cell.
        noise: the GPU's model; without one a metric fails by the variance of its own boots.
        limits: margins and tolerances of a cell.
    """
    asked, measured = {}, {}
    notes: dict[str, tuple[str, ...]] = {}
    for before, now in pairs:
        known, notes[str(now.cell)] = usable(noise, now.fingerprint.hardware())
        for metric in METRICS.values():
            base, new = before.replicates(metric.name), now.replicates(metric.name)
            if metric.primary and base and new:
                one = question(
                    now.cell,
                    metric,
                    noise=known.find(metric.name, now.workload) if known is not None else None,
                    runs=min(map(len, new)),
                    margin=limits.margins(now).get(metric.name),
                    tolerance=limits.tolerances(now).get(metric.name),
                )
                asked[one.key] = one
                measured[one.key] = boot_means(base), boot_means(new)
    judged = Confirmation(questions=tuple(asked.values()), own_variance=True).judge(measured)
    verdicts = []
    for before, now in pairs:
        reason = invalidity(before.boots) or invalidity(now.boots)
        if reason is not None:
            verdicts.append(invalid(now.cell, reason))
            continue
        found: list[MetricVerdict] = [
            metric_verdict(
                METRICS[name],
                judged[cell, name],
                *measured[cell, name],
                moderated=asked[cell, name].prior is not None,
                ab=True,
            )
            for cell, name in asked
            if cell == str(now.cell)
        ]
        verdicts.append(whole(now.cell, found, None, notes[str(now.cell)]))
    return verdicts


def _judge(before: Stored, now: Measurement, noise: NoiseModel | None, limits: Limits) -> CellVerdict:
    reference = before.measurement
    reasons = [
        *comparable(reference.fingerprint, now.fingerprint),
        *workload_differences(reference.workload, now.workload),
    ]
    reason = invalidity(reference.boots)
    if reason is not None:
        return invalid(now.cell, f"the reference: {reason}")
    baseline = Baseline(
        cell=reference.cell,
        provenance=Provenance(by="perfgate compare", source=str(before.file)),
        fingerprint=reference.fingerprint,
        server=reference.server,
        workload=reference.workload,
        boots=tuple(
            boot.model_copy(update={"runs": boot.valid_runs()})
            for boot in reference.boots
            if boot.valid_runs()
        ),
    )
    known, notes = usable(noise, now.fingerprint.hardware())
    return judge_cell(
        baseline,
        now,
        incomparable=reasons,
        noise=known,
        margins=limits.margins(now),
        tolerances=limits.tolerances(now),
        baseline_file=str(before.file),
        notes=notes,
    )


def _pairs(old: Sequence[Stored], new: Sequence[Measurement]) -> list[tuple[Stored, Measurement]]:
    """Measurements of the same cell; where no cell is common, of the same workload on the same GPU and model, if that is unique."""
    by_cell = {before.measurement.cell: before for before in old}
    same = [(by_cell[now.cell], now) for now in new if now.cell in by_cell]
    if same:
        return same

    def work(measurement: Measurement) -> tuple[str, str, str]:
        return measurement.cell.gpu, measurement.cell.model, measurement.cell.workload

    pairs = []
    for now in new:
        matching = [before for before in old if work(before.measurement) == work(now)]
        if len(matching) == 1 and sum(work(other) == work(now) for other in new) == 1:
            pairs.append((matching[0], now))
    return pairs


def _noise(given: Path | None, baseline: Path, gpu: str) -> NoiseModel | None:
    if given is not None:
        return read_noise(given)
    here = baseline.resolve()
    beside = [folder / FILE_NAME for folder in (here, *here.parents) if folder.name == gpu]
    folders = [here, Path(".perfgate/baselines"), Path("baselines")]
    for candidate in (*beside, *(noise_path(folder, gpu) for folder in folders)):
        try:
            return read_noise(candidate)
        except NoiseMissingError:
            continue
    return None


def _shown(
    verdicts: Sequence[CellVerdict], options: argparse.Namespace, measured: Sequence[Measurement]
) -> str:
    if options.format == "github":
        return github.annotations(verdicts) + "\n"
    results = SessionResults(
        session="compare",
        started=datetime.now(UTC),
        command=f"perfgate compare {options.baseline} {options.result}",
        perfgate=perfgate.__version__,
        measurements=tuple(measured),
        verdicts=tuple(verdicts),
    )
    if options.format == "markdown":
        return markdown.document(results) + "\n"
    if options.format == "json":
        return json.dumps([verdict.model_dump(mode="json") for verdict in verdicts], indent=2) + "\n"
    table = terminal.table(
        verdicts,
        width=shutil.get_terminal_size((100, 24)).columns,
        colour=sys.stdout.isatty(),
        verbose=1 if options.verbose else 0,
    )
    return f"{table}\n{terminal.summary_line(verdicts)}\n"
