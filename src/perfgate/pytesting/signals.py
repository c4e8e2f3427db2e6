"""How a session ends from outside: SIGTERM like Ctrl-C, and SIGKILL without a server left behind.

At SIGTERM, by which CI runners cancel a job, servers are stopped and what was measured is kept. SIGKILL leaves no time for anything: the
wardens of the servers see that their suite is gone and end them.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from types import FrameType
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def end_on_sigterm() -> None:
    """From here on SIGTERM raises KeyboardInterrupt in the main thread, unless somebody else has taken it.

    pytest answers that with its ordinary end of a session. Called outside the main thread, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def die_with_controller() -> None:
    """From here on this process is killed when its parent ends: for an xdist worker, which would go on for many seconds without one.

    Nobody is left to take its results; the wardens of its servers do the rest.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    # A second one, while servers are being stopped, must not cut that short; SIGKILL still does, and the warden cleans up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt("terminated by SIGTERM")
