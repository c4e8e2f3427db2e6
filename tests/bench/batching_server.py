"""The scripted server with the manner of an engine: it works in steps, and what comes during a step waits for the next.

    python tests/bench/batching_server.py --front-ms 1 --prefill-ms 40 --decode-ms 4

A step decodes a token for every running request, and takes longer when requests begin in it, as a real engine's does. A front end looks at
one request at a time before the engine sees it. So the true TTFT depends on *when* requests come: two clients, both telling the truth,
see different ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.scripted_server import Script, ScriptedServer, Server, Stream, now_ns


class BatchingServer(ScriptedServer):
    """Its process, as a context manager; arguments are those of this file's command line."""

    file = __file__


class _Batching(Server):
    def __init__(self, front_ms: float, prefill_ms: float, decode_ms: float) -> None:
        super().__init__(Script(), "scripted", 0)
        self._front, self._prefill, self._decode = (
            round(ms * 1e6) for ms in (front_ms, prefill_ms, decode_ms)
        )
        self._front_free = 0
        self._waiting: list[Stream] = []
        self._running: list[Stream] = []
        self._batch: list[Stream] = []
        self._tick = object()  # stands in the schedule for the end of a step

    def begin(self, stream: Stream) -> None:
        """The front end takes it when it is through with those before."""
        self._front_free = max(self._front_free, now_ns()) + self._front
        self.schedule(stream, self._front_free)

    def step(self, stream: Stream) -> None:
        """Due is either a request that leaves the front end, or the end of the engine's step."""
        if stream is self._tick:
            batch, self._batch = self._batch, []
            for one in batch:
                self._token(one)
        else:
            self._waiting.append(stream)
        if not self._batch:
            self._start()

    def _start(self) -> None:
        begun, self._waiting = [one for one in self._waiting if one.alive], []
        self._batch = [one for one in self._running if one.alive] + begun
        self._running = []
        if self._batch:
            self.schedule(self._tick, now_ns() + (self._prefill if begun else self._decode))

    def _token(self, stream: Stream) -> None:
        """One event; with the last one everything that follows it."""
        while stream.alive:
            self.write(stream)
            if stream.finished:
                return
            if stream.next_is_event:
                self._running.append(stream)
                return


def main() -> None:
    """Serves until killed; prints its port first."""
    parser = argparse.ArgumentParser(description="Streams completions in steps.")
    parser.add_argument("--front-ms", type=float, default=1.0, help="of one request, one after the other")
    parser.add_argument("--prefill-ms", type=float, default=40.0, help="a step in which requests begin")
    parser.add_argument("--decode-ms", type=float, default=4.0, help="any other step")
    options = parser.parse_args()
    server = _Batching(options.front_ms, options.prefill_ms, options.decode_ms)
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
