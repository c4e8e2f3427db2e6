"""What the server's counters say about a verdict."""

import json
import threading
from pathlib import Path

import pytest

from perfgate.diagnosis import diagnose, server_view
from perfgate.effects import Effect, FlagReport
from perfgate.errors import ServerError
from perfgate.experiment.notes import setting_notes, view_notes
from perfgate.experiment.sampling import Sampler, gauges
from perfgate.records import BootRecord, Cell, CellVerdict, MetricVerdict, Outcome, RunRecord
from perfgate.server import ServerSpec

REAL = Path(__file__).parents[1] / "data" / "h100-0.25.1-diagnosis.json"
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


def counted(*, steps, generated, prompts, **more):
    """Boots whose engine made so many steps with so many output and prompt tokens."""
    tokens = {
        "vllm:iteration_tokens_total_sum": float(generated + prompts),
        "vllm:iteration_tokens_total_count": float(steps),
    }
    return boots(**tokens, **{"vllm:generation_tokens_total": float(generated)}, **more)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (counted(steps=100, generated=400, prompts=800), "at the same batch size (4.0 → 4.0 sequences a step): each step"
            " takes another time"),
        (counted(steps=50, generated=400, prompts=400), "with larger batches (4.0 → 8.0 sequences a step)"),
        (counted(steps=400, generated=400, prompts=800), "with smaller batches (4.0 → 1.0 sequences a step)"),
        (
            counted(steps=100, generated=400, prompts=1600),
            "at the same batch size (4.0 → 4.0 sequences a step), with more prefill in each step (8.0 → 16.0 prompt tokens beside them)",
        ),
        (
            counted(steps=50, generated=400, prompts=400, **{"vllm:num_preemptions_total": 3.0}),
            "with larger batches (4.0 → 8.0 sequences a step; 3 preemptions)",
        ),
    ],
)  # fmt: skip
def test_tpot_by_what_a_step_carries(now, expected):
    """Sequences decoded together, prompt tokens beside them and preemptions are told apart, where the server counts them."""
    before = counted(steps=100, generated=400, prompts=800)
    assert diagnose(verdict("mean_tpot_ms", 0.3), before, now)[0] == f"mean TPOT +30.0% {expected}"


def test_a_longer_queue_says_who_waits():
    """Where queueing explains TTFT, the sampled requests running and waiting are beside it."""
    now = boots(ttft=150.0, queue=58.0, server_ttft=143.0, running_peak=1.0, waiting_peak=3.0)
    (said,) = diagnose(verdict("mean_ttft_ms", 0.5), boots(), now)
    assert said.endswith("; at most 1 running and 3 waiting)")


def test_the_servers_view_in_one_line():
    """Stages, TTFT on both sides, what a step carries, cache, requests and tokens; what is not counted is not there."""
    made = counted(steps=100, generated=400, prompts=800, kv_peak=0.09, running_peak=4.0, waiting_peak=0.0)
    assert str(server_view(made)) == (
        "queue 10.0 ms, prefill 80.0 ms, TTFT 95.0 ms, +5.0 ms more for the client, 4.0 output and 8.0 prompt tokens a step, "
        "KV peak 9%, at most 4 running, at most 0 waiting, 0 preemptions, 0 prompt tokens from the prefix cache, 400 output tokens"
    )
    assert view_notes(made, side="old side: ")[0].startswith("old side: server: queue 10.0 ms")
    assert view_notes([BootRecord(id="b", runs=(RunRecord(metrics={"mean_ttft_ms": 1.0}),))]) == []


def test_settings_are_said_beside_the_verdict():
    """Overridden and accepted, not accepted, unknown and no longer to be accepted: each is a note, once, with its side."""
    flags = (
        FlagReport(name="--a", asked="1", running="2", effect=Effect.OVERRIDDEN, source="/server_info", because="line", accepted="known"),
        FlagReport(name="B", asked="1", effect=Effect.IGNORED, source="log"),
        FlagReport(name="--c", asked="", effect=Effect.UNKNOWN),
        FlagReport(name="--d", asked="1", running="1", effect=Effect.HONOURED, source="/server_info"),
    )  # fmt: skip
    made = [BootRecord(id=name, flags=flags, notes=("graphs",), runs=()) for name in ("1", "2")]
    spec = ServerSpec(
        name="s", args={"a": 1, "c": True, "d": 1}, env={"B": "1"}, accepts={"a": "known", "d": "old"}
    )
    assert setting_notes(spec, made, side="old side: ") == [
        "old side: graphs",
        "old side: --a 1: overridden, 2 runs (/server_info); accepted: known",
        "old side: B 1: ignored (log); not what was asked for",
        "old side: nothing says whether these are in effect: --c",
        "old side: accepts 'd', which is honoured here (/server_info): remove it",
    ]
    assert setting_notes(spec, [BootRecord(id="b", runs=())]) == []


def test_autotuning_that_was_none_before_is_said():
    """From no configuration to some there is no ratio to judge: the count is said instead."""
    cold = [boot.model_copy(update={"metrics": {"autotune_configs": 137.0}}) for boot in boots()]
    warm = [boot.model_copy(update={"metrics": {"autotune_configs": 0.0}}) for boot in boots()]
    passed = CellVerdict(cell=CELL, outcome=Outcome.PASS)
    assert diagnose(passed, warm, cold) == [
        "the boots benchmarked 137 autotune configurations, none before: the tuning is no longer in a cache"
    ]
    assert (
        diagnose(passed, cold, warm) == diagnose(passed, boots(), cold) == diagnose(passed, warm, warm) == []
    )


@pytest.mark.parametrize(
    ("case", "ttft", "tpot"),
    [
        ("max-num-seqs=4", ": mostly queueing (", "with smaller batches (15.9 → 4.0 sequences a step)"),
        (
            "small-tiles",
            ": mostly prefill (",
            "at the same batch size (15.9 → 15.9 sequences a step): each step takes another time",
        ),
    ],
)
def test_causes_that_are_known_are_found_in_the_counters_of_a_real_gpu(case, ttft, tpot):
    """On an H100 four slots for sixteen streams made them queue, and small MoE tiles made every step and so every prefill longer."""
    made = {
        side: [BootRecord(id="b", runs=tuple(RunRecord.model_validate(run) for run in runs))]
        for side, runs in json.loads(REAL.read_text())[case].items()
    }
    means = {
        side: {name: boot.runs[0].metrics[name] for boot in boots for name in boot.runs[0].metrics}
        for side, boots in made.items()
    }
    moved = [
        MetricVerdict(
            metric=name, outcome=Outcome.REGRESSION, change=means["now"][name] / before - 1, tolerance=0.02
        )
        for name, before in means["before"].items()
    ]
    judged = CellVerdict(cell=CELL, outcome=Outcome.REGRESSION, metrics=tuple(moved))
    first, second, third = diagnose(judged, made["before"], made["now"])
    assert ttft in first
    assert tpot in second
    assert third == "KV peak 0%, 0 preemptions: more KV memory cannot help"


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


def test_a_short_run_is_sampled_too():
    """The first sample is taken long before the interval has passed."""
    sampled = threading.Event()

    def page():
        sampled.set()
        return PAGE

    with Sampler(page, interval_s=60.0) as sampler:
        assert sampled.wait(10)
    assert sampler.peaks["kv_peak"] == 0.5


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
