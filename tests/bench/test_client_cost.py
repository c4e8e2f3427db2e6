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
    """Costs and errors; what a client adds to the mean TTFT is sending late and reading late, the last two columns are of single requests.

    ``busy`` is the share of the slots that had a request at the server.
    """
    lines = [
        f"{'client':<20}{'µs/token':>9}{'+reading':>9}{'B/token':>8}{'true TTFT':>10}{'added ms':>9}{'sending':>8}{'reading':>8}"
        f"{'true TPOT':>10}{'error':>8}{'busy':>7}{'P99 added':>10}{'P99 |TPOT|':>11}"
    ]
    for row in rows:
        single = [
            row.get(name) for name in ("sending_ms", "reading_ms", "worst_added_ms", "worst_tpot_error")
        ]
        sending, reading, added = ("–" if value is None else f"{value:.2f}" for value in single[:3])
        tpot = "–" if single[3] is None else f"{single[3]:.2%}"
        lines.append(
            f"{row['client']:<20}{row['cpu_us']:>9.1f}{row['total_us']:>9.1f}{row['bytes']:>8.0f}{row['true_ttft_ms']:>10.1f}"
            f"{row['added_ms']:>9.2f}{sending:>8}{reading:>8}{row['true_itl_ms']:>10.2f}{row['tpot_error']:>8.2%}"
            f"{row['busy']:>7.1%}{added:>10}{tpot:>11}"
        )
    return "\n".join(lines)
