"""The client against a real server in its own process that answers by script."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from perfgate.client import Endpoint, judge_validity, run_load, run_record
from perfgate.errors import InputError, LoadError
from perfgate.metrics import summarise
from perfgate.workload import arrivals, make_prompts
from tests.unit.client.conftest import make_workload

HERE = Path(__file__).parents[3]


def sockets() -> int:
    return sum(1 for item in psutil.Process().net_connections() if item.status != psutil.CONN_LISTEN)


def test_a_sound_run_is_valid_and_counts_every_token(load, scripted):
    """Six requests of five tokens: all ok, exact counts, two in flight, connections kept, and the server agrees."""
    run = load(warmups=2, script={"itl_ms": 5})
    workload = make_workload(warmups=2)
    assert run.outcome == ("ok",) * 6
    assert run.output_tokens.tolist() == [5] * 6
    assert run.prompt_tokens.tolist() == [7] * 6
    assert run.event_counts.tolist() == [5] * 6
    assert run.peak_concurrency() == 2
    assert not [
        reason for reason in judge_validity(run, workload) if "late" not in reason and "short" not in reason
    ]
    truth = scripted.truth()
    assert len(truth["received_ns"]) == 8  # the warm-ups too
    assert truth["connections"] == 3  # two of ours, and one that asked for the truth


def test_times_are_the_servers_own(load, scripted):
    """With 40 ms to the first event and 10 ms a token, TTFT, TPOT and E2EL are those the server knows, within a busy machine's slack."""
    run = load(script={"ttft_ms": 40, "itl_ms": 10}, concurrency=3, output_len=20)
    truth = scripted.truth()
    received, writes = np.array(truth["received_ns"]), np.array(truth["writes_ns"])
    true_ttft = (writes[:, 0] - received).mean() / 1e6
    true_tpot = ((writes[:, -1] - writes[:, 0]) / 19).mean() / 1e6
    found = summarise(run)
    assert true_ttft - 0.5 < found["mean_ttft_ms"] < true_ttft + 15
    assert found["mean_tpot_ms"] == pytest.approx(true_tpot, rel=0.1)
    assert (run.sent <= run.first).all()
    assert (run.first <= run.last).all()
    assert (run.last <= run.ended).all()
    assert run.duration == run.ended.max()


@pytest.mark.parametrize(
    "script",
    [
        {"cut": 1},
        {"cut": 7},
        {"cut": 1, "eol": "\r\n"},
        {"eol": "\r\n"},
        {"eol": "\r"},
        {"together": 3},
        {"together": 99},
        {"comments": True},
        {"framing": "length"},
        {"framing": "close"},
        {"framing": "length", "cut": 5},
        {"keep": False},
        {"interim": True},
        {"interim": True, "cut": 3},
        {"usage": "continuous"},
        {"done": False},
        {"finish": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("api", ["completions", "chat"])
def test_every_sound_shape_of_answer_succeeds(load, script, api):
    """Cuts, coalescing, line ends, comments, framings, closed connections, interim heads: all are whole answers with exact counts."""
    run = load(script=script, api=api)
    assert run.outcome == ("ok",) * 6, run.detail
    assert run.output_tokens.tolist() == [5] * 6
    assert run.event_counts.tolist() == [5] * 6


def test_coalesced_tokens_are_counted_by_usage(load):
    """Two tokens an event: three events, five tokens, TPOT from the tokens."""
    run = load(script={"per_event": 2, "itl_ms": 10})
    assert run.event_counts.tolist() == [3] * 6
    assert run.output_tokens.tolist() == [5] * 6
    assert np.nanmean(run.tpot) == pytest.approx(np.nanmean(run.last - run.first) / 4)


@pytest.mark.parametrize(
    ("script", "outcome", "words"),
    [
        ({"status": 503}, "http_error", "HTTP 503"),
        (
            {"status": 400, "body": '{"error": {"message": "max_tokens is too large"}}'},
            "http_error",
            "too large",
        ),
        ({"status": 429, "framing": "length"}, "http_error", "HTTP 429"),
        ({"status": 500, "framing": "close"}, "http_error", "HTTP 500"),
        ({"fault": "reset", "fault_at": 0}, "reset", ""),
        ({"fault": "reset", "fault_at": 3}, "reset", ""),
        ({"fault": "close", "fault_at": 0}, "reset", "without an answer"),
        ({"fault": "close", "fault_at": 3}, "truncated", "after 3 events"),
        ({"fault": "error_event", "fault_at": 2}, "error_event", "engine died"),
        ({"fault": "bad_json", "fault_at": 2}, "malformed", "in event"),
        ({"fault": "bad_utf8", "fault_at": 2}, "malformed", "in event"),
        ({"fault": "no_object", "fault_at": 2}, "malformed", "no object"),
        ({"fault": "bad_usage", "fault_at": 2}, "malformed", "usage"),
        ({"fault": "bad_chunk", "fault_at": 2}, "truncated", ""),
        ({"fault": "not_http", "fault_at": 0}, "protocol", "not HTTP"),
        ({"fault": "flood", "fault_at": 2}, "oversized", ""),
        ({"usage": "none"}, "no_usage", "no usage"),
        ({"done": False, "finish": False}, "truncated", "neither"),
    ],
    ids=str,
)
def test_every_failure_is_counted_as_what_it_is_and_leaks_nothing(load, scripted, script, outcome, words):
    """A failing server makes a result with its reason and no metrics; afterwards neither side has a connection left."""
    before = sockets()
    run = load(script=script)
    if script.get("fault") == "bad_chunk":
        assert set(run.outcome) <= {"truncated", "protocol"}
    else:
        assert set(run.outcome) == {outcome}
        assert words in run.detail[0]
    assert np.isfinite(run.ended).all()
    workload = make_workload()
    reasons = judge_validity(run, workload)
    assert any("6 of 6 requests" in reason for reason in reasons)
    record = run_record(run, workload, invalid=reasons)
    assert record.metrics == {}
    assert record.invalid == reasons
    assert sockets() == before
    assert scripted.truth()["open"] == 0


def test_one_failure_among_successes_spoils_the_run_and_not_the_others(scripted):
    """A single bad request is named with its number; the others keep their times."""
    workload = make_workload(num_prompts=8)
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000)

    class Odd(Endpoint):
        def request(self, prompt, workload):
            bad = (prompt == prompts.measured[5]).all()
            script = {"script": {"fault": "close", "fault_at": 2}} if bad else {}
            return super().request(prompt, workload.model_copy(update={"extra_body": script}))

    run = run_load(Odd(url=scripted.url, model="scripted"), workload, prompts=prompts.measured, seed=1)
    assert Counter(run.outcome) == {"ok": 7, "truncated": 1}
    assert run.outcome[5] == "truncated"
    (reason,) = (reason for reason in judge_validity(run, workload) if "truncated" in reason)
    assert "1 of 8" in reason
    assert "number 5" in reason


def test_a_stalled_request_ends_at_its_deadline_and_the_run_goes_on(load):
    """A server that falls silent costs each request its own deadline, no more, and none hangs."""
    begun = time.monotonic()
    run = load(script={"fault": "stall", "fault_at": 2}, request_timeout_s=0.3, num_prompts=4)
    assert set(run.outcome) == {"timeout"}
    assert "within 0.3 s" in run.detail[0]
    assert run.event_counts.tolist() == [2] * 4
    assert time.monotonic() - begun < 10


def test_the_runs_deadline_ends_everything(load, scripted):
    """What is under way at the run's deadline is given up, what was waiting is not sent, and each says so."""
    run = load(script={"fault": "stall"}, run_timeout_s=0.4, num_prompts=6)
    assert Counter(run.outcome) == {"run_timeout": 2, "not_sent": 4}
    reasons = " ".join(judge_validity(run, make_workload()))
    assert "2 of 6 requests: run_timeout" in reasons
    assert "4 of 6 requests: not_sent" in reasons
    assert scripted.truth()["open"] == 0


def test_a_trickle_is_no_stall_and_still_meets_its_deadline(load):
    """Bytes that keep coming one by one do not extend the deadline."""
    run = load(script={"cut": 1, "cut_gap_ms": 5}, request_timeout_s=0.5, num_prompts=2)
    assert set(run.outcome) == {"timeout"}


def test_nobody_listening_fails_each_request_at_once(load):
    """A refused connection is each request's result, and the run ends at once however many there are."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    begun = time.monotonic()
    run = load(url=url, num_prompts=500)
    assert set(run.outcome) == {"connect"}
    assert "refused" in run.detail[0].lower()
    assert time.monotonic() - begun < 10


def test_a_server_that_accepts_and_never_answers_is_a_timeout(load):
    """An open port with nobody behind it meets the deadline."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        run = load(url=f"http://127.0.0.1:{silent.getsockname()[1]}", request_timeout_s=0.3, num_prompts=2)
    assert set(run.outcome) == {"timeout"}


def test_an_unknown_host_is_an_error_that_names_it(load):
    """Without an address there is no load at all: an error, not a run."""
    with pytest.raises(LoadError, match=r"no-such-host\.invalid"):
        load(url="http://no-such-host.invalid:8000")


def test_a_server_that_goes_back_on_its_idle_connections_costs_nothing(load):
    """Connections closed by the server between requests are replaced, not failed."""
    run = load(script={"keep": False}, concurrency=1, num_prompts=20)
    assert run.outcome == ("ok",) * 20
    assert run.client["connections"] == 20


def test_failed_warmups_make_the_run_invalid(scripted):
    """A warm-up that fails is named, though all measured requests succeed."""
    workload = make_workload(warmups=3)
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000)
    bad = prompts.warmup[1]

    class Odd(Endpoint):
        def request(self, prompt, workload):
            script = {"script": {"status": 500}} if (prompt == bad).all() else {}
            return super().request(prompt, workload.model_copy(update={"extra_body": script}))

    run = run_load(
        Odd(url=scripted.url, model="scripted"),
        workload,
        prompts=prompts.measured,
        warmup_prompts=prompts.warmup,
        seed=1,
    )
    assert run.outcome == ("ok",) * 6
    assert any(
        "1 of 3 warm-ups failed (the first: http_error" in reason for reason in judge_validity(run, workload)
    )


def test_the_hook_runs_between_warmups_and_measured_requests(load, scripted):
    """After the warm-ups and before the first measured request, the caller may read the server's counters."""
    seen = []
    load(warmups=3, options={"after_warmup": lambda: seen.append(len(scripted.truth()["received_ns"]))})
    assert seen == [3]
    assert len(scripted.truth()["received_ns"]) == 6


def test_an_open_loop_sends_by_the_clock(load, scripted):
    """Requests leave when they are due, whatever the answers do, and the server receives them then."""
    workload = make_workload(concurrency=None, request_rate=100.0, num_prompts=50)
    run = load(concurrency=None, request_rate=100.0, num_prompts=50, script={"ttft_ms": 200})
    assert run.scheduled == pytest.approx(arrivals(workload, seed=1), abs=1e-6)
    assert np.median(run.sent - run.scheduled) < 0.005
    received = np.array(scripted.truth()["received_ns"])
    assert np.diff(received).sum() / 1e9 == pytest.approx(np.diff(run.sent).sum(), abs=0.05)
    assert run.peak_concurrency() > 10
    assert run.target_concurrency is None


def test_an_open_loop_with_a_cap_shows_its_queue(load):
    """Beyond max_concurrency requests wait: TTFT does not show it, the TTFT from schedule does, and the client is not to blame."""
    changes = {"concurrency": None, "request_rate": 200.0, "max_concurrency": 2, "num_prompts": 20}
    run = load(script={"ttft_ms": 30}, **changes)
    found = summarise(run)
    assert run.peak_concurrency() == 2
    assert found["mean_scheduled_ttft_ms"] > found["mean_ttft_ms"] + 50
    assert np.median(run.sent - run.ready) < 0.005
    assert not [
        reason for reason in judge_validity(run, make_workload(**changes), lag_ms=50.0) if "due" in reason
    ]


@pytest.mark.parametrize("changes", [{"concurrency": 5}, {"concurrency": None, "request_rate": 100.0}])
def test_several_processes_measure_one_run(load, scripted, changes):
    """Two processes share the slots or the schedule, begin together, and their times come as one run of one clock."""
    run = load(
        script={"ttft_ms": 20, "itl_ms": 2}, num_prompts=20, warmups=4, options={"processes": 2}, **changes
    )
    assert run.outcome == ("ok",) * 20
    assert run.client["processes"] == 2
    truth = scripted.truth()
    assert len(truth["received_ns"]) == 24
    true_ttft = np.mean(
        [writes[0] - got for got, writes in zip(truth["received_ns"], truth["writes_ns"], strict=True)]
    )
    assert summarise(run)["mean_ttft_ms"] == pytest.approx(true_ttft / 1e6, abs=15)
    if changes["concurrency"]:
        assert run.peak_concurrency() == 5
        assert run.sent.min() < 0.1


def test_more_processes_than_slots_are_refused(load):
    """A process without a slot would do nothing."""
    with pytest.raises(InputError, match="3 load processes for 2 requests"):
        load(options={"processes": 3})


def test_a_load_process_that_dies_is_an_error_and_the_others_are_reaped(load, scripted):
    """A killed load process ends the run with its status, and leaves no process behind."""
    own = psutil.Process()
    before = {child.pid for child in own.children()}

    def kill_one() -> None:
        (victim, *_) = (child for child in own.children() if child.pid not in before)
        victim.kill()

    with pytest.raises(LoadError, match="ended with status -9"):
        load(script={"ttft_ms": 500}, options={"processes": 2, "after_warmup": kill_one})
    assert {child.pid for child in own.children()} == before


def test_a_load_process_ends_with_its_parent(scripted):
    """When the parent is killed outright, no load process stays."""
    program = f"""
from perfgate.client import Endpoint, run_load
from perfgate.workload import make_prompts
from tests.unit.client.conftest import make_workload

workload = make_workload(script={{"fault": "stall"}})
prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000)
run_load(
    Endpoint(url={scripted.url!r}, model="m"),
    workload,
    prompts=prompts.measured,
    seed=1,
    processes=2,
    after_warmup=lambda: print("ready", flush=True),
)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=HERE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_interrupt_closes_every_connection(load, scripted):
    """Ctrl-C ends the run at once with KeyboardInterrupt, and neither side has a connection left."""
    before = sockets()
    # A process started in the background by a script ignores SIGINT, and Python then leaves it so.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            load(script={"fault": "stall"})
    finally:
        signal.signal(signal.SIGINT, kept)
    assert time.monotonic() - begun < 5
    assert sockets() == before
    assert scripted.truth()["open"] == 0


def test_progress_counts_up_to_the_end(load):
    """Progress is told during the run and once more at its end, with every request completed."""
    told = []
    load(script={"ttft_ms": 400}, options={"progress": told.append})
    assert len(told) >= 2
    assert told[-1].completed == told[-1].total == 6
    assert told[-1].in_flight == 0
    assert told[0].in_flight == 2


def test_a_client_that_is_held_up_makes_its_run_invalid(load):
    """A loop that stands still for 300 ms now and then is late for tokens too: it says by how much, and the run is not believed."""
    held = []

    def hold(progress: object) -> None:
        held.append(time.sleep(0.3))

    run = load(script={"ttft_ms": 20, "itl_ms": 10}, output_len=60, num_prompts=8, options={"progress": hold})
    assert len(held) >= 4
    assert run.client["lag_max_ms"] >= 250
    (mean, *_) = (
        reason
        for reason in judge_validity(run, make_workload(output_len=60, num_prompts=8))
        if reason.startswith("the client ran what was ready")
    )
    assert "use more load processes" in mean


def test_an_error_in_a_callback_ends_the_run(load):
    """When something of the client's own breaks in the loop, the run does not go on as if nothing had happened."""

    def broken(progress: object) -> None:
        raise ZeroDivisionError("in progress")

    with pytest.raises(LoadError, match="in progress"):
        load(script={"fault": "stall"}, options={"progress": broken})


def test_prompts_that_are_not_the_workloads_are_refused(scripted):
    """A number of prompts other than num_prompts is bad input."""
    workload = make_workload()
    with pytest.raises(InputError, match="2 prompts given, num_prompts is 6"):
        run_load(
            Endpoint(url=scripted.url, model="m"), workload, prompts=np.ones((2, 7), dtype=np.int32), seed=1
        )


def test_times_agree_with_a_plain_httpx_client(scripted):
    """httpx, reading the same answers line by line, sees the same numbers of events, the same usage, and about the same times."""
    workload = make_workload(
        script={"ttft_ms": 300, "itl_ms": 60}, concurrency=1, num_prompts=3, output_len=10
    )
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000)
    endpoint = Endpoint(url=scripted.url, model="scripted")
    run = run_load(endpoint, workload, prompts=prompts.measured, seed=1)
    ttfts, totals, counts = [], [], []
    with httpx.Client() as client:
        for prompt in prompts.measured:
            _, _, body = endpoint.request(prompt, workload).partition(b"\r\n\r\n")
            begun = time.perf_counter()
            with client.stream("POST", scripted.url + "/v1/completions", content=body) as answer:
                times = [time.perf_counter() - begun for line in answer.iter_lines() if '"text"' in line]
            ttfts.append(times[0])
            totals.append(times[-1])
            counts.append(len(times))
    assert run.event_counts.tolist() == counts
    # A busy machine adds tens of milliseconds to either; the script's own times are hundreds apart.
    assert np.median(run.ttft) == pytest.approx(np.median(ttfts), abs=0.15)
    assert np.median(run.e2el) == pytest.approx(np.median(totals), abs=0.15)
