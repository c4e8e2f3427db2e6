"""The history: sessions kept and read back, by several writers, and never in the way of a verdict."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perfgate.errors import HistoryError
from perfgate.history import History, remember, store
from perfgate.records import (
    BootRecord,
    Cell,
    CellVerdict,
    Fingerprint,
    Measurement,
    Outcome,
    RunRecord,
    SessionResults,
)

CELL = Cell(gpu="gb10", model="m", server="s", workload="w")
START = datetime(2026, 4, 13, 10, 30, tzinfo=UTC)
GB10 = Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1, vllm="0.32.0")


def boot(*values: float, void: tuple[str, ...] = (), invalid: tuple[str, ...] = ()) -> BootRecord:
    """A boot with a run a value."""
    runs = [RunRecord(metrics={"mean_ttft_ms": value}) for value in values]
    runs += [RunRecord(metrics={}, invalid=invalid)] if invalid else []
    return BootRecord(id="b", runs=tuple(runs), void=void, metrics={"ready_s": 30.0})


def session(
    name: str = "one",
    *boots: BootRecord,
    days: float = 0,
    cell: Cell = CELL,
    fingerprint: Fingerprint = GB10,
    changes: tuple[str, ...] = (),
) -> SessionResults:
    """A session of one cell."""
    return SessionResults(
        session=name,
        started=START + timedelta(days=days),
        command="pytest -m serving",
        perfgate="0.1.0",
        measurements=(
            Measurement(
                cell=cell,
                fingerprint=fingerprint,
                server={},
                workload={},
                changes=changes,
                boots=boots or (boot(100.0),),
            ),
        ),
        verdicts=(CellVerdict(cell=cell, outcome=Outcome.PASS),),
    )


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A history in a folder that does not exist yet."""
    return History(tmp_path / "new" / "history.sqlite")


def test_kept_and_read_back(history: History) -> None:
    """A point of a kept session is the geometric mean of its boot means, with the boots, the machine, the time and the outcome."""
    assert history.append(session("one", boot(80.0, 125.0), boot(400.0))) == 2
    (series,) = history.series(metrics=["mean_ttft_ms"])
    (point,) = series.points
    assert (series.cell, series.hardware) == (CELL, "NVIDIA GB10, 1 GPU")
    assert point.level == pytest.approx(200.0)
    assert point.boots == pytest.approx((100.0, 400.0))
    assert (point.session, point.started, point.outcome) == ("one", START, "PASS")
    assert point.fingerprint == GB10


def test_points_come_in_the_order_of_time(history: History) -> None:
    """A line is ordered by the start of its sessions, whatever the order in which they were added, and cut to the newest."""
    for name, days in (("c", 3), ("a", 1), ("b", 2)):
        history.append(session(name, boot(days), days=days))
    (series,) = history.series(metrics=["mean_ttft_ms"])
    assert [point.session for point in series.points] == ["a", "b", "c"]
    (series,) = history.series(metrics=["mean_ttft_ms"], limit=2)
    assert [point.session for point in series.points] == ["b", "c"]


def test_lines_are_kept_apart(history: History) -> None:
    """Cells, metrics and kinds of hardware have lines of their own, and each name chooses among them."""
    other = CELL.model_copy(update={"workload": "x"})
    history.append(session("a"))
    history.append(session("b", days=1, fingerprint=GB10.model_copy(update={"gpu_name": "NVIDIA H100"})))
    history.append(session("c", days=2, cell=other))
    assert len(history.series(metrics=["mean_ttft_ms"])) == 3
    assert {line.hardware for line in history.series(workload="w")} == {
        "NVIDIA GB10, 1 GPU",
        "NVIDIA H100, 1 GPU",
    }
    assert {line.metric for line in history.series(workload="x")} == {"mean_ttft_ms", "ready_s"}
    assert history.series(gpu="none") == []


def test_only_what_may_be_judged(history: History) -> None:
    """Invalid runs, void boots and cells with nothing valid are not kept."""
    history.append(session("a", boot(1.0, invalid=("2 failed",)), boot(9.0, void=("throttled",)), boot(4.0)))
    history.append(session("b", boot(invalid=("all failed",)), days=1))
    (series,) = history.series(metrics=["mean_ttft_ms"])
    assert [point.boots for point in series.points] == [(1.0, 4.0)]


def test_experiments_are_left_out(history: History) -> None:
    """A cell measured with settings of the command line on top is no point of its line."""
    assert history.append(session("a", changes=("--max-num-seqs=1",))) == 0
    assert history.series() == []


def test_zero_is_kept(history: History) -> None:
    """A metric that may be zero (goodput) is kept, by its arithmetic mean."""
    history.append(session("a", boot(0.0, 4.0)))
    assert history.series(metrics=["mean_ttft_ms"])[0].points[0].level == 2.0


def test_session_replaces_itself(history: History) -> None:
    """A session added twice counts once, with its newer content, and leaves no rows behind."""
    history.append(session("a", boot(1.0)))
    history.append(session("b", boot(5.0), days=1))
    history.append(session("a", boot(2.0)))
    (series,) = history.series(metrics=["mean_ttft_ms"])
    assert [point.level for point in series.points] == [2.0, 5.0]
    with closing(sqlite3.connect(history.location)) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM perfgate_{table}").fetchone()[0]
            for table in ("sessions", "cells", "points")
        ]
    assert counts == [2, 2, 4]


def test_stages_of_a_session_are_one_point(history: History) -> None:
    """The screen and the fresh boots of its confirmation are one point of all boots; the old side of the A/B is none of it."""
    screen, fresh = session("a", boot(100.0)), session("a", boot(400.0))
    old = session("a", boot(9.0)).measurements[0].model_copy(update={"side": "old"})
    history.append(
        screen.model_copy(update={"measurements": (*screen.measurements, old, *fresh.measurements)})
    )
    (series,) = history.series(metrics=["mean_ttft_ms"])
    assert [point.boots for point in series.points] == [(100.0, 400.0)]


def test_nothing_of_a_session_is_kept_when_it_fails(history: History) -> None:
    """A session that the database refuses half-way is not kept at all."""
    history.append(session("a"))
    with closing(sqlite3.connect(history.location)) as connection, connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON perfgate_points WHEN NEW.metric = 'ready_s' "
            "BEGIN SELECT RAISE(ABORT, 'no more'); END"
        )
    with pytest.raises(HistoryError, match="no more"):
        history.append(session("b", days=1))
    assert {point.session for series in history.series() for point in series.points} == {"a"}


def test_no_history_yet(history: History) -> None:
    """Reading where nothing was kept is an error that says how to build a history, and makes no file."""
    with pytest.raises(HistoryError, match="there is no history yet") as caught:
        history.series()
    assert "perfgate history --add" in caught.value.remedy
    assert not Path(history.location).exists()


def warning(path: Path | str) -> str:
    """What remember says of a session that it could not keep."""
    said = remember(path, session())
    assert said is not None
    assert "was not added to the history" in said
    assert len(said.splitlines()) <= 2
    return said


def test_remembered_in_silence(tmp_path: Path) -> None:
    """A session that was kept is no news."""
    assert remember(tmp_path / "history.sqlite", session()) is None
    assert remember(str(tmp_path / "history.sqlite"), session("two")) is None
    assert len(History(tmp_path / "history.sqlite").series(metrics=["ready_s"])[0].points) == 2


def test_command_that_is_no_text(tmp_path: Path) -> None:
    """A command line with bytes that are no text is kept without them."""
    assert (
        remember(tmp_path / "history.sqlite", session().model_copy(update={"command": "pytest \udcff"}))
        is None
    )


def test_not_a_database(tmp_path: Path) -> None:
    """A file that is no database gives a warning with its path and the way to a new one, and is left as it was."""
    path = tmp_path / "history.sqlite"
    path.write_text("not a database, but long enough to be read as one" * 10, encoding="utf-8")
    content = path.read_bytes()
    said = warning(path)
    assert str(path) in said
    assert "not a database" in said
    assert "perfgate history --add" in said
    assert path.read_bytes() == content


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated(history: History, part: float) -> None:
    """A database file that was cut short gives a warning, or an error when read; never a wrong line."""
    for number in range(60):
        history.append(session(f"s{number}", days=number))
    path = Path(history.location)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    said = warning(path)
    assert "malformed" in said or "not a database" in said
    with pytest.raises(HistoryError):
        history.series()


def test_overwritten_in_the_middle(history: History) -> None:
    """A database with a page of foreign bytes is an error when read, with the way to a new one."""
    for number in range(60):
        history.append(session(f"s{number}", days=number))
    path = Path(history.location)
    content = bytearray(path.read_bytes())
    content[8192 : len(content) // 4096 * 4096] = b"\xa5" * (len(content) // 4096 * 4096 - 8192)
    path.write_bytes(content)
    with pytest.raises(HistoryError) as caught:
        history.series()
    assert caught.value.remedy


def test_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process keeps locked gives a warning once the wait is over, and can still be used afterwards."""
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.05)
    path = tmp_path / "history.sqlite"
    History(path).append(session())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in warning(path)
        other.execute("ROLLBACK")
    assert remember(path, session("two")) is None


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, for whom permissions do not count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only() -> None:
    """A file that may not be written gives a warning, and its lines are still read."""
    with tempfile.TemporaryDirectory(prefix="perfgate-test-") as name:
        folder = Path(name)
        path = folder / "history.sqlite"
        History(path).append(session())
        path.chmod(0o444)
        folder.chmod(0o555)
        with as_nobody():
            assert "readonly" in warning(path)
            assert len(History(path).series(metrics=["ready_s"])[0].points) == 1
            assert "Permission denied" in warning(folder / "new" / "history.sqlite")
        folder.chmod(0o755)


def test_folder_in_its_place(tmp_path: Path) -> None:
    """A folder in the place of the file, or a file in the place of its folder, gives a warning."""
    assert "unable to open" in warning(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert str(tmp_path / "file") in warning(tmp_path / "file" / "history.sqlite")


def test_other_table_number(history: History) -> None:
    """Tables of another perfgate are neither read nor added to."""
    history.append(session())
    with closing(sqlite3.connect(history.location)) as connection, connection:
        connection.execute("UPDATE perfgate_history SET tables = 99")
    assert "table number 99" in warning(history.location)
    with pytest.raises(HistoryError, match="table number 99"):
        history.series()


def test_foreign_row(history: History) -> None:
    """A row that this version does not understand is an error, not a left-out point."""
    history.append(session())
    with closing(sqlite3.connect(history.location)) as connection, connection:
        connection.execute("UPDATE perfgate_cells SET fingerprint = '{\"colour\": 3}'")
    with pytest.raises(HistoryError, match="does not understand"):
        history.series()


def test_another_database(tmp_path: Path) -> None:
    """A database of something else gets tables of its own names, and what it held stays."""
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE sessions (x)")
        connection.execute("INSERT INTO sessions VALUES (1)")
    assert remember(path, session()) is None
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM sessions").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nosuchdatabase://host/name", "nosuchdatabase"),
        ("mysql+nosuchdriver://host/name", "nosuchdriver"),
        ("postgresql://user:hunter2@host:notaport/name", "not a database URL"),
    ],
)
def test_bad_url(url: str, words: str) -> None:
    """A URL that names no usable database is a warning that does not repeat its password."""
    said = warning(url)
    assert words in said
    assert "hunter2" not in said


def test_unreachable_server() -> None:
    """A database server that does not answer is a warning without the password."""
    said = warning("postgresql://user:hunter2@127.0.0.1:1/name")
    assert "refused" in said
    assert "127.0.0.1:1/name" in said
    assert "hunter2" not in said


WRITER = """
import sys
from perfgate.history import History
from perfgate.records import SessionResults

results = SessionResults.model_validate_json(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    History(sys.argv[1]).append(results.model_copy(update={"session": f"{results.session}-{number}"}))
"""


def append_from_processes(location: str, *, writers: int, each: int) -> None:
    """Appends from several processes that begin at the same time."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, location, session(f"w{number}").model_dump_json(), str(each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(writers)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        try:
            child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise
        assert child.returncode == 0


def test_writers_at_once(tmp_path: Path) -> None:
    """Processes that begin a history at the same moment and add to it lose no session."""
    path = tmp_path / "history.sqlite"
    append_from_processes(str(path), writers=2, each=5)
    (series,) = History(path).series(metrics=["ready_s"])
    assert {point.session for point in series.points} == {f"w{w}-{n}" for w in range(2) for n in range(5)}


NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from perfgate.history import remember
from perfgate.records import SessionResults

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
print(remember(sys.argv[1], SessionResults.model_validate_json(sys.argv[2])))
"""


def test_no_room(history: History) -> None:
    """When the file may not grow, a warning, and what was kept before is whole."""
    for number in range(5):
        history.append(session(f"s{number}", days=number))
    big = session("big", days=9).model_copy(update={"command": "x" * 100_000})
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, history.location, big.model_dump_json()],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "was not added to the history" in done.stdout
    assert [point.session for point in history.series(metrics=["ready_s"])[0].points] == [
        f"s{n}" for n in range(5)
    ]
