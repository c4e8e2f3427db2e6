"""The tables of the history, the same in SQLite and in PostgreSQL.

Times are text in UTC of one width, so that they sort and compare alike in both. One row of ``points`` is one metric of one cell in
one session: the level (geometric mean of the boot means) and the boot means themselves.

History of the table number:

1. first version.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

TABLES = 1

metadata = MetaData()

about = Table(
    "perfgate_history",
    metadata,
    Column("tables", Integer, primary_key=True),
)

sessions = Table(
    "perfgate_sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session", String, nullable=False, unique=True),
    Column("started", String(27), nullable=False, index=True),
    Column("command", String, nullable=False),
    Column("perfgate", String, nullable=False),
)

cells = Table(
    "perfgate_cells",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "session_id",
        Integer,
        ForeignKey("perfgate_sessions.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("gpu", String, nullable=False),
    Column("model", String, nullable=False),
    Column("server", String, nullable=False),
    Column("workload", String, nullable=False),
    Column("hardware", String, nullable=False),
    Column("fingerprint", JSON, nullable=False),
    Column("outcome", String),
    UniqueConstraint("session_id", "gpu", "model", "server", "workload"),
    Index("perfgate_cells_by_cell", "gpu", "model", "server", "workload"),
)

points = Table(
    "perfgate_points",
    metadata,
    Column("cell_id", Integer, ForeignKey("perfgate_cells.id", ondelete="CASCADE"), primary_key=True),
    Column("metric", String, primary_key=True),
    Column("level", Float, nullable=False),
    Column("boots", JSON, nullable=False),
)


def as_text(moment: datetime) -> str:
    """The moment in UTC, of one width: ``2026-04-13T10:30:00.000000Z``."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def as_moment(text: str) -> datetime:
    """The moment that ``as_text`` wrote."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
