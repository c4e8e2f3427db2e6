"""``perfgate merge``: sessions of several machines as one."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perfgate.cli import main
from perfgate.commands.merge import Source, merge
from perfgate.errors import ResultsConflictError
from perfgate.records import (
    BootRecord,
    Cell,
    CellVerdict,
    Fingerprint,
    Measurement,
    Outcome,
    RunRecord,
    SessionResults,
)
from perfgate.results import read_results, write_results

START = datetime(2026, 4, 13, tzinfo=UTC)


def source(
    name: str, *gpus: str, hours: int = 0, value: float = 1.0, outcome: Outcome = Outcome.PASS
) -> Source:
    """A session with one cell a GPU."""
    cells = [Cell(gpu=gpu, model="m", server="s", workload="w") for gpu in gpus]
    boot = BootRecord(id="b", runs=(RunRecord(metrics={"mean_ttft_ms": value}),))
    results = SessionResults(
        session=name,
        started=START + timedelta(hours=hours),
        command=f"pytest -m serving --gpu {gpus[0]}",
        perfgate="0.1.0",
        measurements=tuple(
            Measurement(cell=cell, fingerprint=Fingerprint(), server={}, workload={}, boots=(boot,))
            for cell in cells
        ),
        verdicts=tuple(CellVerdict(cell=cell, outcome=outcome) for cell in cells),
    )
    return Source(path=Path(f"{name}.json"), results=results)


def test_everything_is_kept() -> None:
    """The joined session holds every measurement and verdict of its sources, sorted by cell, and starts with the first."""
    merged = merge([source("b", "h100", "a100", hours=1), source("a", "gb10")])
    assert [str(verdict.cell) for verdict in merged.verdicts] == ["a100/m/s/w", "gb10/m/s/w", "h100/m/s/w"]
    assert [measurement.cell for measurement in merged.measurements] == [
        verdict.cell for verdict in merged.verdicts
    ]
    assert merged.started == START
    assert merged.command == "pytest -m serving --gpu gb10\npytest -m serving --gpu h100"


def test_order_does_not_matter() -> None:
    """Whatever the order of the sources, the joined session is the same."""
    sources = [source("a", "gb10"), source("b", "h100", hours=2), source("c", "a100", hours=1)]
    assert len({merge(order).model_dump_json() for order in itertools.permutations(sources)}) == 1


def test_same_twice() -> None:
    """A session given twice counts once."""
    one = source("a", "gb10")
    assert merge([one, one]).verdicts == one.results.verdicts


def test_conflict_names_both_files_and_every_cell() -> None:
    """Two sessions that differ about cells are refused with the cells and both files."""
    with pytest.raises(ResultsConflictError) as caught:
        merge([source("a", "gb10", "h100"), source("b", "gb10", "h100", value=2.0, hours=1)])
    assert "gb10/m/s/w: a.json and b.json" in caught.value.message
    assert "h100/m/s/w: a.json and b.json" in caught.value.message
    assert "--newest" in caught.value.remedy


def test_verdicts_conflict_too() -> None:
    """The same measurement with another verdict is a conflict."""
    with pytest.raises(ResultsConflictError):
        merge([source("a", "gb10"), source("b", "gb10", outcome=Outcome.REGRESSION)])


def test_newest_wins_when_asked() -> None:
    """With --newest a cell comes, measurement and verdict together, from the session that started last."""
    old, new = (
        source("a", "gb10", "h100", hours=5),
        source("b", "gb10", value=2.0, hours=6, outcome=Outcome.REGRESSION),
    )
    for order in ([old, new], [new, old]):
        merged = merge(order, newest=True)
        assert [(verdict.cell.gpu, verdict.outcome) for verdict in merged.verdicts] == [
            ("gb10", Outcome.REGRESSION),
            ("h100", Outcome.PASS),
        ]
        assert merged.measurements[0].replicates("mean_ttft_ms") == ((2.0,),)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command joins files and folders into one results file, and says what it wrote."""
    one = write_results(tmp_path / "one", source("a", "gb10").results)
    write_results(tmp_path / "two", source("b", "h100").results)
    output = tmp_path / "all.json"
    assert main(["merge", str(one), str(tmp_path / "two"), "--output", str(output)]) == 0
    assert "2 verdicts, 2 measurements from 2 sessions" in capsys.readouterr().out
    assert {verdict.cell.gpu for verdict in read_results(output).verdicts} == {"gb10", "h100"}


def test_command_writes_nothing_on_conflict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a conflict, exit status 2, a message, and no file."""
    paths = [
        str(write_results(tmp_path / name, source(name, "gb10", value=value).results))
        for name, value in (("a", 1.0), ("b", 2.0))
    ]
    assert main(["merge", *paths, "--output", str(tmp_path / "all.json")]) == 2
    assert "gb10/m/s/w" in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()


def test_command_replaces_results_alone(tmp_path: Path) -> None:
    """An output that exists is replaced if it holds results, and refused if it holds anything else."""
    one = str(write_results(tmp_path / "one", source("a", "gb10").results))
    output = tmp_path / "all.json"
    for _ in range(2):
        assert main(["merge", one, "--output", str(output)]) == 0
    output.write_text("my notes", encoding="utf-8")
    assert main(["merge", one, "--output", str(output)]) == 2
    assert output.read_text(encoding="utf-8") == "my notes"
    assert main(["merge", one, "--output", str(tmp_path)]) == 2
