"""The history on a real PostgreSQL server, started here on the loopback interface."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import OperationalError

from perfgate.cli import main
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

PASSWORD = "hunter2canary"
DEADLINE = 60.0
CELL = Cell(gpu="gb10", model="m", server="s", workload="w")
START = datetime(2026, 4, 13, 10, 30, tzinfo=UTC)


def session(name: str, value: float = 100.0, *, days: float = 0) -> SessionResults:
    """A session of one cell."""
    boot = BootRecord(id="b", runs=(RunRecord(metrics={"mean_ttft_ms": value}),), metrics={"ready_s": 30.0})
    return SessionResults(
        session=name,
        started=START + timedelta(days=days),
        command="pytest -m serving",
        perfgate="0.1.0",
        measurements=(
            Measurement(
                cell=CELL,
                fingerprint=Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1),
                server={},
                workload={},
                boots=(boot,),
            ),
        ),
        verdicts=(CellVerdict(cell=CELL, outcome=Outcome.PASS),),
    )


def programs() -> Path | None:
    """The folder of PostgreSQL's server programs: Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts)
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).resolve().parent if path else None


def unprivileged() -> int | None:
    """The user to run the server as: PostgreSQL refuses root. None for the present user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    """A server of its own, with a password; stopped and removed at the end."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)")
    user = unprivileged()
    with tempfile.TemporaryDirectory(prefix="perfgate-pg-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o755)
        data = home / "data"
        data.mkdir(mode=0o700)
        (home / "password").write_text(PASSWORD, encoding="utf-8")
        if user is not None:
            for path in (data, home):
                os.chown(path, user, -1)
        subprocess.run(
            [
                folder / "initdb",
                "-D",
                data,
                "-U",
                "gate",
                "--auth=scram-sha-256",
                f"--pwfile={home / 'password'}",
                "-N",
            ],
            user=user,
            cwd=home,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            check=True,
            capture_output=True,
            timeout=DEADLINE,
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": name,
            "fsync": "off",
            "port": str(port),
        }
        with (home / "log").open("wb") as log:
            child = subprocess.Popen(
                [folder / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())],
                user=user,
                cwd=home,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            url = URL.create(
                "postgresql+psycopg",
                username="gate",
                password=PASSWORD,
                host="127.0.0.1",
                port=port,
                database="postgres",
            )
            wait_until_ready(url, child, home / "log")
            yield url
        finally:
            child.send_signal(signal.SIGQUIT)
            child.wait(timeout=DEADLINE)


def wait_until_ready(url: URL, child: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the server answers a query, for as long as it lives."""
    engine = create_engine(url)
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except OperationalError:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=0.05)
                pytest.fail(f"PostgreSQL ended: {log.read_text(encoding='utf-8')}")
        else:
            engine.dispose()
            return
    pytest.fail(f"PostgreSQL did not answer within {DEADLINE:g} s: {log.read_text(encoding='utf-8')}")


@pytest.fixture
def location(server: URL) -> str:
    """The URL of an empty database, as a person writes it."""
    name = f"db_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"postgresql://gate:{PASSWORD}@127.0.0.1:{server.port}/{name}"


def test_same_as_in_a_file(location: str, tmp_path: Path) -> None:
    """What is kept on the server reads back exactly as from a local file, after additions, replacement and all."""
    lines = []
    for where in (location, tmp_path / "history.sqlite"):
        for name, value, days in (("b", 120.0, 2), ("a", 100.0, 1), ("c", 90.0, 3), ("b", 121.0, 2)):
            History(where).append(session(name, value, days=days))
        lines.append(History(where).series())
    assert lines[0] == lines[1]
    assert [point.level for point in lines[0][0].points] == [100.0, 121.0, 90.0]


def test_command_shows_the_servers_lines(location: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``perfgate history`` with the server's URL prints the kept lines, and never the password."""
    History(location).append(session("a"))
    assert main(["history", "--history", location, "--metric", "mean_ttft_ms"]) == 0
    out = capsys.readouterr().out
    assert "gb10/m/s/w" in out
    assert "(1 session, 2026-04-13)" in out
    assert PASSWORD not in out


def test_empty_database(location: str) -> None:
    """A database without a history is an error when read, as a missing file is."""
    with pytest.raises(HistoryError, match="no session is kept here yet"):
        History(location).series()


WRITER = """
import sys
from perfgate.history import History
from perfgate.records import SessionResults

results = SessionResults.model_validate_json(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(5):
    History(sys.argv[1]).append(results.model_copy(update={"session": f"{results.session}-{number}"}))
"""


def test_runners_at_once(location: str) -> None:
    """Runners that make the tables at the same moment and add to them lose no session."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, location, session(f"w{number}").model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
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
            child.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise
        assert child.returncode == 0
    names = {point.session for point in History(location).series(metrics=["ready_s"])[0].points}
    assert names == {f"w{w}-{n}" for w in range(2) for n in range(5)}


def test_held_by_another(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that never ends its writing costs a warning after the wait, and no session of others."""
    monkeypatch.setattr(store, "WAIT_SECONDS", 1)
    assert remember(location, session("a")) is None
    engine = create_engine(location.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({store._POSTGRES_LOCK})"))
        said = remember(location, session("b"))
    engine.dispose()
    assert said is not None
    assert "lock" in said
    assert [point.session for point in History(location).series(metrics=["ready_s"])[0].points] == ["a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((PASSWORD, "wrong" + PASSWORD), "password authentication failed"),
        (("/db_", "/no_db_"), "does not exist"),
        (("gate:", "nobody:"), "password authentication failed"),
    ],
)
def test_wrong_url(location: str, change: tuple[str, str], words: str) -> None:
    """A wrong password, user or database is a warning with the server's words and without the password."""
    said = remember(location.replace(*change), session("a"))
    assert said is not None
    assert words in said
    assert PASSWORD not in said


def test_read_only_user(location: str) -> None:
    """A user who may only read gets a warning when a session is to be kept, and reads the lines."""
    History(location).append(session("a"))
    engine = create_engine(location.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS reader"))
        connection.execute(text(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'"))
        connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
    reader = location.replace("gate:", "reader:")
    said = remember(reader, session("b"))
    assert said is not None
    assert "permission denied" in said
    assert [point.session for point in History(reader).series(metrics=["ready_s"])[0].points] == ["a"]
    with engine.begin() as connection:
        connection.execute(text("DROP OWNED BY reader"))
        connection.execute(text("DROP ROLE reader"))
    engine.dispose()
