"""Tail quantiles of a cell: bounded where there are enough requests, advisory always."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from perfgate.metrics import METRICS
from perfgate.noise import NoiseClass, NoiseModel
from perfgate.records import (
    Baseline,
    BootRecord,
    Cell,
    Fingerprint,
    Measurement,
    MetricVerdict,
    Outcome,
    Provenance,
    RequestArrays,
    RunRecord,
)
from perfgate.statistics.quantile import quantile_bounds
from perfgate.tails import bounds, replication_notes, words
from perfgate.verdict import judge_cell

CELL = Cell(gpu="gb10", model="m", server="s", workload="w")
MACHINE = Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1)
P99 = METRICS["p99_ttft_ms"]


def boot(number: int, ttft_ms, *, arrays=True, failed=0, scale=1.0, mean=100.0) -> BootRecord:
    """A boot of one run whose requests had these TTFTs, ten times as long to the last of eleven tokens; the last ones failed."""
    values = [value * scale for value in ttft_ms]
    size = len(values)
    kept = RequestArrays(
        scheduled=tuple(-0.001 for _ in values),
        sent=tuple(0.0 for _ in values),
        first=tuple(value / 1000 for value in values),
        last=tuple(value / 100 for value in values),
        prompt_tokens=tuple(8 for _ in values),
        output_tokens=tuple(11 for _ in values),
        outcome=tuple("ok" if row < size - failed else "reset" for row in range(size)),
    )
    metrics = {"mean_ttft_ms": mean, "p99_ttft_ms": float(np.percentile(values, 99))}
    return BootRecord(id=f"b{number}", runs=(RunRecord(metrics=metrics, arrays=kept if arrays else None),))


def spread(size: int) -> list[float]:
    return np.random.default_rng(size).exponential(100, size).tolist()


def judged(now: list[BootRecord]):
    one = NoiseClass(
        metric="p99_ttft_ms",
        concurrency="open",
        prior_df=20.0,
        prior_variance=0.05**2,
        boot_variance=0.05**2,
        session_variance=0.0,
        session_variance_upper=0.0,
        cells=5,
        sessions=4,
        boots=40,
        runs=40,
    )
    mean = one.model_copy(update={"metric": "mean_ttft_ms"})
    noise = NoiseModel(
        gpu="gb10",
        fitted=datetime(2026, 1, 1, tzinfo=UTC),
        perfgate="0",
        sources=("a",),
        hardware=MACHINE.hardware(),
        classes=(one, mean),
    )
    baseline = Baseline(
        cell=CELL,
        provenance=Provenance(by="t", source="measured"),
        fingerprint=MACHINE,
        boots=tuple(boot(n, spread(400), arrays=False) for n in range(5)),
    )
    measurement = Measurement(cell=CELL, fingerprint=MACHINE, server={}, workload={}, boots=tuple(now))
    return judge_cell(baseline, measurement, noise=noise)


def test_the_bound_is_that_of_all_requests_pooled():
    """Requests of every valid run are pooled, failed ones left out, and bounded by their order statistics in milliseconds."""
    values = spread(400)
    found = bounds(P99, [boot(1, values[:250]), boot(2, [*values[250:], 1e9], failed=1)])
    assert found is not None
    assert found.size == 400
    expected = quantile_bounds(values)
    assert (found.estimate, found.upper) == pytest.approx((expected.estimate, expected.upper))
    assert (
        words(found)
        == f"P99 at most {expected.upper:.4g} ms with 95% confidence (400 requests, advisory below 1000)"
    )


@pytest.mark.parametrize(
    ("name", "factor"), [("p90_ttft_ms", 1.0), ("p90_e2el_ms", 10.0), ("p90_tpot_ms", 0.9)]
)
def test_each_quantile_is_of_its_own_time(name, factor):
    """TTFT, E2EL and TPOT of the same requests are as far apart as they were made."""
    values = spread(100)
    found = bounds(METRICS[name], [boot(1, values)])
    assert found.estimate == pytest.approx(factor * np.percentile(values, 90))


def test_from_schedule_counts_the_wait():
    """The TTFT from schedule begins when a request was due."""
    found = bounds(METRICS["p99_scheduled_ttft_ms"], [boot(1, [50.0])])
    assert found.estimate == pytest.approx(51.0)


def test_few_requests_say_how_many_are_needed():
    """72 requests have no bound of P99; the words give the 299 that have, and no number that could be taken for a bound."""
    found = bounds(P99, [boot(1, spread(72))])
    assert found.upper == math.inf
    assert words(found) == "72 requests give no upper bound of a P99 (299 do)"


def test_a_thousand_requests_are_no_longer_called_advisory():
    """From 1000 pooled requests the bound stands without the word; it still fails nothing."""
    assert words(bounds(P99, [boot(1, spread(1000))])).endswith("(1000 requests)")


def test_nothing_is_said_where_times_were_not_kept():
    """Without every run's request times, and for gaps between events, there is no bound."""
    assert bounds(P99, [boot(1, spread(400)), boot(2, spread(400), arrays=False)]) is None
    assert bounds(METRICS["p99_itl_ms"], [boot(1, spread(400))]) is None
    assert bounds(P99, []) is None


def test_a_slow_tail_asks_for_boots_and_fails_nothing():
    """A P99 twice as high is SUSPECT beside a cell that passes, and a note gives its bound and asks for replication."""
    verdict = judged([boot(n, spread(400), scale=2.0) for n in range(3)])
    (tail,) = [metric for metric in verdict.metrics if metric.metric == "p99_ttft_ms"]
    assert tail.outcome is Outcome.SUSPECT
    assert verdict.outcome is Outcome.PASS
    (note,) = verdict.notes
    assert "P99 TTFT slower by +100.0%" in note
    assert "P99 at most" in note
    assert "(1200 requests). A quantile never fails alone: more boots (--replicates)" in note


def test_a_suspected_cell_needs_no_note_of_its_tail():
    """Where a primary metric is suspect too, its confirmation is on the way and the quantile stays silent."""
    slow = [boot(n, spread(400), scale=2.0, mean=200.0) for n in range(3)]
    verdict = judged(slow)
    assert verdict.outcome is Outcome.SUSPECT
    assert verdict.notes == ()


def test_many_suspected_tails_are_counted():
    """Two quantiles are quoted, the rest counted."""
    reasons = [
        MetricVerdict(metric=name, outcome=Outcome.SUSPECT, reason=name, primary=False)
        for name in ("p90_ttft_ms", "p99_ttft_ms", "p90_tpot_ms", "p99_tpot_ms")
    ]
    (note,) = replication_notes(reasons, [one.metric for one in reasons])
    assert note.startswith("p90_tpot_ms; p99_tpot_ms; 2 more quantiles are suspect. A quantile")


def test_an_unchanged_tail_is_no_note():
    """A P99 as it was says its bound in its own reason and troubles nobody."""
    verdict = judged([boot(n, spread(400)) for n in range(3)])
    assert verdict.notes == ()
    (tail,) = [metric for metric in verdict.metrics if metric.metric == "p99_ttft_ms"]
    assert "P99 at most" in tail.reason
