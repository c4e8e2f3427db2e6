import dataclasses

import numpy as np
import pytest

from perfgate.client import judge_server, judge_validity, run_record
from perfgate.timings import Timings
from tests.unit.client.conftest import make_workload

WORKLOAD = make_workload(num_prompts=4)
SOUND = Timings(
    scheduled=np.array([0.0, 0.0, 0.5, 0.5]),
    ready=np.array([0.0, 0.0, 0.5, 0.5]),
    sent=np.array([0.0, 0.0, 0.5, 0.5]),
    first=np.array([0.1, 0.1, 0.6, 0.6]),
    last=np.array([0.5, 0.5, 1.0, 1.0]),
    ended=np.array([0.5, 0.5, 1.0, 1.0]),
    prompt_tokens=np.full(4, 7),
    output_tokens=np.full(4, 5),
    outcome=("ok",) * 4,
    detail=("",) * 4,
    events=np.tile(np.linspace(0.1, 0.5, 5), 4) + np.repeat([0.0, 0.0, 0.5, 0.5], 5),
    offsets=np.arange(0, 21, 5),
    duration=1.0,
    target_concurrency=2,
    closed_loop=True,
    client={"lag_mean_ms": 0.1, "lag_p99_ms": 2.0, "dispatch_mean_ms": 0.1, "dispatch_p99_ms": 0.5},
)


def but(**changes: object) -> Timings:
    return dataclasses.replace(SOUND, **changes)


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ({"cpu_wait_s": 0.4}, "others had its processor for 0.4 of 1.0 s, so use a less busy machine"),
        ({"cpu_wait_s": 0.01}, "it has too much to do for one process, so use more load processes"),
        ({}, "use more load processes, or a less busy machine"),
    ],
)
def test_a_late_client_says_whether_it_or_its_machine_was_too_busy(client, words):
    """The time it waited for a processor tells its own work from that of others; where the kernel does not tell, both are named."""
    (reason,) = judge_validity(but(client={"lag_mean_ms": 5.0, **client}), WORKLOAD)
    assert reason.endswith(words)


def test_a_sound_run_has_no_reason_against_it():
    """All requests ok with exact counts, little lag, both slots used: valid."""
    assert judge_validity(SOUND, WORKLOAD) == ()
    record = run_record(SOUND, WORKLOAD, seed=7, arrays=True)
    assert record.valid
    assert record.metrics["mean_ttft_ms"] == pytest.approx(100.0)
    assert record.seed == 7
    assert record.arrays is not None
    assert record.arrays.first == (0.1, 0.1, 0.6, 0.6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"outcome": ("ok", "reset", "ok", "timeout"), "detail": ("", "by peer", "", "in 5 s")},
            ["1 of 4 requests: reset (the first, number 1: by peer)", "1 of 4 requests: timeout"],
        ),
        (
            {"output_tokens": np.array([5, 4, 5, 1])},
            ["2 of 4 requests came back with 1 to 4 output tokens where 5"],
        ),
        (
            {"output_tokens": np.array([5, 5, 5, 6])},
            ["1 of 4 requests came back with 6 to 6 output tokens where 5"],
        ),
        (
            {"output_tokens": np.array([5, 2, 5, 5])},
            [
                "1 of 4 requests streamed more events than the tokens that the server counted (at most 5 where it counted 2)"
            ],
        ),
        (
            {"prompt_tokens": np.array([7, 8, 8, 7])},
            ["2 of 4 prompts counted 8 to 8 tokens at the server where 7"],
        ),
        ({"warmup_failures": ("connect: refused",)}, ["warm-ups failed (the first: connect: refused)"]),
        ({"client": {}}, ["too short to measure"]),
        (
            {"client": {"lag_mean_ms": 1.01}},
            ["ran what was ready 1.01 ms late on average, its limit is 1.00 ms"],
        ),
        ({"client": {"lag_mean_ms": 0.1, "lag_p99_ms": 26.0}}, ["26.00 ms late at the 99th percentile"]),
        (
            {"client": {"lag_mean_ms": 0.1, "dispatch_mean_ms": 5.1}},
            ["sent what was due 5.10 ms late", "mean E2EL 500.0"],
        ),
        (
            {"sent": np.array([0.0, 0.5, 0.5, 1.0]), "ended": np.array([0.5, 0.5, 1.0, 1.0])},
            ["1 requests were in flight"],
        ),
    ],
)
def test_each_rule_gives_its_reason_with_numbers(changes, words):
    """Whatever is wrong is said with what was seen and what was asked for."""
    reasons = judge_validity(but(**changes), WORKLOAD)
    for expected in words:
        assert any(expected in reason for reason in reasons), reasons
    assert run_record(but(**changes), WORKLOAD, invalid=reasons).metrics == {}


def test_answers_that_came_in_one_piece_are_no_stream():
    """Where no request had its tokens apart, a proxy held them back and TTFT is the whole latency; one that streamed is enough."""
    held = {"first": SOUND.last, "events": np.repeat(SOUND.last, 5)}
    assert any("in one piece" in reason for reason in judge_validity(but(**held), WORKLOAD))
    one = but(first=np.array([0.1, 0.5, 1.0, 1.0]), events=SOUND.events)
    assert judge_validity(one, WORKLOAD) == ()
    alone = {"events": SOUND.last, "offsets": np.arange(5), "first": SOUND.last}
    single = but(**alone, output_tokens=np.ones(4, dtype=np.int64))
    assert judge_validity(single, make_workload(num_prompts=4, output_len=1)) == ()


def test_role_and_end_may_have_events_of_their_own():
    """Two events more than tokens are a chat stream's role and reason of the end; a third is one too many."""
    assert judge_validity(but(output_tokens=np.full(4, 3)), make_workload(num_prompts=4, output_len=3)) == ()
    assert judge_validity(but(output_tokens=np.full(4, 2)), make_workload(num_prompts=4, output_len=2)) != ()


def test_lag_is_judged_by_the_ttft():
    """With a TTFT of a second the client may be 10 ms late on average, and not more."""
    slow = {
        "first": SOUND.first + 0.9,
        "last": SOUND.last + 0.9,
        "events": SOUND.events + 0.9,
        "ended": SOUND.ended + 0.9,
    }
    assert judge_validity(but(**slow, client={"lag_mean_ms": 9.9}), WORKLOAD) == ()
    assert judge_validity(but(**slow, client={"lag_mean_ms": 10.1}), WORKLOAD) != ()


def test_a_client_that_shares_its_cores_may_be_allowed_more_lag():
    """With 10 ms put up with, 9 ms on average and 200 ms in the tail pass, and 11 ms does not."""
    late = but(client={"lag_mean_ms": 9.0, "lag_p99_ms": 200.0})
    assert judge_validity(late, WORKLOAD) != ()
    assert judge_validity(late, WORKLOAD, lag_ms=10.0) == ()
    assert judge_validity(but(client={"lag_mean_ms": 11.0}), WORKLOAD, lag_ms=10.0) != ()


def test_prompt_lengths_are_not_judged_where_prompts_are_words():
    """A chat template adds tokens: only token ids have a known length."""
    longer = but(prompt_tokens=np.full(4, 20))
    assert judge_validity(longer, make_workload(num_prompts=4, api="chat")) == ()
    assert judge_validity(longer, WORKLOAD, exact_prompts=False) == ()
    assert judge_validity(but(prompt_tokens=np.full(4, -1)), WORKLOAD) == ()


def test_fewer_requests_than_asked_for_are_named():
    """A run of another number of requests is not this workload's."""
    assert "4 requests were made where 6" in judge_validity(SOUND, make_workload(num_prompts=6))[0]


def test_a_run_without_success_is_never_believed_even_if_nobody_judged_it():
    """A record of a run that measured nothing says so by itself."""
    failed = but(outcome=("reset",) * 4, detail=("x",) * 4)
    record = run_record(failed, WORKLOAD)
    assert not record.valid
    assert record.metrics == {}


def counters(**moved: float) -> tuple[dict[str, float], dict[str, float]]:
    names = {
        "success": "vllm:request_success_total",
        "preempted": "vllm:num_preemptions_total",
        "queries": "vllm:prefix_cache_queries_total",
        "hits": "vllm:prefix_cache_hits_total",
    }
    before = dict.fromkeys(names.values(), 100.0)
    return before, {full: 100.0 + moved.get(short, 0.0) for short, full in names.items()}


def test_a_servers_counters_of_a_sound_run_raise_nothing():
    """As many requests as were sent, no preemption, no prefix hit."""
    assert judge_server(*counters(success=4, queries=28), WORKLOAD) == ()
    assert judge_server({}, {}, WORKLOAD) == ()


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ({"success": 5}, "finished 5 requests while 4 were sent: somebody else"),
        ({"preempted": 3}, "3 preemptions"),
        ({"queries": 28, "hits": 16}, "16 of 28 prompt tokens came from the prefix cache, intended are none"),
        ({"success": -50}, "went back (vllm:request_success_total)"),
    ],
)
def test_each_rule_of_the_servers_counters_gives_its_reason(moved, words):
    """Strangers, preemptions, cached prompts and restarts are named with their numbers."""
    (reason,) = judge_server(*counters(**moved), WORKLOAD)
    assert words in reason


def test_preemption_is_no_reason_where_the_workload_allows_it():
    """allow_preemption means what it says."""
    assert judge_server(*counters(preempted=3), make_workload(num_prompts=4, allow_preemption=True)) == ()


def test_warmups_count_where_the_counters_include_them():
    """Counters read before the warm-ups may show that many requests more."""
    workload = make_workload(num_prompts=4, warmups=2)
    assert judge_server(*counters(success=6), workload, warmups_counted=True) == ()
    assert judge_server(*counters(success=6), workload) != ()


def test_a_shared_prefix_is_to_be_hit_in_whole_blocks_and_not_beyond():
    """Four prompts with 100 shared tokens in blocks of 16 hit 96 each; far fewer or more than 100 each is another run."""
    workload = make_workload(num_prompts=4, input_len=128, shared_prefix_len=100, warmups=1)
    assert judge_server(*counters(queries=512, hits=384), workload, block_size=16) == ()
    (reason,) = judge_server(*counters(queries=512, hits=96), workload, block_size=16)
    assert "should have given 384 in blocks of 16" in reason
    (reason,) = judge_server(*counters(queries=512, hits=448), workload, block_size=16)
    assert "at most 400, the shared prefix of 100" in reason


def test_a_server_without_prefix_cache_is_not_asked_for_hits():
    """No query of the cache means that it is off."""
    workload = make_workload(num_prompts=4, input_len=128, shared_prefix_len=100, warmups=1)
    assert judge_server(*counters(), workload, block_size=16) == ()
