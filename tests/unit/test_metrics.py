import json
from pathlib import Path

import numpy as np
import pytest

from perfgate.errors import InputError, LoadError, UnknownNameError
from perfgate.metrics import METRICS, metric, summarise
from perfgate.timings import Timings

NAN = float("nan")


def timings(
    *,
    sent: list[float],
    events: list[list[float]],
    tokens: list[int],
    ended: list[float] | None = None,
    scheduled: list[float] | None = None,
    outcome: list[str] | None = None,
    prompt: int = 10,
    concurrency: int | None = 2,
    duration: float | None = None,
) -> Timings:
    count = len(sent)
    over = ended if ended is not None else [times[-1] if times else NAN for times in events]
    return Timings(
        scheduled=np.array(scheduled if scheduled is not None else sent),
        ready=np.array(sent),
        sent=np.array(sent),
        first=np.array([times[0] if times else NAN for times in events]),
        last=np.array([times[-1] if times else NAN for times in events]),
        ended=np.array(over),
        prompt_tokens=np.full(count, prompt),
        output_tokens=np.array(tokens),
        outcome=tuple(outcome or ["ok"] * count),
        detail=("",) * count,
        events=np.array([time for times in events for time in times]),
        offsets=np.concatenate([[0], np.cumsum([len(times) for times in events])]).astype(np.int64),
        duration=duration if duration is not None else float(np.nanmax(over)),
        target_concurrency=concurrency,
        closed_loop=concurrency is not None,
    )


# Two requests of four tokens: 0.5 s and 1.0 s to the first event, 0.1 s and 0.2 s a token after it.
TWO = timings(sent=[0.0, 0.5], events=[[0.5, 0.6, 0.7, 0.8], [1.5, 1.7, 1.9, 2.1]], tokens=[4, 4])


def test_metrics_of_a_run_worked_out_by_hand():
    """TTFT, TPOT, ITL, E2EL and the rates are those of the definitions, in milliseconds and per second."""
    found = summarise(TWO)
    expected = {
        "mean_ttft_ms": 750.0,
        "median_ttft_ms": 750.0,
        "p90_ttft_ms": 950.0,
        "p99_ttft_ms": 995.0,
        "mean_tpot_ms": 150.0,
        "mean_itl_ms": 150.0,
        "p99_itl_ms": 200.0,
        "mean_e2el_ms": 1200.0,
        "output_throughput": 8 / 2.1,
        "total_token_throughput": 28 / 2.1,
        "request_throughput": 2 / 2.1,
        "peak_concurrency": 2.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_every_metric_has_a_place_in_the_table():
    """Nothing is summarised under a name that the table does not define, and all run metrics can be had."""
    found = summarise(TWO, slo={"ttft": 600})
    assert set(found) == {name for name, entry in METRICS.items() if entry.of == "run"}


def test_tpot_counts_tokens_and_not_events():
    """Coalesced events change ITL, not TPOT: tokens come from usage."""
    coalesced = timings(sent=[0.0], events=[[0.5, 0.8]], tokens=[4], concurrency=1)
    found = summarise(coalesced)
    assert found["mean_tpot_ms"] == pytest.approx(100.0)
    assert found["mean_itl_ms"] == pytest.approx(300.0)


def test_a_single_token_has_no_tpot_and_no_gap():
    """With one output token TPOT and ITL are absent, not zero."""
    found = summarise(timings(sent=[0.0], events=[[0.5]], tokens=[1], concurrency=1))
    assert not [name for name in found if "tpot" in name or "itl" in name]
    assert found["mean_ttft_ms"] == pytest.approx(500.0)


def test_failed_requests_are_left_out_of_latencies_and_rates():
    """A failed request adds neither tokens nor latency; the duration still includes it."""
    found = summarise(
        timings(
            sent=[0.0, 0.0],
            events=[[0.5, 0.6], [0.1]],
            tokens=[2, -1],
            ended=[0.6, 2.0],
            outcome=["ok", "reset"],
        )
    )
    assert found["mean_ttft_ms"] == pytest.approx(500.0)
    assert found["output_throughput"] == pytest.approx(1.0)
    assert found["request_throughput"] == pytest.approx(0.5)
    assert found["mean_itl_ms"] == pytest.approx(100.0)


def test_nothing_is_said_of_a_run_where_every_request_failed():
    """All failed means no metrics at all, never zeros."""
    failed = timings(sent=[0.0], events=[[]], tokens=[-1], ended=[1.0], outcome=["http_error"], concurrency=1)
    assert summarise(failed) == {}


def test_no_requests_give_no_metrics():
    """A run of nothing has no metrics and no peak."""
    empty = timings(sent=[], events=[], tokens=[], duration=0.0)
    assert summarise(empty) == {}
    assert empty.peak_concurrency() == 0
    assert empty.itl().shape == (0,)
    assert empty.steady_window() is None


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ({"ttft": 500.0}, 1),
        ({"ttft": 499.0}, 0),
        ({"tpot": 200.1}, 2),
        ({"ttft": 2000.0, "tpot": 150.0}, 1),
        ({"ttft": 2000.0, "tpot": 150.0, "e2el": 100.0}, 0),
    ],
)
def test_goodput_counts_requests_that_keep_every_service_level(slo, good):
    """A request is good when all its service levels hold, the limit itself included."""
    assert summarise(TWO, slo=slo)["request_goodput"] == pytest.approx(good / 2.1)


def test_goodput_counts_a_single_token_as_keeping_tpot():
    """As in vllm bench serve, a request of one token passes the TPOT level."""
    one = timings(sent=[0.0], events=[[0.5]], tokens=[1], concurrency=1)
    assert summarise(one, slo={"tpot": 1.0})["request_goodput"] == pytest.approx(2.0)


def test_a_service_level_for_something_else_is_refused():
    """Only ttft, tpot and e2el have service levels."""
    with pytest.raises(InputError, match="itl"):
        summarise(TWO, slo={"itl": 1.0})


def test_waiting_for_a_slot_is_in_the_ttft_from_schedule_only():
    """What was due at 0 and sent at 1 waited a second, and only the TTFT from schedule says so."""
    waited = timings(sent=[1.0], scheduled=[0.0], events=[[1.5, 1.6]], tokens=[2], concurrency=None)
    found = summarise(waited)
    assert found["mean_ttft_ms"] == pytest.approx(500.0)
    assert found["mean_scheduled_ttft_ms"] == pytest.approx(1500.0)


def test_the_steady_window_leaves_ramp_and_tail_out():
    """It begins when the target concurrency is first in flight and ends when it last is; one slot's hand-over does not end it."""
    run = timings(
        sent=[0.0, 1.0, 2.0],
        events=[[1.5, 2.0], [2.5, 3.0], [3.5, 5.0]],
        tokens=[2, 2, 2],
        ended=[2.0, 3.0, 5.0],
    )
    assert run.steady_window() == (1.0, 3.0)
    assert summarise(run)["steady_output_throughput"] == pytest.approx(4 / 2.0)
    assert run.peak_concurrency() == 2


def test_the_steady_window_weighs_events_by_their_tokens():
    """An event of several tokens counts as that many."""
    run = timings(sent=[0.0], events=[[0.5, 1.0]], tokens=[8], concurrency=1)
    assert summarise(run)["steady_output_throughput"] == pytest.approx(8.0)


def test_an_open_loop_without_cap_has_no_steady_window():
    """Without a target concurrency there is nothing that could be reached."""
    run = timings(sent=[0.0], events=[[0.5]], tokens=[1], concurrency=None)
    assert "steady_output_throughput" not in summarise(run)


def test_itl_never_spans_two_requests():
    """Gaps are within requests, also beside requests without events."""
    run = timings(
        sent=[0.0] * 4, events=[[], [1.0, 1.1], [], [5.0, 5.2, 5.5]], tokens=[0, 2, 0, 3], ended=[6.0] * 4
    )
    assert run.itl() == pytest.approx([0.1, 0.2, 0.3])
    assert run.itl(np.array([False, False, True, True])) == pytest.approx([0.2, 0.3])


def test_metrics_equal_those_that_vllm_bench_serve_computed_from_the_same_times():
    """From the per-request times of a recorded `vllm bench serve` run, perfgate computes that run's own summary."""
    recorded = json.loads((Path(__file__).parents[1] / "data" / "vllm-bench-serve-detailed.json").read_text())
    start = min(recorded["start_times"])
    sent = [time - start for time in recorded["start_times"]]
    events = [
        [begin + ttft, *(begin + ttft + np.cumsum(gaps))]
        for begin, ttft, gaps in zip(sent, recorded["ttfts"], recorded["itls"], strict=True)
    ]
    run = timings(
        sent=sent, events=events, tokens=recorded["output_lens"], concurrency=recorded["max_concurrency"]
    )
    object.__setattr__(run, "duration", recorded["duration"])
    object.__setattr__(run, "prompt_tokens", np.array(recorded["input_lens"]))
    found = summarise(run)
    shared = [name for name in found if name in recorded]
    assert {"mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_itl_ms", "output_throughput"} <= set(shared)
    assert {name: found[name] for name in shared} == pytest.approx({name: recorded[name] for name in shared})


def test_timings_that_do_not_fit_together_are_refused():
    """Rows of different numbers, or offsets that do not divide the events, never become timings."""
    with pytest.raises(LoadError, match="output_tokens has 1 rows"):
        timings(sent=[0.0, 1.0], events=[[1.0], [2.0]], tokens=[1])
    with pytest.raises(LoadError, match="offsets"):
        Timings(**{**TWO.__dict__, "events": TWO.events[:-1]})


def test_timings_cannot_be_changed():
    """Their arrays are read-only: what was measured stays."""
    with pytest.raises(ValueError, match="read-only"):
        TWO.sent[0] = 5.0


def test_an_unknown_metric_names_the_nearest():
    """A misspelt metric is answered with those that look like it."""
    with pytest.raises(UnknownNameError, match="mean_ttft_ms"):
        metric("mean_ttft")


def test_tails_are_advisory_and_never_primary():
    """No quantile of the tail can fail a run alone."""
    assert all(
        entry.advisory and not entry.primary
        for name, entry in METRICS.items()
        if name.startswith(("p90", "p99"))
    )
