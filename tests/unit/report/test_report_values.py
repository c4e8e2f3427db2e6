"""Numbers as words."""

import pytest

from perfgate.report import values


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        ((-0.05, 0.1), ("-5.0%", "+10.0%")),
        ((2.1, 9.9), ("+210.0%", "+990.0%")),
        ((9.895, 13.8), ("×10.9", "×14.8")),
        ((17.5, 32.9), ("×18.5", "×33.9")),
        ((-0.953, 45.5), ("-95.3%", "×46.5")),
    ],
)
def test_both_ends_of_an_interval_are_written_alike(interval, shown):
    """Where one end is large enough to be a factor the other is one too, unless the interval holds both a gain and a loss."""
    assert values.ends(*interval) == shown
