"""The page of messages against the sources that print them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import perfgate
from perfgate import errors

SOURCE = Path(perfgate.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
GAP = "…"
PLAIN = re.compile(r"no such (?:file|folder)|must be")
"""What to do about these is in the message."""

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the tests run outside the repository")


def text_of(node: ast.AST) -> str:
    """A text as it is written, with a gap for what is put into it when it is printed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return GAP


@cache
def trees() -> list[tuple[Path, ast.Module]]:
    """Every module of perfgate, parsed."""
    return [(file, ast.parse(file.read_text(encoding="utf-8"))) for file in sorted(SOURCE.rglob("*.py"))]


def texts() -> set[str]:
    """Every text of the sources."""
    return {
        text_of(node)
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.BinOp)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }


def listed() -> list[str]:
    """The messages of the page's first columns."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def pieces(message: str) -> list[str]:
    """What of a message does not change."""
    return [piece.strip() for piece in message.split(GAP) if len(piece.strip()) > 1]


def says(text: str, message: str) -> bool:
    """Whether a text of the sources holds the message's constant parts, in their order."""
    at = 0
    for piece in pieces(message):
        at = text.find(piece, at) + len(piece)
        if at < len(piece):
            return False
    return True


def test_every_message_of_the_page_is_one_that_is_printed() -> None:
    """Each message on the page stands in the sources, with names and numbers where the page has an ellipsis."""
    known = texts()
    assert len(listed()) > 60
    assert [message for message in listed() if not any(says(text, message) for text in known)] == []


def test_a_message_without_a_remedy_is_on_the_page() -> None:
    """Where an error does not itself say what to do, the page does."""
    ours = {name for name in dir(errors) if name.endswith("Error")}
    missing = []
    for file, tree in trees():
        for call in ast.walk(tree):
            if not (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id in ours
                and call.args
            ):
                continue
            if any(keyword.arg in {"remedy", None} for keyword in call.keywords):
                continue
            message = text_of(call.args[0])
            if PLAIN.search(message):
                continue
            if pieces(message) and not any(says(message, known) for known in listed()):
                missing.append(f"{file.relative_to(SOURCE)}:{call.lineno}: {message}")
    assert missing == []


REASONS = ("client/validity.py", "environment/probe.py", "baseline/comparable.py")
"""Modules whose sentences are the reasons of INVALID and INCOMPARABLE."""


def sentences(file: Path) -> Iterator[str]:
    """The texts of a module that are put together from words and values, or that are in a list of reasons."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Raise) or (
                isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            ):
                continue
            if isinstance(child, ast.JoinedStr | ast.Constant):
                yield text_of(child)
            else:
                yield from walk(child)

    for text in walk(ast.parse(file.read_text(encoding="utf-8"))):
        # A sentence; a shorter text, or one that begins with a blank or in the middle, is a part of one.
        if len(text.split()) > 4 and not text.startswith((" ", "\n", "at most ", "of ")):
            yield text


@pytest.mark.parametrize("module", REASONS)
def test_every_reason_is_on_the_page(module: str) -> None:
    """Each sentence that makes a measurement unbelievable or incomparable is on the page."""
    found = list(sentences(SOURCE / module))
    assert len(found) > 2
    assert [text for text in found if not any(says(text, known) for known in listed())] == []
