"""The fuzz target on inputs that are the same every time; with atheris installed, a short run of the fuzzer itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.fuzz_stream import check

GOOD = (
    b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n'
    b'data: {"choices":[{"text":"b","finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
)


def test_the_target_lets_a_good_stream_through():
    """The checks are not passed by failing everything: a good stream is ok in each sound frame and cut."""
    for step in (0, 6, 255):
        assert check(bytes([3, step]) + GOOD) == "ok"
        assert check(bytes([2, step]) + GOOD) == "ok"


def test_two_thousand_damaged_streams_hold_every_check():
    """Bytes changed, dropped, doubled and swapped at places drawn from a fixed seed: never an exception, never a false success."""
    random = np.random.default_rng(36599)
    seen = set()
    for _ in range(2000):
        body = bytearray(GOOD)
        for _ in range(int(random.integers(1, 6))):
            at = int(random.integers(len(body)))
            kind = int(random.integers(4))
            if kind == 0:
                body[at] = int(random.integers(256))
            elif kind == 1:
                del body[at : at + int(random.integers(1, 40))]
            elif kind == 2:
                body[at:at] = body[at : at + int(random.integers(1, 40))]
            else:
                body[at:at] = bytes(random.choice([10, 13, 58, 0, 123, 34, 255], size=3).tolist())
            body = body or bytearray(b"x")
        seen.add(check(bytes([int(random.integers(32)), int(random.integers(256))]) + bytes(body)))
    assert {"ok", "malformed", "no_events", "truncated", "protocol", "no_usage"} <= seen


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)"
)
def test_a_short_run_of_the_fuzzer_finds_nothing(tmp_path):
    """2,000 inputs from a fixed seed, beginning with good streams, hold every check."""
    for shape in range(32):
        (tmp_path / f"good-{shape}").write_bytes(bytes([shape, 40]) + GOOD)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("fuzz_stream.py")),
            "-runs=2000",
            "-seed=1",
            "-max_len=600",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 2000 runs" in done.stderr
