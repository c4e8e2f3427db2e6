"""Which setting makes a computed size smaller."""

import pytest

from perfgate.experiment.attribution_sizes import size_notes
from perfgate.records import Cell, CellVerdict, MetricVerdict, Outcome

CELL = Cell(gpu="cpu", model="m", server="s", workload="w")
SMALLER = MetricVerdict(
    metric="kv_cache_tokens", outcome=Outcome.REGRESSION, baseline=2000.0, now=1300.0, change=-0.35
)
LATER = MetricVerdict(metric="mean_ttft_ms", outcome=Outcome.REGRESSION, baseline=10.0, now=20.0, change=1.0)
A, B, C = "--max-model-len 4096 → 2048", "--seed 7", "--max-num-seqs 1"


def boot(*applied: str, tokens: float) -> tuple[frozenset[str], dict[str, float]]:
    return frozenset(applied), {"kv_cache_tokens": tokens}


ENDS = [boot(tokens=2000.0), boot(A, B, C, tokens=1300.0)]


@pytest.mark.parametrize(
    ("boots", "words"),
    [
        (
            [*ENDS, boot(A, B, tokens=1301.0), boot(A, C, tokens=1299.0)],
            f"every boot with {A} has it, none without",
        ),
        (ENDS, f"by these boots it may be {A}, {B} or {C}"),
        ([*ENDS, boot(A, B, tokens=1300.0)], f"by these boots it may be {A} or {B}"),
        ([*ENDS, boot(A, tokens=2000.0), boot(B, C, tokens=2000.0)], "no setting makes it alone"),
        ([*ENDS, (frozenset({A}), {})], f"by these boots it may be {A}, {B} or {C}"),
    ],
)
def test_the_boots_at_hand_tell_which_setting_makes_a_size_smaller(boots, words):
    """A setting that every smaller boot has and no other is named, or all that may be it; boots without the size tell nothing."""
    verdict = CellVerdict(cell=CELL, outcome=Outcome.REGRESSION, metrics=(LATER, SMALLER))
    (note,) = size_notes(verdict, [A, B, C], boots)
    assert note == f"KV tokens -35.0%, which is computed and not searched: {words}"


def test_a_size_that_did_not_shrink_has_no_note():
    """Nothing is said of sizes that pass, or of metrics that are timed."""
    passing = SMALLER.model_copy(update={"outcome": Outcome.PASS})
    verdict = CellVerdict(cell=CELL, outcome=Outcome.REGRESSION, metrics=(LATER, passing))
    assert size_notes(verdict, [A, B], ENDS) == []
