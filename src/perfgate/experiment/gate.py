"""One cell from measurement to verdict: reads the baseline, judges, and writes a baseline where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from perfgate.baseline import BaselineStore, StoredBaseline, comparable, workload_differences
from perfgate.errors import BaselineError, BaselineMissingError, InputError
from perfgate.noise import NoiseModel, usable
from perfgate.plaintext import from_here
from perfgate.records import Baseline, BootRecord, CellVerdict, Measurement, Outcome, Provenance
from perfgate.selection import Target
from perfgate.server import ASKED, UNASKED, SettingChange, moved_defaults
from perfgate.verdict import invalid, invalidity, judge_cell, no_baseline

QUOTED, LISTED = 3, 12
"""Moved defaults that a failed verdict quotes, and that its notes list."""


class Writing(StrEnum):
    """What may be written to the baselines."""

    NOTHING = "nothing"
    NEW = "new"
    """Create the missing ones; never change one."""
    UPDATE = "update"
    """Replace those of the judged cells, create the missing ones."""


class Settled(NamedTuple):
    """A verdict, and where a baseline was written if one was."""

    verdict: CellVerdict
    recorded: str | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Judges measurements against a store of baselines."""

    store: BaselineStore
    writing: Writing
    by: str
    command: str
    notes: tuple[str, ...] = ()
    noise: NoiseModel | None = None

    def check_writable(self, targets: Sequence[Target]) -> None:
        """Refuses, before anything is measured, to record what would be stored under the wrong name.

        Raises:
            InputError: settings of the command line are on top of the server entry.
        """
        changed = next((target for target in targets if target.changes), None)
        if self.writing is not Writing.NOTHING and changed is not None:
            raise InputError(
                f"a baseline of server {changed.server.name!r} cannot be recorded with {' '.join(changed.changes)} on top",
                remedy="Give the changed settings a server entry of their own (extends = "
                f"{changed.server.name!r}), or measure without recording.",
            )

    def judge(self, target: Target, measurement: Measurement) -> Settled:
        """Judges one cell; records it where asked for. Errors of the store become verdicts, never passes."""
        try:
            stored: StoredBaseline | None = self.store.read(target.cell)
        except BaselineMissingError as error:
            if self.writing is Writing.NOTHING:
                return Settled(
                    no_baseline(
                        target.cell, error.message, error.remedy, file=self.store.location(target.cell)
                    )
                )
            stored = None
        except BaselineError as error:
            return Settled(
                no_baseline(target.cell, error.message, error.remedy, file=self.store.location(target.cell))
            )
        verdict = self._against(stored, target, measurement) if stored is not None else None
        if self.writing is Writing.UPDATE or (self.writing is Writing.NEW and stored is None):
            return self._record(target, measurement, stored, verdict)
        assert verdict is not None
        return Settled(verdict)

    def _against(self, stored: StoredBaseline, target: Target, measurement: Measurement) -> CellVerdict:
        baseline = stored.baseline
        reasons = [
            *comparable(baseline.fingerprint, measurement.fingerprint),
            *workload_differences(baseline.workload, measurement.workload),
        ]
        moved = moved_defaults(baseline, measurement)
        notes = moved_notes(moved)
        if target.changes:
            notes.append(f"measured with {' '.join(target.changes)} on top of {target.server.name}")
        noise, why_not = usable(self.noise, measurement.fingerprint.hardware())
        notes += why_not
        verdict = judge_cell(
            baseline,
            measurement,
            incomparable=reasons,
            noise=noise,
            margins=target.margins(),
            tolerances=target.gpu.tolerances,
            baseline_file=stored.location,
            notes=notes,
        )
        return quoting_moved(verdict)

    def _record(
        self,
        target: Target,
        measurement: Measurement,
        stored: StoredBaseline | None,
        verdict: CellVerdict | None,
    ) -> Settled:
        problem = invalidity(measurement.boots)
        if problem is not None:
            return Settled(
                invalid(target.cell, problem, "Nothing was recorded: remove the cause and measure again.")
            )
        baseline = Baseline(
            cell=target.cell,
            provenance=Provenance(
                recorded=datetime.now(UTC),
                by=self.by,
                command=self.command,
                source="measured",
                notes=self.notes,
            ),
            fingerprint=measurement.fingerprint,
            server=measurement.server,
            workload=measurement.workload,
            boots=believed(measurement.boots),
        )
        try:
            location = self.store.write(baseline, replacing=stored)
        except BaselineError as error:
            return Settled(invalid(target.cell, error.message, error.remedy))
        word = "replaced" if stored is not None else "recorded"
        recorded = CellVerdict(
            cell=target.cell,
            outcome=Outcome.RECORDED if verdict is None else verdict.outcome,
            reason=f"baseline {word} in {from_here(location)} ({len(baseline.boots)} boots); nothing was judged"
            if verdict is None
            else f"baseline {word}; against the old one: {verdict.outcome.value}. {verdict.reason}",
            next_step="Measure again: the next session is judged against it.",
            metrics=verdict.metrics if verdict is not None else (),
            baseline_file=location,
        )
        return Settled(recorded, location)


def moved_notes(moved: Sequence[SettingChange]) -> list[str]:
    """What the servers resolved differently, as lines of a report; the unasked first, and not without end."""
    lines = []
    for asked, words in ((False, "that you did not set"), (True, "that you set")):
        changes = [str(change) for change in moved if change.asked is asked]
        lines += changes[:LISTED]
        if len(changes) > LISTED:
            lines.append(f"{len(changes) - LISTED} more settings moved {words}")
    return lines


def quoting_moved(verdict: CellVerdict) -> CellVerdict:
    """The verdict; where it fails or suspects, its reason begins with the settings in its notes that moved.

    What somebody set comes before what nobody asked for: the second often follows from the first.
    """
    unasked = [note for note in verdict.notes if note.endswith(UNASKED)][:QUOTED]
    asked = [note for note in verdict.notes if note.endswith(f", {ASKED}")][:QUOTED]
    moved = "; ".join((*asked, *unasked))
    failed = verdict.outcome in (Outcome.REGRESSION, Outcome.SUSPECT)
    if not unasked or not failed or verdict.reason.startswith(moved):
        return verdict
    return verdict.model_copy(update={"reason": f"{moved} – {verdict.reason}"})


def believed(boots: Sequence[BootRecord]) -> tuple[BootRecord, ...]:
    """The boots and runs that may enter a baseline, without per-request arrays."""
    kept = []
    for boot in boots:
        runs = tuple(run.model_copy(update={"arrays": None}) for run in boot.valid_runs())
        if runs:
            kept.append(boot.model_copy(update={"runs": runs}))
    return tuple(kept)
