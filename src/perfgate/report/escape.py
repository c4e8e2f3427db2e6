"""Makes text of unknown origin harmless: model names, flags and log lines come from outside and end on terminals, in Markdown, in CI.

The HTML report needs nothing of this: its templates escape by themselves (Jinja2 with autoescape on).
"""

from __future__ import annotations

import html
import re
import unicodedata

WORD_JOINER = "\N{WORD JOINER}"

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_MARKDOWN = re.compile(r"[\\`*_\[\]|~!${}^()]")
_MENTION = re.compile(r"[@#](?=\w)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


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


def markdown(text: str) -> str:
    """The text as GitHub-flavoured Markdown that renders as itself: no markup, HTML, link, mention, table cell or new line of its own."""
    text = visible(text, lines=True).strip()
    text = _MARKDOWN.sub(lambda found: "\\" + found[0], text)
    text = "".join(_ENTITIES.get(character, character) for character in text)
    # The renderer takes mentions, issue numbers and bare addresses from text, where a backslash would not stop it.
    text = _MENTION.sub(lambda found: found[0] + WORD_JOINER, text)
    text = text.replace("://", f":{WORD_JOINER}//").replace("www.", f"www{WORD_JOINER}.")
    return re.sub(r"\s*\n\s*", "<br>", text)


def html_text(text: str) -> str:
    """The text for an HTML element or attribute in Markdown."""
    return html.escape(visible(text))


def markdown_block(text: str) -> str:
    """The text as a fenced code block that it cannot end."""
    body = visible(text, lines=True)
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{body}\n{fence}"


def command_data(text: str) -> str:
    """The text as the message of a workflow command."""
    return visible(text, lines=True).replace("%", "%25").replace("\n", "%0A")


def command_property(text: str) -> str:
    """The text as a property (file, title) of a workflow command."""
    return command_data(text).replace(":", "%3A").replace(",", "%2C")
