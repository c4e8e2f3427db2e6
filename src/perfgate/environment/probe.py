"""The state of the machine before and after each replicate, and the rule by which it voids one.

The rule looks at the two probes alone, never at what was measured between them: otherwise it would select results. It voids what a
machine in a steady state never does – a fixed piece of work that takes another time afterwards, a GPU that throttles for heat or lack of
power, a stranger on the device, a hypervisor that takes the cores away.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from perfgate.catalogue import load_catalogue
from perfgate.environment.nvml import GIB, devices_by_word, is_unified, nvml_session

_LOOPS, _STEPS = 100, 20_000

_MATMUL_S = 120.0
_MATMUL = """
import json, sys
import torch
size, rounds = 4096, 20
left = torch.ones(size, size, dtype=torch.bfloat16, device="cuda")
for _ in range(5):
    left @ left
begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
begin.record()
for _ in range(rounds):
    left @ left
end.record()
torch.cuda.synchronize()
print(json.dumps(2 * size**3 * rounds / (begin.elapsed_time(end) / 1e3) / 1e12))
"""

HARMFUL_THROTTLING: Mapping[str, str] = {
    "nvmlClocksEventReasonSwThermalSlowdown": "software thermal slowdown",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "hardware thermal slowdown",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
"""NVML's constant → words. An idle GPU and a power cap are normal states and not among them."""


@dataclass(frozen=True, kw_only=True)
class ProbeLimits:
    """How much two probes may differ."""

    cpu_loop: float = 2.0
    """Factor, either way, of the fixed loop's time: a busy sibling thread alone costs a core most of the way to 2."""
    steal: float = 0.10
    """Share of the CPU time between the probes that a hypervisor took."""
    matmul: float = 0.05
    """Relative change of the matmul rate."""
    temperature_c: float = 95.0


def probe(
    *,
    devices: Sequence[str] | None = None,
    own_pids: Collection[int] = (),
    python: str | None = None,
    unified: bool | None = None,
) -> dict[str, Any]:
    """The state of the machine as plain data; what cannot be read is None.

    Args:
        devices: the GPUs that the server uses, as ``CUDA_VISIBLE_DEVICES`` calls them; None for all.
        own_pids: the server's own processes: others on its devices are strangers.
        python: an interpreter with torch, for a fixed matmul on the first device; none is made where not given.
        unified: whether the devices share the system's memory; what the shipped catalogue says of their names where not given.

    Returns:
        ``cpu`` (``loop_ms``, ``load_average``, ``mhz``, ``total_s``, ``steal_s``), ``memory_available_gib``, ``taken``, and a table
        for each of ``gpus`` (clocks in MHz, ``temperature_c``, ``power_w``, ``energy_j``, ``throttling``, memory in GiB, ``strangers``,
        ``matmul_tflops``), or ``gpu_error``.
    """
    times = psutil.cpu_times()
    frequency = None
    with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
        frequency = psutil.cpu_freq()
    found: dict[str, Any] = {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": {
            "loop_ms": round(_loop_ms(), 4),
            "load_average": round(os.getloadavg()[0], 2),
            "mhz": round(frequency.current) if frequency and frequency.current else None,
            "total_s": round(sum(times[:8]), 2),
            "steal_s": round(getattr(times, "steal", 0.0), 2),
        },
        "memory_available_gib": round(psutil.virtual_memory().available / GIB, 2),
        "gpus": [],
    }
    try:
        with nvml_session() as nvml:
            if nvml is not None:
                for word, handle in devices_by_word(nvml):
                    if devices is None or word in devices:
                        found["gpus"].append(_gpu(nvml, word, handle, own_pids, unified))
    except Exception as error:
        found["gpu_error"] = str(error).splitlines()[0] if str(error) else type(error).__name__
    if python is not None and found["gpus"]:
        found["gpus"][0]["matmul_tflops"] = _matmul(python, found["gpus"][0]["device"])
    return found


def void_reasons(
    before: Mapping[str, Any], after: Mapping[str, Any], limits: ProbeLimits | None = None
) -> tuple[str, ...]:
    """Why the replicate between two probes is not used; empty where it is.

    Args:
        before: the probe before it.
        after: the probe after it.
        limits: how much they may differ.
    """
    allowed = limits or ProbeLimits()
    reasons = [f"GPU probe failed: {p['gpu_error']}" for p in (before, after) if p.get("gpu_error")][:1]
    change = _change(_at(before, "cpu", "loop_ms"), _at(after, "cpu", "loop_ms"))
    if change is not None and not 1 / allowed.cpu_loop <= 1 + change <= allowed.cpu_loop:
        reasons.append(
            f"a fixed CPU loop took {1 + change:.2f} times as long after the replicate (limit {allowed.cpu_loop:g})"
        )
    share = _share(before, after)
    if share is not None and share > allowed.steal:
        reasons.append(f"the hypervisor took {share:.0%} of the CPU time (limit {allowed.steal:.0%})")
    earlier = {gpu.get("device"): gpu for gpu in before.get("gpus", ())}
    for gpu in after.get("gpus", ()):
        reasons.extend(_gpu_reasons(earlier.get(gpu.get("device"), {}), gpu, allowed))
    missing = sorted(
        str(device)
        for device in earlier
        if device not in {gpu.get("device") for gpu in after.get("gpus", ())}
    )
    reasons.extend(f"GPU {device} was not there any more" for device in missing if not after.get("gpu_error"))
    return tuple(reasons)


def gpu_energy_j(devices: Sequence[str] | None = None) -> float | None:
    """Joules that the devices have used since the driver was loaded, together; None where one does not say."""
    total, seen = 0.0, False
    try:
        with nvml_session() as nvml:
            if nvml is None:
                return None
            for word, handle in devices_by_word(nvml):
                if devices is None or word in devices:
                    total += float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
                    seen = True
    except Exception:
        return None
    return total if seen else None


def _gpu(
    nvml: Any, word: str, handle: Any, own_pids: Collection[int], unified: bool | None
) -> dict[str, Any]:
    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *arguments)
        except nvml.NVMLError_GpuIsLost:
            raise
        except nvml.NVMLError:
            return None

    memory = ask("nvmlDeviceGetMemoryInfo")
    if memory is not None and not memory.total:
        memory = None
    shared = memory is None and (_shares(ask("nvmlDeviceGetName")) if unified is None else unified)
    power, energy = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetTotalEnergyConsumption")
    processes = ask("nvmlDeviceGetComputeRunningProcesses")
    bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    system = psutil.virtual_memory()
    return {
        "device": word,
        "sm_mhz": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "memory_mhz": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "sm_max_mhz": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "temperature_c": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "power_w": None if power is None else round(power / 1e3, 1),
        "energy_j": None if energy is None else round(energy / 1e3, 1),
        "throttling": None
        if bits is None
        else [words for name, words in HARMFUL_THROTTLING.items() if bits & getattr(nvml, name)],
        # Without figures of its own a GPU shares the system's memory, or it has a fault; both free and used are None then.
        "unified": shared,
        "free_gib": _gib(system.available if shared else memory and memory.free),
        "used_gib": _gib(system.total - system.available if shared else memory and memory.used),
        "strangers": None
        if processes is None
        # In a container NVML may number processes as the host does: such a number says nothing here.
        else sorted(int(p.pid) for p in processes if p.pid not in own_pids and psutil.pid_exists(p.pid)),
        "matmul_tflops": None,
    }


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 2)


def _shares(name: str | bytes | None) -> bool:
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""
    return is_unified(text, load_catalogue("gpus"))


def _gpu_reasons(before: Mapping[str, Any], after: Mapping[str, Any], allowed: ProbeLimits) -> list[str]:
    device = after.get("device")
    reasons = []
    if any("free_gib" in p and p["free_gib"] is None for p in (before, after)):
        reasons.append(f"GPU {device} gave no memory figures, which on a discrete card means a fault")
    throttling = sorted({*(before.get("throttling") or ()), *(after.get("throttling") or ())})
    if throttling:
        reasons.append(f"GPU {device} throttled: {', '.join(throttling)}")
    strangers = sorted({*(before.get("strangers") or ()), *(after.get("strangers") or ())})
    if strangers:
        reasons.append(f"GPU {device} was shared with pid {', '.join(map(str, strangers))}")
    hottest = max(
        (p["temperature_c"] for p in (before, after) if p.get("temperature_c") is not None), default=None
    )
    if hottest is not None and hottest >= allowed.temperature_c:
        reasons.append(f"GPU {device} reached {hottest} °C (limit {allowed.temperature_c:g} °C)")
    change = _change(before.get("matmul_tflops"), after.get("matmul_tflops"))
    if change is not None and abs(change) > allowed.matmul:
        reasons.append(
            f"GPU {device}: the rate of a fixed matmul changed by {change:+.1%} (limit ±{allowed.matmul:.0%})"
        )
    return reasons


def _matmul(python: str, device: str) -> float | None:
    """Rate of a fixed bfloat16 matmul in 10¹² operations a second; None where it cannot be made."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        answer = subprocess.run(
            [python, "-c", _MATMUL],
            capture_output=True,
            text=True,
            timeout=_MATMUL_S,
            check=True,
            env=environment,
            cwd="/",
        )
        return round(float(json.loads(answer.stdout.splitlines()[-1])), 2)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _loop_ms() -> float:
    """The best of many short rounds of a fixed loop, milliseconds: the core's speed, whoever else wants to run on it."""
    best = float("inf")
    for _ in range(_LOOPS):
        begin = time.thread_time()
        total = 0
        for step in range(_STEPS):
            total += step & 7
        best = min(best, time.thread_time() - begin)
    return best * 1e3


def _at(data: Mapping[str, Any], *path: str) -> Any:
    value: Any = data
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _change(before: Any, after: Any) -> float | None:
    return float(after) / float(before) - 1 if before and after else None


def _share(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    numbers = [_at(p, "cpu", key) for key in ("steal_s", "total_s") for p in (before, after)]
    if None in numbers or numbers[3] <= numbers[2]:
        return None
    stolen, passed = float(numbers[1]) - float(numbers[0]), float(numbers[3]) - float(numbers[2])
    return max(0.0, stolen / passed)
