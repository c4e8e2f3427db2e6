"""The command that stands under everything that did not pass."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perfgate.pytesting.again import command
from perfgate.records import Cell, CellVerdict, Outcome
from perfgate.report import github, junit, markdown, terminal
from perfgate.report.html import page

sys.path.insert(0, str(Path(__file__).parent / "report"))
from report_data import bare, verdict

CELL = Cell(gpu="gb10", model="m", server="production-v2", workload="chat")
OWN = "pytest -m serving --gpu gb10 --server production-v2 --workload chat"
RECORD = "If the change is meant, record it with --update-baselines."

Configured = Callable[..., pytest.Config]


@pytest.fixture
def configured(pytester: pytest.Pytester) -> Configured:
    """A session's configuration from what was typed."""
    unused = ("unraisableexception", "threadexception", "cacheprovider", "hypothesispytest", "benchmark")
    without = [word for name in unused for word in ("-p", f"no:{name}")]
    return lambda *words: pytester.parseconfigure(*words, *without)


def advised(outcome: Outcome, advice: str) -> CellVerdict:
    """A verdict with so worded advice."""
    return verdict(outcome, cell=CELL).model_copy(update={"next_step": advice})


def test_it_measures_this_cell_and_does_what_the_advice_says(configured: Configured) -> None:
    """Every verdict that is no pass has the command of its own cell, with the option that its advice names."""
    config = configured("-m", "serving")
    for outcome, advice, options in (
        (Outcome.REGRESSION, RECORD, " --update-baselines"),
        (Outcome.NO_BASELINE, "Record one with --new-baselines (a first is no pass).", " --new-baselines"),
        (Outcome.INCOMPARABLE, "--update-baselines replaces the stored one.", " --update-baselines"),
        (Outcome.INCONCLUSIVE, "measure more boots (--replicates), or elsewhere.", " --replicates 10"),
        (Outcome.INVALID, "Remove the cause and measure again.", ""),
        (Outcome.RECORDED, "Measure again: the next session is judged against it.", ""),
    ):
        assert command(advised(outcome, advice), config) == OWN + options


@pytest.mark.parametrize(
    "typed",
    [
        ("--vllm-arg=--max-num-seqs=1", "--env=NAME=a b"),
        ("--against-server=production-v1",),
        ("--against=/opt/old/bin/python", "--server-python=/opt/new/bin/python"),
    ],
)
def test_it_asks_again_what_the_session_asked(configured: Configured, typed: tuple[str, ...]) -> None:
    """Changed settings and the other side of an A/B are kept; such a slowdown is traced to its settings and never recorded."""
    config = configured("-m", "serving", *typed, "--baselines=elsewhere")
    words = shlex.split(command(advised(Outcome.REGRESSION, RECORD), config))
    assert words[: len(OWN.split())] == OWN.split()
    assert set(words[len(OWN.split()) :]) == {*typed, "--baselines=elsewhere", "--attribute"}
    again = configured(*words[1:])
    assert again.getoption("--attribute")
    assert again.getoption("--vllm-arg") == config.getoption("--vllm-arg")
    assert again.getoption("--env") == config.getoption("--env")


def test_a_secret_is_masked_before_it_is_quoted(configured: Configured) -> None:
    """A secret with quotes in it, which a shell needs written otherwise, is in no part of the command."""
    secret = "a'quo\"ted"
    config = configured("-m", "serving", f"--env=MY_SECRET={secret}")
    made = command(
        advised(Outcome.INVALID, "Measure again."), config, lambda word: word.replace(secret, "***")
    )
    assert "--env=MY_SECRET=***" in shlex.split(made)
    assert "quo" not in made


def test_a_pass_and_advice_that_is_a_command_have_none(configured: Configured) -> None:
    """Nothing is added where there is nothing to do, or where the advice can be typed as it is."""
    config = configured("-m", "serving")
    assert command(verdict(cell=CELL), config) == ""
    assert command(advised(Outcome.SUSPECT, "pytest -m serving --against python3"), config) == ""


def test_pytest_takes_it(configured: Configured) -> None:
    """The command, typed, is one that pytest takes, and its entries are found."""
    from perfgate.pytest_plugin import suite_of

    first = command(
        advised(Outcome.INVALID, "measure more boots (--replicates)"), configured("-m", "serving")
    )
    again = configured(*shlex.split(first)[1:])
    (target,) = suite_of(again).targets
    assert (target.cell.server, target.cell.workload) == ("production-v2", "chat")
    assert again.getoption("--replicates") == 5


def test_every_report_shows_it() -> None:
    """Terminal, Markdown, annotation, JUnit and page show the same command."""
    wanted = f"{OWN} --update-baselines"
    made = advised(Outcome.REGRESSION, RECORD).model_copy(update={"command": wanted})
    results = bare().model_copy(update={"verdicts": (made,)})
    assert f"  run   {wanted}" in terminal.table([made], width=100, colour=False)
    assert "- run: <code>pytest -m serving" in markdown.document(results)
    assert f"%0ARun: {wanted}" in github.annotations([made])
    assert dict(junit.properties(made))["perfgate.command"] == wanted
    assert f"Run: <code>{wanted}</code>" in page(results)
