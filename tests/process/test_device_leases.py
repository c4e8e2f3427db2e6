"""Who may use which device: leases between suites and workers, and the servers that are booted on what was leased."""

import subprocess
import sys
import threading
from dataclasses import replace

import psutil
import pytest

from perfgate.errors import InputError
from perfgate.experiment.lab import Lab, LabSettings
from perfgate.lease import lease_devices
from perfgate.records import Cell
from perfgate.selection import Target
from perfgate.targets import GpuSpec, ModelSpec
from perfgate.workload import WorkloadSpec

HOLDER = """
import sys
from pathlib import Path
from perfgate.lease import lease_devices
with lease_devices(("0", "1"), int(sys.argv[2]), directory=Path(sys.argv[1])) as held:
    print(*held, flush=True)
    sys.stdin.read()
"""


class other_suite:  # noqa: N801 - used like a function
    """A process of its own that holds devices until it is told to end."""

    def __init__(self, directory, count):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(directory), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.held = tuple(self.process.stdout.readline().split())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()


def test_two_suites_get_different_devices(tmp_path):
    """What another process holds is not given out a second time, and is free again when it ends."""
    with other_suite(tmp_path, 1) as other:
        assert other.held == ("0",)
        with lease_devices(("0", "1"), 1, directory=tmp_path) as held:
            assert held == ("1",)
    with lease_devices(("0", "1"), 2, directory=tmp_path) as held:
        assert held == ("0", "1")


def test_all_or_none_are_taken(tmp_path):
    """A lease of two devices of which one is in use takes neither, says that it waits, and gives up in time."""
    told = []
    with other_suite(tmp_path, 1):
        with (
            pytest.raises(InputError, match="no 2 of the devices 0, 1 became free within 0 s"),
            lease_devices(("0", "1"), 2, directory=tmp_path, timeout_s=0.3, on_wait=told.append),
        ):
            pytest.fail("leased twice")
        assert told == ["waiting for a device: 0, 1 in use by another suite"]
        with lease_devices(("1",), 1, directory=tmp_path, timeout_s=0) as held:
            assert held == ("1",)


def test_a_killed_suite_holds_nothing(tmp_path):
    """The lease of a process that was killed with SIGKILL is free at once."""
    with other_suite(tmp_path, 2) as other:
        other.process.kill()
        other.process.wait()
        with lease_devices(("0", "1"), 2, directory=tmp_path, timeout_s=5) as held:
            assert held == ("0", "1")


@pytest.fixture
def cell(spec, model):
    """A cell on a stand-in server."""
    return Target(
        cell=Cell(gpu="some", model="m", server="odd", workload="quick"),
        gpu=GpuSpec(name="some"),
        model=ModelSpec(name="m", id=model.path),
        server=spec(),
        workload=WorkloadSpec(name="quick", input_len=1, output_len=1, concurrency=1, num_prompts=1),
    )


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Labs of several workers on a machine with two GPUs."""
    monkeypatch.setattr("perfgate.lease.lease_directory", lambda: tmp_path / "leases")
    settings = LabSettings(root=tmp_path, directory=tmp_path, devices=("0", "1"))
    return lambda progress=lambda _words: None: Lab(settings, progress)


def visible(server):
    return psutil.Process(server.pid).environ()["CUDA_VISIBLE_DEVICES"]


def test_workers_boot_on_devices_of_their_own(lab, cell):
    """Two servers see one GPU each; a third waits until one of them is gone and gets its device."""
    waits = threading.Event()
    seen = []

    def third():
        with lab(lambda words: waits.set() if words.startswith("waiting for a device") else None) as late:
            seen.append(visible(late.server(cell)))

    with lab() as one, lab() as two:
        assert (visible(one.server(cell)), visible(two.server(cell))) == ("0", "1")
        worker = threading.Thread(target=third)
        worker.start()
        assert waits.wait(30)
        two.close()
        worker.join(60)
        assert seen == ["1"]


def test_a_server_gets_as_many_devices_as_its_ranks_need(lab, cell):
    """Tensor, pipeline and data parallel ranks multiply; more than the machine has is refused before anything starts."""
    with lab() as one:
        both = replace(cell, server=cell.server.model_copy(update={"args": {"tensor-parallel-size": "2"}}))
        assert visible(one.server(both)) == "0,1"
        four = replace(both, server=both.server.with_changes(["--data-parallel-size=2"]))
        with pytest.raises(InputError, match="needs 4 GPUs, this machine offers 2"):
            one.server(four)
