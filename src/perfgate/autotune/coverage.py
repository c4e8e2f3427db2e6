"""Does warm-up reach every autotune key that serving reaches: the question, the comparison and the answer's record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field

from perfgate.autotune.process import TIMEOUT_S, ask_all
from perfgate.errors import CoverageError, InputError
from perfgate.records import Record
from perfgate.targets import GpuSpec, ModelSpec

Layer = Literal["gdn", "olmo", "kda"]
STATE_DTYPES = ("float32", "bfloat16")

Fields = tuple[tuple[str, str], ...]


class Question(Record):
    """One cell: a model's layer on one rank of a tensor-parallel group on one GPU."""

    gpu: GpuSpec
    model: ModelSpec
    tp: int = Field(default=1, ge=1)
    state_dtype: str = "float32"
    layer: Layer | None = None
    """The model's own where not given."""


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

    A cell that cannot be determined says so in its record; it never counts as covered.

    Raises:
        InputError: a GPU that cannot be emulated, or a model without the layer's shape.
        CoverageError: a child process failed as a whole.
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
        for index, replayed in zip(indices, answer["cells"], strict=True):
            found[index] = compare(questions[index], answer, replayed)
    return [found[index] for index in range(len(questions))]


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


def emulated(gpu: GpuSpec) -> dict[str, Any]:
    """The fields of `emulation.EmulatedGpu` for a catalogue entry.

    Raises:
        InputError: the entry lacks what kernels see of a GPU.
    """
    needed = {
        "capability": gpu.capability,
        "sms": gpu.sms,
        "shared_memory_per_block": gpu.shared_memory_per_block,
        "l2_bytes": gpu.l2_bytes,
        "memory_gib": gpu.memory_gib,
    }
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise InputError(
            f"GPU {gpu.name!r} cannot be emulated: its entry has no {', '.join(missing)}",
            remedy="Choose a GPU of fixtures/gpus.toml that has them (gb10, rtx5090, h100, …), or add them to its entry.",
        )
    return {
        "name": gpu.device_name or gpu.name,
        "capability": list(gpu.capability or ()),
        "multiprocessors": gpu.sms,
        "shared_memory": gpu.shared_memory_per_block,
        "l2_cache": gpu.l2_bytes,
        "memory": int((gpu.memory_gib or 0) * 2**30),
    }


def cell(question: Question) -> dict[str, Any]:
    """The fields of `replay.Cell` for a question.

    Raises:
        InputError: the model has no linear-attention layer, or its heads do not divide by the tensor-parallel size.
    """
    model = question.model
    facts = {**model.config, **model.architecture}
    layer = layer_of(question)
    heads = _heads(facts)
    indivisible = [f"{name} = {count}" for name, count in heads.items() if count % question.tp]
    if indivisible:
        raise InputError(
            f"{model.name} cannot be split over {question.tp} GPUs: {', '.join(indivisible)}",
            remedy=f"Tensor-parallel sizes that divide: {', '.join(map(str, divisible_sizes(model)))}.",
        )
    ours = ("layer", "linear_layers", "interleaved", "weights", "weight_block_size", "architectures")
    model_type = str(facts.get("model_type", ""))
    return {
        "model": model.name,
        "layer": layer,
        "model_type": model_type,
        "architecture": {name: value for name, value in facts.items() if name not in ours},
        "interleaved": bool(facts.get("interleaved", model_type == "qwen3_next")),
        "tp": question.tp,
        "state_dtype": question.state_dtype,
    }


def layer_of(question: Question) -> Layer:
    """The layer a question is about.

    Raises:
        InputError: the model has no linear-attention layer.
    """
    if question.layer is not None:
        return question.layer
    facts = {**question.model.config, **question.model.architecture}
    found = facts.get("layer") or ("gdn" if "linear_num_value_heads" in facts else None)
    for layer in get_args(Layer):
        if found == layer:
            return layer  # type: ignore[no-any-return]
    raise InputError(
        f"model {question.model.name!r} has no linear-attention layer in its architecture",
        remedy="Give a model with one (qwen3.5-35b-a3b, qwen3-next-80b-a3b, olmo-hybrid-7b, kimi-linear-48b-a3b, …).",
    )


def divisible_sizes(model: ModelSpec, sizes: Iterable[int] = (1, 2, 4, 8)) -> list[int]:
    """The tensor-parallel sizes by which all linear-attention heads of a model divide."""
    heads = _heads({**model.config, **model.architecture})
    return [size for size in sizes if all(count % size == 0 for count in heads.values())]


def _heads(facts: Mapping[str, Any]) -> dict[str, int]:
    heads = {
        name: int(facts[name]) for name in ("linear_num_key_heads", "linear_num_value_heads") if name in facts
    }
    kimi = facts.get("linear_attn_config")
    if isinstance(kimi, Mapping):
        heads["linear_attn_config.num_heads"] = int(kimi["num_heads"])
    return heads


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
                kernel=launch["kernel"], specialisation=_specialisation(launch, compiled), when=launch["when"]
            )
            for launch in late
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


def _specialisation(launch: Mapping[str, Any], warmed: Sequence[Mapping[str, Any]]) -> str:
    """What a late compile is specialised on: against warm-up where the kernel ran there, else in full."""
    if _same(launch, warmed):
        return differing(launch, warmed)
    return "not in warm-up at all; " + "; ".join(f"{name}: {kind}" for name, kind in launch["fields"])


def _same(launch: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        other
        for other in others
        if (other["module"], other["kernel"]) == (launch["module"], launch["kernel"])
    ]


def _differences(warm: Fields, serving: Fields) -> list[str]:
    ours, theirs = dict(warm), dict(serving)
    return [
        f"{name}: {ours.get(name, 'absent')} in warm-up, {theirs.get(name, 'absent')} in serving"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _launches(data: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**launch, "fields": tuple((name, value) for name, value in launch["fields"])} for launch in data]


def _identity(launch: Mapping[str, Any]) -> tuple[Any, ...]:
    return (launch["module"], launch["kernel"], launch["fields"])
