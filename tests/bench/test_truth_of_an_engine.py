"""What clients make of a fast server: what each adds to the truth, and what truth each causes."""

from __future__ import annotations

import os

import pytest

from tests.bench.batching_server import BatchingServer
from tests.bench.clients import measure, missing
from tests.bench.scripted_server import ScriptedServer
from tests.bench.test_client_cost import table

pytestmark = pytest.mark.bench

CLIENTS = ("perfgate", "vllm-rs bench serve", "vllm bench serve")
OUTPUT = 48
SHAPES = {
    16: (4, ["--front-ms=1", "--prefill-ms=40", "--decode-ms=4"]),
    256: (17, ["--front-ms=1", "--prefill-ms=60", "--decode-ms=17"]),
}
"""By streams: milliseconds a token, and an engine of about that pace; the paces of a small model on a large GPU."""


@pytest.mark.parametrize("streams", SHAPES)
@pytest.mark.parametrize("kind", ["independent streams", "an engine in steps"])
def test_what_each_client_adds_and_causes(streams, kind, capsys):
    """The same requests from every installed client: true TTFT and TPOT, and how far each report is from them."""
    pace, engine = SHAPES[streams]
    server = (
        ScriptedServer("--ttft-ms=60", f"--itl-ms={pace}")
        if kind.startswith("independent")
        else BatchingServer(*engine)
    )
    requests = streams * (24 if streams < 100 else 6)
    with server:
        os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})
        rows = [measure(server, name, streams, requests, OUTPUT) for name in CLIENTS if not missing(name)]
    with capsys.disabled():
        print(f"\n{streams} streams, {kind}, {requests} requests; load average {os.getloadavg()[0]:.1f}")
        print(table(rows))
        for row in rows:
            if "later_added_ms" in row:
                first, later = row["first_wave_added_ms"], row["later_added_ms"]
                print(f"{row['client']}: {first:.2f} ms added to the first wave, {later:.2f} to those after")
    assert rows[0]["client"] == "perfgate"
