"""What the server's counters say about a verdict."""

import threading

import pytest

from perfgate.diagnosis import diagnose, server_view
from perfgate.errors import ServerError
from perfgate.experiment.sampling import Sampler, gauges
from perfgate.records import BootRecord, Cell, CellVerdict, MetricVerdict, Outcome, RunRecord

CELL = Cell(gpu="g", model="m", server="s", workload="w")


def boots(*, ttft=100.0, queue=10.0, prefill=80.0, server_ttft=95.0, step=4.0, requests=10, **more):
    moved = {
        "vllm:request_queue_time_seconds_sum": queue / 1e3 * requests,
        "vllm:request_queue_time_seconds_count": float(requests),
        "vllm:request_prefill_time_seconds_sum": prefill / 1e3 * requests,
        "vllm:request_prefill_time_seconds_count": float(requests),
        "vllm:time_to_first_token_seconds_sum": server_ttft / 1e3 * requests,
        "vllm:time_to_first_token_seconds_count": float(requests),
        "vllm:iteration_tokens_total_sum": step * 100,
        "vllm:iteration_tokens_total_count": 100.0,
        **more,
    }
    return [BootRecord(id="b", runs=(RunRecord(metrics={"mean_ttft_ms": ttft}, server=moved),))]


def verdict(metric, change, outcome=Outcome.REGRESSION):
    found = MetricVerdict(metric=metric, outcome=outcome, change=change, tolerance=0.02)
    return CellVerdict(cell=CELL, outcome=outcome, metrics=(found,))


def test_a_longer_queue_is_named():
    """TTFT rose by 50 ms, 48 of them in the queue."""
    (said,) = diagnose(
        verdict("mean_ttft_ms", 0.5), boots(), boots(ttft=150.0, queue=58.0, prefill=81.0, server_ttft=144.0)
    )
    assert "mostly queueing" in said
    assert "queueing +48.0 ms" in said


def test_a_slower_prefill_is_named():
    """TTFT rose by 50 ms, all of it in prefill."""
    (said,) = diagnose(
        verdict("mean_ttft_ms", 0.5), boots(), boots(ttft=150.0, prefill=130.0, server_ttft=145.0)
    )
    assert "mostly prefill" in said


def test_what_the_server_did_not_see_is_outside():
    """TTFT rose for the client alone: the difference is the client's or the network's."""
    (said,) = diagnose(verdict("mean_ttft_ms", 0.5), boots(), boots(ttft=150.0))
    assert "mostly outside the server" in said


def test_tpot_with_and_without_larger_batches():
    """The same TPOT change reads differently when the steps carry more tokens."""
    (same,) = diagnose(verdict("mean_tpot_ms", 0.3), boots(), boots(step=4.1))
    (larger,) = diagnose(verdict("mean_tpot_ms", 0.3), boots(), boots(step=8.0))
    assert "same batch size" in same
    assert "larger batches (4.0 → 8.0" in larger


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"kv_peak": 0.09}, "KV peak 9%, 0 preemptions: more KV memory cannot help"),
        ({"kv_peak": 0.99}, "the KV cache is tight"),
        ({"kv_peak": 0.6, "vllm:num_preemptions_total": 3.0}, "3 preemptions: the KV cache is tight"),
    ],
)
def test_the_kv_cache_is_tight_or_it_is_not(more, expected):
    """A loose cache cannot be the cause; a full one, or preemptions, can."""
    said = diagnose(verdict("output_throughput", -0.1), boots(), boots(**more))
    assert any(expected in line for line in said)


def test_what_is_not_counted_is_not_said():
    """Runs without server counters give no finding, and no zeros."""
    bare = [BootRecord(id="b", runs=(RunRecord(metrics={"mean_ttft_ms": 1.0}),))]
    assert diagnose(verdict("mean_ttft_ms", 0.5), bare, bare) == []
    assert server_view(bare).preemptions is None


def test_invalid_runs_do_not_count():
    """What happened in an invalid run explains nothing."""
    (boot,) = boots(queue=500.0)
    (run,) = boot.runs
    broken = boot.model_copy(update={"runs": (run.model_copy(update={"invalid": ("x",), "metrics": {}}),)})
    assert server_view([broken]).queue_ms is None


PAGE = """# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_running{engine="1"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0
vllm:num_requests_waiting{engine="0"} NaN
"""


def test_gauges_are_read_by_meaning():
    """The fullest engine's cache, the requests of all engines; a NaN or another metric's name is not a sample."""
    assert gauges(PAGE) == {"kv_peak": 0.5, "running_peak": 4.0}


def test_the_sampler_keeps_the_peak_and_survives_a_silent_server():
    """A failing read costs one sample; the largest value of the others is kept, and the thread has ended afterwards."""
    pages = iter([PAGE, ServerError("no answer"), PAGE.replace("0.5", "0.75"), PAGE])
    enough = threading.Event()

    def page():
        found = next(pages, None)
        if found is None:
            enough.set()
            return PAGE
        if isinstance(found, Exception):
            raise found
        return found

    with Sampler(page, interval_s=0.001) as sampler:
        assert enough.wait(10)
    assert sampler.peaks["kv_peak"] == 0.75
    assert not sampler._thread.is_alive()
