"""``perfgate schema``: the JSON schema of baselines and of results, for other tools that read or write them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from perfgate.records import SCHEMA, Baseline, Record, SessionResults

HELP = "print the JSON schema of baseline files or of results files"

DOCUMENTS: dict[str, tuple[type[Record], str]] = {
    "baseline": (Baseline, "The stored reference measurement of one cell."),
    "results": (SessionResults, "What one session measured and what was said about it."),
}


def json_schema(document: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one kind of document.

    It says less than the reader checks: that a boot of a baseline is neither void nor empty, that a primary metric is not zero, that
    arrays have one length and that no field is given twice is beyond it.
    """
    record, title = DOCUMENTS[document]
    schema = record.model_json_schema(by_alias=True, mode="validation")
    # Fields at their default may be left out of a file, the schema number never.
    schema["required"] = sorted({"schema", *schema.get("required", [])})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:vllm-perfgate:{document}:{SCHEMA}",
        **schema,
        "title": f"perfgate {document}, schema {SCHEMA}",
        "description": title,
    }


def text(document: str) -> str:
    """The schema as it is committed in ``docs/schema``."""
    return json.dumps(json_schema(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One argument: which document."""
    parser.add_argument("document", choices=sorted(DOCUMENTS), help="the kind of document")


def run(args: argparse.Namespace) -> int:
    """Prints the schema.

    Returns:
        0.
    """
    sys.stdout.write(text(args.document))
    return 0
