"""Text of unknown origin made harmless where it is shown as it is: on a terminal, and in the log of a CI runner."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def from_here(location: str) -> str:
    """A file below the working directory without that directory's name, which fits a line; anything else as it is.

    >>> from_here("postgresql://host/baselines")
    'postgresql://host/baselines'
    """
    try:
        return str(Path(location).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return location


def plain(text: str) -> str:
    """Lines that neither drive a terminal nor command a runner."""
    return no_workflow_commands(visible(text, lines=True))


def visible(text: str, *, lines: bool = False) -> str:
    r"""The text with every character that would act rather than show replaced by its escape.

    Controls (C0, C1, DEL), bidirectional and other format characters, line separators, lone surrogates, private and unassigned characters
    become ``\x1b``, ``\u202e`` and the like. A tab becomes a space.

    Args:
        text: anything.
        lines: keep line feeds (CR LF and CR count as one); otherwise they become spaces.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_shown(character, lines) for character in text)


def _shown(character: str, lines: bool) -> str:
    if character == "\n":
        return "\n" if lines else " "
    if character == "\t":
        return " "
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def no_workflow_commands(text: str) -> str:
    """The text with no line that a GitHub runner would obey.

    The runner trims a line before it looks for ``::command::`` at its start, and takes the older ``##[command]`` anywhere in it.
    """
    return "\n".join(_no_command(line) for line in text.split("\n"))


def _no_command(line: str) -> str:
    line = line.replace("##[", "##\\x5b")
    plain = _ANSI.sub("", line).lstrip()
    return line.replace("::", "\\x3a:", 1) if plain.startswith("::") else line
