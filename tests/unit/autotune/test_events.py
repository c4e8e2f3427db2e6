"""Reading events files: what is whole, what was cut, and what proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfgate.autotune.eventlog import append
from perfgate.autotune.events import benched_configurations, late_events, read_events
from perfgate.errors import CoverageError

START = {"kind": "start", "time": 1.0, "pid": 7, "triton": "3.6.0"}
TUNED = {
    "kind": "autotune",
    "time": 5.0,
    "pid": 7,
    "kernel": "k",
    "key": ["64"],
    "timings_ms": {"a": 1.0, "b": None},
}


def write(path: Path, *events: dict[str, object]) -> Path:
    for event in events:
        append(path, event)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Events come back in order, whole."""
    events = read_events(write(tmp_path / "e", START, TUNED))
    assert [event.kind for event in events] == ["start", "autotune"]
    assert events[1].timings_ms == {"a": 1.0, "b": None}


def test_a_line_cut_by_death_is_left_out(tmp_path: Path) -> None:
    """A killed process may leave half a line at the end; the rest stands."""
    path = write(tmp_path / "e", START)
    with path.open("a") as file:
        file.write('{"kind": "jit", "ti')
    assert [event.kind for event in read_events(path)] == ["start"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no autotune events"),
        ("", "no start of a recorder"),
        ('{"kind": "ready", "time": 1.0, "pid": 1}\n', "no start of a recorder"),
        ("nonsense\n", "e:1: not an event"),
        ("\udcff\n", "e:1: not an event"),
        ('{"kind": "start", "time": 1.0}\n', "pid"),
        ('{"kind": "error", "time": 1.0, "pid": 9, "text": "boom"}\n', "process 9 failed: boom"),
    ],
)
def test_what_proves_nothing_is_an_error(tmp_path: Path, content: str | None, message: str) -> None:
    """A missing, empty or broken file is not a server without events."""
    path = tmp_path / "e"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CoverageError, match=message):
        read_events(path)


def test_late_is_after_ready_by_either_clock(tmp_path: Path) -> None:
    """The process's own readiness or the server's decides; a winner read from disk cost nothing and is not late."""
    own = TUNED | {"after_ready": True}
    events = read_events(
        write(tmp_path / "e", START, TUNED, own, TUNED | {"cache_hit": True, "after_ready": True})
    )
    assert late_events(events) == (events[2],)
    assert late_events(events, ready_at=4.0) == (events[1], events[2])


def test_writing_never_raises(tmp_path: Path) -> None:
    """The recorder lives in somebody else's engine: an unwritable file is silence there, and an error when read."""
    append(tmp_path / "no" / "folder", START)
    append(tmp_path, START)
    append(tmp_path / "e", {"not": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_boot_has_benchmarked_what_it_did_not_find_on_disk():
    """The H100's cold start benchmarked 88 configurations; from a warm cache it is none, and without a Triton it is not known."""
    cold = read_events(Path(__file__).parents[2] / "data" / "h100-0.25.1-cold-start.events.jsonl")
    assert benched_configurations(cold) == 88
    warm = [event.model_copy(update={"cache_hit": event.kind == "autotune"}) for event in cold]
    assert benched_configurations(warm) == 0
    blind = [event.model_copy(update={"triton": None}) for event in cold]
    assert benched_configurations(blind) is None
