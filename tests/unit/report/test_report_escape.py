import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_data import HOSTILE

from perfgate.cli import main
from perfgate.errors import PerfgateError
from perfgate.report import escape

ANYTHING = st.text(st.characters(exclude_categories=[]))
SPITEFUL = st.text(st.sampled_from("<>&`*_[]()|~!#@:/\\\n\r\x1b\t -+=1.ahttpwsx{}$\u202e"), max_size=40)


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\rc\nd", "a b c d"),
        ("\u202eabc", "\\u202eabc"),
        ("\x9b2J", "\\x9b2J"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("naïve 模型 ×", "naïve 模型 ×"),
    ],
)
def test_visible_shows_what_would_act(given_: str, shown: str) -> None:
    """A character that acts on a terminal becomes its escape, and one that only shows stays."""
    assert escape.visible(given_) == shown


@given(ANYTHING)
def test_visible_leaves_only_printable_text(text: str) -> None:
    """Whatever goes in, what comes out is one printable line that UTF-8 can encode."""
    shown = escape.visible(text)
    assert "\n" not in shown
    assert all(character == " " or character.isprintable() or character.isspace() for character in shown)
    shown.encode()


@pytest.mark.parametrize(
    "line", ["::error::x", "  ::set-output name=a::b", "\x1b[31m::error::x", "a ##[error]b"]
)
def test_no_line_is_a_workflow_command(line: str) -> None:
    """A line that a runner would obey, indented, coloured or of the older form, is one no more."""
    safe = escape.no_workflow_commands(f"before\n{line}\nafter")
    for shown in safe.split("\n"):
        assert not re.sub(r"\x1b\[[0-9;]*m", "", shown).strip().startswith("::")
        assert "##[" not in shown


def test_cpp_names_are_left_alone() -> None:
    """A C++ name in the middle of a line is no command and stays as it is."""
    assert escape.no_workflow_commands("at torch::autograd::run") == "at torch::autograd::run"


@given(ANYTHING | SPITEFUL)
def test_markdown_renders_as_the_text_itself(text: str) -> None:
    """A table cell holds any text and shows it: no element but line breaks, no second cell."""
    rendered = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(f"| a | b |\n|---|---|\n| {escape.markdown(text)} | end |\n")
    )
    body = rendered.partition("<tbody>")[2]
    cells = re.findall(r"<td>(.*?)</td>", body, flags=re.DOTALL)
    assert len(cells) == 2
    assert cells[1] == "end"
    assert re.sub(r"<br ?/?>", "", cells[0]).count("<") == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_mention_reference_or_address(text: str) -> None:
    """What GitHub finds in text after rendering (people, issues, addresses) is broken up."""
    safe = escape.markdown(text)
    assert not re.search(r"[@#]\w", safe)
    assert "://" not in safe


@given(st.text(st.sampled_from("`~a \n")))
def test_a_fenced_block_cannot_be_ended_by_its_text(text: str) -> None:
    """Backticks in the text never close the block around it."""
    tokens = MarkdownIt("commonmark").parse(escape.markdown_block(text) + "\n\nafter\n")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[2].content == "after"


@given(ANYTHING | SPITEFUL)
def test_a_workflow_command_stays_one_line(text: str) -> None:
    """Neither message nor property can end the command, and a property can neither end itself nor begin another."""
    assert "\n" not in escape.command_data(text)
    assert "\r" not in escape.command_data(text)
    assert not set("\n:,") & set(escape.command_property(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_an_error_neither_drives_the_terminal_nor_the_runner(text: str) -> None:
    """What an error quotes (names, answers, log lines) is shown, and neither acts on a terminal nor commands a runner."""
    said = str(PerfgateError(f"{text}\n{text}", remedy=text))
    assert all(character == "\n" or character.isprintable() for character in said)
    assert not re.search(r"^\s*::|##\[", said, flags=re.MULTILINE)
    said.encode()


def test_a_command_says_hostile_names_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    """A path with an escape sequence comes back as its escape on standard error."""
    assert main(["report", "x\x1b[2J.json"]) == 2
    assert "x\\x1b[2J.json: no such results file" in capsys.readouterr().err
