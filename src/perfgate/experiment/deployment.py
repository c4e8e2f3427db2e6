"""How a server keeps its model, as far as the physical bounds depend on it: from what it resolved, or else from its flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfgate.limits import WEIGHTS, Demand, demand
from perfgate.records import BootRecord
from perfgate.selection import Target
from perfgate.targets import ModelSpec

_NUMBER_BYTES = {"float32": 4.0, "float": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0, "int8": 1.0}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a copy of the model is made of, and how many there are.

    Attributes:
        weights: their type.
        kv_bytes: of one number in the KV cache.
        state_bytes: of one number in the recurrent state.
        gpus: that share one copy.
        copies: of the model.
        speculative: a step may give more than one token, so that reading the weights once a token is no bound.
    """

    weights: str
    kv_bytes: float
    state_bytes: float
    gpus: int
    copies: int
    speculative: bool

    def demand(self, model: ModelSpec) -> Demand | None:
        """What the model asks of the hardware when it is kept so."""
        return demand(
            model, weights=self.weights, kv_dtype_bytes=self.kv_bytes, state_dtype_bytes=self.state_bytes
        )


def deployment(target: Target, boots: Sequence[BootRecord]) -> Deployment | None:
    """How the target's server keeps its model; None where a type is not known."""
    resolved = next((boot.settings for boot in boots if boot.settings), {})
    args, facts = target.server.args, target.model.architecture

    def setting(key: str, flag: str) -> Any:
        found = resolved.get(key)
        return args.get(flag) if found is None else found

    weights = _weights(setting("model_config.quantization", "quantization"), facts)
    kv = _kv_bytes(str(setting("cache_config.cache_dtype", "kv-cache-dtype") or "auto"))
    if weights is None or kv is None:
        return None
    state = str(setting("cache_config.mamba_ssm_cache_dtype", "mamba-ssm-cache-dtype") or "auto")
    if state == "auto":
        state = str(facts.get("mamba_ssm_dtype", "bfloat16"))
    return Deployment(
        weights=weights,
        kv_bytes=kv,
        state_bytes=_NUMBER_BYTES.get(state, 2.0),
        gpus=_ranks(args, "tensor-parallel-size") * _ranks(args, "pipeline-parallel-size"),
        copies=_ranks(args, "data-parallel-size"),
        speculative=any(
            name.partition(".")[0] in ("speculative-config", "spec-method", "spec-model", "spec-tokens")
            for name in args
        )
        or any(key.startswith("speculative_config.") for key in resolved),
    )


def _weights(quantization: Any, facts: Mapping[str, Any]) -> str | None:
    """The smaller of what the entry and what the server say; None for a quantization whose size neither tells."""
    said = facts.get("weights")
    if not quantization:
        return str(said or "bf16")
    running = WEIGHTS.get(str(quantization).replace("-", "_"))
    if running is None or said is None:
        return None if running is None and said is None else str(running or said)
    return min(str(said), running, key=lambda name: _WEIGHT_ORDER.get(name, 0))


_WEIGHT_ORDER = {"fp4": 1, "int4": 1, "fp8": 2, "int8": 2, "bf16": 3, "fp16": 3, "fp32": 4}


def _kv_bytes(dtype: str) -> float | None:
    if dtype.startswith("fp8"):
        return 1.0
    return 2.0 if dtype == "auto" else _NUMBER_BYTES.get(dtype)


def _ranks(args: Mapping[str, Any], flag: str) -> int:
    value = args.get(flag, 1)
    return value if isinstance(value, int) else 1
