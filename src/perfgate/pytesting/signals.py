"""SIGTERM ends a session like Ctrl-C: servers are stopped and what was measured is kept. CI runners cancel a job with it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn


def end_on_sigterm() -> None:
    """From here on SIGTERM raises KeyboardInterrupt in the main thread, unless somebody else has taken it.

    pytest answers that with its ordinary end of a session. Called outside the main thread, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    # A second one, while servers are being stopped, must not cut that short; SIGKILL still does, and the warden cleans up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt("terminated by SIGTERM")
