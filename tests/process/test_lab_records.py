"""What a measurement on a booted server records of server and machine, and what makes a run or a boot unbelievable."""

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest

from perfgate.autotune.eventlog import append
from perfgate.baseline import MemoryStore
from perfgate.experiment.confirm import overrule
from perfgate.experiment.gate import Gate, Writing, quoting_moved
from perfgate.experiment.lab import Lab, LabSettings
from perfgate.records import Baseline, Cell, Outcome, Provenance
from perfgate.selection import Target
from perfgate.server import RunningServer, ServerSpec
from perfgate.targets import GpuSpec, ModelSpec
from perfgate.verdict import invalidity
from perfgate.workload import WorkloadSpec

FAKE = Path(__file__).parents[1] / "fakevllm"


@pytest.fixture
def scripted(tmp_path):
    """A cell on the fake vLLM."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"vocab_size": 1024}', encoding="utf-8")
    return Target(
        cell=Cell(gpu="cpu", model="m", server="fake", workload="quick"),
        # However busy this machine is, that is not what is asked here.
        gpu=GpuSpec(name="cpu", client_lag_ms=5000.0, max_steal=1.0, max_loop_change=1000.0),
        model=ModelSpec(name="m", id=str(model)),
        server=ServerSpec(name="fake", env={"PYTHONPATH": str(FAKE)}, boot_timeout_s=30.0, stop_grace_s=2.0),
        workload=WorkloadSpec(
            name="quick", input_len=8, output_len=20, concurrency=4, num_prompts=40, warmups=1
        ),
    )


@pytest.fixture
def measure(scripted, tmp_path, monkeypatch):
    """Measures the cell on one boot, whoever else measures on this machine."""
    monkeypatch.setattr("perfgate.lease.lease_directory", lambda: tmp_path / "leases")

    def run(progress=lambda _words: None):
        settings = LabSettings(root=tmp_path, directory=tmp_path, devices=("cpu",))
        with Lab(settings, progress) as lab:
            return lab.measure([scripted], replicates=1)["quick"]

    return run


def test_boot_and_run_carry_probes_usage_and_versions(measure):
    """A measurement has two probes, the boot's figures, the CPU time per token, and the versions of the server's own Python."""
    measurement = measure()
    (boot,) = measurement.boots
    (run,) = boot.runs
    assert run.valid
    assert run.metrics["server_cpu_ms_per_token"] > 0
    assert boot.metrics["ready_s"] > 0
    assert boot.log.startswith("logs/"), "a record means the same on every machine"
    before, after = boot.probes
    assert before["cpu"]["loop_ms"] > 0
    assert before["taken"] <= after["taken"]
    assert measurement.fingerprint.python is not None
    # The fake has no configuration page: its settings are unknown, and have no hash.
    assert boot.settings == {}
    assert measurement.fingerprint.settings_hash is None


def test_a_server_that_dies_under_load_is_the_first_reason(scripted, tmp_path, monkeypatch):
    """The run's first reason is the server's end with the exception in its log; the requests that failed of it come after."""
    monkeypatch.setattr("perfgate.lease.lease_directory", lambda: tmp_path / "leases")
    dying = replace(scripted, server=scripted.server.model_copy(update={"args": {"fake-die-after": 10}}))
    with Lab(LabSettings(root=tmp_path, directory=tmp_path, devices=("cpu",))) as lab:
        (boot,) = lab.measure([dying], replicates=1)["quick"].boots
    first, *others = boot.runs[0].invalid
    assert "the API server" in first
    assert "ended with exit status 9\ncause: RuntimeError: end\nlast lines of" in first
    assert any("of 40 requests" in other for other in others)
    assert "cause: RuntimeError: end" in invalidity([boot])


def test_compilation_while_measuring_makes_the_run_invalid(measure, monkeypatch):
    """A kernel that the log says was compiled inside the measured window voids the run by its name."""
    counters = RunningServer.counters

    def counters_and_a_compilation(server):
        """The first reading is taken when the measured window begins."""
        found = counters(server)
        with server.log_path.open("a") as log:
            log.write(
                "WARNING Triton kernel JIT compilation during inference: fused_moe_kernel. This causes\n"
            )
        return found

    monkeypatch.setattr(RunningServer, "counters", counters_and_a_compilation)
    run = measure().boots[0].runs[0]
    assert run.metrics == {}
    assert "compiled or autotuned while measuring: fused_moe_kernel" in run.invalid


def test_tuning_that_only_the_recorder_sees_makes_the_run_invalid(measure, monkeypatch):
    """A benchmark inside the measured window voids the run, though its process was never ready and another's recorder failed."""
    counters = RunningServer.counters

    def counters_and_tuning(server):
        found = counters(server)
        if not server.events_path.exists():
            tuned = {"kind": "autotune", "pid": 1, "key": ["64"], "timings_ms": {"a": 1.0}}
            append(server.events_path, {"kind": "start", "pid": 1, "time": time.time(), "triton": "3.6.0"})
            append(server.events_path, {"kind": "error", "pid": 2, "time": time.time(), "text": "no Triton"})
            append(server.events_path, tuned | {"kernel": "early", "time": time.time() - 60})
            append(server.events_path, tuned | {"kernel": "chunk_fwd_kernel_o", "time": time.time()})
        return found

    monkeypatch.setattr(RunningServer, "counters", counters_and_tuning)
    run = measure().boots[0].runs[0]
    assert "compiled or autotuned while measuring: chunk_fwd_kernel_o" in run.invalid


def test_probe_alone_voids_a_boot(measure, monkeypatch):
    """A GPU that throttles in the second probe voids the boot, whose runs stay valid and are not used; another boot is made for it."""
    states = itertools.chain(([], ["hardware thermal slowdown"]), itertools.repeat([]))
    monkeypatch.setattr(
        RunningServer, "probe", lambda _server, **_: {"gpus": [{"device": "0", "throttling": next(states)}]}
    )
    boot, another = measure().boots
    assert another.void == ()
    assert boot.void == ("GPU 0 throttled: hardware thermal slowdown",)
    assert boot.runs[0].valid
    assert boot.valid_runs() == ()


def test_moved_default_is_quoted_first_by_a_failed_verdict(measure, scripted):
    """A verdict that fails begins with the settings that nobody asked for and that moved since the baseline."""
    measurement = measure()
    (boot,) = measurement.boots

    def side(scale, settings, vllm):
        boots = tuple(
            boot.model_copy(
                update={
                    "id": f"{vllm}-{number}",
                    "settings": settings,
                    "runs": tuple(
                        run.model_copy(
                            update={"metrics": {"mean_tpot_ms": scale * (1 + number / 1000)}, "arrays": None}
                        )
                        for run in boot.runs
                    ),
                }
            )
            for number in range(3)
        )
        fingerprint = measurement.fingerprint.model_copy(update={"vllm": vllm})
        return measurement.model_copy(update={"boots": boots, "fingerprint": fingerprint})

    old = side(10.0, {"scheduler_config.async_scheduling": False}, "0.18.1")
    new = side(15.0, {"scheduler_config.async_scheduling": True}, "0.19.1")
    store = MemoryStore()
    store.write(
        Baseline(
            cell=old.cell,
            provenance=Provenance(by="me", source="measured"),
            fingerprint=old.fingerprint,
            server=old.server,
            workload=old.workload,
            boots=old.boots,
        ),
        replacing=None,
    )
    gate = Gate(store=store, writing=Writing.NOTHING, by="me", command="pytest")
    verdict = gate.judge(scripted, new).verdict
    moved = "async_scheduling: false → true, new default between vLLM 0.18.1 and 0.19.1; not set by you"
    assert verdict.notes[0] == moved
    assert gate.judge(scripted, old).verdict.notes == ()
    # The screen's suspicion, and the confirmation that overrules it, both begin with what moved.
    suspected = verdict.model_copy(update={"outcome": Outcome.SUSPECT, "reason": "mean TPOT slower"})
    assert quoting_moved(suspected).reason == f"{moved} – mean TPOT slower"
    asked = suspected.model_copy(update={"notes": (moved, "max_num_seqs: 16 → 4, set by you")})
    assert quoting_moved(asked).reason == f"max_num_seqs: 16 → 4, set by you; {moved} – mean TPOT slower"
    assert quoting_moved(quoting_moved(asked)) == quoting_moved(asked)
    regression = verdict.metrics[0].model_copy(
        update={"outcome": Outcome.REGRESSION, "reason": "mean TPOT slower by 50%"}
    )
    assert overrule(suspected, [regression], "confirmed").reason == f"{moved} – mean TPOT slower by 50%"
    assert overrule(suspected, [verdict.metrics[0]], "not confirmed").reason == verdict.metrics[0].reason
