"""Where sessions are kept: a local SQLite file, or a PostgreSQL server that several runners share. One code path for both.

A history informs and never decides: ``remember`` turns everything that can go wrong into a sentence to show, and a verdict stands
without it. The results files stay the record; a lost history is built again from them.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    RowMapping,
    Table,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from perfgate.errors import HistoryError
from perfgate.history.tables import TABLES, about, as_moment, as_text, cells, metadata, points, sessions
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, SessionResults, replicates

WAIT_SECONDS = 10
"""How long another writer may hold the history, and how long a server may take to answer."""

# Any number of our own: writers of this history take this lock, so that two of them never create the tables at once.
_POSTGRES_LOCK = 0x70657266

REBUILD = "build it again: perfgate history --add .perfgate/results/*.json"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One metric of one cell in one session."""

    session: str
    started: datetime
    level: float
    """Geometric mean of the boot means, in the metric's unit."""
    boots: tuple[float, ...]
    fingerprint: Fingerprint
    outcome: str | None


@dataclass(frozen=True, kw_only=True)
class Series:
    """One metric of one cell on one kind of machine, by time."""

    cell: Cell
    metric: str
    hardware: str
    points: tuple[Point, ...]


class History:
    """The kept sessions at a location.

    Args:
        location: path of a SQLite file, or a database URL (``postgresql://user:password@host/database``).

    Raises:
        HistoryError: the URL is no database URL, or its driver is not installed.
    """

    def __init__(self, location: str | Path) -> None:
        self._url = _url(location)
        self._file = Path(self._url.database or "") if self._url.get_backend_name() == "sqlite" else None
        self.location = str(self._file or self._url.render_as_string(hide_password=True))

    def __repr__(self) -> str:
        return f"History({self.location!r})"

    def append(self, results: SessionResults) -> int:
        """Keeps a session; one that is already kept is replaced by its newer self. Returns the number of points.

        Only what may be judged is kept: valid runs, of servers as their catalogue entry says. A cell measured with settings of the
        command line on top, and the old side of an A/B, are another server under the same name, and are left out.

        Raises:
            HistoryError: nothing of the session was kept.
        """
        outcomes = {verdict.cell: verdict.outcome.value for verdict in results.verdicts}
        added = 0
        with self._connection(writing=True) as connection:
            _prepare(connection, self.location)
            _forget(connection, results.session)
            session_id = _insert(
                connection,
                sessions,
                session=results.session,
                started=as_text(results.started),
                command=results.command.encode("utf-8", errors="replace").decode(),
                perfgate=results.perfgate,
            )
            for cell, measured in _by_cell(results).items():
                boots = tuple(boot for measurement in measured for boot in measurement.boots)
                levels = _levels(boots)
                if not levels:
                    continue
                fingerprint = measured[0].fingerprint
                cell_id = _insert(
                    connection,
                    cells,
                    session_id=session_id,
                    **cell.model_dump(),
                    hardware=hardware(fingerprint),
                    fingerprint=fingerprint.model_dump(mode="json", exclude_none=True),
                    outcome=outcomes.get(cell),
                )
                rows = [
                    {"cell_id": cell_id, "metric": metric, "level": level, "boots": list(means)}
                    for metric, (level, means) in levels.items()
                ]
                connection.execute(insert(points), rows)
                added += len(rows)
        return added

    def series(
        self,
        *,
        gpu: str | None = None,
        model: str | None = None,
        server: str | None = None,
        workload: str | None = None,
        metrics: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[Series]:
        """The kept lines, by cell, metric and hardware, each in the order of time.

        Args:
            gpu: only cells of this GPU, and likewise model, server and workload.
            model: see gpu.
            server: see gpu.
            workload: see gpu.
            metrics: only these; all where empty.
            limit: only the newest so many points of each line.

        Raises:
            HistoryError: there is no history yet, or it cannot be read.
        """
        query = (
            select(cells, points, sessions.c.session, sessions.c.started)
            .join_from(cells, points, points.c.cell_id == cells.c.id)
            .join(sessions, sessions.c.id == cells.c.session_id)
            .order_by(sessions.c.started, sessions.c.session)
        )
        chosen = {"gpu": gpu, "model": model, "server": server, "workload": workload}
        for name, value in chosen.items():
            if value is not None:
                query = query.where(cells.c[name] == value)
        if metrics:
            query = query.where(points.c.metric.in_(metrics))
        lines: dict[tuple[Cell, str, str], list[Point]] = defaultdict(list)
        with self._connection(writing=False) as connection:
            if not _known(connection, self.location):
                raise HistoryError(f"{self.location}: no session is kept here yet", remedy=_sentence(REBUILD))
            try:
                for row in connection.execute(query).mappings():
                    cell = Cell(
                        gpu=row["gpu"], model=row["model"], server=row["server"], workload=row["workload"]
                    )
                    lines[cell, row["metric"], row["hardware"]].append(_point(row))
            except (ValueError, TypeError) as error:
                raise HistoryError(
                    f"{self.location}: the history holds a row that this version does not understand: {_first_line(error)}",
                    remedy=f"Move it away, then {REBUILD}",
                ) from error
        return [
            Series(
                cell=cell, metric=metric, hardware=machine, points=tuple(found[-limit:] if limit else found)
            )
            for (cell, metric, machine), found in sorted(
                lines.items(), key=lambda item: (str(item[0][0]), item[0][1:])
            )
        ]

    @contextmanager
    def _connection(self, *, writing: bool) -> Iterator[Connection]:
        """One transaction; everything that a database can raise comes out as a HistoryError."""
        try:
            if self._file is not None:
                if writing:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                elif not self._file.exists():
                    raise HistoryError(
                        f"{self.location}: there is no history yet; sessions are kept when they end",
                        remedy=_sentence(REBUILD),
                    )
            engine = _engine(self._url, writing=writing)
            try:
                with engine.begin() as connection:
                    if writing and engine.dialect.name == "postgresql":
                        connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'"))
                        connection.execute(
                            text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK}
                        )
                    yield connection
            finally:
                engine.dispose()
        except HistoryError:
            raise
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> HistoryError:
        reason = _first_line(getattr(error, "orig", None) or error)
        remedy = "Check the location and its permissions."
        for words, then in (
            ("not a database", f"Move the file away, then {REBUILD}"),
            ("malformed", f"Move the file away, then {REBUILD}"),
            ("locked", "Another session is writing to it; its results file is kept and can be added later."),
            (
                "readonly",
                "Give this user the right to write it, or choose another place (--perfgate-history).",
            ),
            (
                "unable to open",
                "Is it a folder, or in a folder without permission? Choose another place (--perfgate-history).",
            ),
            ("disk is full", "Free some space; the results file can be added later."),
            ("password authentication", "Check user and password of the URL, or put them in ~/.pgpass."),
            ("does not exist", "Create the database, or check its name in the URL."),
            ("refused", "Is the database server running, and does its address allow this machine?"),
            ("timeout", "Is the database server reachable from here?"),
        ):
            if words in reason.casefold():
                remedy = then
                break
        return HistoryError(f"{self.location}: the history cannot be used: {reason}", remedy=remedy)


def remember(location: str | Path, results: SessionResults) -> str | None:
    """Keeps a session and never raises for what can go wrong with a history.

    Returns:
        None, or a warning of one or two lines to show. The verdicts stand either way.
    """
    try:
        History(location).append(results)
    except HistoryError as error:
        return f"this session was not added to the history: {error}"
    return None


def hardware(fingerprint: Fingerprint) -> str:
    """The key that keeps the lines of different machines apart."""
    return ", ".join(fingerprint.hardware())


def _point(row: RowMapping) -> Point:
    return Point(
        session=row["session"],
        started=as_moment(row["started"]),
        level=row["level"],
        boots=tuple(row["boots"]),
        fingerprint=Fingerprint.model_validate(row["fingerprint"]),
        outcome=row["outcome"],
    )


def _by_cell(results: SessionResults) -> dict[Cell, list[Measurement]]:
    """What was measured of each cell as it is now: the screen and, where there was one, the fresh boots of a confirmation."""
    found: dict[Cell, list[Measurement]] = defaultdict(list)
    for measurement in results.measurements:
        if measurement.side == "now" and not measurement.changes:
            found[measurement.cell].append(measurement)
    return found


def _levels(boots: tuple[BootRecord, ...]) -> dict[str, tuple[float, tuple[float, ...]]]:
    names = {name for boot in boots for run in boot.valid_runs() for name in run.metrics}
    names |= {name for boot in boots if not boot.void for name in boot.metrics}
    found = {}
    for name in sorted(names):
        means = tuple(_mean(runs) for runs in replicates(boots, name))
        if means:
            found[name] = (_mean(means), means)
    return found


def _mean(values: Sequence[float]) -> float:
    """Geometric, as verdicts use; arithmetic where a value is zero."""
    if min(values) == max(values):
        return values[0]
    if min(values) <= 0:
        return math.fsum(values) / len(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _url(location: str | Path) -> URL:
    if isinstance(location, Path) or "://" not in location:
        return URL.create("sqlite", database=str(location))
    try:
        url = make_url(location)
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        scheme = location.split("://", 1)[0]
        raise HistoryError(
            f"{scheme}://…: not a database URL that can be used: {_first_line(error)}",
            remedy="Give a file name, or postgresql://USER@HOST/DATABASE.",
        ) from error
    except ImportError as error:
        raise HistoryError(
            f"{url.render_as_string(hide_password=True)}: the driver {error.name!r} is not installed",
            remedy="For PostgreSQL: pip install 'vllm-perfgate[history]'.",
        ) from error
    return url


def _engine(url: URL, *, writing: bool) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"timeout": WAIT_SECONDS} if sqlite else {}
    if url.drivername == "postgresql+psycopg":
        arguments = {"connect_timeout": WAIT_SECONDS, "tcp_user_timeout": 1000 * WAIT_SECONDS}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    if sqlite:
        # The driver begins transactions late by itself, and never for DDL. A writer takes the lock at once, so that two of them do
        # not both read first and then fail to write.
        @event.listens_for(engine, "connect")
        def _no_automatic_transactions(connection: sqlite3.Connection, _: object) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys = ON")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _prepare(connection: Connection, location: str) -> None:
    if not _known(connection, location):
        metadata.create_all(connection)
        connection.execute(insert(about).values(tables=TABLES))


def _known(connection: Connection, location: str) -> bool:
    """Whether the tables are there, of the number that this version reads."""
    if not inspect(connection).has_table(about.name):
        return False
    number = connection.execute(select(about.c.tables)).scalar()
    if number != TABLES:
        raise HistoryError(
            f"{location}: the history has table number {number}; this version reads and writes {TABLES}",
            remedy=f"Use the perfgate that wrote it, or move it away and {REBUILD}",
        )
    return True


def _insert(connection: Connection, table: Table, **values: Any) -> int:
    """Adds one row; returns its id."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    number: int = key[0]
    return number


def _forget(connection: Connection, session: str) -> None:
    old = connection.execute(select(sessions.c.id).where(sessions.c.session == session)).scalar()
    if old is not None:
        connection.execute(delete(sessions).where(sessions.c.id == old))


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]
