"""Whether a server that was stopped has given its GPU memory back.

A driver frees memory a moment after the process ended, and a process that hides from the process table can keep it. On unified memory
the system's free memory moves with everything else, so that there only the list of processes on the device counts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from perfgate.environment.nvml import devices_by_word, nvml_session

TOLERANCE_BYTES = 512 * 1024**2
"""What may stay: contexts of other processes come and go."""
_POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """Who uses one device, and how much of its memory, at one moment."""

    device: str
    used_bytes: int | None
    """None on unified memory."""
    pids: frozenset[int]
    """Processes with a context on it, as far as NVML may see them; container and host number them differently."""


def device_use(devices: Sequence[str] | None = None) -> tuple[DeviceUse, ...]:
    """The use of these devices, or of all; nothing on a machine without an NVIDIA driver.

    Raises:
        EnvironmentProbeError: the driver does not answer.
    """
    found: list[DeviceUse] = []
    with nvml_session() as nvml:
        if nvml is None:
            return ()
        for word, handle in devices_by_word(nvml):
            if devices is not None and word not in devices:
                continue
            used: int | None = None
            with contextlib.suppress(nvml.NVMLError):
                used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
            pids: set[int] = set()
            with contextlib.suppress(nvml.NVMLError):
                pids = {int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
            found.append(DeviceUse(device=word, used_bytes=used, pids=frozenset(pids)))
    return tuple(found)


def kept_memory(
    before: Sequence[DeviceUse], own_pids: Collection[int], *, timeout_s: float = 20.0
) -> tuple[str, ...]:
    """Waits until the devices are as free as before; returns what is not, in words, or nothing.

    Memory that a process took which was not there before and is not ours is that process's affair.

    Args:
        before: the use before the server was started.
        own_pids: every process that the server had.
        timeout_s: how long the driver may take.
    """
    deadline = time.monotonic() + timeout_s
    devices = [use.device for use in before]
    while before:
        after = {use.device: use for use in device_use(devices)}
        kept = [words for use in before if (words := _kept(use, after.get(use.device), own_pids))]
        if not kept:
            return ()
        if time.monotonic() > deadline:
            return tuple(kept)
        time.sleep(_POLL_S)
    return ()


def _kept(before: DeviceUse, after: DeviceUse | None, own_pids: Collection[int]) -> str:
    if after is None:
        return f"device {before.device} does not answer any more"
    ours = sorted(after.pids.intersection(own_pids))
    if ours:
        return f"device {before.device}: pid {', '.join(map(str, ours))} still has a context on it"
    if before.used_bytes is None or after.used_bytes is None or after.pids - before.pids:
        return ""
    more = after.used_bytes - before.used_bytes
    return (
        f"device {before.device}: {more / 1024**3:.2f} GiB more in use than before"
        if more > TOLERANCE_BYTES
        else ""
    )
