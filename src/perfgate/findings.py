"""What tests found that are judged against no baseline: claims about flags, sweeps, changes of a kernel.

They are part of a session's results (`perfgate.records.SessionResults.findings`); the measurements that they rest on are there as well.
Numbers without a finite value are None.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from perfgate.record import Finite, Name, NonNegative, Record

Answer: TypeAlias = Literal["holds", "does not hold", "undecidable"]
"""What the data say about a claim."""
Arrival: TypeAlias = Literal["reaches serving", "evaporates", "backfires", "undecided"]
"""What became of a kernel's gain."""


class ClaimPart(Record):
    """What was found for one metric of a claim. Changes are new / old − 1: −0.1 is ten per cent less."""

    workload: str
    metric: str
    answer: Answer
    old: NonNegative | None = None
    new: NonNegative | None = None
    change: Finite | None = None
    lower: Finite | None = None
    """Of the interval of the change."""
    upper: Finite | None = None
    confidence: float
    least: Finite | None = None
    """What the claim says the change is at least."""
    most: Finite | None = None
    measured: Finite | None = None
    """What the source of the claim measured."""
    smallest_detectable: Finite | None = None
    boots: int = 0
    """Of each side."""
    borrowed: bool = False
    """Whether its variance is lent: by a noise model, or of a computed size as it is declared."""


class ClaimFinding(Record):
    """What was found for one claim."""

    claim: Name
    text: str
    source: str = ""
    gpu: Name
    answer: Answer
    reason: str
    parts: tuple[ClaimPart, ...] = ()
    notes: tuple[str, ...] = ()


class Axis(Record):
    """One swept flag."""

    flag: str
    values: tuple[str, ...]


class SweptValue(Record):
    """One metric of a point under a workload, with the point's own interval."""

    metric: str
    value: NonNegative | None = None
    lower: Finite | None = None
    upper: Finite | None = None


class SweptPoint(Record):
    """One point under one workload."""

    point: str
    boots: int
    """That its values rest on."""
    values: tuple[SweptValue, ...] = ()
    dominated_by: tuple[str, ...] = ()
    """Points shown to be better in one metric and not worse beyond the margin in the others."""
    problem: str = ""
    """Why it was not measured to the end, or cannot be believed; such a point is compared with nothing, whatever values it has."""
    repeated: tuple[str, ...] = ()
    """Why boots failed that were made again."""


class SweptCell(Record):
    """All points under one workload."""

    cell: str
    rows: tuple[SweptPoint, ...]
    winner: str | None = None
    """The point shown to dominate every other one."""
    left_out: tuple[str, ...] = ()
    """Metrics that no point has; the points were compared by the others."""


class SweepFinding(Record):
    """What a sweep of one server found."""

    server: str
    axes: tuple[Axis, ...]
    rounds: int
    """That were measured whole."""
    asked_rounds: int
    interrupted: bool = False
    """It was broken off in a round: some points may have a boot more than others, or none."""
    alpha: float = 0.05
    """Error over all pairs of points and metrics of a workload."""
    cells: tuple[SweptCell, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Points that could not be measured, each once, in words."""
        said = (f"{row.point}: {row.problem}" for cell in self.cells for row in cell.rows if row.problem)
        return tuple(dict.fromkeys(said))


class Estimate(Record):
    """A number with its interval; no ends where the data carry none."""

    estimate: Finite
    lower: Finite | None = None
    upper: Finite | None = None


class KernelTimes(Record):
    """A kernel at one size of engine steps."""

    tokens: int
    fewest: int
    """Of the bucket of the server's histogram that the size stands for."""
    most: int | None = None
    steps: NonNegative
    old: tuple[NonNegative, ...]
    """Seconds of one call, one value a process."""
    new: tuple[NonNegative, ...]
    faster: Finite
    """By how much, 0.1 is ten per cent."""


class ChangedMetric(Record):
    """Both levels of one serving metric. Slowdowns: −0.04 is four per cent less time."""

    metric: str
    arrival: Arrival
    reason: str
    serving: Estimate
    expected: Estimate | None = None
    """By Amdahl's law; None where the kernel was not timed or is no part of the metric."""
    kernel: Estimate | None = None
    """How much faster the kernel is."""
    share: Estimate | None = None
    """Of the kernel in the serving time."""
    decides: bool = True
    """Whether the change can be judged by it: False where the kernel is no part of it."""
    confidence: float | None = None
    """Of the interval of serving."""
    borrowed: bool = False
    """Whether a noise model lent its variance."""


class ChangedWorkload(Record):
    """A change under one workload."""

    workload: Name
    exact: bool
    """Whether the sizes of the steps add up to the tokens that the server counted."""
    kernel: tuple[KernelTimes, ...] = ()
    metrics: tuple[ChangedMetric, ...]


class ChangeFinding(Record):
    """What became of a change to a kernel."""

    change: Name
    text: str
    gpu: Name
    kernel: str
    workloads: tuple[ChangedWorkload, ...]
    problem: str = ""
    """Why the kernel has no times; serving was measured, and can still backfire."""

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """Of every metric that the kernel is part of, and of the others where they backfire."""
        return tuple(
            metric.arrival
            for one in self.workloads
            for metric in one.metrics
            if metric.decides or metric.arrival == "backfires"
        )


class Findings(Record):
    """Everything of one session."""

    claims: tuple[ClaimFinding, ...] = ()
    sweeps: tuple[SweepFinding, ...] = ()
    changes: tuple[ChangeFinding, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.claims or self.sweeps or self.changes)

    def __add__(self, other: Findings) -> Findings:
        """Those of both."""
        return Findings(
            claims=self.claims + other.claims,
            sweeps=self.sweeps + other.sweeps,
            changes=self.changes + other.changes,
        )
