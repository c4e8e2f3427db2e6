"""The tap that stands between client and server in the parity test, before a server that knows the truth itself."""

from __future__ import annotations

import httpx
import numpy as np

from perfgate.client import Endpoint, run_load
from perfgate.metrics import summarise
from perfgate.workload import make_prompts
from tests.serving.parity_witness import truth, witness
from tests.unit.client.conftest import make_workload

SLACK_NS = 100_000
"""A kernel's stamp is of another clock, and is put on ours by reading both."""


def test_every_stamp_of_the_witness_lies_between_the_clients_and_the_servers(scripted):
    """A request comes to the tap before the server has it; an event leaves the tap after the server, and before the client has it."""
    workload = make_workload(script={"ttft_ms": 30, "itl_ms": 5}, concurrency=4, num_prompts=12, output_len=6)
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000).measured
    with witness(scripted.url) as tap:
        scripted.truth()
        run = run_load(Endpoint(url=tap.url, model="scripted"), workload, prompts=prompts, seed=1)
        seen, server = tap.take(), scripted.truth()
        assert tap.take() == []
    assert run.ok.all()
    assert [one["tokens"] for one in seen] == [6] * 12
    arrived = np.sort([one["arrived"] for one in seen])
    assert (np.sort(server["received_ns"]) + SLACK_NS >= arrived).all()
    passed, written = (
        np.sort(np.array(rows), axis=0) for rows in ([one["events"] for one in seen], server["writes_ns"])
    )
    assert passed.shape == (12, 6)
    assert (passed + SLACK_NS >= written).all()
    # The client reports from t0 on, so its own times are compared as lengths.
    saw, true = summarise(run), truth(seen, concurrency=4)
    assert saw["mean_ttft_ms"] >= true["mean_ttft_ms"] - SLACK_NS / 1e6
    assert saw["mean_e2el_ms"] - true["mean_ttft_ms"] >= 5 * true["mean_tpot_ms"] - SLACK_NS / 1e6
    assert 0 < true["busy"] <= 1


def test_the_witness_passes_large_requests_and_other_paths_on_unchanged(scripted):
    """A prompt of several reads is one request; what is no completion is answered and not counted."""
    workload = make_workload(input_len=60_000, num_prompts=2)
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000).measured
    with witness(scripted.url) as tap:
        run = run_load(Endpoint(url=tap.url, model="scripted"), workload, prompts=prompts, seed=1)
        with httpx.Client(base_url=tap.url, trust_env=False) as control:
            assert control.get("/v1/models").json()["data"][0]["id"] == "scripted"
        seen = tap.take()
    assert run.ok.all()
    assert run.prompt_tokens.tolist() == [60_000] * 2
    assert len(seen) == 2


def test_a_response_cut_short_is_cut_short_behind_the_tap(scripted):
    """What breaks at the server breaks at the client; the tap mends nothing."""
    workload = make_workload(script={"fault": "reset", "fault_at": 2}, num_prompts=2)
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000).measured
    with witness(scripted.url) as tap:
        run = run_load(Endpoint(url=tap.url, model="scripted"), workload, prompts=prompts, seed=1)
    assert set(run.outcome) <= {"reset", "truncated"}


def test_a_server_that_is_not_there_is_not_there_behind_the_tap():
    """A connection that the tap cannot make is closed, not kept waiting."""
    workload = make_workload(num_prompts=1, concurrency=1)
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000).measured
    with witness("http://127.0.0.1:1") as tap:
        run = run_load(Endpoint(url=tap.url, model="scripted"), workload, prompts=prompts, seed=1)
    assert run.outcome == ("reset",)
