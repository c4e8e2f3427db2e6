"""What is said beside a verdict: how far the cell is from what its hardware allows."""

from __future__ import annotations

from perfgate.limits import decode_bound, demand, prefill_bound_ms
from perfgate.records import Measurement
from perfgate.selection import Target
from perfgate.verdict import geometric_mean

_KV_BYTES = {"auto": 2.0, "bfloat16": 2.0, "float16": 2.0}


def limit_notes(target: Target, measurement: Measurement) -> list[str]:
    """The cell's share of the bounds of its hardware; nothing where the model's or the GPU's entry does not say enough."""
    concurrency = target.workload.concurrency
    dtype = str(target.server.args.get("kv-cache-dtype", "auto"))
    need = demand(target.model, kv_dtype_bytes=1.0 if dtype.startswith("fp8") else _KV_BYTES.get(dtype, 2.0))
    if need is None or concurrency is None:
        return []
    ranks = target.server.args.get("tensor-parallel-size", 1)
    gpus = ranks if isinstance(ranks, int) else 1
    found: list[str] = []
    speed = geometric_mean(measurement.replicates("output_throughput"))
    context = target.workload.input_len + target.workload.output_len / 2
    best = decode_bound(need, target.gpu, sequences=concurrency, context=context, gpus=gpus)
    if speed is not None and best is not None:
        found.append(
            f"{speed / best:.0%} of {best:.0f} tok/s, which the memory bandwidth allows at this concurrency"
        )
    ttft = geometric_mean(measurement.replicates("mean_ttft_ms"))
    weights = str(target.model.architecture.get("weights", "bf16"))
    least = prefill_bound_ms(need, target.gpu, tokens=target.workload.input_len, dtype=weights, gpus=gpus)
    if ttft is not None and least is not None and concurrency == 1:
        found.append(
            f"mean TTFT is {ttft / least:.1f} times the {least:.0f} ms that one prefill takes at best"
        )
    return found
