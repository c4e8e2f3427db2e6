"""Sends requests: in a closed loop as slots become free, in an open loop as they become due."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from perfgate.client.clock import Alarm, Heartbeat, now_ns
from perfgate.client.pool import Pool
from perfgate.client.tape import Tape
from perfgate.client.turns import Turns
from perfgate.client.wire import Connection, Recording

_BEAT_NS = 10_000_000
_BEATS_PER_CHECK = 5
_BEATS_PER_REPORT = 50


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Args:
        elapsed_s: since the first arrival.
        total: requests of the run.
        completed: requests whose response has ended or failed.
        in_flight: requests under way.
        reads: reads so far, about one a token.
    """

    elapsed_s: float
    total: int
    completed: int
    in_flight: int
    reads: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What one load process sends in one go.

    Args:
        requests: the bytes of each request.
        slots: most in flight; None for no limit.
        due_ns: when each is due, monotonic; None in a closed loop, where the next is due when a slot is free.
        begin_ns: monotonic time at which to begin.
        request_timeout_ns: from sending to the end of the response.
        give_up_ns: monotonic time at which whatever is under way is given up.
        room: most bytes of one response.
    """

    requests: Sequence[bytes]
    slots: int | None
    due_ns: Sequence[int] | None
    begin_ns: int
    request_timeout_ns: int
    give_up_ns: int
    room: int


class Driver:
    """Carries out one plan.

    Args:
        loop: the loop to run in.
        pool: where connections come from and go back to.
        plan: what to send.
        tape: takes the recordings.
        report: called every half second, and at the end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        plan: Plan,
        tape: Tape,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._plan = plan
        self._tape = tape
        self._report = report
        self._next = 0
        self._queue: deque[int] = deque()
        self._active: dict[int, Connection] = {}
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._free = plan.slots if plan.slots is not None else len(plan.requests)
        self._refills = Turns(loop)
        self._beats = 0
        self._reads = 0
        self._completed = 0
        self._stopped = False
        self._gave_up = False
        self._finished: asyncio.Future[None] = loop.create_future()
        self.lags = array("q")

    async def run(self) -> None:
        """Returns when every request has ended, or the plan's deadline has passed; on cancellation nothing is left open."""
        if not self._plan.requests:
            return
        beat: Heartbeat | None = None
        alarm = Alarm(self._loop, self._begin)
        try:
            alarm.set(self._plan.begin_ns)
            beat = Heartbeat(self._loop, _BEAT_NS, self._turn)
            self.lags = beat.lags
            if self._plan.due_ns is not None:
                self._arrival = Alarm(self._loop, self._arrive)
            await self._finished
        finally:
            self._stopped = True
            alarm.close()
            if beat is not None:
                beat.close()
            if self._plan.due_ns is not None:
                self._arrival.close()
            for connection in list(self._active.values()):
                connection.close()
            tasks = list(self._connecting.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._tell(now_ns())

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error: something of ours broke in a callback."""
        if not self._finished.done():
            self._finished.set_exception(error)

    # Closed loop.

    def _begin(self) -> None:
        if self._plan.due_ns is not None:
            self._arrive()
        else:
            self._open_slot(min(self._free, len(self._plan.requests)))

    def _open_slot(self, left: int) -> None:
        """Starts one request and leaves the next to the loop's next turn: answers are read between."""
        if self._stopped or self._next >= len(self._plan.requests):
            return
        now = now_ns()
        self._dispatch(self._take(), self._plan.begin_ns, now)
        if left > 1:
            self._loop.call_soon(self._open_slot, left - 1)

    def _take(self) -> int:
        position = self._next
        self._next += 1
        return position

    # Open loop.

    def _arrive(self) -> None:
        """Sends one request that is due, if a slot is free, and sets the alarm for the next."""
        due = self._plan.due_ns
        assert due is not None
        if self._stopped or self._next >= len(due):
            return
        now = now_ns()
        if due[self._next] <= now:
            position = self._take()
            if self._free > 0:
                self._free -= 1
                self._dispatch(position, due[position], due[position])
            else:
                self._queue.append(position)
        if self._next < len(due):
            self._arrival.set(due[self._next])

    # Both.

    def _dispatch(self, position: int, scheduled: int, ready: int) -> None:
        connection = self._pool.take()
        if connection is not None:
            self._send(connection, position, scheduled, ready, now_ns())
        else:
            task = self._loop.create_task(self._connect_and_send(position, scheduled, ready, now_ns()))
            self._connecting[position] = task

    def _send(self, connection: Connection, position: int, scheduled: int, ready: int, sent: int) -> None:
        self._active[position] = connection
        connection.send(
            self._plan.requests[position],
            index=position,
            scheduled_ns=scheduled,
            ready_ns=ready,
            sent_ns=sent,
            deadline_ns=sent + self._plan.request_timeout_ns,
            room=self._plan.room,
            done=self._done,
        )

    async def _connect_and_send(self, position: int, scheduled: int, ready: int, sent: int) -> None:
        until = min(sent + self._plan.request_timeout_ns, self._plan.give_up_ns)
        cause, detail = "connect", ""
        try:
            async with asyncio.timeout(max(0.0, (until - now_ns()) / 1e9)):
                connection = await self._pool.connect()
        except TimeoutError:
            cause = "timeout" if until < self._plan.give_up_ns else "run_timeout"
            detail = "no connection before the deadline"
        except OSError as error:
            detail = str(error) or type(error).__name__
        except asyncio.CancelledError:
            if not self._gave_up:
                raise
            cause, detail = "run_timeout", "the run's deadline passed before there was a connection"
        else:
            del self._connecting[position]
            self._send(connection, position, scheduled, ready, sent)
            return
        del self._connecting[position]
        self._over(
            Recording(
                index=position,
                scheduled_ns=scheduled,
                ready_ns=ready,
                sent_ns=sent,
                ended_ns=now_ns(),
                stamps=array("q"),
                ends=array("q"),
                raw=b"",
                complete=False,
                cause=cause,
                detail=detail,
            )
        )

    def _done(self, connection: Connection, recording: Recording) -> None:
        del self._active[recording.index]
        self._reads += len(recording.stamps)
        self._pool.give(connection)
        self._over(recording)

    def _over(self, recording: Recording) -> None:
        self._tape.put(recording)
        self._completed += 1
        if self._stopped:
            return
        freed = recording.ended_ns
        if self._plan.due_ns is None or self._queue:
            self._refills.add(partial(self._refill, freed))
        else:
            self._free += 1
        if self._completed == len(self._plan.requests) and not self._finished.done():
            self._finished.set_result(None)

    def _refill(self, freed: int) -> None:
        """Hands on a slot that became free: when a wave of responses ends together, what is sent goes out at once, not after the wave."""
        if self._stopped:
            return
        due = self._plan.due_ns
        if due is None:
            if self._next < len(self._plan.requests):
                self._dispatch(self._take(), freed, freed)
        elif self._queue:
            position = self._queue.popleft()
            self._dispatch(position, due[position], max(freed, due[position]))
        else:
            self._free += 1

    def _turn(self, now: int) -> None:
        self._beats += 1
        if self._beats % _BEATS_PER_CHECK == 0:
            if now >= self._plan.give_up_ns:
                self._give_up()
                return
            for connection in [c for c in self._active.values() if c.deadline_ns <= now]:
                connection.abandon(
                    "timeout",
                    f"no end of the response within {self._plan.request_timeout_ns / 1e9:g} s"
                    f" ({connection.reads} reads so far)",
                )
        if self._beats % _BEATS_PER_REPORT == 0:
            self._tell(now)

    def _give_up(self) -> None:
        self._stopped = self._gave_up = True
        for connection in list(self._active.values()):
            connection.abandon("run_timeout", f"the run's deadline passed ({connection.reads} reads so far)")
        if not self._finished.done():
            self._finished.set_result(None)

    def _tell(self, now: int) -> None:
        if self._report is not None:
            self._report(
                Progress(
                    elapsed_s=max(0.0, (now - self._plan.begin_ns) / 1e9),
                    total=len(self._plan.requests),
                    completed=self._completed,
                    in_flight=len(self._active) + len(self._connecting),
                    reads=self._reads + sum(connection.reads for connection in self._active.values()),
                )
            )
