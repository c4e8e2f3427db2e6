"""What coverage is asked about: one model's linear-attention layer on one GPU, and what the process that emulates it is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import gcd
from typing import Any, Literal, get_args

from pydantic import Field

from perfgate.autotune.batches import LONGEST_PREFILL
from perfgate.errors import InputError
from perfgate.records import Record
from perfgate.targets import GpuSpec, ModelSpec

Layer = Literal["gdn", "olmo", "kda"]
STATE_DTYPES = ("float32", "bfloat16")
TP_SIZES = (1, 2, 4, 8)


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
        sizes = divisible_sizes(model, layer=layer)
        raise InputError(
            f"{model.name} cannot be split over {question.tp} GPUs: {', '.join(indivisible)}",
            remedy=f"Tensor-parallel sizes that divide: {', '.join(map(str, sizes))}.",
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
    """The layer a question is about: the one that the model's entry says it has, or the one that the question names.

    Raises:
        InputError: the model has no linear-attention layer, or another one than the question names.
    """
    return _layer(question.model, question.layer)


def _layer(model: ModelSpec, wanted: Layer | None) -> Layer:
    facts = {**model.config, **model.architecture}
    if wanted is not None and facts.get("layer", wanted) != wanted:
        raise InputError(
            f"model {model.name!r} has layer {facts['layer']!r}, not {wanted!r}",
            remedy="What another model's layer is warmed for says nothing about this one.",
        )
    if wanted is not None:
        return wanted
    found = facts.get("layer") or ("gdn" if "linear_num_value_heads" in facts else None)
    for layer in get_args(Layer):
        if found == layer:
            return layer  # type: ignore[no-any-return]
    known = ", ".join(get_args(Layer))
    raise InputError(
        f"model {model.name!r} has no linear-attention layer in its architecture"
        + (f": layer is {found!r}, known are {known}" if found else "")
        + (", but a text_config, whose content belongs there itself" if "text_config" in facts else ""),
        remedy="Give a model with one (qwen3.5-35b-a3b, qwen3-next-80b-a3b, olmo-hybrid-7b, kimi-linear-48b-a3b, …).",
    )


def divisible_sizes(
    model: ModelSpec, sizes: Iterable[int] | None = None, *, layer: Layer | None = None
) -> list[int]:
    """The tensor-parallel sizes, among ``sizes`` where given, by which all heads of a model's linear-attention layer divide.

    Raises:
        InputError: the model has no such layer, or not all of its shape.
    """
    layer = _layer(model, layer)
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
