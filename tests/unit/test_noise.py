"""The noise model: fitted from sessions, kept in a file, lent to comparisons."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from perfgate.baseline import DirectoryStore
from perfgate.cli import main
from perfgate.errors import NoiseCorruptError, NoiseError, NoiseMissingError, NoiseSchemaError
from perfgate.noise import (
    NoiseModel,
    concurrency_class,
    fit,
    noise_path,
    read_noise,
    write_noise,
)
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, RunRecord, SessionResults
from perfgate.results import write_results

START = datetime(2026, 1, 1, tzinfo=UTC)
METRIC = "mean_ttft_ms"


def _session(
    number: int,
    boots: dict[str, list[list[float]]],
    *,
    vllm: str = "0.25.1",
    gpu_name: str = "NVIDIA GB10",
    concurrency: int = 4,
    args: dict[str, object] | None = None,
    work: dict[str, object] | None = None,
) -> SessionResults:
    """A session of one measurement a cell; values are logarithms of a mean TTFT."""
    measurements = tuple(
        Measurement(
            cell=Cell(gpu="gb10", model="m", server=server, workload="prefill"),
            fingerprint=Fingerprint(gpu_name=gpu_name, gpu_count=1, vllm=vllm),
            server={"args": args or {}},
            workload={"concurrency": concurrency, **(work or {})},
            boots=tuple(
                BootRecord(
                    id=f"{server}-{number}-{position}",
                    runs=tuple(RunRecord(metrics={METRIC: 1000 * math.exp(value)}) for value in runs),
                )
                for position, runs in enumerate(values)
            ),
        )
        for server, values in boots.items()
    )
    return SessionResults(
        session=f"s{number}",
        started=START + timedelta(days=number),
        command="pytest",
        perfgate="0",
        measurements=measurements,
    )


def _simulated(
    sessions: int = 6, cells: int = 8, boots: int = 4, runs: int = 3, *, tau: float = 0.015
) -> list[SessionResults]:
    """Boots vary by 1%, runs by 2%, sessions by ``tau``."""
    rng = np.random.default_rng(1)
    return [
        _session(
            number,
            {
                f"server{cell}": (
                    tau * rng.standard_normal()
                    + 0.01 * rng.standard_normal((boots, 1))
                    + 0.02 * rng.standard_normal((boots, runs))
                ).tolist()
                for cell in range(cells)
            },
        )
        for number in range(sessions)
    ]


def _fit(sessions: list[SessionResults]) -> NoiseModel:
    return fit(sessions, "gb10", at=START, version="0")


def test_the_fit_recovers_what_was_simulated() -> None:
    """Run, boot and session deviations come back from 6 sessions of 8 cells, with their sample sizes."""
    one = _fit(_simulated()).find(METRIC, {"concurrency": 2})
    assert one is not None
    assert one.run_variance is not None
    assert one.session_variance is not None
    assert math.sqrt(one.run_variance) == pytest.approx(0.02, rel=0.1)
    assert math.sqrt(one.boot_variance) == pytest.approx(0.01, rel=0.25)
    assert math.sqrt(one.session_variance) == pytest.approx(0.015, rel=0.25)
    assert (one.cells, one.sessions, one.boots, one.runs) == (8, 6, 192, 576)
    drift = one.drift()
    assert drift is not None
    assert drift.cautious().sd > drift.sd


def test_the_prior_follows_the_number_of_runs() -> None:
    """A replicate of more runs borrows less variance, down to that of a boot."""
    one = _fit(_simulated()).classes[0]
    assert one.prior(1).variance > one.prior(3).variance > one.prior(100).variance
    assert one.prior(3).variance == pytest.approx(one.prior_variance, rel=1e-6)
    assert one.prior(10_000).sd == pytest.approx(math.sqrt(one.boot_variance), rel=0.2)
    assert one.runs_per_boot(boot_cost=4, run_cost=1) == math.ceil(
        math.sqrt(4 * (one.run_variance or 0) / one.boot_variance)
    )
    with pytest.raises(ValueError, match="at least one run"):
        one.prior(0)


def test_one_session_knows_no_drift() -> None:
    """From a single session the drift is unknown, not zero."""
    one = _fit(_simulated(sessions=1)).classes[0]
    assert one.session_variance is None
    assert one.drift() is None


def test_another_version_is_another_cell() -> None:
    """A new vLLM that is 20% slower is no drift between sessions."""
    old = _simulated(sessions=3, tau=0.0)
    rng = np.random.default_rng(2)
    slow = [
        _session(
            10 + number,
            {f"server{cell}": (0.2 + 0.02 * rng.standard_normal((4, 3))).tolist() for cell in range(8)},
            vllm="0.26.0",
        )
        for number in range(3)
    ]
    one = _fit([*old, *slow]).classes[0]
    assert one.cells == 16
    assert one.session_variance is not None
    assert math.sqrt(one.session_variance) < 0.01


@pytest.mark.parametrize("changed", [{"args": {"max-num-seqs": 1}}, {"work": {"input_len": 8192}}])
def test_another_setting_is_another_cell(changed: dict[str, dict[str, object]]) -> None:
    """Sessions with a flag on top, or of a workload that was redefined, are no drift of the entry they are named after."""
    rng = np.random.default_rng(2)
    slow = [
        _session(
            10 + number,
            {f"server{cell}": (0.5 + 0.02 * rng.standard_normal((4, 3))).tolist() for cell in range(8)},
            **changed,  # type: ignore[arg-type]
        )
        for number in range(3)
    ]
    one = _fit([*_simulated(sessions=3, tau=0.0), *slow]).classes[0]
    assert one.cells == 16
    assert one.session_variance is not None
    assert math.sqrt(one.session_variance) < 0.01


def test_a_boot_in_two_files_counts_once() -> None:
    """Boots that come again in a merged file are not counted twice."""
    sessions = _simulated(sessions=2)
    again = sessions[0].model_copy(update={"session": "merged", "started": START + timedelta(days=9)})
    assert _fit([*sessions, again]).classes[0].boots == _fit(sessions).classes[0].boots


def test_void_boots_and_invalid_runs_never_count() -> None:
    """What was not believed does not enter the noise."""
    sessions = _simulated(sessions=2)
    measurement = sessions[0].measurements[0]
    bad = BootRecord(id="bad", void=("throttled",), runs=(RunRecord(metrics={METRIC: 1e6}),))
    wrong = BootRecord(id="wrong", runs=(RunRecord(metrics={}, invalid=("preempted",)),))
    spoiled = measurement.model_copy(update={"boots": (*measurement.boots, bad, wrong)})
    changed = sessions[0].model_copy(update={"measurements": (spoiled, *sessions[0].measurements[1:])})
    assert _fit([changed, sessions[1]]).classes == _fit(sessions).classes


def test_outliers_are_counted_and_set_aside() -> None:
    """One boot in forty that is 40% slower is reported as a share and leaves the deviation alone."""
    sessions = _simulated(runs=1)
    values = {
        f"server{cell}": [
            [math.log(run.metrics[METRIC] / 1000) for run in boot.runs] for boot in measurement.boots
        ]
        for cell, measurement in enumerate(sessions[2].measurements)
    }
    for cell in range(4):
        values[f"server{cell}"][1] = [0.4]
    clean = _fit(sessions).classes[0]
    one = _fit([*sessions[:2], _session(2, values), *sessions[3:]]).classes[0]
    assert one.outlier_share == pytest.approx(4 / 192)
    assert one.prior_variance == pytest.approx(clean.prior_variance, rel=0.15)


def test_two_state_boots_are_reported() -> None:
    """Boots that come up at two levels are named with their gap and share."""
    rng = np.random.default_rng(3)
    levels = [[float(level + 0.002 * rng.standard_normal())] for level in (0.0, 0.1) * 5]
    found = _fit([_session(0, {"bimodal": levels, "steady": [[0.0], [0.001], [0.002]]})]).two_states
    assert [state.cell for state in found] == ["gb10/m/bimodal/prefill"]
    assert found[0].gap == pytest.approx(math.expm1(0.1), abs=0.01)
    assert found[0].upper_share == 0.5


def test_single_boots_cannot_be_fitted() -> None:
    """Without two boots in one session there is no model, and the message says what to record."""
    with pytest.raises(NoiseError, match="two boots") as caught:
        _fit([_session(0, {"a": [[0.0, 0.1]]}), _session(1, {"a": [[0.1, 0.2]]})])
    assert "--replicates" in caught.value.remedy


def test_sessions_of_different_hardware_are_not_pooled() -> None:
    """Two kinds of machine under one GPU name are refused, both named."""
    mixed = [
        _session(0, {"a": [[0.0], [0.1]]}),
        _session(1, {"a": [[0.0], [0.1]]}, gpu_name="NVIDIA H100"),
    ]
    with pytest.raises(NoiseError, match=r"NVIDIA GB10.*NVIDIA H100"):
        _fit(mixed)


@pytest.mark.parametrize(
    ("workload", "wanted"),
    [
        ({"concurrency": 1}, "1"),
        ({"concurrency": 2}, "2-4"),
        ({"concurrency": 4}, "2-4"),
        ({"concurrency": 16}, "5-16"),
        ({"concurrency": 17}, "17-64"),
        ({"concurrency": 65}, "65+"),
        ({"request_rate": 3.0}, "open"),
        ({"concurrency": None}, "open"),
    ],
)
def test_concurrency_classes(workload: dict[str, object], wanted: str) -> None:
    """Workloads fall into the class of their streams; an open loop is its own class."""
    assert concurrency_class(workload) == wanted


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    """A written model is read back equal, and a store of baselines does not take its file for a baseline."""
    model = _fit(_simulated())
    path = noise_path(tmp_path, "gb10")
    write_noise(path, model)
    assert read_noise(path) == model
    assert list(DirectoryStore(tmp_path).cells()) == []


def test_unreadable_models_are_refused(tmp_path: Path) -> None:
    """A missing file, another schema number, another document and an impossible variance are each named."""
    path = tmp_path / "noise.json"
    with pytest.raises(NoiseMissingError, match="no noise model"):
        read_noise(path)
    write_noise(path, _fit(_simulated(sessions=2)))
    data = json.loads(path.read_text())
    for change, error, words in (
        ({"schema": 99}, NoiseSchemaError, "newer"),
        ({"classes": [data["classes"][0] | {"prior_variance": -1.0}]}, NoiseCorruptError, "prior_variance"),
        ({"classes": [data["classes"][0] | {"prior_df": 0}]}, NoiseCorruptError, "prior_df"),
    ):
        path.write_text(json.dumps(data | change))
        with pytest.raises(error, match=words):
            read_noise(path)
    path.write_text('{"schema": 1, "session": "x"}')
    with pytest.raises(NoiseCorruptError, match="another kind"):
        read_noise(path)


def test_the_command_fits_writes_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command pools a folder of sessions, writes the GPU's model and prints it in per cent."""
    for session in _simulated(sessions=3):
        write_results(tmp_path / "results", session)
    baselines = tmp_path / "baselines"
    assert main(["noise", "fit", str(tmp_path / "results"), "--baselines", str(baselines)]) == 0
    printed = capsys.readouterr().out
    assert "3 sessions" in printed
    assert METRIC in printed
    model = read_noise(noise_path(baselines, "gb10"))
    assert model.sources == ("s0", "s1", "s2")
    assert main(["noise", "show", str(noise_path(baselines, "gb10"))]) == 0
    assert capsys.readouterr().out in printed


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --dry-run the model is printed and no file is made."""
    file = write_results(tmp_path, _simulated(sessions=1)[0])
    target = tmp_path / "baselines"
    assert main(["noise", "fit", str(file), "--baselines", str(target), "--dry-run"]) == 0
    assert "not written" in capsys.readouterr().out
    assert not target.exists()


@pytest.mark.parametrize("arguments", [["--gpu", "h100"], []])
def test_results_without_the_gpu_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A GPU that no session measured, or sessions without measurements, are bad input with exit status 2."""
    sessions = _simulated(sessions=1) if arguments else [_session(0, {})]
    file = write_results(tmp_path, sessions[0])
    assert main(["noise", "fit", str(file), *arguments]) == 2
    assert "perfgate noise" in capsys.readouterr().err


def test_an_empty_folder_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without results is named."""
    assert main(["noise", "fit", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
