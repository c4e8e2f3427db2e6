"""The noise model of a GPU: how much a metric varies although nothing was changed, per metric and concurrency class.

It is fitted from replicates of all sessions that were kept, and lends its variance to comparisons that have few boots of their own.
The file is ``baselines/<gpu>/noise.json``. Variances are those of the logarithm: a standard deviation of 0.02 is two per cent.

History of the schema number: that of `perfgate.records`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from perfgate.baseline.comparable import NOT_THE_WORK
from perfgate.documents import Kind, decode, encode, read_bytes, write_atomically
from perfgate.errors import (
    NoiseAccessError,
    NoiseCorruptError,
    NoiseError,
    NoiseMissingError,
    NoiseSchemaError,
)
from perfgate.metrics import METRICS
from perfgate.records import (
    BootRecord,
    Fingerprint,
    Measurement,
    Name,
    NonNegative,
    Record,
    SessionResults,
    replicates,
)
from perfgate.statistics.components import ReplicateNoise, fit_replicates, fit_runs, pad
from perfgate.statistics.interval import Drift, Prior
from perfgate.statistics.mixture import two_states
from perfgate.statistics.planning import runs_per_boot
from perfgate.statistics.prior import prior_from

NOISE = Kind(
    word="noise model",
    corrupt=NoiseCorruptError,
    schema=NoiseSchemaError,
    access=NoiseAccessError,
    remedy="Fit it again: perfgate noise fit RESULTS…",
    marks=frozenset({"classes"}),
)

FILE_NAME = "noise.json"

#: Upper ends of the closed-loop concurrency classes: what holds at 2 streams does not hold at 64.
CONCURRENCY_CLASSES = (1, 4, 16, 64)


class StatesRecord(Record):
    """Boots of one cell and session that come up in two states."""

    cell: str
    metric: str
    gap: NonNegative
    """How much larger the upper state is, a fraction."""
    upper_share: float = Field(ge=0, le=1)
    boots: int
    p_value: NonNegative

    def __str__(self) -> str:
        return (
            f"two states: {self.metric} of {self.cell}: {self.upper_share:.0%} of {self.boots} boots lie "
            f"{self.gap:.1%} above the others (p = {self.p_value:.2g})"
        )


class NoiseClass(Record):
    """Spread of one metric in one concurrency class. Variances are of log values."""

    metric: str
    concurrency: str
    prior_df: float = Field(gt=0, allow_inf_nan=False)
    """d₀: how many degrees of freedom the prior is worth."""
    prior_variance: float = Field(gt=0, allow_inf_nan=False)
    """s₀² of one replicate with as many runs as the recorded ones had."""
    boot_variance: NonNegative
    """σ_b² between boots of a session, the runs' share taken off."""
    run_variance: NonNegative | None = None
    """σ_r² between runs of a boot; None where no boot had two runs."""
    inverse_runs: float = Field(default=1.0, gt=0, le=1)
    """Mean over the recorded boots of 1 / runs."""
    session_variance: NonNegative | None = None
    """τ² between sessions; None where no cell was measured in two sessions."""
    session_variance_upper: NonNegative | None = None
    """Upper 80% bound of τ²."""
    outlier_share: float = Field(default=0.0, ge=0, le=1)
    """Share of boots and runs set aside as outliers."""
    cells: int = Field(ge=1)
    sessions: int = Field(ge=1)
    boots: int = Field(ge=1)
    runs: int = Field(ge=1)

    def prior(self, runs: int = 1) -> Prior:
        """What one replicate of ``runs`` runs borrows.

        With run and boot variance known, the prior is scaled from the recorded number of runs to this one; otherwise a replicate is
        taken to vary as the recorded ones did.
        """
        if runs < 1:
            raise ValueError(f"a replicate has at least one run, not {runs}")
        scale = 1.0
        if self.run_variance is not None:
            recorded = self.boot_variance + self.run_variance * self.inverse_runs
            scale = (self.boot_variance + self.run_variance / runs) / recorded if recorded > 0 else 1.0
        return Prior(df=self.prior_df, variance=self.prior_variance * max(scale, 1e-6))

    def drift(self) -> Drift | None:
        """Session drift, or None where no cell was measured in two sessions."""
        if self.session_variance is None:
            return None
        upper = self.session_variance_upper
        return Drift(
            sd=math.sqrt(self.session_variance),
            upper_sd=None if upper is None else math.sqrt(max(upper, self.session_variance)),
        )

    def runs_per_boot(self, *, boot_cost: float, run_cost: float) -> int:
        """Runs worth taking on one boot (Kalibera & Jones); 1 where the runs' variance is not known."""
        if self.run_variance is None:
            return 1
        return runs_per_boot(
            boot_variance=self.boot_variance,
            run_variance=self.run_variance,
            boot_cost=boot_cost,
            run_cost=run_cost,
        )


class NoiseModel(Record):
    """What varies on one GPU although nothing was changed."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    gpu: Name
    fitted: AwareDatetime
    perfgate: str
    sources: tuple[str, ...]
    """Sessions that it was fitted from."""
    hardware: tuple[str, ...]
    """As `Fingerprint.hardware`; a model of other hardware is not used."""
    classes: tuple[NoiseClass, ...]
    two_states: tuple[StatesRecord, ...] = ()

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def find(self, metric: str, workload: Mapping[str, Any]) -> NoiseClass | None:
        """The class of a metric under a workload, given as plain data; None where nothing was recorded for it."""
        wanted = concurrency_class(workload)
        return next((one for one in self.classes if one.metric == metric and one.concurrency == wanted), None)


def usable(noise: NoiseModel | None, hardware: Sequence[str]) -> tuple[NoiseModel | None, tuple[str, ...]]:
    """The model if it is of this hardware, or else why it is not used, as notes of a verdict."""
    if noise is None or tuple(noise.hardware) == tuple(hardware):
        return noise, ()
    names = f"{' '.join(noise.hardware)}, not of {' '.join(hardware)}"
    return None, (f"the noise model is of other hardware ({names}) and was not used",)


def concurrency_class(workload: Mapping[str, Any]) -> str:
    """``"1"``, ``"2-4"``, ``"5-16"``, ``"17-64"``, ``"65+"`` streams of a closed loop, or ``"open"``."""
    streams = workload.get("concurrency")
    if not isinstance(streams, int) or streams < 1:
        return "open"
    low = 1
    for high in CONCURRENCY_CLASSES:
        if streams <= high:
            return str(high) if low == high else f"{low}-{high}"
        low = high + 1
    return f"{low}+"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The boots of one cell in one session, as log values of runs."""

    cell: str
    session: str
    boots: tuple[tuple[float, ...], ...]

    @property
    def means(self) -> list[float]:
        """Boot means."""
        return [math.fsum(boot) / len(boot) for boot in self.boots]


def recorded(sessions: Iterable[SessionResults], gpu: str) -> dict[tuple[str, str], list[Recorded]]:
    """Replicates of one GPU by metric and concurrency class.

    A cell is here what must not differ for two sessions to measure the same thing: server, workload and model with what was asked
    of them, and the software of the fingerprint. A boot that is in several files (merged results) counts once; void boots and
    invalid runs never count.
    """
    found: dict[tuple[str, str], list[Recorded]] = {}
    seen: set[tuple[str, str]] = set()
    for results in sorted(sessions, key=lambda one: (one.started, one.session)):
        for measurement in results.measurements:
            if measurement.cell.gpu != gpu:
                continue
            fresh = tuple(boot for boot in measurement.boots if (str(measurement.cell), boot.id) not in seen)
            seen.update((str(measurement.cell), boot.id) for boot in fresh)
            name = f"{measurement.cell}@{_software(measurement.fingerprint)},{_asked(measurement)}"
            for metric in METRICS:
                boots = _logarithms(fresh, metric)
                if boots:
                    key = metric, concurrency_class(measurement.workload)
                    found.setdefault(key, []).append(
                        Recorded(cell=name, session=results.session, boots=boots)
                    )
    return found


def fit(sessions: Sequence[SessionResults], gpu: str, *, at: datetime, version: str) -> NoiseModel:
    """Fit the noise model of one GPU from pooled replicates.

    Args:
        sessions: results of all sessions.
        gpu: its name.
        at: when.
        version: of perfgate.

    Raises:
        NoiseError: no cell of this GPU has two boots in one session, or the sessions come from different hardware.
    """
    hardware = {
        measurement.fingerprint.hardware()
        for results in sessions
        for measurement in results.measurements
        if measurement.cell.gpu == gpu
    }
    if len(hardware) > 1:
        names = "; ".join(" ".join(parts) for parts in sorted(hardware))
        raise NoiseError(
            f"sessions of {gpu} come from different hardware: {names}",
            remedy="Fit one kind of machine at a time.",
        )
    classes: list[NoiseClass] = []
    states: list[StatesRecord] = []
    for (metric, concurrency), groups in sorted(recorded(sessions, gpu).items()):
        fitted = fit_class(metric, concurrency, groups)
        if fitted is not None:
            classes.append(fitted)
        if METRICS[metric].primary:
            states.extend(_states(metric, groups))
    if not classes:
        raise NoiseError(
            f"nothing to fit for {gpu}: no cell has two boots in one session whose values differ",
            remedy="Record replicates (pytest -m serving --replicates 3), in two sessions or more to learn the drift as well.",
        )
    return NoiseModel(
        gpu=gpu,
        fitted=at,
        perfgate=version,
        sources=tuple(sorted({results.session for results in sessions})),
        hardware=next(iter(hardware)),
        classes=tuple(classes),
        two_states=tuple(states),
    )


def fit_class(metric: str, concurrency: str, groups: Sequence[Recorded]) -> NoiseClass | None:
    """Fit one class, or None where no cell has two differing boots in one session."""
    by_cell: dict[str, dict[str, list[float]]] = {}
    for group in groups:
        by_cell.setdefault(group.cell, {}).setdefault(group.session, []).extend(group.means)
    values, present = pad([list(by_session.values()) for by_session in by_cell.values()])
    noise = fit_replicates(values, present)
    runs = fit_runs([boot for group in groups for boot in group.boots])
    prior = prior_from(noise.cell_variance, noise.cell_df)
    if prior is None:
        return None
    boots = sum(len(group.boots) for group in groups)
    run_count = sum(len(boot) for group in groups for boot in group.boots)
    run_share = runs.variance * runs.inverse_runs if runs.variance is not None else 0.0
    session, upper = _session_variances(noise)
    return NoiseClass(
        metric=metric,
        concurrency=concurrency,
        prior_df=prior.df,
        prior_variance=prior.variance,
        boot_variance=max(0.0, float(noise.variance) - run_share),
        run_variance=runs.variance,
        inverse_runs=runs.inverse_runs,
        session_variance=session,
        session_variance_upper=upper,
        outlier_share=min(1.0, (float(noise.outliers) + runs.outliers) / run_count),
        cells=len(by_cell),
        sessions=len({group.session for group in groups}),
        boots=boots,
        runs=run_count,
    )


def read_noise(path: Path) -> NoiseModel:
    """The noise model in a file.

    Raises:
        NoiseMissingError: there is none.
        NoiseCorruptError: not as the schema says; file, field and remedy are named.
        NoiseSchemaError: another schema number.
        NoiseAccessError: the system refuses to read.
    """
    try:
        content = read_bytes(path, kind=NOISE)
    except FileNotFoundError as error:
        raise NoiseMissingError(
            f"{path}: no noise model", remedy="Fit one from recorded sessions: perfgate noise fit RESULTS…"
        ) from error
    return decode(content, NoiseModel, kind=NOISE, source=str(path))


def write_noise(path: Path, model: NoiseModel) -> None:
    """Write the model whole, in place of what was there.

    Raises:
        NoiseCorruptError: the model could not be read back, so nothing was written.
        NoiseAccessError: the system refuses to write.
    """
    content = encode(model)
    decode(content, NoiseModel, kind=NOISE, source=f"{path} (not written)")
    write_atomically(path, content, kind=NOISE)


def noise_path(baselines: Path, gpu: str) -> Path:
    """Where the model of a GPU lies in a folder of baselines."""
    return baselines / gpu / FILE_NAME


def _logarithms(boots: tuple[BootRecord, ...], metric: str) -> tuple[tuple[float, ...], ...]:
    """Log run values per boot; a boot with a value of zero has no logarithm and is left out."""
    return tuple(
        tuple(math.log(value) for value in values)
        for values in replicates(boots, metric)
        if all(value > 0 for value in values)
    )


def _software(fingerprint: Fingerprint) -> str:
    parts = (
        fingerprint.vllm,
        fingerprint.torch,
        fingerprint.triton,
        fingerprint.cuda,
        fingerprint.driver,
        fingerprint.image_digest,
        fingerprint.settings_hash,
    )
    return ",".join(part or "?" for part in parts)


def _asked(measurement: Measurement) -> str:
    """Digest of flags, variables and work: an entry that was changed, or had settings on top, is another cell and no drift."""
    server = measurement.server
    work = {name: value for name, value in measurement.workload.items() if name not in NOT_THE_WORK}
    asked = [server.get("args"), server.get("env"), work]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _session_variances(noise: ReplicateNoise) -> tuple[float | None, float | None]:
    estimate, upper = float(noise.session_variance), float(noise.session_variance_upper)
    if not math.isfinite(estimate):
        return None, None
    return estimate, upper if math.isfinite(upper) else None


def _states(metric: str, groups: Sequence[Recorded]) -> list[StatesRecord]:
    found: list[StatesRecord] = []
    for group in groups:
        states = two_states(group.means)
        if states is not None:
            found.append(
                StatesRecord(
                    cell=group.cell.split("@")[0],
                    metric=metric,
                    gap=math.expm1(states.gap),
                    upper_share=states.high_share,
                    boots=states.size,
                    p_value=states.p_value,
                )
            )
    return found
