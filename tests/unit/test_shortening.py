"""Long words on one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfgate.shortening import shortened

OPS = ", ".join(f'"operator_{number}"' for number in range(40))


def test_what_fits_is_left_alone():
    """Words that fit are shown as they are."""
    assert shortened("--max-num-seqs 16 → 1") == "--max-num-seqs 16 → 1"


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'[{OPS}, "one"]', f'[{OPS}, "two"]'),
        (f'["one", {OPS}]', f'["two", {OPS}]'),
        (f'[{OPS}, "one", {OPS}]', f'[{OPS}, "two", {OPS}]'),
    ],
)
def test_what_differs_in_long_values_is_shown(old, new, width):
    """Wherever two long values differ, both sides show it in few characters."""
    said = shortened(f"--splitting-ops {old} → {new}", width)
    left, _, right = said.partition(" → ")
    assert len(said) <= width
    assert left.startswith("--splitting-ops")
    assert "one" in left
    assert "two" in right


@given(st.text(), st.text(), st.integers(12, 100))
def test_no_words_are_wider_than_asked(left, right, width):
    """Whatever the words, they are no longer than the width, and the same where they fit."""
    words = f"{left} → {right}"
    said = shortened(words, width)
    assert len(said) <= width
    assert said == words or len(words) > width
