"""Frozen records of what was measured, and their JSON.

A *session* is one invocation; it holds one *measurement* a cell; a measurement holds *boots*; a boot holds *runs*. A baseline is a
measurement that somebody decided to keep, with its provenance. Raw run values are kept at every level: a mean can be computed
again, a distribution cannot.

History of the schema number (one number for results and baselines):

1. first version.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from perfgate.effects import FlagReport
from perfgate.findings import Findings
from perfgate.record import Finite as Finite  # noqa: PLC0414 - re-exported, as are the next three
from perfgate.record import Name as Name  # noqa: PLC0414
from perfgate.record import NonNegative as NonNegative  # noqa: PLC0414
from perfgate.record import Record as Record  # noqa: PLC0414

SCHEMA = 1


class Cell(Record):
    """What a verdict is about: GPU × model × server × workload, by catalogue name."""

    gpu: Name
    model: Name
    server: Name
    workload: Name

    def __str__(self) -> str:
        return f"{self.gpu}/{self.model}/{self.server}/{self.workload}"


class Fingerprint(Record):
    """The machine and the software that produced a measurement. Unknown is None, never a guess."""

    gpu_name: str | None = None
    gpu_count: int = 0
    gpu_memory_gib: NonNegative | None = None
    driver: str | None = None
    cuda: str | None = None
    cpu_model: str | None = None
    cpu_count: int | None = None
    memory_gib: NonNegative | None = None
    machine: str | None = None
    kernel: str | None = None
    python: str | None = None
    vllm: str | None = None
    torch: str | None = None
    triton: str | None = None
    image_digest: str | None = None
    settings_hash: str | None = None

    def hardware(self) -> tuple[str, ...]:
        """What must be equal for two measurements to be comparable; a CPU measurement belongs to one kind of machine."""
        if self.gpu_name:
            return (self.gpu_name, f"{self.gpu_count} GPU")
        return (self.cpu_model or "unknown CPU", f"{self.cpu_count or '?'} cores")


class RequestArrays(Record):
    """Per-request times of one run in seconds since the run began, all of one length; None where it did not happen."""

    scheduled: tuple[float, ...]
    sent: tuple[float | None, ...]
    first: tuple[float | None, ...]
    last: tuple[float | None, ...]
    prompt_tokens: tuple[int | None, ...]
    output_tokens: tuple[int | None, ...]
    outcome: tuple[str, ...]

    @model_validator(mode="after")
    def _same_length(self) -> RequestArrays:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"request arrays differ in length: {lengths}")
        return self


class RunRecord(Record):
    """One workload on one boot with one seed."""

    seed: int | None = None
    started: AwareDatetime | None = None
    duration_s: NonNegative | None = None
    requests: int | None = Field(default=None, ge=0)
    averaged_over: int = Field(default=1, ge=1)
    """More than one where the source gives only a mean of several runs."""
    metrics: dict[str, NonNegative]
    """Believed values by metric name; empty for a run that is not valid."""
    invalid: tuple[str, ...] = ()
    """Why the run cannot be believed; empty for a valid run."""
    client: dict[str, Finite] = {}
    """What the client knows of itself: loop lag, dispatch delay, CPU seconds."""
    server: dict[str, Finite] = {}
    """Differences of the server's own counters over the run, and sampled peaks."""
    arrays: RequestArrays | None = None

    @property
    def valid(self) -> bool:
        """Whether the run may be judged."""
        return not self.invalid


class BootRecord(Record):
    """One start of a server, and the runs of one workload on it."""

    id: str
    started: AwareDatetime | None = None
    metrics: dict[str, NonNegative] = {}
    """Boot metrics: seconds to ready and by phase, KV tokens, GiB."""
    settings: dict[str, Any] = {}
    """The configuration that the server says it resolved to."""
    probes: tuple[dict[str, Any], ...] = ()
    """The machine before and after, see perfgate.environment."""
    void: tuple[str, ...] = ()
    """Why the whole boot is not used, decided by the probe alone; empty for a boot that is used."""
    flags: tuple[FlagReport, ...] = ()
    """What became of each flag and variable that was asked for; secrets masked."""
    notes: tuple[str, ...] = ()
    """What a person who reads its metrics should know, such as how graph memory is accounted for."""
    log: str | None = None
    runs: tuple[RunRecord, ...]

    def valid_runs(self) -> tuple[RunRecord, ...]:
        """The runs that may be judged."""
        return () if self.void else tuple(run for run in self.runs if run.valid)


class Provenance(Record):
    """Where a baseline comes from."""

    recorded: AwareDatetime | None = None
    by: str
    command: str | None = None
    source: str
    """"measured", or the document that the numbers were taken from."""
    notes: tuple[str, ...] = ()


class Measurement(Record):
    """What one stage of a session measured for one cell: the screen, fresh boots of a confirmation, the old side of an A/B."""

    cell: Cell
    fingerprint: Fingerprint
    server: dict[str, Any]
    """The server specification that was asked for, as plain data."""
    workload: dict[str, Any]
    """The workload specification, as plain data."""
    changes: tuple[str, ...] = ()
    """Settings of the command line on top of the server's entry; such a measurement is no part of the cell's history."""
    side: Literal["now", "old"] = "now"
    """The old side of an A/B is measured under the same cell's name; it is no part of the cell's history either."""
    boots: tuple[BootRecord, ...]

    def replicates(self, metric: str) -> tuple[tuple[float, ...], ...]:
        """Valid run values of one metric, one inner tuple a boot; boots without a value are left out."""
        return replicates(self.boots, metric)


class Baseline(Record):
    """A measurement kept as the reference for one cell."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    cell: Cell
    provenance: Provenance
    fingerprint: Fingerprint
    server: dict[str, Any] = {}
    workload: dict[str, Any] = {}
    boots: tuple[BootRecord, ...] = Field(min_length=1)

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _only_believed(self) -> Baseline:
        for boot in self.boots:
            if boot.void:
                raise ValueError(
                    f"boot {boot.id!r} is void ({boot.void[0]}); a void boot is never part of a baseline"
                )
            for number, run in enumerate(boot.runs):
                if run.invalid:
                    raise ValueError(
                        f"boot {boot.id!r} run {number} is invalid ({run.invalid[0]}); it is never part of a baseline"
                    )
                if not run.metrics:
                    raise ValueError(f"boot {boot.id!r} run {number} has no metrics")
            if not boot.runs:
                raise ValueError(f"boot {boot.id!r} has no runs")
        return self

    def replicates(self, metric: str) -> tuple[tuple[float, ...], ...]:
        """Run values of one metric, one inner tuple a boot; boots without a value are left out."""
        return replicates(self.boots, metric)


class Outcome(StrEnum):
    """What a verdict can say, worst first."""

    REGRESSION = "REGRESSION"
    INVALID = "INVALID"
    INCOMPARABLE = "INCOMPARABLE"
    NO_BASELINE = "NO_BASELINE"
    RECORDED = "RECORDED"
    """A baseline was recorded where there was none: nothing was judged, and it is not a pass."""
    SUSPECT = "SUSPECT"
    INCONCLUSIVE = "INCONCLUSIVE"
    IMPROVEMENT = "IMPROVEMENT"
    PASS = "PASS"

    @property
    def severity(self) -> int:
        """0 for the worst; the order of definition."""
        return list(Outcome).index(self)


class MetricVerdict(Record):
    """What is said about one metric of one cell. Relative numbers: +0.10 is ten per cent more of the metric."""

    metric: str
    outcome: Outcome
    baseline: NonNegative | None = None
    now: NonNegative | None = None
    change: Finite | None = None
    lower: Finite | None = None
    """Lower end of the interval of the change; None where there is no finite one."""
    upper: Finite | None = None
    confidence: float = 0.95
    margin: NonNegative | None = None
    tolerance: NonNegative | None = None
    smallest_detectable: NonNegative | None = None
    """The smallest slowdown that this much data shows with 80% power; None where none can be shown."""
    baseline_boots: int = 0
    now_boots: int = 0
    primary: bool = True
    reason: str = ""
    next_step: str = ""


class AttributedPart(Record):
    """What one setting, or settings that act or must stay together, do to one metric. Fractions; 0.10 is ten per cent slower."""

    settings: tuple[str, ...]
    effect: Finite
    lower: Finite | None = None
    upper: Finite | None = None
    share: Finite | None = None
    """Of the total, on the log scale."""
    probability: NonNegative
    """That it is involved."""
    named: bool
    together: bool = False
    """An interaction: what the settings do together beyond what each does alone."""
    boots: int = Field(ge=0)
    """Boots that had it applied."""


class AttributedMetric(Record):
    """One slower metric of a cell, taken apart."""

    metric: str
    total: Finite
    lower: Finite | None = None
    upper: Finite | None = None
    unexplained: Finite | None = None
    """What is left with everything applied but what is named; None where nothing was searched."""
    unexplained_lower: Finite | None = None
    unexplained_upper: Finite | None = None
    settled: bool
    """Whether what is named explains the total."""
    parts: tuple[AttributedPart, ...] = ()


class AttributionBoot(Record):
    """One boot of a search."""

    applied: tuple[str, ...]
    id: str | None = None
    minutes: NonNegative = 0.0
    problem: str = ""
    """Why it did not come up, or cannot be believed; empty for a boot that counts."""
    metrics: dict[str, tuple[NonNegative, ...]] = {}
    """Run values of the searched metrics."""


class Attribution(Record):
    """Which of the settings that two sides differ in make a cell slower, or faster where nothing is slower."""

    kind: Literal["settings", "versions"] = "settings"
    """Settings of the new side put on the old one, or defaults of the old version pinned on the new one."""
    direction: Literal["slower", "faster"] = "slower"
    """What is traced. Effects of a slowdown are new / old − 1 of a time, of a gain old / new − 1; a rate counts as its inverse."""
    settings: tuple[str, ...]
    """Every difference, in words."""
    units: tuple[tuple[str, ...], ...]
    """Those that were told apart; several in one where they had to stay together."""
    responsible: tuple[str, ...]
    undecided: tuple[str, ...] = ()
    ended: Literal["explained", "no effect", "elsewhere", "budget"]
    """*no effect*: there is no difference, or it did not last; *elsewhere*: there is one, and no moved default takes it back."""
    stopped: Literal["time", "interrupted", "unbelieved", "unpinnable"] | None = None
    """What ended it before it was over: ``--max-minutes``, Ctrl-C, boots that cannot be believed, or pins that do not boot together."""
    search_boots: int = Field(ge=0)
    """Boots beyond those of the A/B."""
    ab_boots: int = Field(ge=0)
    failed_boots: int = Field(default=0, ge=0)
    minutes: NonNegative = 0.0
    metrics: tuple[AttributedMetric, ...] = ()
    boots: tuple[AttributionBoot, ...] = ()
    """The boots of the search, in order."""
    notes: tuple[str, ...] = ()


class CellVerdict(Record):
    """The verdict of one cell: the worst of its primary metrics, or why there is none."""

    cell: Cell
    outcome: Outcome
    reason: str = ""
    next_step: str = ""
    command: str = ""
    """What to type next, where a session knows it."""
    metrics: tuple[MetricVerdict, ...] = ()
    notes: tuple[str, ...] = ()
    """Diagnosis, moved defaults, environment differences: shown, never judged."""
    baseline_file: str | None = None
    attribution: Attribution | None = None
    """Which settings made it slower, where that was asked for."""


class SessionResults(Record):
    """One JSON file a session."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    session: str
    started: AwareDatetime
    command: str
    perfgate: str
    measurements: tuple[Measurement, ...] = ()
    verdicts: tuple[CellVerdict, ...] = ()
    findings: Findings = Findings()
    """What claims, sweeps and changes of a kernel came to; they are judged against no baseline."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


def replicates(boots: tuple[BootRecord, ...], metric: str) -> tuple[tuple[float, ...], ...]:
    """Valid run values of one metric, one inner tuple a boot; boots without a value are left out.

    A metric of the boot itself (time to ready, KV tokens) counts once a boot.
    """
    found: list[tuple[float, ...]] = []
    for boot in boots:
        if boot.void:
            continue
        values = tuple(run.metrics[metric] for run in boot.valid_runs() if metric in run.metrics)
        if not values and metric in boot.metrics:
            values = (boot.metrics[metric],)
        if values:
            found.append(values)
    return tuple(found)


def plain(record: Record) -> Mapping[str, Any]:
    """The record as JSON-ready plain data."""
    data: Mapping[str, Any] = record.model_dump(mode="json")
    return data
