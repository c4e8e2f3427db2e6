"""The calibrate command: its tables, its data and its refusals."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from perfgate.cli import main
from perfgate.commands.calibrate import METRICS, Row, rows, simulate
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, RunRecord, SessionResults
from perfgate.results import write_results
from perfgate.statistics import Policy
from perfgate.statistics.calibration import CHUNK, Tally, tally
from perfgate.statistics.rivals import RIVALS
from perfgate.statistics.simulation import Scenario


def _write_sessions(folder: Path, *, boots: int = 5, metrics: tuple[str, ...] = METRICS) -> None:
    rng = np.random.default_rng(1)
    for number in range(2):
        measurements = tuple(
            Measurement(
                cell=Cell(gpu="cpu", model="m", server=server, workload="w"),
                fingerprint=Fingerprint(cpu_model="x", cpu_count=2),
                server={},
                workload={"concurrency": 4},
                boots=tuple(
                    BootRecord(
                        id=f"{number}-{server}-{boot}",
                        runs=(
                            RunRecord(
                                metrics={
                                    name: 100 * math.exp(0.05 * rng.standard_normal()) for name in metrics
                                }
                            ),
                        ),
                    )
                    for boot in range(boots)
                ),
            )
            for server in ("a", "b")
        )
        write_results(
            folder,
            SessionResults(
                session=f"s{number}",
                started=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number),
                command="pytest",
                perfgate="0",
                measurements=measurements,
            ),
        )


def test_every_table_is_written_with_the_rivals(tmp_path: Path) -> None:
    """The document has the goals, each table, each rival's column, and says how it was made."""
    output = tmp_path / "calibration.md"
    assert main(["calibrate", "--suites", "12", "--workers", "1", "--output", str(output)]) == 0
    text = output.read_text()
    for title in (
        "Goals",
        "False alarms per suite",
        "Power",
        "Fixed numbers of pairs",
        "False passes at the margin",
        "Smallest detectable slowdown",
    ):
        assert f"## {title}\n" in text
    for rival in RIVALS:
        assert text.count(rival) >= 2
    assert "`perfgate calibrate --suites 12 --seed 8`" in text
    assert "Recorded" not in text


def test_recorded_data_go_through_the_same_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded sessions add a table of the gate on resampled boots."""
    _write_sessions(tmp_path)
    assert main(["calibrate", "--suites", "5", "--workers", "1", "--recorded", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "## Recorded A/A data\n" in text
    assert "| A/A |" in text


@pytest.mark.parametrize("change", [{"boots": 1}, {"metrics": METRICS[:2]}])
def test_recorded_data_that_hold_too_little_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    """Single boots, or a metric that is missing, are refused with what to record."""
    _write_sessions(tmp_path, **change)  # type: ignore[arg-type]
    assert main(["calibrate", "--suites", "1", "--workers", "1", "--recorded", str(tmp_path)]) == 2
    assert "--replicates" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--suites", "0"],
        ["--workers", "0"],
        ["--seed", "-1"],
        ["--boot-minutes", "-1"],
        ["--suites", "1", "--workers", "1", "--output", "/nonexistent/folder/file.md"],
    ],
)
def test_options_that_make_no_sense_are_bad_input(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Impossible sizes, seeds and outputs end with exit status 2 and a message."""
    assert main(["calibrate", *arguments]) == 2
    assert "perfgate calibrate:" in capsys.readouterr().err


def test_the_number_of_processes_changes_nothing() -> None:
    """Two processes count exactly what one counts, whatever the split."""
    wanted = [
        Row(table="alarms", label="x", scenario=Scenario(sigma=0.02, drift=0.01, tests=2)),
        Row(table="power", label="y", scenario=Scenario(sigma=0.02, slowdown=0.05, tests=2)),
    ]
    alone = simulate(wanted, 1500, 8, Policy(), 1)
    shared = simulate(wanted, 1500, 8, Policy(), 2)
    for (_, one), (_, other) in zip(alone, shared, strict=True):
        assert one.suites == other.suites == 1500
        assert (one.pairs, one.confirmations, one.found) == (other.pairs, other.confirmations, other.found)
        assert one.clean_passed.tolist() == other.clean_passed.tolist()


def documented() -> tuple[int, int, str]:
    """How docs/calibration.md was made: suites, seed, and its text."""
    document = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")
    made = re.search(r"`perfgate calibrate --suites (\d+) --seed (\d+)`", document)
    assert made is not None
    return int(made[1]), int(made[2]), document


def counted(number: int, chunks: int, seed: int) -> Tally:
    row = rows()[number]
    counts = [
        tally(row.scenario, CHUNK, (seed, number, chunk), policy=Policy(), pairs=row.pairs)
        for chunk in range(chunks)
    ]
    return sum(counts[1:], start=counts[0])


def row_number(table: str, label: str, sigma: float) -> int:
    return next(
        n
        for n, one in enumerate(rows())
        if (one.table, one.label, one.scenario.sigma) == (table, label, sigma)
    )


def test_the_documented_table_agrees_with_the_code() -> None:
    """The first thousand suites of a documented row lie about its rate as binomial counts do: the table is not another gate's."""
    _, seed, document = documented()
    row = re.search(
        r"^\| clean \| 2\.0% \| ([\d.]+)% \[.*\| ([\d.]+) \| \d+ boots, \d+ min \| (\d+)%/",
        document,
        re.MULTILINE,
    )
    assert row is not None
    total = counted(row_number("alarms", "clean", 0.02), 1, seed)
    assert stats.binomtest(total.alarms, CHUNK, float(row[1]) / 100).pvalue > 0.001
    assert total.confirmations / CHUNK == pytest.approx(float(row[2]), abs=0.12)
    passed = total.clean_passed[0] / total.clean_cells
    assert passed == pytest.approx(float(row[3]) / 100, abs=0.02)


@pytest.mark.long
@pytest.mark.parametrize(
    ("label", "sigma"), [("clean", 0.02), ("3% outliers", 0.02), ("1% drift", 0.02), ("2% drift", 0.005)]
)
def test_documented_false_alarms_are_what_the_command_counts(label: str, sigma: float) -> None:
    """A row of the table, counted again from its seed, has the documented rates to the last digit."""
    suites, seed, document = documented()
    row = re.search(
        rf"^\| {re.escape(label)} \| {sigma:.1%} \| ([\d.]+)% \[[^|]*\| ([\d.]+)% \| ([\d.]+)% \|.*\| ([\d.]+) \| \d+ boots",
        document,
        re.MULTILINE,
    )
    assert row is not None
    total = counted(row_number("alarms", label, sigma), suites // CHUNK, seed)
    for found, shown in ((total.alarms, row[1]), (total.online_alarms, row[2]), (total.look_alarms, row[3])):
        assert 100 * found / suites == pytest.approx(float(shown), abs=0.06)
    assert total.confirmations / suites == pytest.approx(float(row[4]), abs=0.006)


@pytest.mark.long
@pytest.mark.parametrize("sigma", [0.01, 0.02])
def test_documented_power_is_what_the_command_counts(sigma: float) -> None:
    """So has a row of the power table, at +5%."""
    suites, seed, document = documented()
    row = re.search(rf"^\| {sigma:.1%} \| \+5% \| ([\d.]+)% \[", document, re.MULTILINE)
    assert row is not None
    total = counted(row_number("power", "+5%", sigma), suites // CHUNK, seed)
    assert 100 * total.found / suites == pytest.approx(float(row[1]), abs=0.06)
