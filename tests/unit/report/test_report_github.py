import re
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from report_data import HOSTILE, bare, mixed, session, verdict

from perfgate.records import Cell, CellVerdict, Outcome
from perfgate.report import github

COMMAND = re.compile(r"^::(?P<level>error|warning|notice) (?P<properties>.*?)::(?P<message>.*)$")
ALLOWED = {
    "h2", "table", "thead", "tbody", "tr", "th", "td", "p", "ul", "li", "br", "strong", "code", "sub", "details", "summary",
}  # fmt: skip


def obeyed(text: str) -> list[dict[str, str]]:
    """What a runner makes of the lines: properties split and percent-decoded as actions/toolkit writes them."""
    found = []
    for line in text.splitlines():
        command = COMMAND.match(line)
        assert command, line
        pairs = (pair.split("=", 1) for pair in command["properties"].split(","))
        properties = {key: unquote(value) for key, value in pairs}
        found.append({"level": command["level"], "message": unquote(command["message"]), **properties})
    return found


def rendered(text: str) -> str:
    """The HTML that a GitHub-like renderer makes."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


def test_one_annotation_a_cell_that_did_not_pass_at_its_baseline_file() -> None:
    """Each failing cell is an error, a recorded one a notice, each undecided one a warning, worst first, at its own baseline file."""
    found = obeyed(github.annotations(mixed()))
    assert [a["title"].split()[0] for a in found] == [
        "REGRESSION", "INVALID", "INCOMPARABLE", "NO_BASELINE", "RECORDED", "SUSPECT", "INCONCLUSIVE",
    ]  # fmt: skip
    assert [a["level"] for a in found] == ["error"] * 4 + ["notice"] + ["warning"] * 2
    assert found[0]["file"] == "baselines/gb10/qwen3.5-35b-a3b-fp8/production-v2/rag.json"


def test_an_annotation_says_metric_sizes_interval_and_what_next() -> None:
    """A regression's annotation holds what a reviewer needs without opening the log."""
    message = obeyed(github.annotations([verdict(Outcome.REGRESSION, change=0.155)]))[0]["message"]
    assert "mean TTFT: 4828 ms -> 5576 ms, +15.5% [+12.5%, +18.5%]" in message
    assert "Next: pytest -m serving" in message


def test_passing_cells_have_no_annotation() -> None:
    """PASS and IMPROVEMENT write nothing."""
    assert github.annotations([verdict(), verdict(Outcome.IMPROVEMENT)]) == ""


def test_baseline_files_are_named_from_the_checkout() -> None:
    """An absolute path below the workspace becomes relative, since GitHub places annotations by relative paths."""
    made = verdict(Outcome.REGRESSION, baseline_file="/runner/work/repo/baselines/x.json")
    assert obeyed(github.annotations([made], workspace="/runner/work/repo"))[0]["file"] == "baselines/x.json"


def test_more_annotations_than_github_shows_are_counted() -> None:
    """Of 25 regressions nine are annotated and the tenth annotation names the other sixteen."""
    many = [
        verdict(
            Outcome.REGRESSION,
            cell=Cell(gpu="g", model="m", server="s", workload=f"w{n:02}"),
            change=1 - n / 100,
        )
        for n in range(25)
    ]
    found = obeyed(github.annotations(many))
    assert len(found) == github.SHOWN
    assert found[-1]["title"] == "16 more"
    assert found[-1]["message"].count("g/m/s/w") == 16


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_inside_its_annotation(text: str) -> None:
    """Reason, next step and baseline file can neither end the command nor start another, and arrive readable."""
    made = verdict(Outcome.REGRESSION, text=text, baseline_file=f"{text},title=x::y.json")
    found = obeyed(github.annotations([made]))
    assert len(found) == 1
    assert found[0]["title"] == f"REGRESSION {made.cell}"
    assert found[0]["file"].endswith(",title=x::y.json")


def test_the_summary_of_a_recorded_session_renders() -> None:
    """The job summary is a heading with the counts and one table whose first row is the worst cell."""
    html = rendered(github.step_summary(session().results))
    assert "<h2>perfgate: 9 cells: 1 regression, 1 invalid" in html
    rows = re.findall(r"<tr>(.*?)</tr>", html.partition("<details")[0], flags=re.DOTALL)
    assert "REGRESSION" in rows[1]
    assert "gb10/qwen3.5-35b-a3b-fp8/production-v0/workload-0" in rows[1]
    assert "driver 580.95.05" in html


def test_a_summary_without_measurements_renders() -> None:
    """Verdicts alone, as an offline comparison gives them, are enough."""
    html = rendered(github.step_summary(bare()))
    assert "Measured on" not in html
    assert html.count("<details") == len(Outcome) - 1


def test_hostile_text_adds_no_element_to_the_summary() -> None:
    """Whatever the names, flags, reasons and log lines hold, the summary has only its own elements and no attribute but ``open``."""
    html = rendered(github.step_summary(session(hostile=True, boots=1, runs=1).results))
    tags = set(re.findall(r"<([a-zA-Z][\w-]*)", html))
    assert tags <= ALLOWED
    assert set(re.findall(r"<[a-z]\w*\s([^>]*)>", html)) <= {"open", 'style="text-align:right"'}
    assert not re.search(r"[@#]\w", re.sub(r"&#?\w+;", "", html))


def test_an_oversized_summary_is_cut_to_what_github_takes() -> None:
    """Details go first, then the best cells; the worst stay and the rest are counted."""
    long = tuple(
        verdict(
            Outcome.INCONCLUSIVE,
            cell=Cell(gpu="g" * 100, model="m" * 100, server="s" * 100, workload=f"w{n}"),
            text="long " * 400,
        )
        for n in range(2000)
    )
    results = bare().model_copy(update={"verdicts": (*long, verdict(Outcome.REGRESSION))})
    text = github.step_summary(results)
    assert len(text.encode()) <= github.SUMMARY_LIMIT
    assert "REGRESSION" in text
    assert "worst of 2001 cells" in text


def test_empty_session() -> None:
    """A session without verdicts is not a pass: its summary says that nothing was judged."""
    empty: tuple[CellVerdict, ...] = ()
    assert "no cell was judged" in github.step_summary(bare().model_copy(update={"verdicts": empty}))
