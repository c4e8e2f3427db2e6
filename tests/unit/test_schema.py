"""The JSON schemas: committed as they are generated, true of every shipped file, and as strict as a schema can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from perfgate.baseline import DirectoryStore
from perfgate.cli import main
from perfgate.commands import schema
from perfgate.documents import encode
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

REPOSITORY = Path(__file__).resolve().parents[2]
STORE = DirectoryStore(REPOSITORY / "baselines")


def validator(document: str) -> jsonschema.Draft202012Validator:
    """A validator of the committed schema."""
    data = json.loads((REPOSITORY / "docs" / "schema" / f"{document}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(data)
    return jsonschema.Draft202012Validator(
        data, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


@pytest.mark.parametrize("document", schema.DOCUMENTS)
def test_committed_as_generated(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The committed file is what ``perfgate schema`` prints."""
    committed = (REPOSITORY / "docs" / "schema" / f"{document}.json").read_text(encoding="utf-8")
    assert main(["schema", document]) == 0
    assert capsys.readouterr().out == committed, (
        f"run: perfgate schema {document} > docs/schema/{document}.json"
    )


def test_shipped_baselines_are_valid() -> None:
    """Every shipped baseline is valid under the schema."""
    cells = list(STORE.cells())
    assert len(cells) >= 24
    for cell in cells:
        validator("baseline").validate(json.loads(STORE.path(cell).read_bytes()))


def test_results_are_valid() -> None:
    """A results file, with a judged measurement and an invalid run, is valid under the schema."""
    cell = Cell(gpu="g", model="m", server="s", workload="w")
    runs = (RunRecord(metrics={"mean_ttft_ms": 1.0}), RunRecord(metrics={}, invalid=("2 requests failed",)))
    results = SessionResults(
        session="x",
        started=datetime(2026, 4, 13, tzinfo=UTC),
        command="pytest",
        perfgate="0.1.0",
        measurements=(
            Measurement(
                cell=cell,
                fingerprint=Fingerprint(),
                server={},
                workload={},
                boots=(BootRecord(id="b", runs=runs),),
            ),
        ),
        verdicts=(CellVerdict(cell=cell, outcome=Outcome.INVALID),),
    )
    validator("results").validate(json.loads(encode(results)))


def _metrics(data: dict[str, Any]) -> dict[str, Any]:
    metrics: dict[str, Any] = data["boots"][0]["runs"][0]["metrics"]
    return metrics


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no schema number": lambda data: data.pop("schema"),
    "another schema number": lambda data: data.update(schema=2),
    "negative metric": lambda data: _metrics(data).update(mean_ttft_ms=-1),
    "text for a metric": lambda data: _metrics(data).update(mean_ttft_ms="1"),
    "unknown field": lambda data: data.update(comment=""),
    "no boots": lambda data: data.update(boots=[]),
    "name with a slash": lambda data: data["cell"].update(gpu="../x"),
    "no provenance": lambda data: data.pop("provenance"),
    "averaged over nothing": lambda data: data["boots"][0]["runs"][0].update(averaged_over=0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_is_invalid(name: str) -> None:
    """What the reader refuses by type, range or name, the schema refuses too."""
    cell = next(iter(STORE.cells()))
    data = json.loads(STORE.path(cell).read_bytes())
    BROKEN[name](data)
    with pytest.raises(jsonschema.ValidationError):
        validator("baseline").validate(data)
