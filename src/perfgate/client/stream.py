"""Reads a recording after the run: HTTP, then server-sent events, then JSON; says what the response was."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import httptools
from pydantic_core import from_json

from perfgate.client.sse import EventSplitter, OversizedError
from perfgate.client.wire import MAX_HEAD, Recording
from perfgate.timings import OK

OUTCOMES = {
    OK: "a whole stream with its events and its token count",
    "connect": "no connection could be made",
    "reset": "the connection broke while the response was due",
    "timeout": "the request's deadline passed",
    "run_timeout": "the whole run's deadline passed",
    "not_sent": "the run ended before its turn",
    "http_error": "another status than 200",
    "protocol": "the answer is not HTTP",
    "error_event": "an error object in the stream",
    "truncated": "the stream ended before its end",
    "malformed": "an event that is not the JSON of this API",
    "oversized": "a line or response longer than any that a server has reason to send",
    "no_events": "no event with a choice",
    "no_usage": "no token count in the stream",
}
"""What a request can come to."""

_EXCERPT = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What one recording says.

    Args:
        outcome: one of `OUTCOMES`.
        detail: particulars of a failure.
        events: stamp of each event, monotonic nanoseconds, ascending.
        prompt_tokens, output_tokens: from usage, -1 where the server did not say.
        status: HTTP status, 0 without one.
        comments: comment lines, as keep-alives are.
    """

    outcome: str
    detail: str
    events: array[int]
    prompt_tokens: int
    output_tokens: int
    status: int
    comments: int


def read(recording: Recording, *, count_events: bool = False) -> Reading:
    """Reads one recording; whatever the bytes are, it says what they are and raises nothing.

    Args:
        recording: from `perfgate.client.wire.Connection`.
        count_events: where the stream has no usage, take each event that can be a token for one, instead of failing.
    """
    reader = _Reader(count_events=count_events)
    begin = 0
    raw = recording.raw
    for stamp, end in zip(recording.stamps, recording.ends, strict=True):
        reader.feed(raw[begin:end], stamp)
        begin = end
        if reader.failure or reader.complete:
            break
    outcome, detail = _judge(recording, reader, count_events=count_events)
    output = reader.output_tokens
    if outcome == OK and output < 0:
        output = reader.token_events
    return Reading(
        outcome=outcome,
        detail=detail,
        events=reader.events,
        prompt_tokens=reader.prompt_tokens,
        output_tokens=output,
        status=reader.status,
        comments=reader.splitter.comments,
    )


def _judge(recording: Recording, reader: _Reader, *, count_events: bool) -> tuple[str, str]:
    """What went wrong first decides: the server's own word, then what is malformed, then what is missing."""
    closed = reader.until_close and not recording.cause and recording.sent_ns >= 0
    whole = reader.complete or recording.complete or closed
    if reader.status and reader.status != 200:
        where = f", to {_excerpt(reader.location)}" if reader.location and 300 <= reader.status < 400 else ""
        return "http_error", f"HTTP {reader.status}{where}: {_excerpt(reader.body)}" + (
            "" if whole else " (cut short)"
        )
    if reader.failure:
        return reader.failure
    if recording.cause:
        return recording.cause, recording.detail
    if not whole:
        if not recording.raw:
            return "reset", f"the server closed the connection without an answer{recording.detail}"
        return "truncated", f"the connection ended after {len(reader.events)} events, before the response did"
    if not reader.events:
        return "no_events", f"HTTP {reader.status}: {_excerpt(reader.body)}"
    if not (reader.done or reader.finished):
        return "truncated", f"neither [DONE] nor a finish_reason after {len(reader.events)} events"
    if reader.output_tokens < 0 and not count_events:
        return "no_usage", "the server sent no usage, although stream_options asked for it"
    return OK, ""


class _Reader:
    """Feeds reads through httptools, the event splitter and the JSON parser."""

    def __init__(self, *, count_events: bool) -> None:
        self.splitter = EventSplitter()
        self._count_events = count_events
        self.events = array("q")
        self.token_events = 0
        self.prompt_tokens = -1
        self.output_tokens = -1
        self.status = 0
        self.body = b""
        self.location = b""
        self.failure: tuple[str, str] | None = None
        self.complete = False
        self.done = False
        self.finished = False
        self.until_close = False
        self._parser = httptools.HttpResponseParser(self)
        self._framed = False
        self._head = False
        self._before_head = 0
        self._stamp = 0

    def feed(self, data: bytes, stamp: int) -> None:
        self._stamp = stamp
        if not self._head:
            self._before_head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("protocol", "the server switched protocols")
        except httptools.HttpParserError as error:
            if not self.complete:
                self._fail("protocol", f"not HTTP: {error}")
        if not self._head and self._before_head > MAX_HEAD:
            self._fail("protocol", f"no end of the response's head within {MAX_HEAD} bytes")

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        if not self.complete:
            self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif name == b"location":
            self.location = value
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            self._fail("protocol", f"Content-Encoding {_excerpt(value)}, which was not asked for")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self.complete and status >= 200:
            self.status = status
            self._head = True
            self.until_close = not self._framed

    def on_body(self, body: bytes) -> None:
        if self.failure or self.complete:
            return
        if not self.events and len(self.body) < 4 * _EXCERPT:
            self.body += body[: 4 * _EXCERPT]
        if self.status == 200:
            try:
                for name, data in self.splitter.feed(body):
                    self._event(name, data)
            except OversizedError as error:
                self._fail("oversized", str(error))

    def on_message_complete(self) -> None:
        if self._head:
            self.complete = True

    def _event(self, name: bytes, data: bytes) -> None:
        if self.failure or self.done:
            return
        if data == b"[DONE]":
            self.done = True
            return
        try:
            message = from_json(data, allow_inf_nan=False, cache_strings="all")
        except ValueError as error:
            self._fail("malformed", f"{error} in event {_excerpt(data)}")
            return
        if not isinstance(message, dict):
            self._fail("malformed", f"an event that is no object: {_excerpt(data)}")
            return
        problem = message.get("error")
        if problem or name == b"error" or message.get("object") == "error":
            words = problem.get("message") if isinstance(problem, dict) else message.get("message")
            self._fail("error_event", str(words)[:_EXCERPT] if words else _excerpt(data))
            return
        choices = message.get("choices")
        if choices:
            if not isinstance(choices, list) or not isinstance(choices[0], dict):
                self._fail("malformed", f"choices are no list of objects: {_excerpt(data)}")
                return
            self.events.append(self._stamp)
            if self._count_events:
                self.token_events += _may_be_a_token(choices[0])
            if choices[0].get("finish_reason"):
                self.finished = True
        usage = message.get("usage")
        if usage:
            self._usage(usage, data)

    def _usage(self, usage: Any, data: bytes) -> None:
        said = usage if isinstance(usage, dict) else {}
        output, prompt = _count(said.get("completion_tokens")), _count(said.get("prompt_tokens"))
        if output is None or (prompt is None and "prompt_tokens" in said):
            self._fail("malformed", f"usage without token counts: {_excerpt(data)}")
            return
        self.output_tokens, self.prompt_tokens = output, -1 if prompt is None else prompt

    def _fail(self, outcome: str, detail: str) -> None:
        if self.failure is None:
            self.failure = (outcome, detail)


def _may_be_a_token(choice: dict[str, Any]) -> bool:
    """Whether an event stands for a token where there is no count of them.

    Chat streams begin with an event that only names the role, and many end with one that only names the reason of the end. Other events
    without text count: a token may be half a character.
    """
    delta = choice.get("delta")
    if not isinstance(delta, dict) or any(value for name, value in delta.items() if name != "role"):
        return True
    return not ("role" in delta or choice.get("finish_reason"))


def _count(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    return None


def _excerpt(data: bytes) -> str:
    text = " ".join(data[: 4 * _EXCERPT].decode("utf-8", "replace").split())
    return (text[: _EXCERPT - 1] + "…") if len(text) >= _EXCERPT else text or "(empty)"
