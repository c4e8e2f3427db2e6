"""Fuzz target: any bytes, cut anywhere, behind a proper head or none, through everything that reads a response.

    python tests/fuzz/fuzz_stream.py -max_total_time=60

Needs atheris. What must hold for every input is `check`; `tests/fuzz/test_fuzz_stream.py` holds it against a fixed set of inputs too.
"""

from __future__ import annotations

import sys
from array import array

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["perfgate.client"]):
        import perfgate.client.stream  # noqa: F401 — instrumented as it is imported; everything would be slow

from perfgate.client.sse import EventSplitter, OversizedError
from perfgate.client.stream import OUTCOMES, read
from perfgate.client.wire import Framing, Recording

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def check(data: bytes) -> str:
    """Reads the input as a response; gives its outcome.

    The first byte chooses the frame, the second how the rest is cut into reads.
    """
    shape, step, body = data[0] if data else 0, (data[1] if len(data) > 1 else 0) + 1, data[2:]
    raw = _framed(body, shape % 4)
    ends = [*range(step, len(raw), step), len(raw)] if raw else []
    recording = Recording(
        index=0,
        scheduled_ns=0,
        ready_ns=0,
        sent_ns=0,
        ended_ns=1,
        stamps=array("q", range(len(ends))),
        ends=array("q", ends),
        raw=raw,
        complete=bool(shape & 4),
        cause="timeout" if shape & 8 else "",
    )
    reading = read(recording, count_events=bool(shape & 16))
    assert reading.outcome in OUTCOMES
    assert list(reading.events) == sorted(reading.events)
    if reading.outcome == "ok":
        assert len(reading.events) > 0
        assert reading.output_tokens >= 0
    whole = read(_uncut(recording), count_events=bool(shape & 16))
    if shape % 4 == 3:
        # An event is of one read where reads are as they came; its kind and number do not depend on them.
        assert (whole.outcome, len(whole.events)) == (reading.outcome, len(reading.events))
    _same_end_however_cut(raw, step)
    _same_events_however_cut(body, step)
    return reading.outcome


def _framed(body: bytes, kind: int) -> bytes:
    if kind == 0:
        return body
    if kind == 1:
        return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body
    if kind == 2:
        return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        if body
        else HEAD
    )


def _uncut(recording: Recording) -> Recording:
    ends = [len(recording.raw)] if recording.raw else []
    return Recording(
        index=0,
        scheduled_ns=0,
        ready_ns=0,
        sent_ns=0,
        ended_ns=1,
        stamps=array("q", range(len(ends))),
        ends=array("q", ends),
        raw=recording.raw,
        complete=recording.complete,
        cause=recording.cause,
    )


def _same_end_however_cut(raw: bytes, step: int) -> None:
    whole, parts = Framing(), Framing()
    whole.feed(raw)
    for begin in range(0, len(raw), step):
        parts.feed(raw[begin : begin + step])
    assert parts.complete == whole.complete


def _same_events_however_cut(body: bytes, step: int) -> None:
    whole, parts = EventSplitter(), EventSplitter()
    try:
        expected = whole.feed(body)
    except OversizedError:
        return
    found = [event for begin in range(0, len(body), step) for event in parts.feed(body[begin : begin + step])]
    assert found == expected


def main() -> None:
    """Runs libFuzzer until told otherwise on the command line."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
