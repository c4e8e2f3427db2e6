import json
from datetime import timedelta
from pathlib import Path

import pytest
from report_data import START, bare, session

from perfgate.baseline import DirectoryStore
from perfgate.cli import main
from perfgate.records import Outcome, SessionResults
from perfgate.results import write_results


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with one recorded session and its baselines, and the working directory in it."""
    example = session(boots=2, runs=2, requests=8)
    write_results(tmp_path / ".perfgate/results", example.results)
    store = DirectoryStore(tmp_path / "baselines")
    for baseline in example.baselines.values():
        store.write(baseline, replacing=None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_the_newest_session_is_shown_by_default(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments the last session's table is printed, and a recorded regression is no failure of the report."""
    assert main(["report"]) == 0
    shown = capsys.readouterr().out
    assert "REGRESSION" in shown
    assert shown.endswith("1 improvement, 1 pass\n")


def test_json_gives_back_the_session(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON format is the results file's own schema."""
    assert main(["report", "--format", "json"]) == 0
    again = SessionResults.model_validate_json(capsys.readouterr().out)
    assert again == session(boots=2, runs=2, requests=8).results


def test_html_holds_the_baselines(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page plots the stored baselines beside what was measured; the name decides the format."""
    assert main(["report", "-o", "out/report.html"]) == 0
    page = (recorded / "out/report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "base-0" in page
    assert capsys.readouterr().err == ""


def test_a_younger_baseline_is_not_what_was_judged_against(recorded: Path) -> None:
    """A baseline that was replaced after the session began is left out of its plots."""
    store = DirectoryStore(recorded / "baselines")
    for cell in list(store.cells()):
        stored = store.read(cell)
        provenance = stored.baseline.provenance.model_copy(update={"recorded": START + timedelta(hours=1)})
        store.write(stored.baseline.model_copy(update={"provenance": provenance}), replacing=stored)
    assert main(["report", "-o", "report.html"]) == 0
    assert "base-0" not in (recorded / "report.html").read_text()


def test_an_unusable_baseline_is_left_out_and_said(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A corrupt baseline costs its half of the plots, not the report."""
    broken = next((recorded / "baselines").rglob("*.json"))
    broken.write_text("{")
    assert main(["report", "-o", "report.html"]) == 0
    assert "baseline left out" in capsys.readouterr().err
    assert (recorded / "report.html").exists()


def test_an_unusable_history_is_left_out_and_said(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A history that cannot be read costs its lines, not the report."""
    (recorded / ".perfgate/history.sqlite").write_text("no database")
    assert main(["report", "-o", "report.html"]) == 0
    assert "history left out" in capsys.readouterr().err


def test_the_history_is_in_the_page(recorded: Path) -> None:
    """Past sessions in the local history are drawn as lines, and what they show is said."""
    from perfgate.history import History

    results = session(boots=2, runs=2, requests=8).results
    for number in range(3):
        History(recorded / ".perfgate/history.sqlite").append(
            results.model_copy(update={"session": f"s{number}"})
        )
    assert main(["report", "-o", "report.html"]) == 0
    page = (recorded / "report.html").read_text()
    assert "mean TTFT over time" in page
    assert "mean TTFT: 3 sessions; 14 are needed" in page


def test_a_long_history_is_drawn_by_its_newest_sessions(recorded: Path) -> None:
    """Of 130 sessions the newest hundred are drawn, with the change among them at its place, and every change is said."""
    from perfgate.commands.report import html_report
    from perfgate.history import History

    results = session(cells=1, boots=1, runs=1, requests=2).results
    (measurement,) = results.measurements
    history = History(recorded / "long.sqlite")
    for day in range(130):
        level = 100.0 * (1.3 if day >= 20 else 1) * (1.3 if day >= 90 else 1) * (1 + day % 5 / 500)
        run = (
            measurement.boots[0]
            .runs[0]
            .model_copy(update={"metrics": {"mean_ttft_ms": level}, "arrays": None})
        )
        boot = measurement.boots[0].model_copy(update={"runs": (run,), "metrics": {}})
        history.append(
            results.model_copy(
                update={
                    "session": f"day-{day}",
                    "started": START + timedelta(days=day),
                    "measurements": (measurement.model_copy(update={"boots": (boot,)}),),
                }
            )
        )
    page, missing = html_report(results, history=recorded / "long.sqlite")
    assert missing == []
    assert "mean TTFT of 100 sessions with 1 change points" in page
    assert page.count("slower +30.0%") == 2


def test_github_format_prints_annotations(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The github format is workflow commands and nothing else."""
    assert main(["report", "--format", "github"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 7
    assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in shown)


def test_markdown_goes_to_a_file(recorded: Path) -> None:
    """A name that ends with .md gets Markdown."""
    assert main(["report", ".perfgate/results", "-o", "summary.md"]) == 0
    assert (recorded / "summary.md").read_text().startswith("## perfgate: 9 cells")


def test_results_are_never_replaced_by_their_report(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """-o with the name of the results file itself is refused, and the file stays."""
    file = next((recorded / ".perfgate/results").glob("*.json"))
    before = file.read_bytes()
    assert main(["report", str(file), "-o", str(file), "--format", "html"]) == 2
    assert "is the results file itself" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize("given", ["nowhere.json", "broken.json"])
def test_bad_input_is_a_message(recorded: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    """A file that is not there or not JSON exits 2 with its name, not a traceback."""
    (recorded / "broken.json").write_text("{")
    assert main(["report", given]) == 2
    assert given in capsys.readouterr().err


def test_quiet_is_one_line_a_cell(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-q prints a line a cell, one for what they share and one that counts."""
    write_results(recorded / "bare", bare())
    assert main(["report", "-q", "bare"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(Outcome) + 2


def test_json_is_one_document(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output holds the JSON and nothing around it."""
    assert main(["report", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["session"] == "20260301-120000-example"
