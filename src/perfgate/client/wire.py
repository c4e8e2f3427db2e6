"""The hot path: one connection that stamps and stores each read as it arrives, and nothing more.

While a response streams, a read costs two appends and a look at its last bytes; what it says is found out after the run
(`perfgate.client.stream`). Only the end of a response must be known soon, to hand its slot on. A read that ends as an event in a chunk
does (LF LF CR LF) cannot be it; any other makes the connection catch up with an HTTP parser that then decides, and that in one of the
loop's next turns: the reads of other connections are stamped first.
"""

# ruff: noqa: D102 — callbacks of asyncio.Protocol and of httptools: their contracts are theirs

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter_ns
from typing import cast

import httptools

MAX_HEAD = 64 * 1024
"""Most bytes of a response head."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Everything that came back for one request, unread.

    Args:
        index: number of the request.
        scheduled_ns, ready_ns, sent_ns, ended_ns: monotonic stamps; -1 where it did not come to that.
        stamps: when each read arrived, monotonic nanoseconds.
        ends: where each read ends in ``raw``.
        raw: the bytes read, head and body.
        complete: whether HTTP's own framing says that the response was whole.
        cause: why it ended early, one of `perfgate.client.stream.OUTCOMES`; empty where the peer decided.
        detail: the particulars of the cause.
    """

    index: int
    scheduled_ns: int
    ready_ns: int
    sent_ns: int
    ended_ns: int
    stamps: array[int]
    ends: array[int]
    raw: bytes
    complete: bool
    cause: str = ""
    detail: str = ""


class Framing:
    """Knows where an HTTP response ends; fed late and in large pieces."""

    __slots__ = ("_parser", "begun", "chunked", "complete", "error", "head", "kept")

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begun = 0
        self.head = False
        self.chunked = False
        self.complete = False
        self.kept = False
        self.error = ""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the response."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.error = "the server switched protocols"
        except httptools.HttpParserError as error:
            # Bytes behind a whole response spoil the connection, not the response.
            self.kept = False
            if not self.complete:
                self.error = f"not HTTP: {error}"

    def on_message_begin(self) -> None:
        self.begun += 1
        if self.complete:
            self.kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"transfer-encoding" and not self.complete:
            self.chunked = b"chunked" in value.lower()

    def on_headers_complete(self) -> None:
        if not self.complete and self._parser.get_status_code() >= 200:
            self.head = True

    def on_message_complete(self) -> None:
        # An interim response (100, 103) is followed by the real one.
        if not self.complete and self._parser.get_status_code() >= 200:
            self.complete = True
            self.kept = bool(self._parser.should_keep_alive())


class Connection(asyncio.Protocol):
    """One connection to the server, one request at a time.

    Args:
        lost: called when the connection is gone while no request was under way.
        later: does some work in one of the loop's next turns.
    """

    __slots__ = (
        "_answered",
        "_behind",
        "_chunks",
        "_done",
        "_framing",
        "_index",
        "_later",
        "_lost",
        "_put",
        "_ready_ns",
        "_room",
        "_scheduled_ns",
        "_sent_ns",
        "_stamp",
        "_stamps",
        "_streaming",
        "_taken",
        "_transport",
        "deadline_ns",
        "idle_since_ns",
    )

    def __init__(
        self, lost: Callable[[Connection], None], later: Callable[[Callable[[], None]], None]
    ) -> None:
        self._lost = lost
        self._later = later
        self._behind = False
        self._answered = False
        self._transport: asyncio.Transport | None = None
        self._done: Callable[[Connection, Recording], None] | None = None
        self.deadline_ns = 0
        self.idle_since_ns = perf_counter_ns()

    @property
    def attached(self) -> bool:
        """Whether the loop still holds its socket."""
        return self._transport is not None

    @property
    def open(self) -> bool:
        """Whether another request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def reads(self) -> int:
        """Reads so far of the request under way."""
        return len(self._stamps) if self._done is not None else 0

    def send(
        self,
        request: bytes,
        *,
        index: int,
        scheduled_ns: int,
        ready_ns: int,
        sent_ns: int,
        deadline_ns: int,
        room: int,
        done: Callable[[Connection, Recording], None],
    ) -> None:
        """Writes a request; ``done`` is called once, when its response has ended or failed.

        Args:
            request: the bytes.
            index: kept for the recording, as the next three are.
            scheduled_ns: when it was due.
            ready_ns: when it was due and had a slot.
            sent_ns: now.
            deadline_ns: when the owner means to give up; kept here for it.
            room: most bytes of a response.
            done: takes this connection and the recording.
        """
        self._index = index
        self._scheduled_ns, self._ready_ns, self._sent_ns = scheduled_ns, ready_ns, sent_ns
        self.deadline_ns = deadline_ns
        self._room = room
        self._done = done
        self._stamps = array("q")
        self._chunks: list[bytes] = []
        self._stamp = self._stamps.append
        self._put = self._chunks.append
        self._framing = Framing()
        self._taken = 0
        self._streaming = False
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = perf_counter_ns()
        if self._done is None:
            self.close()  # nothing was asked: whatever this is, the connection is not to be trusted
            return
        self._stamp(now)
        self._put(data)
        self._room -= len(data)
        if self._streaming and data[-4:] == b"\n\n\r\n" and self._room >= 0:
            return
        if not self._behind:
            self._behind = True
            self._later(self._catch_up)

    def eof_received(self) -> bool:
        return False  # close; connection_lost follows

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._catch_up()
        if self._done is None:
            self._lost(self)
            return
        kept = " (kept open after an earlier one)" if self._answered and not self._chunks else ""
        if exc is not None:
            self._finish(perf_counter_ns(), "reset", f"{str(exc) or type(exc).__name__}{kept}")
        else:
            # Without length or chunks the end of the connection is the end of the body; the reader judges it.
            self._finish(perf_counter_ns(), "", kept)

    def abandon(self, cause: str, detail: str) -> None:
        """Gives the request up, closes the connection, and hands over what had come; a response that had come whole is one."""
        self._catch_up()
        if self._done is not None:
            self.close()
            self._finish(perf_counter_ns(), cause, detail)

    def close(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _catch_up(self) -> None:
        """Looks at the reads that might have ended the response; does nothing where there are none."""
        if not self._behind or self._done is None:
            return
        self._behind = False
        framing = self._framing
        if self._room < 0:
            self.abandon("oversized", "the response exceeds what any response to this request could be")
            return
        framing.feed(b"".join(self._chunks[self._taken :]))
        self._taken = len(self._chunks)
        if framing.complete:
            if not framing.kept:
                self.close()
            self._finish(self._stamps[-1], "", "")
        elif framing.error:
            self.abandon("protocol", framing.error)
        elif framing.head:
            self._streaming = framing.chunked
        elif sum(map(len, self._chunks)) > MAX_HEAD:
            self.abandon("protocol", f"no end of the response's head within {MAX_HEAD} bytes")

    def _finish(self, now: int, cause: str, detail: str) -> None:
        done, self._done = self._done, None
        assert done is not None
        chunks = self._chunks
        recording = Recording(
            index=self._index,
            scheduled_ns=self._scheduled_ns,
            ready_ns=self._ready_ns,
            sent_ns=self._sent_ns,
            ended_ns=now,
            stamps=self._stamps,
            ends=array("q", accumulate(map(len, chunks))),
            raw=b"".join(chunks),
            complete=self._framing.complete,
            cause=cause,
            detail=detail,
        )
        self._chunks = []
        self._put = self._chunks.append
        self._answered = True
        self.idle_since_ns = now
        done(self, recording)
