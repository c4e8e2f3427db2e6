"""What is said beside a verdict: how far the cell is from what its hardware allows, and what became of the settings asked for."""

from __future__ import annotations

from collections.abc import Sequence

from perfgate.diagnosis import server_view
from perfgate.effects import Effect
from perfgate.limits import decode_bound, demand, prefill_bound_ms
from perfgate.records import BootRecord, Measurement
from perfgate.selection import Target
from perfgate.server import ServerSpec, stale_accepts
from perfgate.verdict import geometric_mean

_KV_BYTES = {"auto": 2.0, "bfloat16": 2.0, "float16": 2.0}


def setting_notes(server: ServerSpec, boots: Sequence[BootRecord], *, side: str = "") -> list[str]:
    """What the boots say about the settings of their server: not in effect, accepted, not known, no longer to be accepted.

    Args:
        server: what was asked for.
        boots: of one side; the first that was read stands for all.
        side: begins each note of the side that is not judged.
    """
    notes = list(dict.fromkeys(note for boot in boots for note in boot.notes))
    flags = next((boot.flags for boot in boots if boot.flags), ())
    for report in flags:
        if report.effect in (Effect.OVERRIDDEN, Effect.IGNORED):
            line = str(report).partition("\n")[0]
            notes.append(
                f"{line}; accepted: {report.accepted}"
                if report.accepted
                else f"{line}; not what was asked for"
            )
    unknown = [report.name for report in flags if report.effect is Effect.UNKNOWN]
    if unknown:
        notes.append(f"nothing says whether these are in effect: {', '.join(unknown)}")
    notes += stale_accepts(server, flags) if flags else ()
    return [f"{side}{note}" for note in notes]


def view_notes(boots: Sequence[BootRecord], *, side: str = "") -> list[str]:
    """What the server itself counted over the runs, beside what the client saw; nothing where it counts nothing."""
    said = str(server_view(boots))
    return [f"{side}server: {said}"] if said else []


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
