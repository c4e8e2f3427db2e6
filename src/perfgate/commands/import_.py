"""``perfgate import``: results of other tools as perfgate's own, to be judged or to become baselines."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

import perfgate
from perfgate.baseline.directory import DirectoryStore
from perfgate.client.imports import Imported, read_file
from perfgate.errors import InputError
from perfgate.records import Baseline, BootRecord, Cell, Fingerprint, Measurement, Provenance, SessionResults
from perfgate.results import write_file

HELP = "read results of vllm bench serve, GuideLLM or AIPerf as perfgate's own"

EXIT_INVALID = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, where they belong, and what is known of the machine."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="result files; each is taken for one boot of the server, several results in one file for its runs",
    )
    parser.add_argument(
        "--cell", metavar="GPU/MODEL/SERVER/WORKLOAD", help="the cell that the results belong to"
    )
    machine = parser.add_argument_group("what the files do not say")
    machine.add_argument("--gpu-name", metavar="NAME", help="the GPU as its driver calls it")
    machine.add_argument("--gpu-count", type=int, default=None, metavar="N")
    machine.add_argument("--vllm-version", metavar="VERSION")
    output = parser.add_argument_group("output (without either, what was read is only printed)")
    output.add_argument("--json", type=Path, metavar="FILE", help="write a results file")
    output.add_argument(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="keep them as the cell's baseline, where it has none; never changes one",
    )


def run(options: argparse.Namespace) -> int:
    """Reads all files, prints what was taken and what was refused, and writes what was asked for.

    Returns:
        0, or 2 where a run cannot be believed: it is kept in results, and never becomes part of a baseline.
    """
    read = [(path, read_file(path)) for path in options.files]
    first = read[0][1]
    for path, imported in read[1:]:
        if (imported.workload, imported.model) != (first.workload, first.model):
            raise InputError(
                f"{path}: another model or workload than {options.files[0]}",
                remedy="Import one cell at a time.",
            )
    cell = _cell(options.cell, first)
    if cell is None and options.baselines is not None:
        raise InputError("--baselines without --cell", remedy="Name the cell: GPU/MODEL/SERVER/WORKLOAD.")
    fingerprint = _fingerprint(options)
    for path, imported in read:
        sys.stdout.write(_summary(path, imported))
    boots = tuple(BootRecord(id=path.name, runs=imported.runs) for path, imported in read)
    valid = all(item.valid for boot in boots for item in boot.runs)
    if options.json is not None:
        write_file(options.json, _session(cell or _guess(first), fingerprint, first, boots))
        sys.stdout.write(f"{options.json}: written\n")
    if options.baselines is not None and cell is not None:
        if not valid:
            raise InputError(
                "a run that cannot be believed never becomes part of a baseline", remedy="Leave its file out."
            )
        where = DirectoryStore(options.baselines).write(
            _baseline(cell, fingerprint, read, boots), replacing=None
        )
        sys.stdout.write(f"{where}: written\n")
    return 0 if valid else EXIT_INVALID


def _summary(path: Path, imported: Imported) -> str:
    lines = [f"{path}: {len(imported.runs)} run{'s' * (len(imported.runs) != 1)} of {imported.tool}"]
    for number, item in enumerate(imported.runs, start=1):
        lines += [f"  run {number}: INVALID: {reason}" for reason in item.invalid]
        if item.metrics:
            lines.append(
                f"  run {number}: "
                + ", ".join(f"{name} {value:.4g}" for name, value in sorted(item.metrics.items()))
            )
    lines += [f"  not taken: {reason}" for reason in imported.refused]
    lines += [f"  note: {note}" for note in imported.notes]
    return "\n".join(lines) + "\n"


def _session(
    cell: Cell, fingerprint: Fingerprint, first: Imported, boots: Sequence[BootRecord]
) -> SessionResults:
    now = datetime.now(UTC)
    return SessionResults(
        session=f"import-{now:%Y%m%dT%H%M%SZ}",
        started=now,
        command=shlex.join(["perfgate", *sys.argv[1:]]),
        perfgate=perfgate.__version__,
        measurements=(
            Measurement(
                cell=cell,
                fingerprint=fingerprint,
                server={"imported_from": first.tool, "model": first.model},
                workload=dict(first.workload),
                boots=tuple(boots),
            ),
        ),
    )


def _baseline(
    cell: Cell, fingerprint: Fingerprint, read: Sequence[tuple[Path, Imported]], boots: Sequence[BootRecord]
) -> Baseline:
    first = read[0][1]
    notes = dict.fromkeys(note for _, imported in read for note in (*imported.notes, *imported.refused))
    return Baseline(
        cell=cell,
        provenance=Provenance(
            recorded=datetime.now(UTC),
            by="perfgate import",
            command=shlex.join(["perfgate", *sys.argv[1:]]),
            source=f"{first.tool}: {', '.join(path.name for path, _ in read)}",
            notes=tuple(notes),
        ),
        fingerprint=fingerprint,
        server={"imported_from": first.tool, "model": first.model},
        workload=dict(first.workload),
        boots=tuple(boots),
    )


def _cell(text: str | None, imported: Imported) -> Cell | None:
    if text is None:
        return None
    try:
        return Cell(**dict(zip(("gpu", "model", "server", "workload"), text.split("/"), strict=True)))
    except (ValueError, ValidationError):
        raise InputError(f"--cell {text!r}", remedy=f"Write four names, e.g. {_guess(imported)}.") from None


def _guess(imported: Imported) -> Cell:
    model = re.sub(r"[^A-Za-z0-9._+-]+", "-", imported.model or "").strip("-.")[:120] or "unknown"
    return Cell(gpu="unknown", model=model, server="imported", workload="imported")


def _fingerprint(options: argparse.Namespace) -> Fingerprint:
    if options.gpu_count is not None and options.gpu_count < 1:
        raise InputError(f"--gpu-count {options.gpu_count}", remedy="Give 1 or more.")
    count = options.gpu_count if options.gpu_count is not None else int(options.gpu_name is not None)
    return Fingerprint(gpu_name=options.gpu_name, gpu_count=count, vllm=options.vllm_version)
