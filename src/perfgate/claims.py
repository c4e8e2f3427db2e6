"""A claim about flags as data, and what measurements say about it.

A claim names two servers (or one server and its changed settings), workloads, and for some metrics the band in which new / old − 1 must
lie. It *holds*, *does not hold* or is *undecidable* here, see `perfgate.statistics.band`. A claim "no effect while the KV cache is not
tight" also needs the server's counters to say that it was not. A claim about what a flag becomes needs one boot and no load.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from perfgate.diagnosis import server_view
from perfgate.effects import Effect, FlagReport
from perfgate.findings import Answer, ClaimFinding, ClaimPart
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel
from perfgate.records import BootRecord, Finite, Measurement, Name, Record
from perfgate.server.reading import Member, agrees, parsed
from perfgate.server.spec import Value, flag_name, normal_args
from perfgate.statistics.band import Band, judge_band, together
from perfgate.statistics.interval import Prior, compare
from perfgate.verdict import DECLARED_DF, boot_means, geometric_mean

ALPHA = 0.05
"""Error of one claim: with k metrics each interval has confidence 1 − 0.05/k."""
TIGHT = 0.95
"""Largest share of the KV cache in use from which it counts as tight, as do preemptions."""


class Side(Record):
    """One side of a claim: a server entry, with settings on top."""

    server: Name
    args: dict[str, Value] = {}
    """Flags on top of the entry's; false takes one of the entry's away."""
    env: dict[str, str | Literal[False]] = {}
    """Variables on top of the entry's; false takes one of the entry's away."""

    @field_validator("env", mode="before")
    @classmethod
    def _variables(cls, env: Any) -> Any:
        if not isinstance(env, Mapping):
            return env
        for name, value in env.items():
            if value is True or not isinstance(value, (str, int, float)):
                raise ValueError(f"{name} must be a string or a number, or false to take it away")
        return {name: value if value is False else str(value) for name, value in env.items()}

    @field_validator("args")
    @classmethod
    def _flags(cls, args: dict[str, Value]) -> dict[str, Value]:
        normal_args(args)
        if any(isinstance(value, list) for value in args.values()):
            raise ValueError("a flag with several values needs a server entry of its own")
        return {flag_name(name): value for name, value in args.items()}


class Expected(Record):
    """What a claim says about one metric under one workload. Changes are new / old − 1: −0.1 is ten per cent less."""

    workload: Name
    metric: str
    least: Finite | None = None
    """The change is at least this."""
    most: Finite | None = None
    """The change is at most this."""
    measured: Finite | None = None
    """The change that the source of the claim measured; shown, never judged."""

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}")
        return name

    @model_validator(mode="after")
    def _claims_something(self) -> Expected:
        _ = self.band
        return self

    @property
    def band(self) -> Band:
        """Both ends."""
        return Band(
            least=-1.0 if self.least is None else self.least,
            most=math.inf if self.most is None else self.most,
        )


class ClaimSpec(Record):
    """One entry of ``claims.toml``."""

    name: Name
    text: str = Field(min_length=1)
    """The claim in one sentence."""
    source: str = ""
    """Where it comes from."""
    gpus: tuple[str, ...] = ()
    """The GPU entries that can carry it; empty for any."""
    model: Name | None = None
    """Model entry; the server's or the GPU's own where not given."""
    old: Side | None = None
    new: Side
    expect: tuple[Expected, ...] = ()
    while_kv_is_not_tight: bool = False
    """The claim only speaks of servers without preemptions and with room in the KV cache, by their own counters."""
    runs_as: dict[str, Value] = {}
    """Flag → the value that really runs on the new side, whatever was asked for; ``no-x = true`` is ``x = false``."""
    pairs: int | None = Field(default=None, ge=2)
    """Interleaved pairs of boots; the GPU's own number where not given."""

    @field_validator("gpus", "expect", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("runs_as")
    @classmethod
    def _states(cls, given: dict[str, Value]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for written, value in given.items():
            name, state = flag_name(written), value
            if name.startswith("no-"):
                if not isinstance(value, bool):
                    raise ValueError(
                        f"{written} runs or does not: give it true or false, or name the flag without no-"
                    )
                name, state = name.removeprefix("no-"), not value
            if name in found:
                raise ValueError(f"--{name} is claimed about twice")
            found[name] = state
        return found

    @model_validator(mode="after")
    def _one_kind(self) -> ClaimSpec:
        if bool(self.expect) == bool(self.runs_as):
            raise ValueError("a claim has either expect (an A/B) or runs_as (what a flag becomes)")
        if self.expect and self.old is None:
            raise ValueError("a claim with expect needs an old side to compare with")
        if self.old == self.new:
            raise ValueError(f"old and new are the same, {self.new.server}: a claim compares two servers")
        if self.runs_as:
            meant_for = {
                "old": self.old,
                "pairs": self.pairs,
                "while_kv_is_not_tight": self.while_kv_is_not_tight,
            }
            idle = [name for name, value in meant_for.items() if value not in (None, False)]
            if idle:
                raise ValueError(
                    f"{' and '.join(idle)} mean nothing beside runs_as: such a claim needs one boot and no load"
                )
        keys = [(one.workload, one.metric) for one in self.expect]
        if len(set(keys)) != len(keys):
            raise ValueError("each metric of a workload is claimed about once")
        return self

    @property
    def workloads(self) -> tuple[str, ...]:
        """The workloads it is about, each once."""
        return tuple(dict.fromkeys(one.workload for one in self.expect))

    @property
    def needs_gpu(self) -> bool:
        """Whether only machines with a GPU can carry it."""
        return bool(self.gpus) and "cpu" not in self.gpus


Kv = Literal["roomy", "tight", "unknown"]


def judge_claim(
    claim: ClaimSpec,
    old: Mapping[str, Measurement],
    new: Mapping[str, Measurement],
    *,
    gpu: str,
    noise: NoiseModel | None = None,
) -> ClaimFinding:
    """Holds the measurements of both sides against the claim's bands.

    Args:
        claim: with `ClaimSpec.expect`.
        old: by workload name; interleaved with the new side.
        new: likewise.
        gpu: the entry that it was measured on.
        noise: lends its variance where it is of the same hardware; Welch's comparison without one.
    """
    confidence = 1 - ALPHA / len(claim.expect)
    parts = tuple(_part(one, old[one.workload], new[one.workload], noise, confidence) for one in claim.expect)
    answer, reason = together(part.answer for part in parts), ""
    notes: tuple[str, ...] = ()
    if claim.while_kv_is_not_tight:
        # Each measurement for itself: what one side says must not stand for the other's silence.
        found = [kv_state(one.boots) for side in (old, new) for one in side.values()]
        states = {state for state, _ in found}
        notes = tuple(dict.fromkeys(words for _, words in found if words))
        if states != {"roomy"}:
            answer = "undecidable"
            reason = (
                "the KV cache was tight, of which the claim does not speak"
                if "tight" in states
                else "the server does not say how full its KV cache was"
            )
    return ClaimFinding(
        claim=claim.name,
        text=claim.text,
        source=claim.source,
        gpu=gpu,
        answer=answer,
        reason=reason or "; ".join(describe(part) for part in parts if part.answer == answer),
        parts=parts,
        notes=notes,
    )


def judge_flags(
    claim: ClaimSpec,
    reports: Sequence[FlagReport],
    *,
    gpu: str,
    running: Mapping[str, Sequence[Any]] | None = None,
) -> ClaimFinding:
    """Compares what really runs with what the claim says becomes of a flag.

    Args:
        claim: with `ClaimSpec.runs_as`.
        reports: of the new side's server.
        gpu: the entry that it was seen on.
        running: flag → what runs, as each source of the server says it; also of flags that nobody asked for.
    """
    by_name = {report.name.removeprefix("--").removeprefix("no-"): report for report in reports}
    answers: list[Answer] = []
    said = []
    for flag, value in claim.runs_as.items():
        report = by_name.get(flag)
        asked = "not asked for" if report is None else f"asked for {_asked(report)}"
        if report is not None and report.effect is Effect.IGNORED and report.running is None:
            answers.append("undecidable")
            said.append(f"--{flag}: {asked}, which is ignored; nothing says what runs")
            continue
        found = (running or {}).get(flag) or _reported(report)
        if not found:
            answers.append("undecidable")
            said.append(f"nothing says what --{flag} runs as")
            continue
        shown, answer = _held_against(value, found)
        answers.append(answer)
        said.append(f"--{flag}: {asked}, {shown} runs")
    return ClaimFinding(
        claim=claim.name,
        text=claim.text,
        source=claim.source,
        gpu=gpu,
        answer=together(answers),
        reason="; ".join(said),
    )


def _held_against(value: Value, found: Sequence[Any]) -> tuple[str, Answer]:
    """What runs in words, and the answer, by the first source that can be compared with the claim."""
    for running in found:
        agreed = str(running) == "auto" if value == "auto" else agrees(value, running)
        if agreed is not None:
            return in_words(running), "holds" if agreed else "does not hold"
    return f"{in_words(found[0])}, which cannot be compared with {in_words(value)},", "undecidable"


def in_words(value: Any) -> str:
    """A setting's value as reports show it."""
    return str(value) if isinstance(value, (str, Member)) else json.dumps(value, default=str)


def _asked(report: FlagReport) -> str:
    return "false" if report.name.startswith("--no-") else report.asked or "true"


def _reported(report: FlagReport | None) -> tuple[Any, ...]:
    if report is None or report.effect is Effect.UNKNOWN:
        return ()
    text = report.running
    if text is None:
        text = _asked(report) if report.effect is Effect.HONOURED else None
    return () if text is None else (_value(text),)


def _value(text: str) -> Any:
    return {"true": True, "false": False}.get(text, parsed(text))


def kv_state(boots: Sequence[BootRecord]) -> tuple[Kv, str]:
    """Whether the KV cache had room in all runs, and the numbers in words."""
    view = server_view(boots)
    if view.kv_peak is None or view.preemptions is None:
        return "unknown", ""
    said = f"KV cache at most {view.kv_peak:.0%} full, {view.preemptions:.0f} preemptions"
    return ("tight" if view.preemptions > 0 or view.kv_peak >= TIGHT else "roomy"), said


def describe(part: ClaimPart) -> str:
    """A part's finding in words."""
    label = f"{METRICS[part.metric].label} under {part.workload}"
    if part.change is None:
        return f"{label}: not measured on both sides"
    if part.lower is None or part.upper is None:
        return f"{label} {part.change:+.1%}, without an interval ({part.boots} boots a side)"
    digits = max(
        1, *(len(_exactly(end).partition(".")[2]) - 1 for end in (part.least, part.most) if end is not None)
    )
    change, lower, upper = (f"{value:+.{digits}%}" for value in (part.change, part.lower, part.upper))
    return f"{label} {change} ({lower} to {upper}), claimed {band_words(part)}"


def band_words(part: ClaimPart | Expected) -> str:
    """The claimed band in words, with as many digits as it was written with."""
    if part.least is None:
        return f"at most {_exactly(part.most or 0.0)}"
    if part.most is None:
        return f"at least {_exactly(part.least)}"
    return f"{_exactly(part.least)} to {_exactly(part.most)}"


def _exactly(change: float) -> str:
    return f"{100 * change:+.8f}".rstrip("0").rstrip(".") + "%"


def lent_prior(metric: str, measurement: Measurement, noise: NoiseModel | None, *, runs: int) -> Prior | None:
    """What is known of a metric's variance from elsewhere: a computed size's as declared, else the noise model's of the same hardware.

    Args:
        metric: its name.
        measurement: says workload and hardware.
        noise: the model, if there is one.
        runs: of a boot, at least one.
    """
    declared = METRICS[metric].noise
    if declared is not None:
        # Computed sizes may repeat exactly, and then carry no interval of their own.
        return Prior(df=DECLARED_DF, variance=declared**2)
    if noise is None or tuple(noise.hardware) != measurement.fingerprint.hardware():
        return None
    found = noise.find(metric, measurement.workload)
    return found.prior(max(runs, 1)) if found is not None else None


def _part(
    one: Expected, old: Measurement, new: Measurement, noise: NoiseModel | None, confidence: float
) -> ClaimPart:
    before, after = old.replicates(one.metric), new.replicates(one.metric)
    prior = lent_prior(one.metric, new, noise, runs=min(map(len, (*before, *after)), default=1))
    difference = compare(
        boot_means(before),
        boot_means(after),
        prior=prior,
        winsor_width=2.5 if prior is not None else None,
    )
    found = judge_band(difference, one.band, confidence=confidence)
    known = math.isfinite(found.lower) and math.isfinite(found.upper) and found.lower > -1
    return ClaimPart(
        workload=one.workload,
        metric=one.metric,
        answer=found.answer,
        old=geometric_mean(before),
        new=geometric_mean(after),
        change=_finite(found.change),
        lower=found.lower if known else None,
        upper=found.upper if known else None,
        confidence=confidence,
        least=one.least,
        most=one.most,
        measured=one.measured,
        smallest_detectable=_finite(found.smallest_detectable),
        boots=min(difference.base_size, difference.new_size),
        borrowed=prior is not None,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
