"""Results files: named to sort by time, written whole, read strictly, without secrets."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from perfgate.errors import (
    ResultsAccessError,
    ResultsConflictError,
    ResultsCorruptError,
    ResultsMissingError,
    ResultsSchemaError,
)
from perfgate.records import (
    SCHEMA,
    BootRecord,
    Cell,
    CellVerdict,
    Fingerprint,
    Measurement,
    Outcome,
    RunRecord,
    SessionResults,
)
from perfgate.results import read_results, write_results
from perfgate.server import ServerSpec

CELL = Cell(gpu="gb10", model="m", server="s", workload="w")
START = datetime(2026, 4, 13, 10, 30, tzinfo=UTC)


def session(
    name: str = "abc123", *, started: datetime = START, server: dict[str, Any] | None = None
) -> SessionResults:
    """A session of one cell."""
    return SessionResults(
        session=name,
        started=started,
        command="pytest -m serving",
        perfgate="0.1.0",
        measurements=(
            Measurement(
                cell=CELL,
                fingerprint=Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1),
                server=server or {},
                workload={},
                boots=(BootRecord(id="b", runs=(RunRecord(metrics={"mean_ttft_ms": 100.0}),)),),
            ),
        ),
        verdicts=(CellVerdict(cell=CELL, outcome=Outcome.PASS),),
    )


def test_written_and_read(tmp_path: Path) -> None:
    """A session is read back equal from the path that writing returned, in a folder that did not exist."""
    path = write_results(tmp_path / "new" / "results", session())
    assert read_results(path) == session()


def test_name_is_start_in_utc_and_session(tmp_path: Path) -> None:
    """The file is named by the start in UTC and the session, wherever it was started."""
    started = datetime(2026, 4, 13, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert write_results(tmp_path, session(started=started)).name == "20260412T230000Z-abc123.json"


def test_a_session_named_by_its_start_has_it_once(tmp_path: Path) -> None:
    """The suite's own sessions begin with their start, which their file name does not repeat."""
    name = f"{START.astimezone(UTC):%Y%m%dT%H%M%SZ}-abc123"
    assert write_results(tmp_path, session(name)).name == f"{name}.json"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b", "x" * 300, "", ".", "\u202etxt", "a/b"])
def test_session_name_is_no_path(tmp_path: Path, name: str) -> None:
    """A session whose name is no file name is still written inside the folder, under its own name."""
    path = write_results(tmp_path, session(name))
    assert path.parent == tmp_path
    assert read_results(path).session == name
    assert write_results(tmp_path, session(name + "?")) != path


def test_session_replaces_itself(tmp_path: Path) -> None:
    """A session that grew writes its file again, whole, and leaves no other file."""
    first = write_results(tmp_path, session().model_copy(update={"verdicts": ()}))
    second = write_results(tmp_path, session())
    assert second == first
    assert read_results(second) == session()
    assert list(tmp_path.iterdir()) == [first]


def test_never_replaces_anything_else(tmp_path: Path) -> None:
    """A file of the session's name that holds something else is a conflict and stays."""
    path = tmp_path / "20260413T103000Z-abc123.json"
    for content in (b"notes", json.dumps({"schema": 1}).encode()):
        path.write_bytes(content)
        with pytest.raises(ResultsConflictError, match="cannot be replaced"):
            write_results(tmp_path, session())
        assert path.read_bytes() == content
    path.write_bytes(write_results(tmp_path / "other", session("other")).read_bytes())
    with pytest.raises(ResultsConflictError, match="holds session 'other'"):
        write_results(tmp_path, session())


def test_newest_of_a_folder(tmp_path: Path) -> None:
    """A folder stands for its newest session, by the time in the name even where copying changed the file times."""
    old = write_results(tmp_path, session("zzz"))
    new = write_results(tmp_path, session("aaa", started=START + timedelta(seconds=1)))
    os.utime(new, (1, 1))
    os.utime(old, (9e9, 9e9))
    (tmp_path / "zzzz.json").write_text("{}", encoding="utf-8")
    (tmp_path / ".20990101T000000Z-x.json.abc.partial").write_text("{", encoding="utf-8")
    assert read_results(tmp_path).session == "aaa"


def test_newest_of_named_files(tmp_path: Path) -> None:
    """In a folder of files that people named, the newest is the last modified."""
    for number, name in enumerate(("z.json", "a.json")):
        path = write_results(tmp_path / name, session(name)).rename(tmp_path / f"flat-{name}")
        os.utime(path, (number, number))
    assert read_results(tmp_path).session == "a.json"


@pytest.mark.parametrize("where", ["nothing.json", "no/such/folder", "empty"])
def test_missing(tmp_path: Path, where: str) -> None:
    """A path with nothing, or an empty folder, is an error that names it and says what to give."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsMissingError) as caught:
        read_results(tmp_path / where)
    assert str(tmp_path / where) in caught.value.message
    assert caught.value.remedy


def test_link_is_followed(tmp_path: Path) -> None:
    """Results may be read through a symbolic link, and a circle of links is an error."""
    (tmp_path / "link").symlink_to(write_results(tmp_path / "real", session()))
    assert read_results(tmp_path / "link") == session()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ResultsAccessError, match="circle"):
        read_results(tmp_path / "circle")


def test_field_is_named(tmp_path: Path) -> None:
    """A results file that the schema does not allow is refused by file, field and remedy."""
    path = write_results(tmp_path, session())
    data = json.loads(path.read_text(encoding="utf-8"))
    data["measurements"][0]["boots"][0]["runs"][0]["metrics"]["mean_ttft_ms"] = -3
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ResultsCorruptError) as caught:
        read_results(path)
    assert str(path) in caught.value.message
    assert "$.measurements[0].boots[0].runs[0].metrics.mean_ttft_ms" in caught.value.message
    assert caught.value.remedy


def test_other_schema(tmp_path: Path) -> None:
    """Results of another schema number are refused by number."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"schema": SCHEMA + 1, "session": "x"}), encoding="utf-8")
    with pytest.raises(ResultsSchemaError, match=r"\$\.schema: 2"):
        read_results(path)


def test_baseline_is_no_results_file(tmp_path: Path) -> None:
    """A baseline given as results is called what it is not, by the field that is missing."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"schema": SCHEMA, "provenance": {}, "cell": {}}), encoding="utf-8")
    with pytest.raises(ResultsCorruptError, match=r"another kind of document: field \$\.session is missing"):
        read_results(path)


def test_folder_is_a_file(tmp_path: Path) -> None:
    """Where a file stands in place of the folder of results, writing is a clear error."""
    (tmp_path / "results").write_text("", encoding="utf-8")
    with pytest.raises(ResultsAccessError, match="A file stands where a folder is needed"):
        write_results(tmp_path / "results", session())


def test_command_that_is_no_text(tmp_path: Path) -> None:
    """A command line with bytes that are no text costs those bytes, not the session."""
    path = write_results(tmp_path, session().model_copy(update={"command": "pytest --env=X=\udcff"}))
    assert read_results(path).command == "pytest --env=X=?"


CANARY = "hf_canaryCANARYcanary0123456789abcdef"


def test_secrets_do_not_reach_the_file(tmp_path: Path) -> None:
    """A token in a server's environment, flags or launcher never reaches the results file."""
    spec = ServerSpec.model_validate(
        {
            "name": "s",
            "model": "m",
            "args": {"api-key": CANARY, "max-num-seqs": 4},
            "env": {"HF_TOKEN": CANARY, "WITHIN": f"x={CANARY}"},
        },
        strict=False,
    )
    path = write_results(tmp_path, session(server=spec.public()))
    content = path.read_text(encoding="utf-8")
    assert "max-num-seqs" in content
    assert CANARY not in content
