"""A witness between a client and a server: passes bytes on, and knows when each request came and when each event went.

    python parity_tap.py HOST PORT

prints its own port; then answers each line of standard input with one JSON line about the requests seen since the last. A request's time
is the kernel's stamp of its arrival, an event's is taken just before its bytes are handed to the client's socket: what lies between is
the server's (and this program's own) doing, whatever else a client reports is the client's. Times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import select
import socket
import struct
import sys
import time

_STAMPED = 35  # SO_TIMESTAMPNS
_EVENT = re.compile(rb"data: (\{[^\n]*\})\r?\n")
_OF_INTEREST = re.compile(rb"POST \S*/completions ")
_AT_ONCE = 1 << 18


class Exchange:
    """One request and its response."""

    def __init__(self, arrived: int) -> None:
        self.arrived = arrived
        self.stamps: list[int] = []
        self.pieces: list[bytes] = []

    def account(self) -> dict:
        """When it came, when each event went, when the last byte went, and the tokens the server counted."""
        raw, ends, end = b"".join(self.pieces), [], 0
        for piece in self.pieces:
            end += len(piece)
            ends.append(end)
        events, tokens, at = [], None, 0
        for match in _EVENT.finditer(raw):
            message = json.loads(match[1])
            while ends[at] < match.end():
                at += 1
            if message.get("choices"):
                events.append(self.stamps[at])
            tokens = (message.get("usage") or {}).get("completion_tokens", tokens)
        return {
            "arrived": self.arrived,
            "events": events,
            "ended": self.stamps[-1] if self.stamps else None,
            "tokens": tokens,
        }


class End:
    """One side of a connection that is passed on."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.number = connection.fileno()
        self.unsent = b""
        self.other: End
        self.exchange: Exchange | None = None
        """Of a client's side: the request under way."""
        self.is_client = False


class Tap:
    """Passes connections on to one address."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(0, select.EPOLLIN)
        self._ends: dict[int, End] = {}
        self._exchanges: list[Exchange] = []
        self.port = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Until standard input ends."""
        while True:
            for number, flags in self._epoll.poll():
                if number == 0:
                    if not sys.stdin.readline():
                        return
                    seen, self._exchanges = self._exchanges, []
                    print(json.dumps([one.account() for one in seen if one.stamps]), flush=True)
                elif number == self._listener.fileno():
                    self._accept()
                elif (end := self._ends.get(number)) is not None:
                    if flags & select.EPOLLOUT:
                        self._pass(end, b"")
                    if flags & ~select.EPOLLOUT and end.number in self._ends:
                        self._read(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except BlockingIOError:
                return
            try:
                far = socket.create_connection(self._address)
            except OSError:
                near.close()
                continue
            client, server = End(near), End(far)
            client.other, server.other, client.is_client = server, client, True
            for end in (client, server):
                end.socket.setblocking(False)
                end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ends[end.number] = end
                self._epoll.register(end.number, select.EPOLLIN)
            with contextlib.suppress(OSError):  # without it a request's time is that of its being read
                near.setsockopt(socket.SOL_SOCKET, _STAMPED, 1)

    def _read(self, end: End) -> None:
        try:
            data, extra, _, _ = end.socket.recvmsg(_AT_ONCE, 64)
        except BlockingIOError:
            return
        except OSError:
            data, extra = b"", []
        if not data:
            self._close(end)
            return
        if end.is_client:
            # Neither client sends a request before the last response has ended, so what follows a response begins a request.
            if end.exchange is None or end.exchange.stamps:
                end.exchange = None
                if _OF_INTEREST.match(data):
                    end.exchange = Exchange(_arrival(extra))
                    self._exchanges.append(end.exchange)
        elif (exchange := end.other.exchange) is not None:
            exchange.stamps.append(time.perf_counter_ns())
            exchange.pieces.append(data)
        self._pass(end.other, data)

    def _pass(self, end: End, data: bytes) -> None:
        data = end.unsent + data if end.unsent else data
        try:
            sent = end.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(end)
            return
        waited, end.unsent = bool(end.unsent), data[sent:]
        if waited or end.unsent:
            self._epoll.modify(end.number, select.EPOLLIN | (select.EPOLLOUT if end.unsent else 0))

    def _close(self, end: End) -> None:
        for side in (end, end.other):
            if self._ends.pop(side.number, None) is not None:
                self._epoll.unregister(side.number)
                with contextlib.suppress(OSError):
                    side.socket.settimeout(5)
                    side.socket.sendall(side.unsent)  # what the other side still had to say
                side.socket.close()


def _arrival(extra: list) -> int:
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, _STAMPED):
            seconds, rest = struct.unpack("qq", data[:16])
            return time.perf_counter_ns() - max(0, time.time_ns() - seconds * 1_000_000_000 - rest)
    return time.perf_counter_ns()


def main() -> None:
    """Serves until standard input ends."""
    tap = Tap((sys.argv[1], int(sys.argv[2])))
    gc.disable()
    print(tap.port, flush=True)
    tap.serve()


if __name__ == "__main__":
    main()
