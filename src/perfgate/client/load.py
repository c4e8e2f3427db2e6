"""Runs one workload against one endpoint, in this process or in several."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import uvloop

from perfgate.client.clock import now_ns, waited_s
from perfgate.client.drive import Driver, Plan, Progress
from perfgate.client.endpoint import Endpoint
from perfgate.client.part import Part, assemble, outcomes, read_part
from perfgate.client.pool import Pool
from perfgate.client.tape import Tape
from perfgate.errors import InputError, LoadError
from perfgate.timings import Ints, Timings
from perfgate.workload import Tokens, WorkloadSpec, arrivals

HEAD_START_NS = 20_000_000
"""From the decision to begin until t0."""

_EVENT_ROOM = 16 * 1024
_SPARE_ROOM = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What one load process does.

    Args:
        endpoint: the server.
        workload: deadlines and lengths.
        requests, indices: the measured requests and their numbers in the whole run.
        warmups: requests sent before, with the same slots.
        slots: most in flight; None for no limit.
        due_s: when each is due after t0; None in a closed loop.
        count_events: an event is a token where usage is missing.
        connections: how many to open beforehand.
    """

    endpoint: Endpoint
    workload: WorkloadSpec
    requests: Sequence[bytes]
    indices: Sequence[int]
    warmups: Sequence[bytes]
    slots: int | None
    due_s: Sequence[float] | None
    count_events: bool
    connections: int


def run_load(
    endpoint: Endpoint,
    workload: WorkloadSpec,
    *,
    prompts: Tokens,
    warmup_prompts: Tokens | None = None,
    seed: int,
    progress: Callable[[Progress], None] | None = None,
    after_warmup: Callable[[], None] | None = None,
    processes: int = 1,
    count_events: bool = False,
) -> Timings:
    """Sends one run's requests and returns what was seen; a failed request is part of the result, not an error.

    Blocks until every response has ended, or a deadline of the workload has passed. Ctrl-C cancels: every connection is closed and
    every load process has ended when KeyboardInterrupt leaves this function.

    Args:
        endpoint: the server.
        workload: how the requests arrive, their lengths and deadlines.
        prompts: token ids. Shape (num_prompts, input_len).
        warmup_prompts: token ids, sent first and not measured. Shape (warmups, input_len).
        seed: of the arrival schedule.
        progress: called about twice a second from within the run; it should be quick.
        after_warmup: called between the warm-ups and the first measured request, the place to read the server's counters.
        processes: load processes; more than one where one core is not enough.
        count_events: take each event for one token where the stream has no usage.

    Raises:
        InputError: prompts that are not the workload's, or more processes than slots.
        LoadError: the load could not be generated at all.
    """
    _check(workload, prompts, processes)
    requests = [endpoint.request(prompt, workload) for prompt in prompts]
    warmups = (
        [] if warmup_prompts is None else [endpoint.request(prompt, workload) for prompt in warmup_prompts]
    )
    due = arrivals(workload, seed=seed) if workload.request_rate is not None else None
    jobs = split(endpoint, workload, requests, warmups, due, processes=processes, count_events=count_events)
    with descriptors(sum(job.connections for job in jobs) if processes == 1 else 0):
        if processes == 1:
            begun, parts = _run_here(jobs[0], progress, after_warmup)
        else:
            from perfgate.client.processes import run_in_processes  # which builds on this module

            begun, parts = run_in_processes(jobs, progress, after_warmup)
    due_ns: Ints | None = None if due is None else begun + np.rint(due * 1e9).astype(np.int64)
    return assemble(
        parts,
        count=len(requests),
        begin_ns=begun,
        due_ns=due_ns,
        slots=workload.slots,
        started=datetime.fromtimestamp(time.time() - (now_ns() - begun) / 1e9, UTC),
    )


def split(
    endpoint: Endpoint,
    workload: WorkloadSpec,
    requests: Sequence[bytes],
    warmups: Sequence[bytes],
    due: Any,
    *,
    processes: int,
    count_events: bool,
) -> list[Job]:
    """Divides a run among processes: each gets its share of the slots, and requests in proportion to it."""
    lanes = workload.slots if workload.slots is not None else processes
    jobs = []
    for process in range(processes):
        mine = [index for index in range(len(requests)) if index % lanes % processes == process]
        slots = None if workload.slots is None else len(range(process, workload.slots, processes))
        expected = slots if slots is not None else int(min(64, (workload.request_rate or 1) + 1))
        jobs.append(
            Job(
                endpoint=endpoint,
                workload=workload,
                requests=[requests[index] for index in mine],
                indices=mine,
                warmups=warmups[process::processes],
                slots=slots,
                due_s=None if due is None else [float(due[index]) for index in mine],
                count_events=count_events,
                connections=min(expected, len(mine)),
            )
        )
    return jobs


class Session:
    """One load process at work: warm up, then the measured requests, then read what came back."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._pool = Pool(self._loop, job.endpoint)
        self._driver: Driver | None = None
        self._broken: BaseException | None = None
        self._warmup_failures: list[str] = []
        self._loop.set_exception_handler(self._on_error)

    async def warm_up(self) -> None:
        """Sends the warm-ups, and leaves enough connections open for the measured requests."""
        await self._pool.resolve()
        with Tape() as tape:
            begin = now_ns()
            await self._drive(self._plan(self._job.warmups, None, begin), tape, None)
            self._warmup_failures = outcomes(tape, count_events=self._job.count_events)
        await self._pool.fill(self._job.connections)

    async def measure(self, begin_ns: int, progress: Callable[[Progress], None] | None) -> Part:
        """Sends the measured requests from ``begin_ns`` on."""
        job = self._job
        due = None if job.due_s is None else [begin_ns + round(seconds * 1e9) for seconds in job.due_s]
        with Tape() as tape:
            cpu, waited = time.process_time(), waited_s()
            with _no_collection():
                lags = await self._drive(self._plan(job.requests, due, begin_ns), tape, progress)
            cpu, before, waited = time.process_time() - cpu, waited, waited_s()
            return read_part(
                tape,
                indices=job.indices,
                lags=lags,
                cpu_s=cpu,
                wait_s=None if before is None or waited is None else waited - before,
                connections=self._pool.opened,
                warmup_failures=self._warmup_failures,
                count_events=job.count_events,
            )

    async def close(self) -> None:
        """Closes every connection."""
        await self._pool.close()

    def _plan(self, requests: Sequence[bytes], due: Sequence[int] | None, begin: int) -> Plan:
        workload = self._job.workload
        return Plan(
            requests=requests,
            slots=self._job.slots,
            due_ns=due,
            begin_ns=begin,
            request_timeout_ns=round(workload.request_timeout_s * 1e9),
            give_up_ns=begin + round(workload.run_timeout_s * 1e9),
            room=workload.output_len * _EVENT_ROOM + _SPARE_ROOM,
        )

    async def _drive(self, plan: Plan, tape: Tape, report: Callable[[Progress], None] | None) -> Any:
        self._driver = Driver(self._loop, self._pool, plan, tape, report)
        if self._broken is not None:
            raise self._broken
        await self._driver.run()
        return self._driver.lags

    def _on_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something of ours broke in a callback: the run must not go on as if nothing had happened."""
        error = context.get("exception")
        if isinstance(error, OSError):  # a transport's own trouble; its connection reports it
            return
        self._broken = LoadError(f"the load generator broke: {context.get('message')}: {error!r}")
        if self._driver is not None:
            self._driver.fail(self._broken)


def _run_here(
    job: Job, progress: Callable[[Progress], None] | None, after_warmup: Callable[[], None] | None
) -> tuple[int, list[Part]]:
    async def main() -> tuple[int, list[Part]]:
        session = Session(job)
        try:
            await session.warm_up()
            if after_warmup is not None:
                after_warmup()
            begin = now_ns() + HEAD_START_NS
            return begin, [await session.measure(begin, progress)]
        finally:
            await session.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _check(workload: WorkloadSpec, prompts: Tokens, processes: int) -> None:
    if len(prompts) != workload.num_prompts:
        raise InputError(
            f"workload {workload.name!r}: {len(prompts)} prompts given, num_prompts is {workload.num_prompts}"
        )
    most = min(workload.num_prompts, workload.slots or workload.num_prompts)
    if not 1 <= processes <= most:
        raise InputError(
            f"workload {workload.name!r}: {processes} load processes for {most} requests at a time",
            remedy=f"Use 1 to {most}.",
        )


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection while measuring: a full one stops the loop for as long as the whole process is large."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def descriptors(connections: int) -> Iterator[None]:
    """Raises the soft limit of open files for as long as the run lasts, where it would not do.

    Raises:
        LoadError: the hard limit would not do either.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = connections + 256
    if soft != resource.RLIM_INFINITY and need > soft:
        if hard != resource.RLIM_INFINITY and need > hard:
            raise LoadError(
                f"{connections} connections need {need} open files, the limit is {hard}",
                remedy="Raise `ulimit -Hn`, or lower the concurrency.",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
