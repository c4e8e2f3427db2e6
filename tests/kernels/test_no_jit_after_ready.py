"""A live server tunes and compiles nothing once it is ready: seen from inside its processes, and in its own log."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import httpx
import pytest

from perfgate.autotune.events import Event, describe, late_events, read_events
from perfgate.errors import CoverageError
from perfgate.selection import Target
from perfgate.server import RunningServer

pytestmark = pytest.mark.kernels

LENGTHS = (*range(1, 65), 65, 100, 1000)
MIXED = ((1, 20, 46), (64, 1, 1, 33), (100, 7, 1000, 16))
REQUEST_TIMEOUT_S = 300.0


def prompt_of(length: int) -> list[int]:
    """A prompt that no server has seen the beginning of: of one that prefix caching knows, less than ``length`` tokens are computed."""
    return [1 + secrets.randbelow(900) for _position in range(length)]


def ask_lengths(server: RunningServer, lengths: tuple[int, ...]) -> None:
    """Sends prompts of exactly these lengths as one request, so that they meet in a batch, and wants two tokens of each."""
    prompts = [prompt_of(length) for length in lengths]
    answer = httpx.post(
        f"{server.url}/v1/completions",
        headers=dict(server.headers),
        json={"model": server.model, "prompt": prompts, "max_tokens": 2, "ignore_eos": True},
        timeout=REQUEST_TIMEOUT_S,
    )
    assert answer.status_code == httpx.codes.OK, answer.text
    assert len(answer.json()["choices"]) == len(lengths)


@pytest.fixture(scope="module")
def after_ready() -> dict[str, tuple[Event, ...]]:
    """What each server recorded, asked once."""
    return {}


def events_of(server: RunningServer) -> tuple[Event, ...]:
    """Events of all processes of a server.

    Raises:
        CoverageError: nothing was recorded.
    """
    path = getattr(server, "events_path", None)
    if path is None:
        raise CoverageError(
            f"server {server.spec.name!r} was started without an events file, so nothing is known about it"
        )
    return read_events(Path(path))


@pytest.mark.e2e
def test_no_jit_after_ready(server: RunningServer) -> None:
    """Prompts of 1 to 64, 65, 100 and 1000 tokens, alone and mixed, meet no autotune benchmark and no compile."""
    before = events_of(server)
    mark, ready_at = server.log_mark(), time.time()
    for length in LENGTHS:
        ask_lengths(server, (length,))
    for lengths in MIXED:
        ask_lengths(server, lengths)
    late = late_events(events_of(server)[len(before) :], ready_at=ready_at)
    assert not late, describe(late)
    # The second witness: vLLM's own monitor, where the release has one.
    assert not server.compile_events(mark)


@pytest.mark.e2e
def test_every_engine_process_recorded(server: RunningServer, server_target: Target) -> None:
    """The recorder was in place where the model runs: the worker said when it was ready, and on a GPU its Triton is watched."""
    events = events_of(server)
    started = {event.pid: event.triton for event in events if event.kind == "start"}
    workers = {event.pid for event in events if event.kind == "ready"}
    assert workers
    assert workers <= set(started)
    if server_target.gpu.capability is not None:
        assert all(started[pid] for pid in workers), "no Triton to watch, so no event proves nothing"
