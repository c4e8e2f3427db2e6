"""Does warm-up reach every autotune key that serving reaches: the comparison and the answer's record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from perfgate.autotune.process import TIMEOUT_S, ask_all
from perfgate.autotune.question import STATE_DTYPES as STATE_DTYPES  # noqa: PLC0414 - re-exported, as are two below
from perfgate.autotune.question import TP_SIZES as TP_SIZES  # noqa: PLC0414
from perfgate.autotune.question import Layer, Question, cell, emulated, layer_of
from perfgate.autotune.question import divisible_sizes as divisible_sizes  # noqa: PLC0414
from perfgate.errors import CoverageError
from perfgate.records import Record

UNKNOWN = "unknown"
"""In place of a version, where the process that would have said it failed as a whole."""

Fields = tuple[tuple[str, str], ...]


class MissedKey(Record):
    """A key that serving reaches and warm-up did not."""

    kernel: str
    key: dict[str, str]
    """Every element of the key by name: an argument's value, or NAME.dtype."""
    differs: str
    """What differs from the nearest key that was warmed, warm-up against serving."""
    when: str = ""
    """The first batch that reached it."""
    configs: int = 0
    """Configurations that are benchmarked then."""


class JitMiss(Record):
    """A specialisation that is compiled at inference only; a compile, not a benchmark."""

    kernel: str
    specialisation: str
    when: str


class Coverage(Record):
    """The answer for one cell."""

    model_config = ConfigDict(protected_namespaces=())

    vllm: str
    triton: str
    gpu: str
    model: str
    tp: int
    state_dtype: str
    layer: Layer
    keys_warmed: int
    keys_reachable: int
    keys_missed: tuple[MissedKey, ...]
    configs_benched_at_start: int
    configs_benched_at_inference: int
    jit_missed: tuple[JitMiss, ...]
    layer_class: str = ""
    default_prefill_backend: str = ""
    """What this release chooses by itself on this GPU; the keys are those of its Triton backend either way."""
    warmup_failures: tuple[str, ...] = ()
    undetermined: str = ""
    """Why coverage could not be determined; then the numbers mean nothing."""

    @property
    def covered(self) -> bool:
        """Whether serving reaches no key that warm-up did not, and nothing stands against believing it."""
        return not (self.undetermined or self.keys_missed or self.warmup_failures) and self.keys_warmed > 0

    @property
    def status(self) -> Literal["covered", "missed", "undetermined"]:
        """One word; what is not known to be covered or missed is undetermined."""
        if self.undetermined:
            return "undetermined"
        if self.keys_missed:
            return "missed"
        return "covered" if self.covered else "undetermined"

    def reason(self) -> str:
        """Why the status is what it is, in one sentence."""
        if self.undetermined:
            return self.undetermined
        failed = f" A warm-up failed: {self.warmup_failures[0]}" if self.warmup_failures else ""
        if self.keys_missed:
            return (
                f"{len(self.keys_missed)} of {self.keys_reachable} reachable autotune keys are not warmed "
                f"({self.keys_warmed} warmed).{failed}"
            )
        if failed:
            return f"no key is missed, but a warm-up is not to be believed.{failed}"
        return f"all {self.keys_reachable} reachable autotune keys are warmed"


def determine(
    questions: Sequence[Question],
    *,
    vllm_source: Path | None = None,
    python: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[Coverage]:
    """Answer all questions, one child process per GPU; answers in the order of the questions.

    A cell that cannot be determined says so in its record; it never counts as covered. A child that fails as a whole leaves all cells of
    its GPU undetermined, and those of the others as they are.

    Raises:
        InputError: a GPU that cannot be emulated, a model without the layer's shape, or no vLLM in ``vllm_source``.
    """
    by_gpu: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        by_gpu.setdefault(question.gpu.name, []).append(index)
    requests = [
        {
            "gpu": emulated(questions[indices[0]].gpu),
            "cells": [cell(questions[index]) for index in indices],
        }
        for indices in by_gpu.values()
    ]
    answers = ask_all(requests, vllm_source=vllm_source, python=python, timeout_s=timeout_s)
    found: dict[int, Coverage] = {}
    for indices, answer in zip(by_gpu.values(), answers, strict=True):
        said = _no_answer(answer, len(indices)) if isinstance(answer, CoverageError) else answer
        for index, replayed in zip(indices, said["cells"], strict=True):
            found[index] = compare(questions[index], said, replayed)
    return [found[index] for index in range(len(questions))]


def _no_answer(error: CoverageError, cells: int) -> dict[str, Any]:
    """The answer of a child that gave none: every cell says why."""
    return {"vllm": UNKNOWN, "triton": UNKNOWN, "cells": [{"error": str(error)}] * cells}


def require(coverage: Coverage) -> Coverage:
    """The coverage itself, unless it could not be determined.

    Raises:
        CoverageError: with the reason.
    """
    if coverage.status == "undetermined":
        raise CoverageError(
            f"coverage of {coverage.model} (tp {coverage.tp}, {coverage.state_dtype} state) on {coverage.gpu} with vLLM "
            f"{coverage.vllm} could not be determined: {coverage.reason()}",
            remedy="This is neither covered nor missed; see docs/coverage.md for what the replay needs.",
        )
    return coverage


def compare(question: Question, answer: Mapping[str, Any], replayed: Mapping[str, Any]) -> Coverage:
    """What a replay recorded, as coverage."""
    common: dict[str, Any] = {
        "vllm": answer["vllm"],
        "triton": answer["triton"],
        "gpu": question.gpu.name,
        "model": question.model.name,
        "tp": question.tp,
        "state_dtype": question.state_dtype,
        "layer": layer_of(question),
    }
    nothing: dict[str, Any] = {
        "keys_warmed": 0,
        "keys_reachable": 0,
        "keys_missed": (),
        "configs_benched_at_start": 0,
        "configs_benched_at_inference": 0,
        "jit_missed": (),
    }
    if "error" in replayed:
        return Coverage(**common, **nothing, undetermined=replayed["error"])
    warmed, served = _launches(replayed["warmed"]), _launches(replayed["served"])
    seen = {_identity(launch) for launch in warmed}
    missed = [launch for launch in served if _identity(launch) not in seen]
    compiled = _launches(replayed["compiled_warm"])
    compiled_seen = {_identity(launch) for launch in compiled}
    late = [
        launch for launch in _launches(replayed["compiled_serving"]) if _identity(launch) not in compiled_seen
    ]
    return Coverage(
        **common,
        keys_warmed=len(warmed),
        keys_reachable=len(served),
        keys_missed=tuple(
            MissedKey(
                kernel=launch["kernel"],
                key=dict(launch["fields"]),
                differs=differing(launch, warmed),
                when=launch["when"],
                configs=launch["configs"],
            )
            for launch in missed
        ),
        configs_benched_at_start=sum(launch["configs"] for launch in warmed),
        configs_benched_at_inference=sum(launch["configs"] for launch in missed),
        jit_missed=tuple(
            JitMiss(
                kernel=launch["kernel"],
                specialisation=_specialisation(launch, compiled, late[:index]),
                when=launch["when"],
            )
            for index, launch in enumerate(late)
        ),
        layer_class=replayed["layer_class"],
        default_prefill_backend=replayed["default_backend"],
        warmup_failures=tuple(replayed["failures"]),
        undetermined=""
        if served
        else "no autotune key was recorded while serving, so there is nothing that warm-up could have reached",
    )


def differing(launch: Mapping[str, Any], warmed: Sequence[Mapping[str, Any]]) -> str:
    """What separates a launch from the nearest one of the same kernel in warm-up, field by field."""
    nearest = min(
        (_differences(other["fields"], launch["fields"]) for other in _same(launch, warmed)),
        key=len,
        default=None,
    )
    return "the kernel did not run in warm-up" if nearest is None else "; ".join(nearest)


def _specialisation(
    launch: Mapping[str, Any], warmed: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> str:
    """What a late compile is specialised on: against warm-up where the kernel ran there, else against the nearest late one before it.

    In full where it is the first.
    """
    if _same(launch, warmed):
        return differing(launch, warmed) or _UNNAMED
    others = _same(launch, before)
    if not others:
        return f"{_ABSENT}; " + "; ".join(f"{name}: {kind}" for name, kind in launch["fields"])
    nearest = min(others, key=lambda other: len(_differences(other["fields"], launch["fields"])))
    changed = _differences(nearest["fields"], launch["fields"], "", f" at {nearest['when']!r}")
    return f"{_ABSENT}; " + ("; ".join(changed) or _UNNAMED)


_UNNAMED = "Triton's key differs in something that it gives no name"
_ABSENT = "not in warm-up at all"


def _same(launch: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        other
        for other in others
        if (other["module"], other["kernel"]) == (launch["module"], launch["kernel"])
    ]


def _differences(
    warm: Fields, serving: Fields, here: str = " in serving", there: str = " in warm-up"
) -> list[str]:
    ours, theirs = dict(warm), dict(serving)
    return [
        f"{name}: {ours.get(name, 'absent')}{there}, {theirs.get(name, 'absent')}{here}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _launches(data: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**launch, "fields": tuple((name, value) for name, value in launch["fields"])} for launch in data]


def _identity(launch: Mapping[str, Any]) -> tuple[Any, ...]:
    return (launch["module"], launch["kernel"], launch["fields"], launch.get("key", ""))
