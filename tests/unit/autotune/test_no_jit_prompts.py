"""What `tests/kernels/test_no_jit_after_ready.py` sends and reads, without a server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perfgate.autotune.eventlog import append
from perfgate.errors import CoverageError
from tests.kernels.test_no_jit_after_ready import LENGTHS, MIXED, events_of, prompt_of

SMALLEST_BLOCK = 16


def test_a_prompt_is_computed_in_full() -> None:
    """No two prompts of a session share a cached block: prefix caching would turn lengths that the test names into others."""
    sent = [*LENGTHS, *(length for lengths in MIXED for length in lengths)]
    prompts = [prompt_of(length) for length in sent]
    assert [len(prompt) for prompt in prompts] == sent
    beginnings = [tuple(prompt[:SMALLEST_BLOCK]) for prompt in prompts if len(prompt) >= SMALLEST_BLOCK]
    assert len(set(beginnings)) == len(beginnings)
    # The tiny models have 1024 tokens.
    assert all(0 < token < 1024 for prompt in prompts for token in prompt)


def test_the_lengths_are_those_that_were_promised() -> None:
    """1 to 64, 65, 100 and 1000 tokens."""
    assert set(LENGTHS) == {*range(1, 65), 65, 100, 1000}


def test_a_server_without_a_recorder_proves_nothing(tmp_path: Path) -> None:
    """No events file, or one in which nobody began to record, is an error and not a quiet server."""
    server: Any = SimpleNamespace(spec=SimpleNamespace(name="mine"), events_path=None)
    with pytest.raises(CoverageError, match="'mine' was started without an events file"):
        events_of(server)
    server.events_path = tmp_path / "events"
    append(server.events_path, {"kind": "ready", "time": 1.0, "pid": 1})
    with pytest.raises(CoverageError, match="no start of a recorder"):
        events_of(server)
    append(server.events_path, {"kind": "start", "time": 1.0, "pid": 1, "triton": "3.6.0"})
    assert len(events_of(server)) == 2
