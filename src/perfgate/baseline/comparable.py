"""Whether two measurements may be compared at all: the same hardware, and the same work asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfgate.records import Fingerprint

MEMORY_TOLERANCE = 0.10
"""Cards of one name are sold with different memory sizes; the same card reports sizes that differ by what a driver reserves."""

NOT_THE_WORK = frozenset(
    {
        "name",
        "description",
        "runs",
        "slo",
        "margins",
        "request_timeout_s",
        "run_timeout_s",
        "steady_share",
        "allow_preemption",
    }
)
"""Workload fields that change how a run is repeated, judged or described, but not what the server is asked to do."""


def comparable(baseline: Fingerprint, now: Fingerprint) -> tuple[str, ...]:
    """Why a measurement cannot be compared with a baseline, one sentence a reason; empty where it can.

    Hardware decides, software does not: that the same hardware runs other software is what a gate is for. What is unknown on either
    side is not assumed to be equal.
    """
    if bool(baseline.gpu_name) != bool(now.gpu_name):
        return (f"the baseline was measured on {_machine(baseline)}, this measurement on {_machine(now)}",)
    if baseline.gpu_name and now.gpu_name:
        return tuple(_gpu_reasons(baseline, now))
    return tuple(_cpu_reasons(baseline, now))


def workload_differences(baseline: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What the two workload specifications ask differently, one sentence a field; empty where they ask the same.

    Only fields that both give are compared: an older specification does not know newer fields, and an imported one is partial.
    """
    return tuple(
        f"workload field {name}: {baseline[name]!r} in the baseline, {now[name]!r} now"
        for name in sorted((baseline.keys() & now.keys()) - NOT_THE_WORK)
        if baseline[name] != now[name]
    )


def _gpu_reasons(baseline: Fingerprint, now: Fingerprint) -> list[str]:
    reasons = []
    if _gpu_name(baseline) != _gpu_name(now):
        reasons.append(f"another GPU: {baseline.gpu_name} in the baseline, {now.gpu_name} now")
    if baseline.gpu_count != now.gpu_count:
        reasons.append(f"another number of GPUs: {baseline.gpu_count} in the baseline, {now.gpu_count} now")
    before, after = baseline.gpu_memory_gib, now.gpu_memory_gib
    if before and after and abs(after - before) > MEMORY_TOLERANCE * max(before, after):
        reasons.append(f"another GPU memory size: {before:.1f} GiB in the baseline, {after:.1f} GiB now")
    return reasons


def _cpu_reasons(baseline: Fingerprint, now: Fingerprint) -> list[str]:
    reasons = []
    fields = (("cpu_model", "CPU"), ("cpu_count", "number of CPU cores"), ("machine", "architecture"))
    for name, words in fields:
        before, after = getattr(baseline, name), getattr(now, name)
        if before is None or after is None:
            # The architecture follows from the CPU model; only the two that identify the machine must be known.
            if name != "machine":
                side = "the baseline" if before is None else "this measurement"
                reasons.append(f"the {words} of {side} is unknown")
        elif before != after:
            reasons.append(f"another {words}: {before} in the baseline, {after} now")
    return reasons


def _gpu_name(fingerprint: Fingerprint) -> str:
    # NVML puts the vendor before the name and its case has changed between drivers; people write the name alone.
    words = (fingerprint.gpu_name or "").casefold().split()
    return " ".join(words[1:] if words[:1] == ["nvidia"] else words)


def _machine(fingerprint: Fingerprint) -> str:
    return fingerprint.gpu_name or f"a CPU ({fingerprint.cpu_model or 'unknown model'})"
