"""What claims, sweeps and changes came to, in the results file and in every report made from it."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from perfgate.cli import main
from perfgate.commands.merge import Source, merge
from perfgate.findings import (
    Axis,
    ChangedMetric,
    ChangedWorkload,
    ChangeFinding,
    ClaimFinding,
    ClaimPart,
    Estimate,
    Findings,
    KernelTimes,
    SweepFinding,
    SweptCell,
    SweptPoint,
    SweptValue,
)
from perfgate.pytest_plugin import FINDINGS, MEASUREMENTS, pytest_testnodedown
from perfgate.pytesting.findings import findings_of, report_finding
from perfgate.records import SessionResults
from perfgate.report import findings as report
from perfgate.report import html
from perfgate.results import read_results, write_results

CLAIM = ClaimFinding(
    claim="less-is-more",
    text="Less is more",
    gpu="gb10",
    answer="holds",
    reason="mean TTFT under chat -16.1%",
    parts=(
        ClaimPart(
            workload="chat",
            metric="mean_ttft_ms",
            answer="holds",
            old=4900.0,
            new=4111.0,
            change=-0.161,
            lower=-0.2,
            upper=-0.12,
            confidence=0.95,
            most=-0.03,
            boots=5,
        ),
    ),
    notes=("KV cache at most 9% full <script>alert(1)</script>",),
)
SWEEP = SweepFinding(
    server="tiny",
    axes=(Axis(flag="max-num-seqs", values=("1", "16")),),
    rounds=3,
    asked_rounds=3,
    alpha=0.05,
    cells=(
        SweptCell(
            cell="cpu/m/tiny/chat",
            winner="max-num-seqs=16",
            left_out=("mean_tpot_ms",),
            rows=(
                SweptPoint(point="max-num-seqs=1", boots=3, dominated_by=("max-num-seqs=16",)),
                SweptPoint(
                    point="max-num-seqs=16",
                    boots=3,
                    values=(SweptValue(metric="mean_ttft_ms", value=500.0, lower=480.0, upper=520.0),),
                ),
            ),
        ),
    ),
)
CHANGE = ChangeFinding(
    change="tiles",
    text="Larger tiles",
    gpu="h100",
    kernel="package:make",
    workloads=(
        ChangedWorkload(
            workload="decode",
            exact=True,
            kernel=(
                KernelTimes(
                    tokens=1, fewest=1, most=1, steps=100.0, old=(2e-4, 2e-4), new=(1e-4, 1e-4), faster=1.0
                ),
            ),
            metrics=(
                ChangedMetric(
                    metric="mean_tpot_ms",
                    arrival="evaporates",
                    reason="a gain of 5.0% is excluded",
                    serving=Estimate(estimate=0.01, lower=-0.01, upper=0.03),
                    expected=Estimate(estimate=-0.2, lower=-0.25, upper=-0.15),
                    kernel=Estimate(estimate=1.0, lower=0.9, upper=1.1),
                    share=Estimate(estimate=0.4),
                ),
            ),
        ),
    ),
)
FOUND = Findings(claims=(CLAIM,), sweeps=(SWEEP,), changes=(CHANGE,))
SESSION = SessionResults(
    session="s1", started=datetime(2026, 1, 1, tzinfo=UTC), command="pytest", perfgate="1", findings=FOUND
)
SAID = (
    "less-is-more",
    "-16.1%",
    "holds",
    "dominated by max-num-seqs=16",
    "480.0 … 520.0",
    "No point has mean TPOT",
    "200.0 µs",
    "+100.0%",
    "evaporates",
    "a gain of 5.0% is excluded",
)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only session judged nothing against a baseline."""
    write_results(tmp_path / ".perfgate/results", SESSION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_every_report_shows_every_finding(
    recorded: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text, Markdown and page hold the numbers and answers of all three kinds, and none claims that a cell was judged."""
    assert main(["report", "--format", form]) == 0
    text = capsys.readouterr().out
    for said in SAID:
        assert said in text or said.replace("+", "\\+").replace("-", "\\-") in text
    assert "<script>alert(1)" not in text or form == "terminal"
    assert "no cell was judged" not in text.lower()


def test_the_results_file_gives_them_back(recorded: Path) -> None:
    """What was found is read as it was written, in the committed schema's terms."""
    assert read_results(recorded / ".perfgate/results").findings == FOUND


def test_merged_sessions_keep_the_findings_of_all() -> None:
    """Two sessions' findings are joined; what both say alike is there once."""
    other = SESSION.model_copy(
        update={
            "session": "s2",
            "findings": Findings(claims=(CLAIM, CLAIM.model_copy(update={"gpu": "h100"}))),
        }
    )
    joined = merge([Source(path=Path("a"), results=SESSION), Source(path=Path("b"), results=other)])
    assert [claim.gpu for claim in joined.findings.claims] == ["gb10", "h100"]
    assert joined.findings.sweeps == (SWEEP,)


def test_a_page_without_findings_has_no_part_for_them() -> None:
    """The section is left out of a session that only judged."""
    assert "Claims, sweeps and changes" in html.page(SESSION)
    assert "Claims, sweeps and changes" not in html.page(SESSION.model_copy(update={"findings": Findings()}))
    assert report.sections(Findings()) == []
    assert report.document(Findings()) == ""


def test_findings_cross_process_borders_as_properties() -> None:
    """What a test reports is read back from its report; a name that nothing reads is refused."""

    class Node:
        user_properties: list[tuple[str, object]] = [("other", 1)]

    class Request:
        node = Node()

    class Report:
        user_properties = Node.user_properties

    assert findings_of(Report()) is None  # type: ignore[arg-type]
    report_finding(Request(), "perfgate.claim", CLAIM)  # type: ignore[arg-type]
    report_finding(Request(), "perfgate.sweep", SWEEP)  # type: ignore[arg-type]
    assert findings_of(Report()) == Findings(claims=(CLAIM,), sweeps=(SWEEP,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'perfgate\.else' is none of"):
        report_finding(Request(), "perfgate.else", CLAIM)  # type: ignore[arg-type]


def test_what_a_worker_found_and_could_not_report_is_taken_over() -> None:
    """The finding of a test that broke off in an xdist worker comes with the worker's measurements."""
    stash: dict[object, list[object]] = {FINDINGS: [], MEASUREMENTS: []}
    sent = {"perfgate_findings": [Findings(sweeps=(SWEEP,)).model_dump_json()]}
    pytest_testnodedown(SimpleNamespace(workeroutput=sent, config=SimpleNamespace(stash=stash)), None)
    assert stash == {FINDINGS: [Findings(sweeps=(SWEEP,))], MEASUREMENTS: []}
