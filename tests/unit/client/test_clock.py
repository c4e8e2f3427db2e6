"""How late the client's loop is."""

import asyncio
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from perfgate.client.clock import Heartbeat, waited_s
from perfgate.client.processes import _workers

PERIOD_NS = 1_000_000


def test_a_stop_of_the_loop_weighs_as_much_as_it_lasts():
    """A loop that stands still for 0.3 of 0.4 s is late by what a token at any moment waits, not by one beat of many."""

    async def run() -> tuple[list[int], list[int], int]:
        turns: list[int] = []

        def turn(_: int) -> None:
            turns.append(time.perf_counter_ns())

        beat = Heartbeat(asyncio.get_running_loop(), PERIOD_NS, turn)
        begun = time.perf_counter_ns()
        try:
            while not turns:
                await asyncio.sleep(0)
            time.sleep(0.3)  # the fault: nothing runs meanwhile
            while time.perf_counter_ns() - begun < 400_000_000:
                await asyncio.sleep(0)
        finally:
            beat.close()
        # Up to the last turn: this thread may wait for a processor after it.
        return list(beat.lags), turns, turns[-1] - begun

    lags, turns, took = asyncio.run(run())
    assert len(lags) == pytest.approx(took / PERIOD_NS, abs=2)
    assert max(lags) >= 299 * PERIOD_NS
    assert np.mean(lags) >= 0.3**2 / 2 / (took / 1e9) * 1e9 * 0.98
    assert len(turns) < len(lags) - 290, "the owner gets one turn for all that was missed"


def test_the_kernel_tells_how_long_a_thread_waited_for_a_processor():
    """Two threads of one core wait for each other for about as long as the other runs, and neither counts what it slept."""
    core = {min(os.sched_getaffinity(0))}
    rival = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {core})\nwhile True: pass"]
    )
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, core)
        begun, before = time.perf_counter(), waited_s()
        used = time.thread_time()
        while time.perf_counter() - begun < 1.0:
            pass
        waited, used, took = waited_s() - before, time.thread_time() - used, time.perf_counter() - begun
    finally:
        os.sched_setaffinity(0, allowed)
        rival.kill()
        rival.wait()
    assert waited + used == pytest.approx(took, rel=0.1)
    assert waited > 0.05


def test_load_processes_share_the_session_but_not_the_terminal():
    """The kernel shares the processor between sessions first: load processes stay in ours, in groups that a Ctrl-C does not reach."""
    with _workers(2) as workers:
        for worker in workers:
            assert os.getsid(worker.process.pid) == os.getsid(0)
            assert os.getpgid(worker.process.pid) == worker.process.pid
