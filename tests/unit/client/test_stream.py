"""What a recording says, whatever its bytes are and however they were cut."""

from __future__ import annotations

import json
from array import array

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perfgate.client.sse import MAX_LINE, EventSplitter, OversizedError
from perfgate.client.stream import OUTCOMES, Reading, read
from perfgate.client.wire import Framing, Recording

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine is no finding."""

TOKEN = b'{"choices":[{"index":0,"text":"\xc3\xa4 token","finish_reason":null}]}'
LAST = b'{"choices":[{"index":0,"text":"","finish_reason":"length"}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'


def sse(*payloads: bytes, eol: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + payload + eol + eol for payload in payloads)


def http(body: bytes, *, framing: str = "chunked", status: int = 200, chunk: int = 0) -> bytes:
    head = b"HTTP/1.1 %d Whatever\r\nContent-Type: text/event-stream\r\n" % status
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "close":
        return head + b"Connection: close\r\n\r\n" + body
    width = chunk or max(1, len(body))
    chunks = [body[at : at + width] for at in range(0, len(body), width)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in chunks)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def recording(
    raw: bytes, *, cuts: list[int] | None = None, complete: bool = False, cause: str = ""
) -> Recording:
    ends = sorted({cut % (len(raw) + 1) for cut in cuts or []} | {len(raw)} - {0}) or [0]
    ends = [end for end in ends if end > 0]
    return Recording(
        index=0,
        scheduled_ns=0,
        ready_ns=0,
        sent_ns=0,
        ended_ns=10**9,
        stamps=array("q", range(100, 100 + len(ends))),
        ends=array("q", ends),
        raw=raw,
        complete=complete,
        cause=cause,
    )


GOOD = sse(TOKEN, TOKEN, LAST, USAGE, b"[DONE]")


def summary(reading: Reading) -> tuple[str, int, int, int]:
    return reading.outcome, len(reading.events), reading.prompt_tokens, reading.output_tokens


@unhurried
@given(
    cuts=st.lists(st.integers(0, 2000), max_size=60),
    framing=st.sampled_from(["chunked", "length", "close"]),
    chunk=st.integers(0, 50),
    eol=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    noise=st.lists(
        st.sampled_from([b": ping", b"id: 7", b"retry: 10", b"event: message", b"unknown"]), max_size=3
    ),
    bom=st.booleans(),
)
@example(cuts=list(range(2000)), framing="chunked", chunk=1, eol=b"\r\n", noise=[b": ping"], bom=True)
def test_a_good_stream_reads_the_same_however_it_is_cut_and_framed(cuts, framing, chunk, eol, noise, bom):
    """Cuts at any byte, any chunk size, any framing, any line end, comments and a byte order mark change nothing of what it says."""
    body = (b"\xef\xbb\xbf" if bom else b"") + b"".join(
        b"".join(line + eol for line in noise) + sse(payload, eol=eol)
        for payload in (TOKEN, TOKEN, LAST, USAGE, b"[DONE]")
    )
    raw = http(body, framing=framing, chunk=chunk)
    reading = read(recording(raw, cuts=cuts))
    assert summary(reading) == ("ok", 3, 7, 3)
    assert list(reading.events) == sorted(reading.events)


def test_an_event_is_stamped_by_the_read_that_completed_it():
    """Half an event is none: its time is that of the read with its empty line."""
    raw = http(GOOD)
    second = raw.index(b"data: ", raw.index(b"data: ") + 1)
    reading = read(recording(raw, cuts=[second + 10, second + 20]))
    assert list(reading.events) == [100, 102, 102]


def test_events_in_one_read_share_its_stamp():
    """What came together has one time; nothing is invented between."""
    assert list(read(recording(http(GOOD))).events) == [100, 100, 100]


BAD = [
    (b"", "reset", "without an answer"),
    (http(b'{"error":"busy"}', status=503), "http_error", 'HTTP 503: {"error":"busy"}'),
    (http(b"no", status=404, framing="length"), "http_error", "HTTP 404: no"),
    (http(GOOD)[:-5], "truncated", "after 3 events"),
    (http(GOOD)[:150], "truncated", "after 0 events"),
    (http(sse(TOKEN, TOKEN, USAGE)), "truncated", "neither"),
    (http(sse(TOKEN, TOKEN), framing="close"), "truncated", "neither"),
    (http(sse(TOKEN, LAST, b"[DONE]")), "no_usage", "no usage"),
    (http(sse(USAGE, b"[DONE]")), "no_events", "HTTP 200"),
    (http(b'{"choices":[{"text":"not a stream"}]}'), "no_events", "not a stream"),
    (http(b""), "no_events", "(empty)"),
    (
        http(sse(TOKEN, b'{"error":{"message":"engine died","code":500}}', b"[DONE]")),
        "error_event",
        "engine died",
    ),
    (http(sse(TOKEN, b'{"object":"error","message":"old style"}', b"[DONE]")), "error_event", "old style"),
    (http(sse(TOKEN) + b"event: error\n" + sse(b'{"reason":"named"}')), "error_event", "named"),
    (http(sse(TOKEN, b'{"choices":[')), "malformed", "in event"),
    (http(sse(TOKEN, b'{"choices":[{"text":"\xff\xfe"}]}')), "malformed", "in event"),
    (http(sse(b"17")), "malformed", "no object"),
    (http(sse(b'{"choices":"x"}')), "malformed", "choices"),
    (http(sse(b'{"choices":[1]}')), "malformed", "choices"),
    (http(sse(TOKEN, b'{"choices":[],"usage":{"completion_tokens":"3"}}')), "malformed", "usage"),
    (http(sse(TOKEN, b'{"choices":[],"usage":{"completion_tokens":-3}}')), "malformed", "usage"),
    (http(sse(TOKEN, b'{"choices":[],"usage":{"completion_tokens":true}}')), "malformed", "usage"),
    (http(sse(TOKEN, b'{"choices":[],"usage":{"completion_tokens":NaN}}')), "malformed", "event"),
    (http(sse(b"[" * 100_000)), "malformed", "event"),
    (http(b"data: " + b"x" * (MAX_LINE + 1)), "oversized", "line"),
    (http(b"data: x\n" * (MAX_LINE // 2 + 1)), "oversized", "event of more than"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "protocol", "not HTTP"),
    (http(GOOD).replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1), "protocol", "Content-Encoding gzip"),
    (http(GOOD).replace(b"\r\n", b"\r\nContent-Length: 5\r\n", 1), "protocol", "Content-Length"),
    (
        b"HTTP/1.1 307 Elsewhere\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        "http_error",
        "HTTP 307, to /x: ",
    ),
    (b"HTTP/1.1 204 No Content\r\n\r\n", "http_error", "HTTP 204"),
    (http(GOOD).replace(b"\r\n\r\n", b"\r\n\r\nzz\r\n", 1), "protocol", "not HTTP"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "protocol", "head"),
    (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "protocol", "switched"),
]


@pytest.mark.parametrize(
    ("raw", "outcome", "words"), BAD, ids=[f"{number}-{row[1]}" for number, row in enumerate(BAD)]
)
def test_every_kind_of_bad_answer_is_counted_as_what_it_is(raw, outcome, words):
    """Each failure has its outcome, and its detail says what came."""
    reading = read(recording(raw))
    assert reading.outcome == outcome
    assert words in reading.detail


@pytest.mark.parametrize(
    "raw",
    [
        http(GOOD, chunk=40).replace(b"\r\ndata", b";name=value\r\ndata"),
        http(GOOD)[:-2] + b"X-Trailer: 1\r\n\r\n",
        http(GOOD).replace(b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked"),
        b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + GOOD,
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + http(GOOD),
        http(GOOD).replace(b"\r\n", b"\r\nContent-Encoding: identity\r\n", 1),
    ],
    ids=["extensions", "trailers", "case", "http-1.0", "early hints", "identity"],
)
def test_rare_but_sound_http_is_read(raw):
    """Chunk extensions, trailers, other spellings, HTTP/1.0 and early hints change nothing of what the response says."""
    assert summary(read(recording(raw))) == ("ok", 3, 7, 3)


def test_an_interim_response_is_not_the_response():
    """100 Continue before the real head is passed over."""
    assert summary(read(recording(b"HTTP/1.1 100 Continue\r\n\r\n" + http(GOOD)))) == ("ok", 3, 7, 3)


def test_bytes_after_a_whole_response_do_not_change_it():
    """Garbage behind the last chunk spoils the connection, not the response."""
    assert summary(read(recording(http(GOOD) + b"garbage", complete=True))) == ("ok", 3, 7, 3)


def test_counted_events_stand_in_for_usage_only_when_asked():
    """Without usage an event is a token only where the caller says so; usage wins where there is one."""
    bare = recording(http(sse(TOKEN, LAST, b"[DONE]")))
    assert summary(read(bare, count_events=True)) == ("ok", 2, -1, 2)
    assert summary(read(recording(http(GOOD)), count_events=True)) == ("ok", 3, 7, 3)


@pytest.mark.parametrize(
    ("choice", "tokens"),
    [
        ({"delta": {"role": "assistant", "content": ""}}, 0),
        ({"delta": {}, "finish_reason": "length"}, 0),
        ({"delta": {"content": None}, "finish_reason": "stop"}, 0),
        ({"delta": {"content": ""}}, 1),
        ({"delta": {"role": "assistant", "content": "Hi"}}, 1),
        ({"delta": {"reasoning_content": "Hm"}}, 1),
        ({"delta": {"tool_calls": [{"index": 0}]}}, 1),
        ({"text": "", "finish_reason": "length"}, 1),
        ({"delta": 7}, 1),
    ],
    ids=str,
)
def test_an_event_that_only_names_role_or_end_counts_as_no_token(choice, tokens):
    """Such events of a chat stream keep their times, and are left out where events are counted for tokens."""
    last = b'{"choices":[{"delta":{"content":"x"},"finish_reason":"length"}]}'
    raw = http(sse(json.dumps({"choices": [choice]}).encode(), last, b"[DONE]"))
    assert summary(read(recording(raw), count_events=True)) == ("ok", 2, -1, 1 + tokens)


def test_usage_in_every_event_counts_once():
    """With continuous usage the last count is the one, and events with choices are still events."""
    events = [
        json.dumps(
            {"choices": [{"finish_reason": None}], "usage": {"completion_tokens": n, "prompt_tokens": 7}}
        ).encode()
        for n in (1, 2, 3)
    ]
    assert summary(read(recording(http(sse(*events, b"[DONE]"))))) == ("ok", 3, 7, 3)


def test_the_cause_given_by_the_client_stands_when_the_stream_was_sound_until_then():
    """A deadline that passed is a timeout, with the events that had come."""
    reading = read(recording(http(GOOD)[:150], cause="timeout"))
    assert reading.outcome == "timeout"


def test_events_after_done_are_none():
    """[DONE] ends the stream whatever follows."""
    assert summary(read(recording(http(GOOD + sse(TOKEN))))) == ("ok", 3, 7, 3)


@unhurried
@given(raw=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=10), complete=st.booleans())
def test_any_bytes_have_an_outcome(raw, cuts, complete):
    """Reading never raises, and never calls garbage a success."""
    reading = read(recording(raw, cuts=cuts, complete=complete))
    assert reading.outcome in OUTCOMES
    assert reading.outcome != "ok"


@unhurried
@given(body=st.binary(max_size=300), cuts=st.lists(st.integers(0, 500), max_size=10))
def test_any_body_in_a_sound_frame_has_an_outcome(body, cuts):
    """Behind a proper head, any body is something, and without events it is no success."""
    reading = read(recording(http(body), cuts=cuts))
    assert reading.outcome in OUTCOMES
    assert (reading.outcome == "ok") <= (len(reading.events) > 0)


@unhurried
@given(data=st.data())
def test_a_damaged_stream_never_gains_events(data):
    """Dropping, doubling or changing bytes of a good stream never makes it a success with other counts by accident of framing."""
    raw = bytearray(http(GOOD, chunk=40))
    at = data.draw(st.integers(0, len(raw) - 1))
    del raw[at : at + data.draw(st.integers(1, 50))]
    reading = read(recording(bytes(raw)))
    assert reading.outcome in OUTCOMES
    assert len(reading.events) <= 3


@unhurried
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(
                [b"data: a", b"data:b", b"data", b": c", b"event: e", b"id: 1", b"", b"junk", b"\xef\xbb\xbf"]
            ),
            st.sampled_from([b"\n", b"\r\n", b"\r"]),
        ),
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
@example(lines=[(b"data: a", b"\r\n"), (b"data: b", b"\r\n"), (b"", b"\r\n")], cuts=list(range(30)))
def test_the_splitter_gives_the_same_events_however_its_input_is_cut(lines, cuts):
    """One piece or many, whatever its line ends: the same events, the same remainder."""
    text = b"".join(line + end for line, end in lines)
    whole, parts = EventSplitter(), EventSplitter()
    expected = whole.feed(text)
    found, begin = [], 0
    for end in [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]:
        found += parts.feed(text[begin:end])
        begin = end
    assert found == expected
    assert parts.unfinished == whole.unfinished


def test_a_line_that_grows_in_crumbs_is_cut_off_in_linear_time():
    """A megabyte of trickle is refused at the limit; it is not copied anew for each crumb (that would be 30 GB)."""
    splitter = EventSplitter()
    splitter.feed(b"data: ")

    def trickle() -> None:
        for _ in range(MAX_LINE // 16 + 1):
            splitter.feed(b"x" * 16)

    with pytest.raises(OversizedError):
        trickle()


@unhurried
@given(cuts=st.lists(st.integers(0, 2000), max_size=40), chunk=st.integers(1, 60), interim=st.booleans())
def test_framing_knows_the_end_exactly(cuts, chunk, interim):
    """The response is complete with its last byte and not before."""
    raw = (b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b"") + http(GOOD, chunk=chunk)
    framing, begin = Framing(), 0
    for end in [*sorted(cut % len(raw) for cut in cuts), len(raw)]:
        assert not framing.complete
        framing.feed(raw[begin:end])
        begin = end
    assert framing.complete
    assert framing.kept
    framing.feed(b"more")
    assert not framing.kept
