"""Samples the server's gauges while a run goes on: how full the KV cache was, how many requests ran and waited.

The page is read by plain text search in a thread of its own, about once a second: parsing it whole would hold up the client.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from perfgate.diagnosis import KV_PEAK, RUNNING_PEAK, WAITING_PEAK
from perfgate.errors import PerfgateError

INTERVAL_S = 1.0
_FIRST_S = 0.25
_GAUGES = {
    KV_PEAK: re.compile(r"^vllm:(?:kv|gpu)_cache_usage_perc(?:\{[^\n]*\})? (\S+)$", re.MULTILINE),
    RUNNING_PEAK: re.compile(r"^vllm:num_requests_running(?:\{[^\n]*\})? (\S+)$", re.MULTILINE),
    WAITING_PEAK: re.compile(r"^vllm:num_requests_waiting(?:\{[^\n]*\})? (\S+)$", re.MULTILINE),
}


def gauges(page: str) -> dict[str, float]:
    """The gauges on a metrics page: the fullest cache, requests summed over engines; absent where the page has none."""
    found: dict[str, float] = {}
    for name, pattern in _GAUGES.items():
        values = [float(text) for text in pattern.findall(page) if _number(text)]
        if values:
            found[name] = max(values) if name == KV_PEAK else sum(values)
    return found


class Sampler:
    """Samples in the background between ``with`` and its end; `peaks` holds the largest value of each gauge.

    Args:
        page: reads the metrics page; a server that does not answer costs a sample, not the run.
        interval_s: between samples.
    """

    def __init__(self, page: Callable[[], str], interval_s: float = INTERVAL_S) -> None:
        self._page = page
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="perfgate-sampler", daemon=True)
        self.peaks: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _work(self) -> None:
        wait = min(_FIRST_S, self._interval_s)  # a short run must not end before its first sample
        while not self._done.wait(wait):
            wait = self._interval_s
            try:
                seen = gauges(self._page())
            except PerfgateError:
                continue
            for name, value in seen.items():
                self.peaks[name] = max(self.peaks.get(name, 0.0), value)


def _number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False
