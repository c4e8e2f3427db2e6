"""Results of other tools as runs of perfgate: each metric under the definition that it has here, or refused with the reason.

One name means several things in this field. What a file cannot give under perfgate's definition (see `perfgate.metrics`) is left out
and named; it is never renamed into place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perfgate.client.imports import aiperf, guidellm, vllm_bench
from perfgate.client.imports.shape import Imported, ShapeError
from perfgate.errors import InputError

__all__ = ["Imported", "read_file"]

_READERS = (vllm_bench, guidellm, aiperf)
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class _Document:
    """One JSON object of a file, and where in the file it begins."""

    data: Mapping[str, Any]
    line: int
    notes: Sequence[str] = field(default=())


def read_file(path: Path) -> Imported:
    """Reads a result file of ``vllm bench serve`` (plain, detailed, or several appended), GuideLLM or AIPerf.

    Args:
        path: a JSON file.

    Raises:
        InputError: no such file, not JSON, of no known tool, or not as that tool writes it; file and field are named.
    """
    found: Imported | None = None
    for document in _documents(path):
        reader = next((reader for reader in _READERS if reader.recognises(document.data)), None)
        where = f"{path} line {document.line}" if document.line > 1 else f"{path}"
        if reader is None:
            keys = ", ".join(list(document.data)[:6]) or "none"
            raise InputError(
                f"{where}: of no tool that perfgate knows (its fields begin: {keys})",
                remedy="Give the JSON of `vllm bench serve --save-result`, of GuideLLM, or AIPerf's profile_export_aiperf.json.",
            )
        try:
            one = reader.read(document.data)
        except ShapeError as error:
            raise InputError(
                f"{where}: {reader.TOOL}: {error}",
                remedy="The file is not as that tool writes it, or of a release not known here.",
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{where}: {reader.TOOL}: {key}: {first['msg']} (given: {first['input']!r})",
                remedy="A measurement cannot be negative, infinite or no number.",
            ) from None
        if found is not None and (found.tool, found.workload, found.model) != (
            one.tool,
            one.workload,
            one.model,
        ):
            raise InputError(
                f"{where}: another tool, model or workload than earlier in the file",
                remedy="Import one workload at a time.",
            )
        found = one if found is None else found.joined(one)
    if found is None:
        raise InputError(f"{path}: empty", remedy="Give a result file.")
    return found


def _documents(path: Path) -> Iterator[_Document]:
    """The JSON objects of a file, one after another: ``--append-result`` writes several. A byte order mark is passed over."""
    try:
        with path.open(
            "rb"
        ) as file:  # a pipe too, as a shell's <(…) is one; its size is known when it has been read
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if len(content) > _MOST_BYTES:
        raise InputError(
            f"{path}: larger than {_MOST_BYTES >> 30} GiB", remedy="Give the summary, not a trace."
        )
    decoder = json.JSONDecoder(parse_constant=_constant)
    at = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        if at >= len(text):
            return
        line = text.count("\n", 0, at) + 1
        try:
            data, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path} line {line}: not JSON: {error}", remedy="Give a JSON result file."
            ) from None
        for item in data if isinstance(data, list) else [data]:
            if not isinstance(item, dict):
                raise InputError(f"{path} line {line}: holds a {type(item).__name__}, not an object")
            yield _Document(data=item, line=line)


def _constant(name: str) -> float:
    # Python's JSON writer has these; a metric that is one of them is refused where it is looked at.
    return {"NaN": math.nan, "Infinity": math.inf}.get(name, -math.inf)
