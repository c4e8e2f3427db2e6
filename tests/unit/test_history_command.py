"""``perfgate history``, line by line, and the advice on baselines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from perfgate.baseline import DirectoryStore
from perfgate.cli import main
from perfgate.commands.history import bars
from perfgate.history import History, moved_software, refresh_advice
from perfgate.records import (
    Baseline,
    BootRecord,
    Cell,
    CellVerdict,
    Fingerprint,
    Measurement,
    Outcome,
    Provenance,
    RunRecord,
    SessionResults,
)
from perfgate.results import write_results

CELL = Cell(gpu="gb10", model="m", server="s", workload="w")
START = datetime(2026, 3, 1, tzinfo=UTC)
GB10 = Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1, vllm="0.25.1", driver="580.95")


def boots(**metrics: float) -> tuple[BootRecord, ...]:
    """One boot with one run."""
    return (BootRecord(id="b", runs=(RunRecord(metrics=metrics),)),)


def session(day: int, *, fingerprint: Fingerprint = GB10, **metrics: float) -> SessionResults:
    """The session of a day."""
    return SessionResults(
        session=f"day-{day}",
        started=START + timedelta(days=day),
        command="pytest -m serving",
        perfgate="0.1.0",
        measurements=(
            Measurement(cell=CELL, fingerprint=fingerprint, server={}, workload={}, boots=boots(**metrics)),
        ),
        verdicts=(CellVerdict(cell=CELL, outcome=Outcome.PASS),),
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keep(sessions: list[SessionResults]) -> None:
    """Keeps sessions in the project's history."""
    history = History(".perfgate/history.sqlite")
    for results in sessions:
        history.append(results)


def test_change_with_its_cause(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step shows its day, direction, size, both levels and the software that moved on that day, under its cell and metric."""
    noise = np.exp(np.random.default_rng(0).normal(0, 0.005, 40))
    later = GB10.model_copy(update={"vllm": "0.32.0"})
    keep(
        [
            session(
                day,
                fingerprint=GB10 if day < 25 else later,
                mean_ttft_ms=100 * noise[day] * (1.2 if day >= 25 else 1),
            )
            for day in range(40)
        ]
    )
    assert main(["history"]) == 0
    out = capsys.readouterr().out
    assert "gb10/m/s/w  (NVIDIA GB10, 1 GPU)" in out
    assert "mean TTFT" in out
    assert "(40 sessions, 2026-03-01 to 2026-04-09)" in out
    (line,) = [line for line in out.splitlines() if "slower" in line]
    assert "2026-03-26 slower +20" in line
    assert "vLLM 0.25.1 → 0.32.0" in line


def test_direction_belongs_to_the_metric(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Less throughput is slower, and a metric without direction only moved."""
    keep(
        [
            session(
                day, output_throughput=100 - day / 10 - 20 * (day >= 15), graph_pool_mib=10 + day // 15 * 5
            )
            for day in range(30)
        ]
    )
    assert main(["history", "--metric", "output_throughput", "--metric", "graph_pool_mib"]) == 0
    out = capsys.readouterr().out
    assert "slower -2" in out
    assert "moved +50.0%" in out


def test_drift_in_words(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A creeping level is called drift, with its direction and size."""
    noise = np.exp(np.random.default_rng(1).normal(0, 0.003, 60))
    keep([session(day, mean_ttft_ms=100 * noise[day] * 1.1 ** (day / 59)) for day in range(60)])
    assert main(["history"]) == 0
    assert "drift: slower +9.9%" in capsys.readouterr().out


def test_few_sessions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A short line says how many sessions it has and how many a change needs."""
    keep([session(0, mean_ttft_ms=100.0)])
    assert main(["history"]) == 0
    out = capsys.readouterr().out
    assert "(1 session, 2026-03-01)" in out
    assert "14 are needed" in out


def test_adding_results(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results files are added before lines are shown, and adding them again changes nothing."""
    paths = [str(write_results(here / "results", session(day, mean_ttft_ms=100.0))) for day in range(3)]
    for _ in range(2):
        assert main(["history", "--add", *paths]) == 0
        out = capsys.readouterr().out
        assert "added session day-2: 1 points" in out
        assert "(3 sessions" in out


def test_nothing_is_added_when_a_file_is_bad(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If one of the files cannot be read, none is added."""
    good = write_results(here / "results", session(0, mean_ttft_ms=1.0))
    (here / "bad.json").write_text("{", encoding="utf-8")
    assert main(["history", "--add", str(good), "bad.json"]) == 2
    assert "bad.json" in capsys.readouterr().err
    assert not (here / ".perfgate" / "history.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is no history yet"),
        (["--history", "nosuch://x"], "not a database URL"),
        (["--history", "."], "cannot be used"),
    ],
)
def test_bad_locations(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """A missing or unusable history is exit status 2 and a message."""
    assert main(["history", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0", "-1", "x"])
def test_bad_number(here: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    """A number of sessions below one is refused with what was given."""
    with pytest.raises(SystemExit) as caught:
        main(["history", "--last", given])
    assert caught.value.code == 2
    assert f"'{given}' is not a number of sessions" in capsys.readouterr().err


def test_no_such_cell(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no kept session has says so instead of printing nothing."""
    keep([session(0, mean_ttft_ms=1.0)])
    assert main(["history", "--server", "nosuch"]) == 0
    assert "no session has such a cell or metric" in capsys.readouterr().out


def test_control_characters_are_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine name with control characters cannot act on the terminal."""
    keep([session(0, fingerprint=GB10.model_copy(update={"gpu_name": "GB10\x1b[2J"}), mean_ttft_ms=1.0)])
    assert main(["history"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def baseline(
    *, recorded: datetime | None = START, boots_measured: int = 3, source: str = "measured"
) -> Baseline:
    """A baseline of the cell."""
    return Baseline(
        cell=CELL,
        provenance=Provenance(by="x", source=source, recorded=recorded),
        fingerprint=GB10,
        boots=boots(mean_ttft_ms=100.0) * boots_measured,
    )


def test_advice_is_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The advice on a cell's baseline stands under its lines, and an unreadable baseline is said there too."""
    keep([session(5, fingerprint=GB10.model_copy(update={"driver": "590.1"}), mean_ttft_ms=100.0)])
    store = DirectoryStore(here / "baselines")
    store.write(baseline(boots_measured=1), replacing=None)
    assert main(["history"]) == 0
    out = capsys.readouterr().out
    assert "baseline: Since it was recorded: driver 580.95 → 590.1." in out
    assert "baseline: It was measured on 1 boot" in out
    store.path(CELL).write_text("{", encoding="utf-8")
    assert main(["history"]) == 0
    assert "truncated" in capsys.readouterr().out


def test_good_baseline_needs_no_advice() -> None:
    """A fresh baseline of enough boots on the same software is left in peace."""
    assert refresh_advice(baseline(), GB10, at=START + timedelta(days=89)) == ()


@pytest.mark.parametrize(
    ("given", "days", "words"),
    [
        (baseline(), 90, "90 days old (2026-03-01)"),
        (baseline(recorded=None), 0, "does not say when"),
        (baseline(), -2, "in the future"),
        (baseline(boots_measured=2), 0, "measured on 2 boots"),
        (baseline(source="a study"), 0, "not measured here (a study)"),
    ],
)
def test_reasons_for_a_new_recording(given: Baseline, days: int, words: str) -> None:
    """Age, an unknown or future date, few boots and a foreign source are each a reason."""
    (reason,) = refresh_advice(given, GB10, at=START + timedelta(days=days))
    assert words in reason


def test_moved_software() -> None:
    """What both sides know and differ in is listed, vLLM first, with digests cut short; what either does not know is left out."""
    before = Fingerprint(
        vllm="0.25.1", image_digest="sha256:" + "a" * 64, driver="580", torch=None, kernel="6.14"
    )
    after = Fingerprint(
        vllm="0.32.0", image_digest="sha256:" + "b" * 64, driver="590", torch="2.13", kernel="6.14"
    )
    assert moved_software(before, after) == (
        "vLLM 0.25.1 → 0.32.0",
        "image aaaaaaaaaaaa → bbbbbbbbbbbb",
        "driver 580 → 590",
    )


def test_bars() -> None:
    """Levels show from the lowest to the highest bar, and a constant line stays in the middle."""
    assert bars([1.0, 2.0, 1.5]) == "▁█▅"
    assert bars([5.0, 5.0]) == "▄▄"
