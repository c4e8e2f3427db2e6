"""What is said beside a verdict."""

from perfgate.experiment.notes import void_notes
from perfgate.records import BootRecord

LOOP = "a fixed CPU loop took 2.04 times as long after the replicate (limit 2)"


def test_boots_that_are_left_out_are_counted_with_their_reasons():
    """A comparison that says four pairs says as well that two boots of a side do not count, and why, each reason once."""
    boots = [
        BootRecord(id="a", runs=()),
        BootRecord(id="b", runs=(), void=(LOOP,)),
        BootRecord(id="c", runs=(), void=(LOOP, "the clocks were throttled")),
        BootRecord(id="d", runs=()),
    ]
    said = void_notes(boots, side="old side: ")
    assert said == [f"old side: 2 of 4 boots left out: {LOOP}; the clocks were throttled"]
    assert void_notes(boots[:1]) == []
