"""What the client costs, and what it adds to the latencies it reports, beside other clients on the same machine in the same minute."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.bench.clients import CLIENTS, installed, measure
from tests.bench.scripted_server import ScriptedServer

pytestmark = pytest.mark.bench

CONCURRENCY, REQUESTS, TOKENS = 512, 1024, 128
TTFT_MS, ITL_MS = 50, 20


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted server with a core to itself, where there are two."""
    with ScriptedServer(f"--ttft-ms={TTFT_MS}", f"--itl-ms={ITL_MS}") as running:
        os.sched_setaffinity(running.pid, {min(os.sched_getaffinity(0))})
        yield running


def test_cost_per_streamed_token_beside_other_clients(server, capsys):
    """Every installed client streams the same load from the same server; the table shows cost and error of each."""
    rows = []
    for client in CLIENTS:
        if not installed(client):
            continue
        rows.append(measure(server, client, CONCURRENCY, REQUESTS, TOKENS))
    assert rows[0]["client"] == "perfgate"
    with capsys.disabled():
        print(
            f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            f"\n{CONCURRENCY} streams, {ITL_MS} ms pacing, {REQUESTS} requests of {TOKENS} tokens, client on one core\n"
            f"{'client':<18}{'µs/token':>10}{'with reading':>14}{'TTFT ms':>10}{'true':>8}{'added':>8}"
            f"{'TPOT error':>12}{'bytes/token':>13}"
        )
        for row in rows:
            print(
                f"{row['client']:<18}{row['cpu_us']:>10.1f}{row['total_us']:>14.1f}{row['ttft_ms']:>10.1f}"
                f"{row['true_ttft_ms']:>8.1f}{row['ttft_ms'] - row['true_ttft_ms']:>8.1f}{row['tpot_error']:>12.2%}"
                f"{row['bytes']:>13.0f}"
            )


def test_ten_thousand_requests_in_one_run_within_bounded_memory(server, capsys):
    """10,000 requests of 32 tokens come back whole, and cost less than 1 KiB of memory a token event."""
    row = measure(server, "perfgate", CONCURRENCY, 10_000, 32)
    with capsys.disabled():
        print(f"\n10,000 requests: {row['bytes']:.0f} bytes and {row['total_us']:.1f} µs a token event")
    assert row["bytes"] < 1024
