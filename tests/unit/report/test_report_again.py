import shlex

import pytest
from report_data import bare, verdict

from perfgate.records import Cell, Outcome
from perfgate.report import github, junit, markdown, terminal
from perfgate.report.again import command
from perfgate.report.html import page

CELL = Cell(gpu="gb10", model="m", server="mine", workload="chat")


def advised(outcome: Outcome, advice: str):
    """A verdict with so worded advice."""
    return verdict(outcome, cell=CELL).model_copy(update={"next_step": advice})


@pytest.mark.parametrize(
    ("outcome", "advice", "options"),
    [
        (
            Outcome.REGRESSION,
            "If the change is meant, record it with --update-baselines.",
            "--update-baselines",
        ),
        (
            Outcome.NO_BASELINE,
            "Record one with --new-baselines (a first recording is not a pass).",
            "--new-baselines",
        ),
        (
            Outcome.INCOMPARABLE,
            "Record a baseline on this machine: --update-baselines replaces it.",
            "--update-baselines",
        ),
        (
            Outcome.INCONCLUSIVE,
            "measure more boots (--replicates), or run on a quieter machine.",
            "--replicates 10",
        ),
        (Outcome.INVALID, "Remove the cause and measure again.", ""),
        (Outcome.RECORDED, "Measure again: the next session is judged against it.", ""),
    ],
)
def test_the_command_measures_this_cell_and_does_what_the_advice_says(
    outcome: Outcome, advice: str, options: str
) -> None:
    """Every verdict that is no pass has the command of its own cell, with the option that its advice names."""
    asked = f"pytest -m serving --gpu gb10 --server mine --workload chat {options}".strip()
    assert command(advised(outcome, advice)) == asked


def test_a_pass_and_advice_that_is_a_command_have_none() -> None:
    """Nothing is added where there is nothing to do, or where the advice can be typed as it is."""
    assert command(verdict(cell=CELL)) == ""
    assert command(advised(Outcome.SUSPECT, "pytest -m serving --against python3")) == ""


def test_every_report_shows_it() -> None:
    """Terminal, Markdown, annotation, JUnit and page show the same command."""
    made = advised(Outcome.REGRESSION, "record it with --update-baselines")
    wanted = command(made)
    results = bare().model_copy(update={"verdicts": (made,)})
    assert f"  run   {wanted}" in terminal.table([made], width=100, colour=False)
    assert "- run: <code>pytest -m serving" in markdown.document(results)
    assert f"%0ARun: {wanted}" in github.annotations([made])
    assert dict(junit.properties(made))["perfgate.command"] == wanted
    assert f"Run: <code>{wanted}</code>" in page(results)


def test_pytest_takes_it(pytester: pytest.Pytester) -> None:
    """The command, typed, is one that pytest takes, and its entries are found."""
    from perfgate.pytest_plugin import suite_of

    made = verdict(Outcome.INVALID, cell=Cell(gpu="gb10", model="m", server="production-v2", workload="chat"))
    again = command(made.model_copy(update={"next_step": "measure more boots (--replicates)"}))
    config = pytester.parseconfigure(*shlex.split(again)[1:])
    (target,) = suite_of(config).targets
    assert (target.cell.server, target.cell.workload) == ("production-v2", "chat")
    assert config.getoption("--replicates") == 5
