"""What the client costs, and what it adds to the latencies it reports, beside other clients on the same machine in the same minute."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.bench.clients import CLIENTS, measure, missing
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
    rows = [measure(server, name, CONCURRENCY, REQUESTS, TOKENS) for name in CLIENTS if not missing(name)]
    assert rows[0]["client"] == "perfgate"
    with capsys.disabled():
        print(
            f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            f"\n{CONCURRENCY} streams, {ITL_MS} ms pacing, {REQUESTS} requests of {TOKENS} tokens, client on one core"
        )
        print(table(rows))
        for name in CLIENTS:
            if why := missing(name):
                print(f"{name}: not measured, {why}")


def test_ten_thousand_requests_in_one_run_within_bounded_memory(server, capsys):
    """10,000 requests of 32 tokens come back whole, and cost less than 1 KiB of memory a token event."""
    row = measure(server, "perfgate", CONCURRENCY, 10_000, 32)
    with capsys.disabled():
        print(f"\n10,000 requests\n{table([row])}")
    assert row["bytes"] < 1024


def table(rows: list[dict]) -> str:
    """Costs and errors; ``busy`` is the share of slots with a request at the server, the last two columns are of single requests."""
    lines = [
        f"{'client':<20}{'µs/token':>9}{'+reading':>9}{'B/token':>9}{'true TTFT':>11}{'added ms':>10}{'true TPOT':>11}"
        f"{'error':>9}{'busy':>8}{'P99 added ms':>14}{'P99 |TPOT error|':>18}"
    ]
    for row in rows:
        single = [row.get("worst_added_ms"), row.get("worst_tpot_error")]
        lines.append(
            f"{row['client']:<20}{row['cpu_us']:>9.1f}{row['total_us']:>9.1f}{row['bytes']:>9.0f}{row['true_ttft_ms']:>11.1f}"
            f"{row['added_ms']:>10.2f}{row['true_itl_ms']:>11.2f}{row['tpot_error']:>9.2%}{row['busy']:>8.1%}"
            f"{'–' if single[0] is None else f'{single[0]:.2f}':>14}{'–' if single[1] is None else f'{single[1]:.2%}':>18}"
        )
    return "\n".join(lines)
