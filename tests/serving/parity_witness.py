"""What a tap between client and server saw, as the metrics that both tools report; computed apart from either."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np


class Witness:
    """A running tap.

    Args:
        process: of `parity_tap.py`.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{int(self._answer())}"

    def take(self) -> list[dict[str, Any]]:
        """The requests since the last time, in the order in which they came."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: list[dict[str, Any]] = json.loads(self._answer())
        return found

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # ends at once if the process does
        assert line, "the tap between client and server has ended"
        return line


@contextmanager
def witness(url: str) -> Iterator[Witness]:
    """A tap in front of a server, in a process of its own."""
    parts = urlsplit(url)
    process = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("parity_tap.py")),
            str(parts.hostname),
            str(parts.port),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Witness(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def truth(seen: list[dict[str, Any]], concurrency: int) -> dict[str, float]:
    """The metrics of one run, and ``busy``: the share of its slots that had a request at the server, on average."""
    arrived = np.array([one["arrived"] for one in seen]) / 1e6
    first = np.array([one["events"][0] for one in seen]) / 1e6
    last = np.array([one["events"][-1] for one in seen]) / 1e6
    ended = np.array([one["ended"] for one in seen]) / 1e6
    tokens = np.array([one["tokens"] for one in seen])
    gaps = np.concatenate([np.diff(one["events"]) for one in seen]) / 1e6
    duration = (ended.max() - arrived.min()) / 1e3
    return {
        "output_throughput": float(tokens.sum() / duration),
        "request_throughput": len(seen) / float(duration),
        "mean_ttft_ms": float((first - arrived).mean()),
        "p99_ttft_ms": float(np.percentile(first - arrived, 99)),
        "mean_tpot_ms": float(((last - first) / (tokens - 1)).mean()),
        "mean_itl_ms": float(gaps.mean()),
        "p99_itl_ms": float(np.percentile(gaps, 99)),
        "busy": float((ended - arrived).sum() / 1e3 / duration / concurrency),
    }
