"""Ends of responses wait for their turn, and lose nothing by it."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfgate.client.stream import OUTCOMES, read
from perfgate.client.turns import Turns
from perfgate.client.wire import Connection, Recording
from tests.unit.client.test_stream import GOOD, http


def test_what_is_ready_is_read_between_two_pieces_of_work():
    """A pipe written to in the first of three pieces of work is read before the last: the loop polls between."""
    order: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        out, into = os.pipe()
        done = loop.create_future()
        loop.add_reader(out, lambda: order.append(os.read(out, 1).decode()))
        turns = Turns(loop)
        turns.add(lambda: (order.append("first"), os.write(into, b"r")))
        turns.add(lambda: order.append("second"))
        turns.add(lambda: (order.append("last"), done.set_result(None)))
        await done
        loop.remove_reader(out)
        os.close(out)
        os.close(into)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert order.index("r") < order.index("last")


def test_work_that_breaks_does_not_stop_what_waits_behind_it():
    """An error in one piece goes to the loop's handler, and the next piece is done all the same."""
    seen: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
        done = loop.create_future()
        turns = Turns(loop)
        turns.add(lambda: 1 / 0)
        turns.add(lambda: done.set_result(None))
        await done

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert [type(error) for error in seen] == [ZeroDivisionError]


class Wire(asyncio.Transport):
    """The loop's side of a connection, without a loop: what comes, and when its turns are, is the test's to say."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list = []
        self.aborted = False
        self.got: list[Recording] = []
        self.connection = Connection(lambda _: None, self.waiting.append)
        self.connection.connection_made(self)
        self.connection.send(
            b"GET",
            index=0,
            scheduled_ns=0,
            ready_ns=0,
            sent_ns=0,
            deadline_ns=0,
            room=10**6,
            done=lambda _, recording: self.got.append(recording),
        )

    def turn(self) -> None:
        """Does what waits for a turn of the loop."""
        while self.waiting:
            self.waiting.pop(0)()

    def write(self, data) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def test_an_end_is_seen_in_its_turn_and_dated_by_the_read_that_brought_it():
    """The slot is handed on after the turn, but the response ended when its last bytes came."""
    wire = Wire()
    wire.connection.data_received(http(GOOD))
    assert wire.got == []
    (turn,) = wire.waiting
    turn()
    (recording,) = wire.got
    assert recording.ended_ns == recording.stamps[-1]
    assert wire.connection.open


@pytest.mark.parametrize("way", ["reset", "close", "timeout"])
def test_a_whole_response_is_one_whatever_comes_before_its_turn(way):
    """A reset, a close or a deadline between the last byte and the turn does not undo the response."""
    wire = Wire()
    wire.connection.data_received(http(GOOD))
    if way == "timeout":
        wire.connection.abandon("timeout", "too late")
    else:
        wire.connection.connection_lost(ConnectionResetError("gone") if way == "reset" else None)
    (recording,) = wire.got
    assert read(recording).outcome == "ok"
    wire.waiting[0]()
    assert len(wire.got) == 1


@pytest.mark.parametrize(
    ("way", "outcome"), [("reset", "reset"), ("close", "truncated"), ("timeout", "timeout")]
)
def test_a_response_cut_short_stays_cut_short(way, outcome):
    """What is not whole by then is what ended it."""
    wire = Wire()
    wire.connection.data_received(http(GOOD)[:-3])
    if way == "timeout":
        wire.connection.abandon("timeout", "too late")
        assert wire.aborted
    else:
        wire.connection.connection_lost(ConnectionResetError("gone") if way == "reset" else None)
    (recording,) = wire.got
    assert read(recording).outcome == outcome


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_good_response_is_whole_however_it_is_cut_and_whenever_its_turns_are(data):
    """Reads at any byte and turns at any moment: one recording, complete, dated by its last read, and the connection can be used again."""
    raw = http(
        GOOD, framing=data.draw(st.sampled_from(["chunked", "length"])), chunk=data.draw(st.integers(0, 50))
    )
    wire = Wire()
    at = 0
    while at < len(raw):
        end = min(len(raw), at + data.draw(st.one_of(st.integers(1, 4), st.integers(1, 120))))
        wire.connection.data_received(raw[at:end])
        at = end
        if data.draw(st.booleans()):
            wire.turn()
        assert at == len(raw) or wire.got == []
    wire.turn()
    (recording,) = wire.got
    assert recording.complete
    assert recording.ended_ns == recording.stamps[-1]
    assert read(recording).outcome == "ok"
    assert wire.connection.open


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_end_in_one_recording(data):
    """Whatever comes, cut anywhere, and however it ends: one recording with an outcome, a success only of what is whole."""
    raw = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=100).map(http),
            st.tuples(st.integers(0, len(http(GOOD)) - 1), st.binary(min_size=1, max_size=3)).map(
                lambda how: http(GOOD)[: how[0]] + how[1] + http(GOOD)[how[0] + 1 :]
            ),
        )
    )
    wire = Wire()
    for begin in range(0, len(raw), step := data.draw(st.integers(1, 80))):
        if wire.aborted or wire.got:
            break
        wire.connection.data_received(raw[begin : begin + step])
        if data.draw(st.booleans()):
            wire.turn()
    how = data.draw(st.sampled_from(["close", "reset", "timeout"]))
    if how == "timeout":
        wire.connection.abandon("timeout", "")
    else:
        wire.connection.connection_lost(OSError("gone") if how == "reset" else None)
    wire.turn()
    (recording,) = wire.got
    reading = read(recording)
    assert reading.outcome in OUTCOMES
    assert (reading.outcome == "ok") <= (len(reading.events) > 0 and reading.output_tokens >= 0)
