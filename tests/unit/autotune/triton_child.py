"""Run in a process of its own: real Triton autotunes and compiles a kernel for an emulated GPU while the recorder watches.

Only loading and launching the binary are stood in for, because they need a device; keys, benchmark loop and compile are Triton's.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.driver import driver
from triton.runtime.errors import OutOfResources

from perfgate.autotune import emulation, plugin
from perfgate.autotune.emulation import EmulatedGpu


def load_binary(name: str, binary: bytes, shared: int, device: int) -> tuple[Any, Any, int, int, int]:
    """A loaded module; the configuration with 8 warps does not fit this GPU."""
    if LIMIT["warps"] == 8:
        raise OutOfResources(200, 100, "shared memory")
    return object(), object(), 32, 0, 1024


LIMIT = {"warps": 0}


class Launcher:
    """Launches nothing."""

    def __init__(self, source: Any, metadata: Any) -> None:
        LIMIT["warps"] = metadata.num_warps

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        return None


def benchmark(call: Any, **_options: Any) -> list[float]:
    """Runs the configuration once, as a real benchmark would many times."""
    call()
    return [0.25, 0.2, 0.3]


def main() -> None:
    """Emulate, watch, launch twice with one key and once with another."""
    emulation._emulate_triton(
        EmulatedGpu(
            # One that the assembler of every Triton from 3.4 on knows.
            name="NVIDIA H100 80GB HBM3",
            capability=(9, 0),
            multiprocessors=132,
            shared_memory=232448,
            l2_cache=50 << 20,
            memory=1 << 34,
        )
    )
    active = driver.active
    active.launcher_cls = Launcher
    active.utils = SimpleNamespace(
        get_device_properties=active.utils.get_device_properties, load_binary=load_binary
    )
    active.get_benchmarker = lambda: benchmark
    if "wrapper" in sys.argv:
        plugin.has_listener = lambda _knobs: False
    plugin.register()

    configs = [triton.Config({}, num_warps=warps) for warps in (1, 4, 8)]

    @triton.autotune(configs=configs, key=["n"])
    @triton.jit
    def add_one(x, n, BLOCK: tl.constexpr):  # noqa: N803
        offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(x + offsets, tl.load(x + offsets, mask=offsets < n) + 1, mask=offsets < n)

    x = torch.zeros(64)
    add_one[(1,)](x, 64, BLOCK=64)
    add_one[(1,)](x, 64, BLOCK=64)
    add_one[(1,)](x, 33, BLOCK=64)


main()
