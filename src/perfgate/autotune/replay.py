"""Replay one layer's start and one server's traffic, and tell what each made Triton key on.

The order is the engine's: profile run without attention metadata (where a release warms its prefill kernels up),
caches bound, `kernel_warmup`'s linear-attention parts, then serving batches through the layer's own `forward`.

Runs inside the process that emulates a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perfgate.autotune import engine
from perfgate.autotune.batches import LONGEST_PREFILL, Batch, serving_batches
from perfgate.autotune.discovery import find_layer, find_warmups
from perfgate.autotune.failures import source_files, watching
from perfgate.autotune.recorder import Launch, Recorder

WARM_UP, SERVING = "warm-up", "serving"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One model on one tensor-parallel rank.

    `architecture` are the attributes of the model's configuration that the layer reads; `interleaved` says that the
    checkpoint interleaves q, k, v and z by key head (Qwen3-Next), which changes strides.
    """

    model: str
    layer: str
    model_type: str
    architecture: dict[str, Any]
    interleaved: bool
    tp: int
    state_dtype: str
    max_tokens: int = LONGEST_PREFILL
    """Tokens of the profile run and of the longest prefill: what the engine schedules in one step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay recorded; `failures` are warm-ups that raised, swallowed or not, or logged a failure."""

    layer_class: str
    default_backend: str
    warmed: list[Launch]
    served: list[Launch]
    compiled_warm: list[Launch]
    compiled_serving: list[Launch]
    failures: list[str]


def replay(cell: Cell, recorder: Recorder, batches: Sequence[Batch] | None = None) -> Replayed:
    """Run `cell` from warm-up to serving under the emulated GPU of this process."""
    package = Path(next(iter(importlib.import_module("vllm").__path__)))
    layer_class = find_layer(cell.layer, package, model_type=cell.model_type)
    warmups = find_warmups(package)
    _FRESH.restore(_owners(layer_class, warmups))
    recorder.reset()
    engine.use_tensor_parallel(cell.tp)
    layer, config, default_backend = _triton_layer(layer_class, cell)
    failures: list[str] = []
    files = source_files(_owners(layer_class, warmups))
    with recorder.during(WARM_UP, "profile run"), watching(failures, files):
        engine.forward(layer, config, cell.max_tokens, None)
    spec = engine.bind_caches(layer, config)
    runner = engine.runner(layer, config, spec)
    for warmup in warmups:
        with recorder.during(WARM_UP, warmup.__name__), watching(failures, files):
            engine.call_warmup(warmup, runner)
    builder = engine.metadata_builder(layer, spec, config)
    for batch in serving_batches(longest=cell.max_tokens) if batches is None else batches:
        with recorder.during(SERVING, batch.name):
            engine.forward(layer, config, batch.tokens, engine.metadata(builder, batch))
    return Replayed(
        layer_class=f"{layer_class.__module__}.{layer_class.__name__}",
        default_backend=default_backend,
        warmed=list(recorder.autotuned.get(WARM_UP, {}).values()),
        served=list(recorder.autotuned.get(SERVING, {}).values()),
        compiled_warm=list(recorder.compiled.get(WARM_UP, {}).values()),
        compiled_serving=list(recorder.compiled.get(SERVING, {}).values()),
        failures=failures,
    )


def _triton_layer(layer_class: type, cell: Cell) -> tuple[Any, Any, str]:
    """The layer with Triton's prefill kernels, its configuration, and the backend vLLM would choose by itself."""
    # The choice depends on the GPU, which is this process's, and on the head sizes; a configuration costs a tenth of a second.
    facts = (layer_class, *(cell.architecture.get(f"linear_{which}_head_dim") for which in ("key", "value")))
    default = _DEFAULT_BACKENDS.get(facts, "")
    for backend in ("triton",) if default not in ("", "triton") else (None, "triton"):
        hf_config = engine.hf_config_for(layer_class, {**cell.architecture, "model_type": cell.model_type})
        config = engine.vllm_config(
            hf_config=hf_config,
            model_type=cell.model_type,
            tp=cell.tp,
            state_dtype=cell.state_dtype,
            prefill_backend=backend,
            max_tokens=cell.max_tokens,
        )
        layer = engine.build_layer(layer_class, config, hf_config, interleaved=cell.interleaved)
        rule: Any = getattr(layer, "chunk_gated_delta_rule", None)
        method = getattr(rule, "_forward_method", None)
        chosen = str(getattr(layer, "gdn_prefill_backend", "")) or _backend_of(method)
        default = _DEFAULT_BACKENDS.setdefault(facts, chosen)
        if chosen == "triton":
            break
    else:
        # Releases before 0.18 have no option for it.
        rule._forward_method = rule.forward_native
    return layer, config, default


_DEFAULT_BACKENDS: dict[tuple[Any, ...], str] = {}


def _backend_of(method: Any) -> str:
    name = getattr(method, "__name__", "forward_native")
    return {"forward_native": "triton", "forward_cuda": "flashinfer"}.get(name, name.removeprefix("forward_"))


class _FreshState:
    """Gives each cell the state of a process that has just imported vLLM.

    A warm-up runs once a process in some releases, and remembers it in a flag of a class or module, or in a cache of a function; so does a
    logger that says a thing once. A cell that comes second must neither miss a warm-up nor its failure for that.
    """

    _PLAIN = (bool, int, float, str, type(None))
    _CONTAINERS = (set, dict, list)

    def __init__(self) -> None:
        self._known: dict[Any, dict[str, Any]] = {}

    def restore(self, owners: Sequence[Any]) -> None:
        """Put plain attributes, containers and function caches of classes and modules back to what they were when first seen here.

        Containers only where they speak of warming up: others are registries, which modules that are imported later add themselves to.
        """
        for owner in owners:
            known = self._known.setdefault(
                owner, {name: copy.copy(value) for name, value in self._kept(owner)}
            )
            for name, now in self._kept(owner):
                if name not in known:
                    delattr(owner, name)
                elif isinstance(now, self._CONTAINERS) and type(now) is type(known[name]):
                    # In place: another module may hold the same object.
                    now.clear()
                    now.extend(known[name]) if isinstance(now, list) else now.update(known[name])
                elif now is not known[name]:
                    setattr(owner, name, copy.copy(known[name]))
            for value in list(vars(owner).values()):
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()

    def _kept(self, owner: Any) -> list[tuple[str, Any]]:
        return [
            (name, value)
            for name, value in vars(owner).items()
            if not name.startswith("__")
            and (
                isinstance(value, self._PLAIN)
                or (isinstance(value, self._CONTAINERS) and "warm" in name.lower())
            )
        ]


_FRESH = _FreshState()


def _owners(layer_class: type, warmups: Sequence[Callable[..., Any]]) -> list[Any]:
    """Where the layer and its warm-ups may remember something: vLLM's own classes and modules among theirs, and its logger."""
    classes = [parent for parent in layer_class.__mro__ if parent.__module__.startswith("vllm.")]
    names = [owner.__module__ for owner in (*classes, *warmups)]
    modules = [sys.modules[name] for name in dict.fromkeys([*names, "vllm.logger"]) if name in sys.modules]
    return [*classes, *modules]
