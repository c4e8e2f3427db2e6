"""Server-sent events, after the WHATWG specification: bytes in, the data of each event out, at the piece that completed it."""

from __future__ import annotations

import re

MAX_LINE = 1024 * 1024
"""Most bytes of one line, and of one event's data."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class OversizedError(ValueError):
    """A line, or the data of an event, is longer than any that a server has reason to send."""


class EventSplitter:
    """Splits a stream into events; pieces may begin and end at any byte.

    Lines end with LF, CRLF or CR. Comments, ``id`` and ``retry`` are passed over. An event that its stream does not finish with an
    empty line is none, as the specification has it.
    """

    __slots__ = ("_buffer", "_data", "_event", "_fresh", "_held", "_skip_lf", "comments")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._held = 0
        self._event = b""
        self._skip_lf = False
        self._fresh = True
        self.comments = 0

    @property
    def unfinished(self) -> bool:
        """Whether the stream ended within a line or an event."""
        return bool(self._buffer or self._data)

    def feed(self, piece: bytes) -> list[tuple[bytes, bytes]]:
        """Takes the next piece.

        Returns:
            (event name, data) of each event that the piece completed; the name is empty where none was given.

        Raises:
            OversizedError: a line or an event's data exceeds `MAX_LINE`.
        """
        if (
            not (self._buffer or self._data or self._event or self._skip_lf or self._fresh)
            and piece[:6] == b"data: "
            and piece[-2:] == b"\n\n"
            and piece.find(b"\n") == len(piece) - 2
            and b"\r" not in piece
            and len(piece) <= MAX_LINE
        ):
            return [(b"", piece[6:-2])]  # one whole event, as vLLM sends each in its own chunk
        return self._feed_any(piece)

    def _feed_any(self, piece: bytes) -> list[tuple[bytes, bytes]]:
        if self._skip_lf and piece:
            self._skip_lf = False
            piece = piece.removeprefix(b"\n")
        if self._fresh:
            # A byte order mark may be cut too: wait for three bytes, unless the first ones cannot begin it.
            piece = bytes(self._buffer) + piece
            self._buffer.clear()
            if len(piece) < len(_BOM) and _BOM.startswith(piece):
                self._buffer += piece
                return []
            self._fresh = False
            piece = piece.removeprefix(_BOM)
        events: list[tuple[bytes, bytes]] = []
        begin = 0
        for end in _LINE_END.finditer(piece):
            line = piece[begin : end.start()]
            if self._buffer:
                line = bytes(self._buffer) + line
                self._buffer.clear()
            self._line(line, events)
            begin = end.end()
        # A CR at the very end has ended its line; an LF that may follow belongs to it.
        self._skip_lf = piece[-1:] == b"\r" or (self._skip_lf and not piece)
        self._buffer += piece[begin:]
        if len(self._buffer) > MAX_LINE:
            raise OversizedError(f"a line of more than {MAX_LINE} bytes")
        return events

    def _line(self, line: bytes, events: list[tuple[bytes, bytes]]) -> None:
        if not line:
            if self._data:
                events.append((self._event, b"\n".join(self._data)))
            self._data, self._held, self._event = [], 0, b""
            return
        if len(line) > MAX_LINE:
            raise OversizedError(f"a line of {len(line)} bytes")
        name, _, value = line.partition(b":")
        if not name:
            self.comments += 1
            return
        value = value.removeprefix(b" ")
        if name == b"data":
            self._held += len(value) + 1
            if self._held > MAX_LINE:
                raise OversizedError(f"an event of more than {MAX_LINE} bytes")
            self._data.append(value)
        elif name == b"event":
            self._event = value
