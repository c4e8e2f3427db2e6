"""What is said beside a verdict: how far the cell is from what its hardware allows, and what became of the settings asked for."""

from __future__ import annotations

from collections.abc import Sequence

from perfgate.diagnosis import server_view
from perfgate.effects import Effect
from perfgate.experiment.deployment import deployment
from perfgate.limits import decode_bound, prefill_bound_ms
from perfgate.records import BootRecord, Measurement
from perfgate.selection import Target
from perfgate.server import ServerSpec, stale_accepts
from perfgate.verdict import geometric_mean


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


def void_notes(boots: Sequence[BootRecord], *, side: str = "") -> list[str]:
    """How many of one side's boots are left out, each reason once; nothing where all count."""
    void = [boot for boot in boots if boot.void]
    if not void:
        return []
    reasons = "; ".join(dict.fromkeys(reason for boot in void for reason in boot.void))
    return [f"{side}{len(void)} of {len(boots)} boots left out: {reasons}"]


def limit_notes(target: Target, measurement: Measurement) -> list[str]:
    """The cell's share of the bounds of its hardware; nothing where the entries do not say enough."""
    made = deployment(target, measurement.boots)
    need = None if made is None else made.demand(target.model)
    if made is None or need is None:
        return []
    workload, found = target.workload, []
    speed = geometric_mean(measurement.replicates("output_throughput"))
    if speed is not None and workload.concurrency is not None and not made.speculative:
        context = workload.input_len + workload.output_len / 2
        best = decode_bound(
            need,
            target.gpu,
            sequences=workload.concurrency,
            context=context,
            gpus=made.gpus,
            copies=made.copies,
        )
        if best is not None:
            found.append(_share_of(speed, best))
    ttft = geometric_mean(measurement.replicates("mean_ttft_ms"))
    # The shared prefix is in the cache when the measured requests come.
    tokens = max(1, workload.input_len - workload.shared_prefix_len)
    least = prefill_bound_ms(need, target.gpu, tokens=tokens, dtype=made.weights, gpus=made.gpus)
    if ttft is not None and least:
        found.append(
            f"mean TTFT is {ttft / least:.1f} times the {least:.3g} ms that one prefill takes at best"
        )
    return found


def _share_of(speed: float, best: float) -> str:
    if speed > best:
        return (
            f"{speed:.3g} tok/s is more than the {best:.3g} tok/s that the memory bandwidth allows: "
            "the model's or the GPU's entry is wrong (parameters, weights, bandwidth_gb_s)"
        )
    return f"{speed / best:.0%} of {best:.3g} tok/s, which the memory bandwidth allows at this concurrency"
