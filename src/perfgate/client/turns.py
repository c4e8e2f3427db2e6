"""Work that can wait a moment, done one piece a turn of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Does one piece of work a turn of the loop: whatever has arrived meanwhile is read, and stamped, between.

    When many responses end together, their ends would otherwise be worked off in one go, and the last events of the others, ready in the
    kernel, be stamped only after it.

    Args:
        loop: whose turns.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, work: Callable[[], None]) -> None:
        """Does it in one of the next turns, after what was added before."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        work = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._next)
        work()
