"""The client's clock, and how late it is.

``time.perf_counter_ns`` reads CLOCK_MONOTONIC on Linux, one clock for every process of the machine, so the times of several load
processes need no alignment. An event loop's own timers count whole milliseconds, too coarse to send by or to measure lag with: a
timerfd expires to the nanosecond and arrives as any other readable descriptor does, so its lateness is the lateness of a token.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

from perfgate.errors import LoadError

now_ns = perf_counter_ns


def waited_s() -> float | None:
    """How long this thread was ready to run and waited for a processor since it began, in seconds; None where the kernel keeps no count.

    The second field of ``/proc/thread-self/schedstat``: Linux, Documentation/scheduler/sched-stats.
    """
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_NS = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Calls back in an event loop at an absolute time, to well below a millisecond; one time at once.

    Args:
        loop: where to call back.
        callback: called when the time has come.

    Raises:
        LoadError: the system has no timerfd, or no descriptor left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        create = getattr(_libc, "timerfd_create", None)
        if create is None:
            raise LoadError("this system has no timerfd", remedy="perfgate generates load on Linux.")
        self._fd: int = create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise LoadError(
                f"no timer for the load: {os.strerror(ctypes.get_errno())}", remedy="Raise `ulimit -n`."
            )
        self._loop = loop
        self._callback = callback
        loop.add_reader(self._fd, self._expired)

    def set(self, when_ns: int) -> None:
        """Calls back at ``when_ns``, at once if that has passed; replaces an earlier time."""
        seconds, rest = divmod(max(when_ns, 1), _NS)  # zero would disarm it
        if _libc.timerfd_settime(self._fd, _ABSOLUTE, struct.pack("qqqq", 0, 0, seconds, rest), None) != 0:
            raise LoadError(f"the timer could not be set: {os.strerror(ctypes.get_errno())}")

    def close(self) -> None:
        """Never calls back again; may be called twice."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew between the expiry and this call
            return
        self._callback()


class Heartbeat:
    """Measures how late the loop runs what is ready, and gives its owner a regular turn.

    Every time that a beat was due at has its lateness in ``lags``, in ns, also those that passed while the loop was busy: what is ready
    at any moment waits as long, on average, as the mean of all of them. Counting each stop of the loop once would hide the longest.

    Args:
        loop: the loop to measure.
        period_ns: time between beats.
        turn: called with the time, once for all beats that were due, after their lateness was noted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, period_ns: int, turn: Callable[[int], None]) -> None:
        self.lags = array("q")
        self._period = period_ns
        self._turn = turn
        self._alarm = Alarm(loop, self._beat)
        self._due = now_ns() + period_ns
        self._alarm.set(self._due)

    def close(self) -> None:
        """Stops; may be called twice."""
        self._alarm.close()

    def _beat(self) -> None:
        now = now_ns()
        late = now - self._due
        self.lags.extend(range(late, -1, -self._period))
        self._turn(now)
        # From the time planned, not from now: sampling must not fall into step with the load.
        self._due += (late // self._period + 1) * self._period
        self._alarm.set(self._due)
