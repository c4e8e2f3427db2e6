"""How fast the hardware could be at best: bounds from bytes to be read and operations to be done.

Decode reads every weight that any sequence of the step uses, and each sequence's own KV cache and recurrent state, once a step; no
server is faster than the memory allows (the roofline model, Williams, Waterman & Patterson 2009). Prefill multiplies each prompt token
with every active weight but those of the vocabulary, two operations each, and reads all weights at least once. Activations, attention
scores, launch overheads and everything else are left out, so these are bounds, not predictions. Whatever is not said is taken as the
smaller number, which makes the bound higher, never lower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perfgate.targets import GpuSpec, ModelSpec

_BYTES = {"fp8": 1.0, "int8": 1.0, "fp4": 0.5, "int4": 0.5, "bf16": 2.0, "fp16": 2.0, "fp32": 4.0}
WEIGHTS: Mapping[str, str] = {
    **dict.fromkeys(("fp8", "fbgemm_fp8", "ptpc_fp8", "modelopt"), "fp8"),
    **dict.fromkeys(("modelopt_fp4", "nvfp4", "mxfp4", "petit_nvfp4"), "fp4"),
    **dict.fromkeys(("awq", "gptq", "awq_marlin", "gptq_marlin"), "int4"),
}
"""Quantization as vLLM names it → type of the weights."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model asks of the hardware. Bytes and operations.

    Attributes:
        shared_bytes: weights that every step reads.
        expert_bytes: weights of all routed experts together.
        experts: number of routed experts of a layer; 0 for a dense model.
        top_k: experts a token uses.
        kv_bytes_per_token: KV cache of one token of one sequence.
        state_bytes: recurrent state of one sequence, read and written back each step.
        flops_per_token: of a prompt, 2 × active parameters; without those of the vocabulary, of which a prompt token is only looked up.
    """

    shared_bytes: float
    expert_bytes: float
    experts: int
    top_k: int
    kv_bytes_per_token: float
    state_bytes: float
    flops_per_token: float

    def touched_expert_bytes(self, sequences: int) -> float:
        """Expected expert weights that a step of so many tokens reads: E·(1 − (1 − k/E)ⁿ) of E experts under even routing."""
        if not self.experts:
            return 0.0
        return self.expert_bytes * (1.0 - (1.0 - self.top_k / self.experts) ** sequences)

    def step_bytes(self, sequences: int, context: float) -> float:
        """Bytes of one decode step with so many sequences of so many tokens each."""
        own = context * self.kv_bytes_per_token + 2 * self.state_bytes
        return self.shared_bytes + self.touched_expert_bytes(sequences) + sequences * own


def demand(
    model: ModelSpec,
    *,
    weights: str | None = None,
    kv_dtype_bytes: float = 2.0,
    state_dtype_bytes: float = 4.0,
) -> Demand | None:
    """What a model asks of the hardware, or None where its entry does not say enough.

    Args:
        model: its ``parameters``, ``active_parameters`` and ``architecture``.
        weights: type of the weights; the entry's own, or else bf16, where not given.
        kv_dtype_bytes: of one number in the KV cache.
        state_dtype_bytes: of one number in the recurrent state.
    """
    facts = model.architecture
    if model.parameters is None or not facts:
        return None
    weight = _BYTES.get(weights or str(facts.get("weights", "bf16")))
    needed = ("num_hidden_layers", "num_key_value_heads", "hidden_size")
    if weight is None or any(name not in facts for name in needed):
        return None
    layers, linear = int(facts["num_hidden_layers"]), int(facts.get("linear_layers", 0))
    head = int(facts.get("head_dim", 0)) or int(facts["hidden_size"]) // int(
        facts.get("num_attention_heads", 1)
    )
    experts, top_k = int(facts.get("num_experts", 0)), int(facts.get("num_experts_per_tok", 0))
    routed = layers * experts * 3.0 * facts["hidden_size"] * facts.get("moe_intermediate_size", 0)
    active = model.active_parameters if model.active_parameters is not None else model.parameters
    if experts and (not top_k or model.active_parameters is None):
        return None
    # The embedding is looked up, the output layer is read whole, and quantized checkpoints keep it in two bytes.
    output = float(facts.get("vocab_size", 0)) * facts["hidden_size"]
    embedding = 0.0 if facts.get("tie_word_embeddings", False) else output
    inner = active - output - embedding
    shared = inner - routed * top_k / experts if experts else inner
    if shared <= 0:
        return None
    state = (
        linear
        * facts.get("linear_num_value_heads", 0)
        * facts.get("linear_key_head_dim", 0)
        * facts.get("linear_value_head_dim", 0)
        * state_dtype_bytes
    )
    return Demand(
        shared_bytes=shared * weight + output * max(weight, 2.0),
        expert_bytes=routed * weight,
        experts=experts,
        top_k=top_k,
        kv_bytes_per_token=2.0 * (layers - linear) * facts["num_key_value_heads"] * head * kv_dtype_bytes,
        state_bytes=float(state),
        flops_per_token=2.0 * inner,
    )


def decode_bound(
    need: Demand, gpu: GpuSpec, *, sequences: int, context: float, gpus: int = 1, copies: int = 1
) -> float | None:
    """Most output tokens a second that the memory bandwidth allows; None for a GPU whose bandwidth is unknown.

    Args:
        need: of the model.
        gpu: bandwidth in 10⁹ bytes a second.
        sequences: decoded together.
        context: tokens of each, on average over the output.
        gpus: that share one copy of the model; their bandwidths add up.
        copies: of the model, which share the sequences; routed experts count once, as if they were spread over the copies.
    """
    if gpu.bandwidth_gb_s is None:
        return None
    used = min(copies, sequences)
    read = need.step_bytes(sequences, context) + (used - 1) * need.shared_bytes
    return sequences * gpus * used * gpu.bandwidth_gb_s * 1e9 / read


def prefill_bound_ms(need: Demand, gpu: GpuSpec, *, tokens: int, dtype: str, gpus: int = 1) -> float | None:
    """Least milliseconds for the prefill of one prompt; None where the GPU's bandwidth is unknown.

    The larger of reading the weights once and of the multiplications, where the matrix rate of ``dtype`` is known (bf16 and fp16 have one
    rate).
    """
    if gpu.bandwidth_gb_s is None:
        return None
    reading = (need.shared_bytes + need.touched_expert_bytes(tokens)) / (gpus * gpu.bandwidth_gb_s * 1e9)
    rate = gpu.dense_tflops.get(dtype, gpu.dense_tflops.get("fp16") if dtype == "bf16" else None)
    computing = need.flops_per_token * tokens / (gpus * rate * 1e12) if rate else 0.0
    return 1e3 * max(reading, computing)
