"""Does warm-up reach every autotune key that serving reaches: the question, the comparison and the answer's record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field

from perfgate.autotune.batches import LONGEST_PREFILL
from perfgate.autotune.process import TIMEOUT_S, ask_all
from perfgate.errors import CoverageError, InputError
from perfgate.records import Record
from perfgate.targets import GpuSpec, ModelSpec

Layer = Literal["gdn", "olmo", "kda"]
STATE_DTYPES = ("float32", "bfloat16")
TP_SIZES = (1, 2, 4, 8)
UNKNOWN = "unknown"
"""In place of a version, where the process that would have said it failed as a whole."""

Fields = tuple[tuple[str, str], ...]


class Question(Record):
    """One cell: a model's layer on one rank of a tensor-parallel group on one GPU."""

    gpu: GpuSpec
    model: ModelSpec
    tp: int = Field(default=1, ge=1)
    state_dtype: str = "float32"
    layer: Layer | None = None
    """The model's own where not given."""
    max_tokens: int = Field(default=LONGEST_PREFILL, ge=64, le=131072)
    """Tokens of one step (`--max-num-batched-tokens`): the profile run's, and the longest prefill's."""


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


def emulated(gpu: GpuSpec) -> dict[str, Any]:
    """The fields of `emulation.EmulatedGpu` for a catalogue entry.

    Raises:
        InputError: the entry lacks what kernels see of a GPU.
    """
    needed = {
        "capability": gpu.capability,
        "sms": gpu.sms,
        "shared_memory_per_block": gpu.shared_memory_per_block,
        "memory_gib": gpu.memory_gib,
    }
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise InputError(
            f"GPU {gpu.name!r} cannot be emulated: its entry has no {', '.join(missing)}",
            remedy="Choose a GPU of fixtures/gpus.toml that has them (gb10, rtx5090, h100, …), or add them to its entry.",
        )
    return {
        "name": gpu.device_name or next(iter(gpu.product_names), gpu.name),
        "capability": list(gpu.capability or ()),
        "multiprocessors": gpu.sms,
        "shared_memory": gpu.shared_memory_per_block,
        "l2_cache": gpu.l2_bytes,
        "memory": int((gpu.memory_gib or 0) * 2**30),
    }


def cell(question: Question) -> dict[str, Any]:
    """The fields of `replay.Cell` for a question.

    Raises:
        InputError: the model has no linear-attention layer or not all of its shape, or its heads do not divide by the tensor-parallel size.
    """
    model = question.model
    facts = {**model.config, **model.architecture}
    layer = layer_of(question)
    shape = _shape(question.model, layer)
    heads = {name: shape[name] for name in _HEADS[layer]}
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
        "max_tokens": question.max_tokens,
    }


def layer_of(question: Question) -> Layer:
    """The layer a question is about: the one it names, or the model's own.

    Raises:
        InputError: the model has no linear-attention layer.
    """
    return question.layer or _own_layer(question.model)


def _own_layer(model: ModelSpec) -> Layer:
    facts = {**model.config, **model.architecture}
    found = facts.get("layer") or ("gdn" if "linear_num_value_heads" in facts else None)
    for layer in get_args(Layer):
        if found == layer:
            return layer  # type: ignore[no-any-return]
    known = ", ".join(get_args(Layer))
    raise InputError(
        f"model {model.name!r} has no linear-attention layer in its architecture"
        + (f": layer is {found!r}, known are {known}" if found else ""),
        remedy="Give a model with one (qwen3.5-35b-a3b, qwen3-next-80b-a3b, olmo-hybrid-7b, kimi-linear-48b-a3b, …).",
    )


def divisible_sizes(model: ModelSpec, sizes: Iterable[int] | None = None) -> list[int]:
    """The tensor-parallel sizes, among ``sizes`` where given, by which all linear-attention heads of a model divide.

    Raises:
        InputError: the model has no linear-attention layer, or not all of its shape.
    """
    layer = _own_layer(model)
    shape = _shape(model, layer)
    common = gcd(*(shape[name] for name in _HEADS[layer]))
    return [size for size in (sizes or range(1, common + 1)) if common % size == 0]


_GDN_HEADS = ("linear_num_key_heads", "linear_num_value_heads")
_HEADS: dict[Layer, tuple[str, ...]] = {
    "gdn": _GDN_HEADS,
    "olmo": _GDN_HEADS,
    "kda": ("linear_attn_config.num_heads",),
}
_GDN_SHAPE = (
    *("hidden_size", *_GDN_HEADS),
    *("linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim"),
)
_SHAPES: dict[Layer, tuple[str, ...]] = {
    "gdn": _GDN_SHAPE,
    "olmo": _GDN_SHAPE,
    "kda": (
        *("hidden_size", "linear_attn_config.num_heads", "linear_attn_config.head_dim"),
        "linear_attn_config.short_conv_kernel_size",
    ),
}


def _shape(model: ModelSpec, layer: Layer) -> dict[str, int]:
    """What the layer's kernels see of a model. Nothing has a default: another model's shape would be answered as this one's.

    Raises:
        InputError: a fact is missing or no positive whole number, or the value heads are no multiple of the key heads.
    """
    facts: dict[str, Any] = {**model.config, **model.architecture}
    nested = facts.get("linear_attn_config")
    if isinstance(nested, Mapping):
        facts.update({f"linear_attn_config.{name}": value for name, value in nested.items()})
    wanted = _SHAPES[layer]
    missing = [name for name in wanted if name not in facts]
    if missing:
        raise InputError(
            f"model {model.name!r} has no {', '.join(missing)}, which its {layer} layer is made of",
            remedy=f"Give its entry's architecture {', '.join(wanted)}, as the checkpoint's config.json has them.",
        )
    for name in wanted:
        value = facts[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"model {model.name!r}: {name} is {value!r}; it must be a whole number above 0")
    shape = {name: int(facts[name]) for name in wanted}
    if layer != "kda" and shape["linear_num_value_heads"] % shape["linear_num_key_heads"]:
        keys, values = (shape[name] for name in _GDN_HEADS)
        raise InputError(
            f"model {model.name!r}: linear_num_value_heads = {values} is no multiple of linear_num_key_heads = {keys}",
            remedy="Every key head serves the same number of value heads; see the checkpoint's config.json.",
        )
    return shape


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
