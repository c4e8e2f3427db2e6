"""What surrounds a layer in vLLM's engine: configuration, tensor-parallel group, caches and metadata.

Built from vLLM's own classes wherever they can exist without a model: `VllmConfig`, the layer's cache
specification, its backend's metadata builder, the forward context. What needs a checkpoint (`ModelConfig`) or a
process group is a stand-in that says by name what it lacks.

Runs inside the process that emulates a GPU.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from collections.abc import Mapping
from math import prod
from typing import Any

from perfgate.autotune.batches import Batch
from perfgate.autotune.discovery import UnknownLayoutError

PREFIX = "model.layers.0.linear_attn"
MAX_SEQUENCES = 64
BLOCKS = 24


class StandIn(types.SimpleNamespace):
    """Attributes that vLLM may read; reading any other names what is missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        fallback = self.__dict__.get("_fallback")
        if fallback is not None and hasattr(fallback, name):
            return getattr(fallback, name)
        raise AttributeError(
            f"perfgate's stand-in for vLLM's {self.__dict__.get('_of', 'object')} has no {name}"
        )


class _OneRank:
    """A tensor-parallel group seen from rank 0: collectives return what they are given."""

    rank = 0
    rank_in_group = 0
    local_rank = 0
    first_rank = 0
    is_first_rank = True
    is_last_rank = True
    use_device_communicator = False
    device_communicator = None

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.ranks = list(range(world_size))
        self.last_rank = world_size - 1

    def all_reduce(self, tensor: Any) -> Any:
        return tensor


def use_tensor_parallel(size: int) -> None:
    """Make every layer built from now on the share of rank 0 among `size` ranks."""
    state = importlib.import_module("vllm.distributed.parallel_state")
    for group in ("_TP", "_PP", "_DCP", "_PCP", "_DP", "_EP"):
        if hasattr(state, group):
            setattr(state, group, _OneRank(size if group == "_TP" else 1))


def vllm_config(
    *,
    hf_config: Any,
    model_type: str,
    tp: int,
    state_dtype: str,
    prefill_backend: str | None,
    max_tokens: int,
) -> Any:
    """A `VllmConfig` as a server with these settings would resolve it, its model a stand-in."""
    import torch

    config = importlib.import_module("vllm.config").VllmConfig()
    config.model_config = StandIn(
        _of="ModelConfig",
        _fallback=hf_config,
        model="perfgate",
        dtype=torch.bfloat16,
        hf_config=hf_config,
        hf_text_config=hf_config,
        max_model_len=max_tokens,
        enforce_eager=True,
        is_hybrid=True,
        quantization=None,
        seed=0,
        model_type=model_type,
    )
    config.cache_config.mamba_ssm_cache_dtype = state_dtype
    config.cache_config.mamba_block_size = max_tokens
    config.scheduler_config.max_num_batched_tokens = max_tokens
    config.scheduler_config.max_num_seqs = MAX_SEQUENCES
    config.parallel_config.tensor_parallel_size = tp
    if prefill_backend is not None:
        config.additional_config = {"gdn_prefill_backend": prefill_backend}
    return config


def hf_config_for(layer_class: type, architecture: Mapping[str, Any]) -> Any:
    """The model's configuration, of the class the layer asks for, or a stand-in with the same attributes."""
    facts = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "num_hidden_layers": 4,
        "max_position_embeddings": 262144,
        **architecture,
    }
    for parent in layer_class.__mro__:
        parameter = inspect.signature(parent.__init__).parameters.get("config")  # type: ignore[misc]
        annotation = parameter.annotation if parameter is not None else None
        if isinstance(annotation, type) and annotation.__name__ not in (
            "PreTrainedConfig",
            "PretrainedConfig",
        ):
            try:
                config = annotation(**facts)
            except (TypeError, ValueError, AttributeError):
                continue
            for name, value in facts.items():
                # A class may derive or drop what it does not know; the model table decides.
                if getattr(config, name, None) != value:
                    setattr(config, name, value)
            return config
    return StandIn(_of="model configuration", **facts)


def build_layer(
    layer_class: type, config: Any, hf_config: Any, *, interleaved: bool, device: str = "cpu"
) -> Any:
    """Construct the layer on a device, binding its constructor's parameters by name.

    Raises:
        UnknownLayoutError: a required parameter is not one this module can give.
    """
    import torch

    offered = {
        "config": hf_config,
        "vllm_config": config,
        "model_config": config.model_config,
        "cache_config": config.cache_config,
        "quant_config": None,
        "speculative_config": config.speculative_config,
        "prefix": PREFIX,
        "layer_idx": 0,
        "hidden_size": hf_config.hidden_size,
        "rms_norm_eps": hf_config.rms_norm_eps,
        "gqa_interleaved_layout": interleaved,
        "create_in_proj_qkvz": True,
    }
    arguments = _bind(layer_class, offered, f"{layer_class.__module__}.{layer_class.__name__}.__init__")
    set_config = importlib.import_module("vllm.config").set_current_vllm_config
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with set_config(config), torch.inference_mode(), torch.device(device):
            layer = layer_class(**arguments)
    finally:
        torch.set_default_dtype(default)
    for module in layer.modules():
        if hasattr(module, "quant_method"):
            module.quant_method = _NoArithmetic(module.quant_method)
        method = getattr(module, "_forward_method", None)
        if getattr(method, "__name__", "") == "forward_native" and "norm" in type(module).__name__.lower():
            # Plain PyTorch, which launches nothing of Triton's.
            module._forward_method = lambda x, *_args, **_kwargs: x
    return layer


class _NoArithmetic:
    """A projection that answers the right shape at once: a key depends on shapes, never on products."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def apply(self, layer: Any, x: Any, bias: Any = None) -> Any:  # noqa: ARG002
        width = getattr(layer, "output_size_per_partition", None) or layer.output_size
        return x.new_empty((*x.shape[:-1], width))


def bind_caches(layer: Any, config: Any, *, device: str = "cpu") -> Any:
    """Allocate the layer's states as the engine does (states side by side in one page) and return their spec.

    Raises:
        UnknownLayoutError: the layer does not say which caches it needs.
    """
    import torch

    if not hasattr(layer, "get_kv_cache_spec"):
        raise UnknownLayoutError(
            f"{type(layer).__module__}.{type(layer).__name__} has no get_kv_cache_spec, from which its caches are made "
            "(vLLM has it from 0.11 on)"
        )
    spec = layer.get_kv_cache_spec(config)
    pages = torch.zeros(BLOCKS * spec.page_size_bytes, dtype=torch.int8, device=device)
    if hasattr(layer, "bind_kv_cache"):
        layer.bind_kv_cache(pages.view(BLOCKS, 1, 1, spec.page_size_bytes))
        return spec
    states, offset = [], 0
    for shape, dtype in zip(spec.shapes, spec.dtypes, strict=True):
        size = torch.tensor([], dtype=dtype).element_size()
        strides = [prod(shape[index + 1 :]) for index in range(len(shape))]
        states.append(
            torch.as_strided(
                pages.view(dtype),
                (BLOCKS, *shape),
                (spec.page_size_bytes // size, *strides),
                storage_offset=offset // size,
            )
        )
        offset += prod(shape) * size
    bind = importlib.import_module("vllm.v1.worker.utils").bind_kv_cache
    bind({PREFIX: states}, {PREFIX: layer}, [])
    return spec


def metadata_builder(layer: Any, spec: Any, config: Any, *, device: str = "cpu") -> Any:
    """The backend's own metadata builder for this layer."""
    import torch

    backend = layer.get_attn_backend()
    return backend.get_builder_cls()(spec, [PREFIX], config, torch.device(device))


def metadata(builder: Any, batch: Batch, *, device: str = "cpu") -> Any:
    """The metadata of one step, made by vLLM's builder from what its model runner would hand over."""
    import torch

    query = torch.tensor(batch.query, dtype=torch.int32)
    context = torch.tensor(batch.context, dtype=torch.int32)
    starts = torch.zeros(len(batch.query) + 1, dtype=torch.int32)
    starts[1:] = torch.cumsum(query, 0)
    sequences = query + context
    # Block 0 is the engine's null block.
    table = torch.arange(1, 1 + len(batch.query) * batch.table_width, dtype=torch.int32)
    table = table.view(len(batch.query), batch.table_width) % BLOCKS
    offered = {
        "query_start_loc": starts.to(device),
        "query_start_loc_cpu": starts.clone(),
        "seq_lens": sequences.to(device),
        "seq_lens_cpu": sequences.clone(),
        "_seq_lens_cpu": sequences.clone(),
        "seq_lens_cpu_upper_bound": sequences.clone(),
        "num_computed_tokens_cpu": context.clone(),
        "_num_computed_tokens_cpu": context.clone(),
        "num_reqs": len(batch.query),
        "num_actual_tokens": batch.tokens,
        "max_query_len": max(batch.query),
        "max_seq_len": int(sequences.max()),
        "block_table_tensor": table.to(device),
        "slot_mapping": torch.arange(batch.tokens, dtype=torch.int64, device=device),
        "causal": True,
        "is_prefilling": context == 0,
        "positions": torch.arange(batch.tokens, dtype=torch.int64, device=device),
    }
    common = _common_metadata_class()
    return builder.build(0, common(**_bind(common, offered, common.__qualname__)))


def _common_metadata_class() -> Any:
    for module in ("vllm.v1.attention.backend", "vllm.v1.attention.backends.utils"):
        try:
            found = getattr(importlib.import_module(module), "CommonAttentionMetadata", None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found
    raise UnknownLayoutError(
        "CommonAttentionMetadata is in neither vllm.v1.attention.backend nor backends.utils"
    )


def forward(layer: Any, config: Any, tokens: int, step_metadata: Any, *, device: str = "cpu") -> None:
    """One forward pass of the layer over `tokens` tokens, in vLLM's own forward context.

    `step_metadata` is None in a profile run.
    """
    import torch

    context = importlib.import_module("vllm.forward_context").set_forward_context
    hidden = torch.empty(tokens, layer.hidden_size, dtype=torch.bfloat16, device=device)
    offered = {
        "hidden_states": hidden,
        "output": torch.empty_like(hidden),
        "positions": torch.arange(tokens, dtype=torch.int64, device=device),
    }
    arguments = _bind(layer.forward, offered, f"{type(layer).__name__}.forward")
    attention = None if step_metadata is None else {PREFIX: step_metadata}
    set_config = importlib.import_module("vllm.config").set_current_vllm_config
    with torch.inference_mode(), set_config(config), context(attention, config, num_tokens=tokens):
        layer.forward(**arguments)


def runner(layer: Any, config: Any, spec: Any) -> StandIn:
    """A model runner, as far as vLLM's kernel warm-ups look at one."""
    import torch

    group = StandIn(_of="KVCacheGroupSpec", kv_cache_spec=spec, layer_names=[PREFIX])
    return StandIn(
        _of="model runner",
        device=torch.device("cuda"),
        vllm_config=config,
        model_config=config.model_config,
        cache_config=config.cache_config,
        compilation_config=config.compilation_config,
        scheduler_config=config.scheduler_config,
        parallel_config=config.parallel_config,
        speculative_config=config.speculative_config,
        kv_cache_config=StandIn(_of="KVCacheConfig", kv_cache_groups=[group], num_blocks=BLOCKS),
        max_num_tokens=config.scheduler_config.max_num_batched_tokens,
        max_num_reqs=config.scheduler_config.max_num_seqs,
        is_pooling_model=False,
        _kv_block_zeroer=None,
        attn_groups=[],
        model=layer,
        get_model=lambda: layer,
    )


def call_warmup(warmup: Any, model_runner: StandIn) -> None:
    """Call one of `kernel_warmup`'s parts with what its parameters' names ask for."""
    worker = StandIn(
        _of="worker",
        _fallback=model_runner,
        model_runner=model_runner,
        device=model_runner.device,
    )
    offered = {**vars(model_runner), "runner": model_runner, "model_runner": model_runner, "worker": worker}
    warmup(**_bind(warmup, offered, f"{warmup.__module__}.{warmup.__qualname__}"))


def _bind(target: Any, offered: Mapping[str, Any], called: str) -> dict[str, Any]:
    """The arguments among `offered` that `target` takes.

    Raises:
        UnknownLayoutError: a required parameter is not offered.
    """
    if dataclasses.is_dataclass(target):
        parameters = {
            field.name: field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            for field in dataclasses.fields(target)
            if field.init
        }
    else:
        parameters = {
            name: parameter.default is parameter.empty
            for name, parameter in inspect.signature(target).parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
    missing = [name for name, required in parameters.items() if required and name not in offered]
    if missing:
        raise UnknownLayoutError(
            f"{called} requires {', '.join(missing)}; known are {', '.join(sorted(offered))}"
        )
    return {name: offered[name] for name in parameters if name in offered}
