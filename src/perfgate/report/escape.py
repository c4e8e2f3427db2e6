"""Makes text of unknown origin harmless: model names, flags and log lines come from outside and end on terminals, in Markdown, in CI.

The HTML report needs nothing of this: its templates escape by themselves (Jinja2 with autoescape on).
"""

from __future__ import annotations

import html
import re

from perfgate.plaintext import no_workflow_commands, visible

__all__ = [
    "command_data",
    "command_property",
    "html_text",
    "markdown",
    "markdown_block",
    "no_workflow_commands",
    "visible",
]

WORD_JOINER = "\N{WORD JOINER}"

_MARKDOWN = re.compile(r"[\\`*_\[\]|~!${}^()]")
_MENTION = re.compile(r"[@#](?=\w)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


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
