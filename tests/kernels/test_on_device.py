"""On a real GPU, with empty Triton and vLLM caches: warm-up does all the work, and the kernels compute the right thing.

Skipped without a GPU, failing under ``--require-gpu``.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from perfgate.autotune.agreement import agreement
from perfgate.autotune.eventlog import VARIABLE
from perfgate.autotune.events import Event, describe, late_events, read_events
from perfgate.autotune.process import ON_DEVICE, ask
from perfgate.autotune.question import Question, cell, emulated
from perfgate.errors import PerfgateError
from perfgate.pytest_plugin import missing_gpu

if TYPE_CHECKING:
    # The installed suite has these fixtures under another name.
    from fixtures.kernels import KernelSuite

pytestmark = [pytest.mark.kernels, pytest.mark.gpu]

TIMEOUT_S = 900.0
TIMED = (20, 64, 1024)
"""Prompts whose prefill is timed, tokens."""
LENGTHS = ([20], [46], [64], [100, 200], [1, 16, 33, 65])
# Inputs and outputs are bfloat16 (8 bits of mantissa, 0.4% each); a wrong kernel is wrong by tens of percent.
TOLERANCE = 0.02
# What one CUDA context may still load lazily once everything is warm: far below the 1.3 GiB of a late autotune.
LATE_MIB = 64.0


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """What one cold start did."""

    answer: dict[str, Any]
    events: tuple[Event, ...]


def _cell(suite: KernelSuite) -> dict[str, Any]:
    gdn = [model for model in suite.models if model.architecture.get("layer") == "gdn"]
    return cell(Question(gpu=suite.gpu, model=gdn[0]))


@pytest.fixture(scope="module")
def gpu_here(request: pytest.FixtureRequest) -> None:
    """Skips without a CUDA GPU; asked in a process of its own, because CUDA must not be initialised in this one before a fork."""
    question = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 3)"
    try:
        found = subprocess.run(
            [sys.executable, "-c", question], capture_output=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.fail("PyTorch did not say within 120 s whether there is a GPU", pytrace=False)
    if found.returncode:
        missing_gpu(request, "this machine has no CUDA GPU that PyTorch can use")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where Triton and vLLM keep what they compile and tune: empty at first, filled by the cold start."""
    folder = tmp_path_factory.mktemp("caches")
    return {"TRITON_CACHE_DIR": str(folder / "triton"), "VLLM_CACHE_ROOT": str(folder / "vllm")}


@pytest.fixture(scope="module")
def cold_start(
    gpu_here: None,
    kernel_suite: KernelSuite,
    caches: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnDevice:
    """Warm-up and serving of the real layer in a fresh process with fresh caches."""
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    try:
        answer = ask(
            {"cell": _cell(kernel_suite), "lengths": LENGTHS, "timed": TIMED},
            vllm_source=kernel_suite.source,
            timeout_s=TIMEOUT_S,
            entry=ON_DEVICE,
            environment={VARIABLE: str(path), **caches},
        )
        # The correctness check that follows serving calls the kernels by itself, with shapes of its own.
        served = [event for event in read_events(path) if event.time <= answer["served_at"]]
        return OnDevice(answer=answer, events=tuple(served))
    except PerfgateError as error:
        pytest.fail(str(error), pytrace=False)


def test_nothing_is_tuned_after_warm_up(cold_start: OnDevice) -> None:
    """Prefills of 20 and 46 tokens, and every other length class, meet no autotune event."""
    late = [event for event in late_events(cold_start.events) if event.kind == "autotune"]
    assert not late, describe(late)


def test_the_dry_run_agrees_key_by_key(
    cold_start: OnDevice, kernel_suite: KernelSuite, observe: Callable[[str, object], None]
) -> None:
    """What the emulated GPU says of this vLLM is what the real one does: the same autotune keys, the same kernels compiled late."""
    request = {"gpu": emulated(kernel_suite.gpu), "cells": [_cell(kernel_suite)]}
    (replayed,) = ask(request, vllm_source=kernel_suite.source, timeout_s=TIMEOUT_S)["cells"]
    assert "error" not in replayed, replayed["error"]
    found = agreement(replayed, cold_start.events)
    observe("agreement", found.text())
    assert found.complete, found.text()


def test_warm_up_tunes(cold_start: OnDevice) -> None:
    """The caches were empty: warm-up benchmarked, every key has a winner that ran, and the durations are known."""
    tuned = [event for event in cold_start.events if event.kind == "autotune"]
    assert tuned
    for event in tuned:
        assert event.winner
        assert any(timing is not None for timing in event.timings_ms.values()), describe([event])
        assert event.duration_s is not None


def test_no_autotuned_kernel_is_compiled_after_warm_up(cold_start: OnDevice) -> None:
    """The autotuned prefill kernels are compiled by warm-up in every specialisation that serving asks for."""
    tuned = {event.kernel for event in cold_start.events if event.kind == "autotune"}
    late = [
        event for event in late_events(cold_start.events) if event.kind == "jit" and event.kernel in tuned
    ]
    assert not late, describe(late)


def test_the_cost_of_warm_up_is_known(cold_start: OnDevice, observe: Callable[[str, object], None]) -> None:
    """Configurations, failures, time and memory of warm-up are recorded; the failures leave most configurations usable."""
    tuned = [event for event in cold_start.events if event.kind == "autotune"]
    free = cold_start.answer["free_mib"]
    cost = {
        "configurations": sum(len(event.timings_ms) for event in tuned),
        "configurations_failed": sum(event.failed for event in tuned),
        "warm_up_s": cold_start.answer["warm_up_s"],
        "peak_mib": cold_start.answer["peak_mib"],
        "resident_mib": free["free_before"] - free["free_at_kv_sizing"],
        "resident_after_kv_sizing_mib": free["free_after_states"] - free["free_after_warm_up"],
    }
    for name, value in cost.items():
        observe(name, f"{value:.1f}" if isinstance(value, float) else value)
    assert cost["configurations"] > 0
    assert cost["configurations_failed"] < cost["configurations"]
    assert cost["resident_mib"] >= 0


def test_kv_sizing_saw_the_memory_that_serving_has(cold_start: OnDevice) -> None:
    """Serving loads no modules that were not there when the KV cache was sized."""
    free = cold_start.answer["free_mib"]
    assert free["free_after_warm_up"] - free["free_after_serving"] <= LATE_MIB


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_the_kernels_compute_the_gated_delta_rule(cold_start: OnDevice, lengths: list[int]) -> None:
    """The Triton prefill agrees with the token-by-token float32 recurrence, so a fast wrong kernel fails."""
    error = cold_start.answer["errors"][str(lengths)]
    assert math.isfinite(error)
    assert error < TOLERANCE


class Replayed:
    """Gives pytest-benchmark what the GPU's own clock said: each call of the clock's target lets one measured time pass."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self._left = list(seconds)
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def pass_one(self) -> None:
        """The next measured time passes."""
        self._now += self._left.pop(0)


@pytest.mark.parametrize("tokens", TIMED)
def test_prefill_time(benchmark: Any, cold_start: OnDevice, kernel_suite: KernelSuite, tokens: int) -> None:
    """Time of one layer's prefill by CUDA events in the warmed-up process, kept under the GPU's name."""
    times = cold_start.answer["times_s"][str(tokens)]
    assert min(times) > 0
    gpu = cold_start.answer["gpu"]
    benchmark.group = f"GDN prefill on {gpu}"
    benchmark.extra_info.update(gpu=gpu, entry=kernel_suite.gpu.name, tokens=tokens)
    clock = Replayed(times)
    benchmark._timer = clock
    benchmark.pedantic(clock.pass_one, rounds=len(times))
    assert benchmark.stats.stats.min == pytest.approx(min(times))
