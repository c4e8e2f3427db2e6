import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from report_data import HOSTILE, mixed, session, verdict
from rich.cells import cell_len

from perfgate.records import Cell, CellVerdict, MetricVerdict, Outcome
from perfgate.report import terminal

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def lines(width: int = 100, verbose: int = 0, verdicts: Sequence[CellVerdict] = ()) -> list[str]:
    """The lines of the table, by default of one verdict of every outcome."""
    return terminal.table(verdicts or mixed(), width=width, colour=False, verbose=verbose).split("\n")


@pytest.mark.parametrize("width", [40, 60, 80, 84, 100, 200])
@pytest.mark.parametrize("verbose", [-1, 0, 1])
def test_no_line_is_wider_than_the_terminal(width: int, verbose: int) -> None:
    """At every width, quiet or verbose, each line fits."""
    example = session(cells=16, boots=1, runs=1, requests=4)
    for line in [*lines(width, verbose), *lines(width, verbose, example.results.verdicts)]:
        assert cell_len(line) <= width, line


@pytest.mark.parametrize("width", [60, 100])
def test_every_number_is_there(width: int) -> None:
    """Nothing of a regression is cut off at 60 or 100 columns: both values, change and interval."""
    text = "\n".join(lines(width))
    for part in ("4828", "5576", "+15.5%", "[+12.5%, +18.5%]", "REGRESSION"):
        assert part in text


def test_worst_first() -> None:
    """Cells come in order of severity, whatever order they are given in."""
    found = [word for line in lines(verbose=-1)[1:] if (word := line.split()[0]) in list(Outcome)]
    assert found == [outcome.value for outcome in Outcome]


def test_within_an_outcome_the_largest_slowdown_comes_first() -> None:
    """Of two regressions the worse is shown first, and a loss of throughput counts as a slowdown."""
    late = verdict(Outcome.REGRESSION, change=0.1, cell=Cell(gpu="g", model="m", server="s", workload="a"))
    loss = MetricVerdict(
        metric="output_throughput", outcome=Outcome.REGRESSION, baseline=200, now=140, change=-0.3
    )
    slow = late.model_copy(
        update={"cell": Cell(gpu="g", model="m", server="s", workload="z"), "metrics": (loss,)}
    )
    shown = "\n".join(lines(verdicts=[late, slow]))
    assert shown.index("s/z") < shown.index("s/a")


def test_columns_are_aligned() -> None:
    """The verdict of every metric stands in the column of its heading."""
    shown = lines()
    column = next(line for line in shown if line.startswith("cell ")).index("verdict")
    metrics = [line for line in shown if re.search(r"\S (ms|tok/s) .*%", line)]
    assert len(metrics) == 15
    assert all(line[column - 1] == " " and line[column:] in list(Outcome) for line in metrics)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.PASS])
def test_why_and_next_stand_under_what_did_not_pass(width: int, outcome: Outcome) -> None:
    """Reason and next command follow the cell that they belong to."""
    made = verdict(outcome, text="because of a reason")
    text = " ".join(" ".join(lines(width, verdicts=[made])).split())
    assert "why because of a reason" in text
    assert f"next {made.next_step}" in text


def test_a_pass_says_nothing_more() -> None:
    """A cell that passed has its metrics and no reasons, commands or notes."""
    shown = lines(verdicts=[verdict(text="a note")])
    assert len(shown) == 4
    assert "a note" not in "\n".join(shown)
    assert "a note" in "\n".join(lines(verbose=1, verdicts=[verdict(text="a note")]))


def with_secondary(made: CellVerdict, count: int, outcome: Outcome) -> CellVerdict:
    """The verdict with so many secondary metrics of one outcome instead of its own."""
    base = next(metric for metric in made.metrics if not metric.primary)
    others = [
        base.model_copy(update={"metric": f"other_{n}", "outcome": outcome, "change": n / 10})
        for n in range(count)
    ]
    return made.model_copy(update={"metrics": (*(m for m in made.metrics if m.primary), *others)})


def test_an_inconclusive_secondary_metric_says_nothing() -> None:
    """Tail quantiles are nearly always undecided: they are shown on request only."""
    assert "P99 TTFT" not in "\n".join(lines(verdicts=[verdict()]))
    assert "P99 TTFT" in "\n".join(lines(verbose=1, verdicts=[verdict()]))


def test_secondary_metrics_are_news_only_where_no_primary_moved() -> None:
    """Beside a primary that moved they are counted; alone the four that moved most are shown and the rest counted."""
    beside = "\n".join(lines(verdicts=[with_secondary(verdict(Outcome.REGRESSION), 21, Outcome.SUSPECT)]))
    assert "other" not in beside.replace("other metrics", "")
    assert "more  21 other metrics moved too (-v shows them)" in beside
    alone = "\n".join(lines(verdicts=[with_secondary(verdict(Outcome.INCONCLUSIVE), 7, Outcome.SUSPECT)]))
    assert alone.count("SUSPECT") == 4
    assert "more  3 other metrics moved too" in alone
    shown = "\n".join(
        lines(verbose=1, verdicts=[with_secondary(verdict(Outcome.REGRESSION), 21, Outcome.SUSPECT)])
    )
    assert shown.count("SUSPECT") == 21


def test_a_reason_is_said_once() -> None:
    """A metric's reason that the cell's reason already holds is not repeated."""
    made = verdict(Outcome.REGRESSION)
    said = made.model_copy(update={"reason": f"{made.reason}; and more"})
    assert "\n".join(lines(verdicts=[said])).count("why") == 1


def test_quiet_is_one_line_a_cell() -> None:
    """Below zero verbosity every cell has exactly one line, after one that names GPU and model."""
    shown = lines(verbose=-1)
    assert len(shown) == len(mixed()) + 1
    assert shown[0] == "on gb10/qwen3.5-35b-a3b-fp8:"


def test_colour_adds_nothing_but_colour() -> None:
    """Without its escape sequences the coloured table is the plain one."""
    coloured = terminal.table(mixed(), width=100, colour=True)
    assert ANSI.search(coloured)
    assert [ANSI.sub("", line).rstrip() for line in coloured.split("\n")] == lines()


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_neither_drives_the_terminal_nor_the_runner(text: str, width: int, colour: bool) -> None:
    """No control character of a reason or note arrives, and no line of it is a workflow command."""
    shown = terminal.table([verdict(Outcome.REGRESSION, text=text)], width=width, colour=colour, verbose=1)
    plain = ANSI.sub("", shown)
    assert all(character == "\n" or character.isprintable() for character in plain)
    assert not re.search(r"^\s*::|##\[", plain, flags=re.MULTILINE)
    shown.encode()


def test_rich_markup_is_text() -> None:
    """Square brackets in a reason are shown, not obeyed."""
    assert "[bold]x[/bold] :smile:" in "\n".join(
        lines(verdicts=[verdict(Outcome.SUSPECT, text="[bold]x[/bold] :smile:")])
    )


def test_an_infinite_interval_is_shown_as_one() -> None:
    """An end that is not finite is never a number."""
    made = verdict(Outcome.INCONCLUSIVE)
    open_ended = tuple(m.model_copy(update={"upper": None}) for m in made.metrics)
    assert "+inf)" in "\n".join(lines(verdicts=[made.model_copy(update={"metrics": open_ended})]))


def test_no_power_is_said() -> None:
    """Where no slowdown could have been shown the table says so."""
    made = verdict(Outcome.INCONCLUSIVE)
    blind = tuple(m.model_copy(update={"smallest_detectable": None}) for m in made.metrics)
    text = "\n".join(lines(verdicts=[made.model_copy(update={"metrics": blind})]))
    assert "can show no slowdown, however large" in text


def test_nothing_judged() -> None:
    """No verdicts give no table, and the summary says so instead of passing."""
    assert terminal.table([], width=100, colour=False) == ""
    assert terminal.summary_line([]) == "no cell was judged"


def test_summary_counts_worst_first() -> None:
    """The summary counts each outcome in words."""
    two = [verdict(), verdict(), verdict(Outcome.NO_BASELINE), verdict(Outcome.REGRESSION)]
    assert terminal.summary_line(two) == "4 cells: 1 regression, 1 no baseline, 2 pass"


@pytest.mark.parametrize("page", ["README.md", "docs/reports.md"])
def test_the_documented_table_is_what_is_printed(page: str) -> None:
    """The example in the documents is the table of such a verdict, to the letter."""
    file = Path(__file__).parents[3] / page
    if not file.exists():
        pytest.skip("the tests run outside the repository")
    cell = Cell(gpu="gb10", model="qwen3.5-35b-a3b-fp8", server="production-v2", workload="chat")
    reason = "mean TTFT slower by +11.7% (+9.1% to +14.3%, 5 boots against 5), tolerance 3%"
    made = verdict(
        Outcome.REGRESSION,
        cell=cell,
        measured={
            "mean_ttft_ms": (719, 803),
            "mean_tpot_ms": (24.1, 24.3),
            "output_throughput": (148.2, 146.9),
        },
    )
    metrics = tuple(
        m.model_copy(
            update={
                "reason": reason if m.metric == "mean_ttft_ms" else "",
                "lower": (m.change or 0) - 0.026,
                "upper": (m.change or 0) + 0.026,
            }
        )
        for m in made.metrics
    )
    advice = "If the change is meant, record it with --update-baselines and say why in the commit."
    again = "pytest -m serving --gpu gb10 --server production-v2 --workload chat --update-baselines"
    shown = made.model_copy(
        update={"metrics": metrics, "reason": reason, "next_step": advice, "command": again}
    )
    table = terminal.table([shown], width=100, colour=False)
    assert f"```\n{table}\n```" in file.read_text(encoding="utf-8")


def test_a_narrow_table_without_numbers_has_no_headings_of_columns() -> None:
    """Where no cell has a metric, nothing stands below "baseline" and "now"."""
    nothing = verdict(Outcome.INVALID, change=0.0).model_copy(update={"metrics": ()})
    assert not [line for line in lines(60, verdicts=[nothing]) if line.split()[:2] == ["metric", "baseline"]]
    assert [line for line in lines(60) if line.split()[:2] == ["metric", "baseline"]]
