"""The probe around a replicate, and the rule that voids one: every kind of machine, faked, and this one."""

import copy
import re
from types import SimpleNamespace

import psutil
import pynvml
import pytest

import perfgate.environment.nvml as nvml_module
from perfgate.environment import ProbeLimits, gpu_energy_j, probe, void_reasons
from perfgate.environment.probe import HARMFUL_THROTTLING

GIB = 1024**3


class FakeNvml:
    """One GPU with everything the probe asks; ``refused`` functions answer "not supported"."""

    NVMLError = pynvml.NVMLError
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = pynvml.NVMLError_DriverNotLoaded
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVMLError_GpuIsLost = pynvml.NVMLError_GpuIsLost

    ANSWERS = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetMigMode": (0, 0),
        "nvmlDeviceGetName": "NVIDIA GB10",
        "nvmlDeviceGetUUID": "GPU-1",
        "nvmlDeviceGetMaxMigDeviceCount": 0,
        "nvmlDeviceGetMigDeviceHandleByIndex": "slice",
        "nvmlDeviceGetClockInfo": 1830,
        "nvmlDeviceGetMaxClockInfo": 1980,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 350_500,
        "nvmlDeviceGetTotalEnergyConsumption": 7_000_250,
        "nvmlDeviceGetCurrentClocksThrottleReasons": pynvml.nvmlClocksThrottleReasonGpuIdle,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB, used=20 * GIB, free=60 * GIB),
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=1), SimpleNamespace(pid=2**22 + 1)],
    }

    def __init__(self, **changed):
        self.changed = changed

    def __getattr__(self, name):
        if name not in self.ANSWERS:
            return getattr(pynvml, name)
        answer = self.changed.get(name, self.ANSWERS[name])

        def function(*_):
            if isinstance(answer, Exception):
                raise answer
            return answer

        return function


@pytest.fixture
def machine(monkeypatch):
    def make(**changed):
        monkeypatch.setattr(nvml_module, "import_nvml", lambda: FakeNvml(**changed))

    return make


def test_discrete_gpu_is_described(machine):
    """Clocks, heat, power, energy, memory and strangers of a discrete GPU are in the probe, in their units."""
    machine()
    (gpu,) = probe(own_pids={1})["gpus"]
    assert gpu == {
        "device": "0",
        "sm_mhz": 1830,
        "memory_mhz": 1830,
        "sm_max_mhz": 1980,
        "temperature_c": 61,
        "power_w": 350.5,
        "energy_j": 7000.2,
        "throttling": [],
        "unified": False,
        "free_gib": 60.0,
        "used_gib": 20.0,
        "strangers": [],
        "matmul_tflops": None,
    }


def test_unified_gpu_has_the_systems_memory(machine):
    """A GB10 gives no memory figures: they come from the system; clocks, heat and power still come from NVML."""
    machine(nvmlDeviceGetMemoryInfo=pynvml.NVMLError_NotSupported())
    (gpu,) = probe()["gpus"]
    assert gpu["unified"]
    total = psutil.virtual_memory().total / GIB
    assert gpu["free_gib"] + gpu["used_gib"] == pytest.approx(total, abs=0.02)
    assert gpu["power_w"] == 350.5


def test_discrete_gpu_without_memory_figures_is_a_fault_that_voids(machine):
    """The same answer of a discrete card is not taken for shared memory: its figures are unknown, and the replicate is void."""
    machine()
    before = probe(own_pids={1})
    machine(
        nvmlDeviceGetMemoryInfo=pynvml.NVMLError_NotSupported(), nvmlDeviceGetName=b"NVIDIA H100 80GB HBM3"
    )
    after = probe(own_pids={1})
    (gpu,) = after["gpus"]
    assert (gpu["unified"], gpu["free_gib"], gpu["used_gib"]) == (False, None, None)
    assert void_reasons(before, after) == (
        "GPU 0 gave no memory figures, which on a discrete card means a fault",
    )
    assert void_reasons(before, before) == ()


@pytest.mark.parametrize(
    "answer", [pynvml.NVMLError_NotSupported(), SimpleNamespace(total=0, used=0, free=0)]
)
def test_an_entry_says_that_a_gpu_shares_the_systems_memory(machine, answer):
    """A unified GPU that the shipped catalogue does not know is one where its entry says so, "not supported" or all zeros alike."""
    machine(nvmlDeviceGetMemoryInfo=answer, nvmlDeviceGetName="NVIDIA of tomorrow")
    (gpu,) = probe(unified=True)["gpus"]
    assert gpu["unified"]
    assert gpu["free_gib"] > 0
    assert void_reasons(probe(unified=True, own_pids={1}), probe(unified=True, own_pids={1})) == ()


def test_slices_of_a_gpu_are_probed_one_by_one(machine):
    """In MIG mode each slice is a device of its own, by UUID; what NVML does not give for slices is None."""
    refused = dict.fromkeys(
        ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetTemperature"),
        pynvml.NVMLError_NotSupported(),
    )
    machine(
        nvmlDeviceGetMigMode=(1, 1), nvmlDeviceGetMaxMigDeviceCount=1, nvmlDeviceGetMigDeviceHandleByIndex="slice",
        nvmlDeviceGetUUID="MIG-1", **refused,
    )  # fmt: skip
    (gpu,) = probe(devices=["MIG-1"], own_pids={1})["gpus"]
    assert (gpu["device"], gpu["power_w"], gpu["temperature_c"], gpu["free_gib"]) == (
        "MIG-1",
        None,
        None,
        60.0,
    )
    assert probe(devices=["0"])["gpus"] == []
    assert gpu_energy_j(["MIG-1"]) is None


def test_lost_gpu_is_a_failed_probe_that_voids(machine):
    """A GPU that is lost between the probes voids the replicate and stops nothing."""
    machine()
    before = probe(own_pids={1})
    machine(nvmlDeviceGetTemperature=pynvml.NVMLError_GpuIsLost())
    after = probe(own_pids={1})
    assert after["gpus"] == []
    (reason,) = void_reasons(before, after)
    assert reason.startswith("GPU probe failed")


def test_figures_that_a_device_does_not_give_are_none(machine):
    """Whatever is not supported is None, never zero."""
    refused = {
        name: pynvml.NVMLError_NotSupported()
        for name in FakeNvml.ANSWERS
        if name.startswith("nvmlDeviceGet")
        and "Count" not in name
        and "Handle" not in name
        and "Name" not in name
    }
    machine(**refused)
    (gpu,) = probe()["gpus"]
    assert {name for name, value in gpu.items() if value is None} == {
        "sm_mhz", "memory_mhz", "sm_max_mhz", "temperature_c", "power_w", "energy_j", "throttling", "strangers", "matmul_tflops",
    }  # fmt: skip
    assert gpu_energy_j() is None


def test_energy_is_joules_of_the_devices_asked_for(machine):
    """NVML's millijoules become joules; a device that is not asked for, or no driver, gives none."""
    machine()
    assert gpu_energy_j() == pytest.approx(7000.25)
    assert gpu_energy_j(["3"]) is None
    machine(nvmlInit=pynvml.NVMLError_LibraryNotFound())
    assert gpu_energy_j() is None


def test_matmul_that_cannot_be_made_is_none(machine, tmp_path):
    """An interpreter without torch, or none at all, gives no rate and no error; one that answers gives its rate."""
    machine()
    assert probe(python=str(tmp_path / "none"))["gpus"][0]["matmul_tflops"] is None
    answering = tmp_path / "python"
    answering.write_text('#!/bin/sh\necho "a warning"\necho 612.345\n')
    answering.chmod(0o755)
    assert probe(python=str(answering))["gpus"][0]["matmul_tflops"] == 612.35


def test_probe_of_this_machine_is_plain_and_steady():
    """Two probes of this machine in a row are JSON, have every CPU figure, and void nothing."""
    before, after = probe(), probe()
    assert before["cpu"]["loop_ms"] > 0
    assert before["cpu"]["total_s"] > 0
    assert before["memory_available_gib"] > 0
    assert void_reasons(before, after, ProbeLimits(cpu_loop=100.0, steal=1.0)) == ()


STEADY = {
    "cpu": {"loop_ms": 5.0, "total_s": 1000.0, "steal_s": 10.0},
    "gpus": [
        {"device": "0", "throttling": [], "strangers": [], "temperature_c": 70, "matmul_tflops": 600.0},
    ],
}


def after(**changes):
    changed = copy.deepcopy(STEADY)
    changed["cpu"]["total_s"] = 1200.0
    changed["cpu"].update(changes.pop("cpu", {}))
    if "gpus" in changes:
        changed["gpus"] = changes.pop("gpus")
    for gpu in changed["gpus"]:
        gpu.update(changes)
    return changed


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (after(cpu={"loop_ms": 11.0}), r"a fixed CPU loop took 2\.20 times as long after"),
        (after(cpu={"loop_ms": 2.0}), r"a fixed CPU loop took 0\.40 times as long after"),
        (after(cpu={"steal_s": 50.0}), "the hypervisor took 20% of the CPU time"),
        (after(throttling=["hardware thermal slowdown"]), "GPU 0 throttled: hardware thermal slowdown"),
        (after(strangers=[4711]), "GPU 0 was shared with pid 4711"),
        (after(temperature_c=96), "GPU 0 reached 96 °C"),
        (after(matmul_tflops=540.0), r"the rate of a fixed matmul changed by -10\.0%"),
        (after(gpus=[]), "GPU 0 was not there any more"),
    ],
)
def test_what_voids_a_replicate(later, reason):
    """Each change that a steady machine never shows voids the replicate, alone and with its numbers."""
    (only,) = void_reasons(STEADY, later)
    assert re.search(reason, only)


@pytest.mark.parametrize(
    "later",
    [
        after(),
        after(cpu={"loop_ms": 9.9, "steal_s": 20.0}),
        after(temperature_c=94, matmul_tflops=590.0),
        after(throttling=None, strangers=None, temperature_c=None, matmul_tflops=None),
        after(cpu={"loop_ms": None, "steal_s": None}),
    ],
)
def test_what_voids_nothing(later):
    """Small changes, and figures that a machine does not give, void nothing."""
    assert void_reasons(STEADY, later) == ()


def test_throttling_before_the_replicate_counts_too():
    """A GPU that throttled in the first probe was not steady either."""
    assert void_reasons(after(throttling=["power brake"]), after()) == ("GPU 0 throttled: power brake",)


def test_every_throttle_reason_exists_in_nvml():
    """The bits that the rule looks for are NVML's own, by name, and an idle GPU is none of them."""
    bits = [getattr(pynvml, name) for name in HARMFUL_THROTTLING]
    assert len(set(bits)) == len(bits) == 4
    assert not [bit for bit in bits if bit & pynvml.nvmlClocksThrottleReasonGpuIdle]
