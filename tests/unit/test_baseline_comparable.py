"""Which measurements may be compared: the same hardware, and the same work asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from perfgate.baseline import comparable, workload_differences
from perfgate.records import Fingerprint

GB10 = Fingerprint(
    gpu_name="NVIDIA GB10", gpu_count=1, gpu_memory_gib=121.69, cpu_model="Cortex", cpu_count=20
)
CPU = Fingerprint(cpu_model="Xeon", cpu_count=2, machine="x86_64")


def changed(fingerprint: Fingerprint, **fields: Any) -> Fingerprint:
    """The fingerprint with other fields."""
    return fingerprint.model_copy(update=fields)


SOFTWARE = {
    "driver": "580.95",
    "cuda": "13.0",
    "kernel": "6.14",
    "python": "3.12",
    "vllm": "0.33.0",
    "torch": "2.13",
    "triton": "3.9",
    "image_digest": "sha256:0",
    "settings_hash": "0",
}


@pytest.mark.parametrize("machine", [GB10, CPU])
def test_software_does_not_matter(machine: Fingerprint) -> None:
    """The same hardware is comparable whatever the software: its effect is what is measured."""
    assert comparable(machine, changed(machine, **SOFTWARE)) == ()


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (changed(GB10, gpu_name="NVIDIA H100 80GB HBM3"), "another GPU: NVIDIA GB10 in the baseline"),
        (changed(GB10, gpu_count=2), "another number of GPUs: 1 in the baseline, 2 now"),
        (changed(GB10, gpu_memory_gib=96.0), "another GPU memory size"),
        (CPU, "measured on NVIDIA GB10, this measurement on a CPU (Xeon)"),
        (Fingerprint(), "measured on NVIDIA GB10, this measurement on a CPU (unknown model)"),
    ],
)
def test_other_hardware_than_the_gpu(now: Fingerprint, words: str) -> None:
    """Another GPU, number of GPUs or memory size, or no GPU, is a reason that says both sides."""
    (reason,) = comparable(GB10, now)
    assert words in reason


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (changed(CPU, cpu_model="EPYC"), "another CPU: Xeon in the baseline, EPYC now"),
        (changed(CPU, cpu_count=4), "another number of CPU cores: 2 in the baseline, 4 now"),
        (changed(CPU, machine="aarch64"), "another architecture"),
        (changed(CPU, cpu_model=None), "the CPU of this measurement is unknown"),
        (GB10, "measured on a CPU (Xeon), this measurement on NVIDIA GB10"),
    ],
)
def test_other_hardware_than_the_cpu(now: Fingerprint, words: str) -> None:
    """A CPU measurement is comparable on the same CPU model and core count alone."""
    (reason,) = comparable(CPU, now)
    assert words in reason


def test_unknown_is_not_equal() -> None:
    """Two machines of which nothing is known are not taken for the same one."""
    assert len(comparable(Fingerprint(), Fingerprint())) == 2


def test_gpu_names_are_compared_as_names() -> None:
    """The vendor before the name, and its case, do not make another GPU; a driver's reserve does not make another memory."""
    assert (
        comparable(
            changed(GB10, gpu_name="GB10"), changed(GB10, gpu_name="Nvidia gb10", gpu_memory_gib=119.7)
        )
        == ()
    )


def test_host_of_a_gpu_does_not_matter() -> None:
    """The same GPU in another host is comparable; the host is shown elsewhere."""
    assert comparable(GB10, changed(GB10, cpu_model="other", cpu_count=64)) == ()


def test_same_work() -> None:
    """Fields that describe, repeat or judge a workload do not make it another one; fields of one side alone are not compared."""
    before = {"input_len": 512, "concurrency": 1, "runs": 3, "description": "a", "margins": {}}
    now = {"input_len": 512, "concurrency": 1, "runs": 5, "description": "b", "burstiness": 1.0}
    assert workload_differences(before, now) == ()


def test_other_work() -> None:
    """A workload that asks something else under the same name is a difference by field, with both values."""
    differences = workload_differences(
        {"input_len": 512, "output_len": 8}, {"input_len": 1024, "output_len": 9}
    )
    assert differences == (
        "workload field input_len: 512 in the baseline, 1024 now",
        "workload field output_len: 8 in the baseline, 9 now",
    )
