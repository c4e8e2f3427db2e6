"""A dry run and a GPU agree key by key, or the difference is named."""

from __future__ import annotations

import pytest

from perfgate.autotune.agreement import agreement
from perfgate.autotune.events import Event


def launch(kernel, *values, module="m"):
    return {
        "kernel": kernel,
        "module": module,
        "fields": [(f"f{index}", value) for index, value in enumerate(values)],
    }


def event(kind, kernel, *key, late=False, hit=False):
    return Event(kind=kind, time=1.0, pid=1, kernel=kernel, key=key, after_ready=late, cache_hit=hit)


REPLAYED = {
    "warmed": [launch("o", "64", "True"), launch("h", "64")],
    "compiled_warm": [launch("o", "D"), launch("h", "D")],
    "compiled_serving": [launch("o", "D"), launch("conv", "1")],
}
SEEN = [
    event("autotune", "o", "64", "True"),
    event("autotune", "h", "64"),
    event("jit", "o", "x"),
    event("jit", "conv", "y", late=True),
]


def test_equal_keys_and_compiles_agree():
    """The same keys in warm-up and the same kernels compiled while serving are an agreement, with their counts."""
    found = agreement(REPLAYED, SEEN)
    assert found.complete
    assert (found.keys, found.compiles) == (2, ("conv",))
    assert "2 keys and 1 late compiles agree" in found.text()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (SEEN[1:], "predicted, not benchmarked by the GPU: o [64, True]"),
        (
            [*SEEN, event("autotune", "o", "32", "True")],
            "benchmarked by the GPU, not predicted: o [32, True]",
        ),
        (SEEN[:3], "predicted to be compiled while serving, was not: conv"),
        ([*SEEN, event("jit", "merge", "z", late=True)], "compiled while serving, not predicted: merge"),
    ],
)
def test_every_difference_is_named(changed, said):
    """A key or compile on one side only is no agreement, and says which side."""
    found = agreement(REPLAYED, changed)
    assert not found.complete
    assert said in found.text()


def test_nothing_on_both_sides_is_no_agreement():
    """No keys at all prove nothing."""
    assert not agreement({"warmed": [], "compiled_warm": [], "compiled_serving": []}, []).complete
