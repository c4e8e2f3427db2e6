"""Words too long for a line, shortened so that what differs in them stays."""

from __future__ import annotations

import re
from bisect import bisect_left
from difflib import SequenceMatcher
from itertools import accumulate

ARROW = " → "
LONGEST = 120
"""Characters of a setting in a sentence."""
_KEPT = (6, 1, 0)
"""Characters of a shared run that stay at either end at least: the first number with which the words fit, one where they never do."""
_PARTS = re.compile(r"[\s,]*[^\s,\[\](){}]+|\W")
"""An item with what separates it from the one before: items are seldom alike, separators always, and looking for what is shared
takes as long as there are alike ones."""


def shortened(words: str, width: int = LONGEST) -> str:
    """The words in no more characters than ``width``, which is at least a dozen.

    Of a change (``old → new``) what both sides share is left away first, so that the difference is seen; then the middle of each side.
    """
    if len(words) <= width:
        return words
    before, arrow, after = words.partition(ARROW)
    if not arrow:
        return _without_middle(words, width)
    spare = width - len(ARROW)
    sides = [_without_shared(before, after, kept) for kept in _KEPT]
    before, after = next((two for two in sides if sum(map(len, two)) <= spare), sides[1])
    left = min(len(before), max(spare // 2, spare - len(after)))
    return f"{_without_middle(before, left)}{ARROW}{_without_middle(after, spare - left)}"


def _without_shared(before: str, after: str, kept: int) -> tuple[str, str]:
    """Two texts with each long run that both have reduced to its ends."""
    left, right = (_PARTS.findall(text) for text in (before, after))
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    for block in reversed(blocks):
        run = left[block.a : block.a + block.size]
        ends = [*_first(run, kept), "…", *_first(run[::-1], kept)[::-1]]
        if len(ends) < len(run):
            left[block.a : block.a + block.size] = ends
            right[block.b : block.b + block.size] = ends
    return "".join(left), "".join(right)


def _first(parts: list[str], least: int) -> list[str]:
    """Whole parts from the beginning, with at least so many characters between them."""
    sizes = list(accumulate(map(len, parts), initial=0))
    return parts[: bisect_left(sizes, least)]


def _without_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    tail = (width - 1) // 3  # what it is called is at the beginning
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
