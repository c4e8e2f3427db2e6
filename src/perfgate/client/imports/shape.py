"""What an import gives, and looking values up in other tools' files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfgate.records import RunRecord


class ShapeError(ValueError):
    """A field is missing, or not what the tool writes."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a file of another tool holds.

    Args:
        tool: its name, with the version where the file gives one.
        model: the model that was asked for, as the tool calls it.
        workload: what is known of the workload, as fields of `perfgate.workload.WorkloadSpec`.
        runs: one a benchmark.
        refused: metrics of the file that mean something else here, each with the reason.
        notes: what a reader of the numbers should know.
    """

    tool: str
    model: str | None
    workload: Mapping[str, Any]
    runs: tuple[RunRecord, ...]
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def joined(self, other: Imported) -> Imported:
        """The runs of both."""
        return replace(
            self,
            runs=self.runs + other.runs,
            refused=tuple(dict.fromkeys(self.refused + other.refused)),
            notes=tuple(dict.fromkeys(self.notes + other.notes)),
        )


def number(data: Mapping[str, Any], *path: str) -> float | None:
    """The number at a path of keys; None where a key is missing or the value is null.

    Raises:
        ShapeError: something else is there.
    """
    value: Any = data
    for key in path:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ShapeError(f"{'.'.join(path)}: {key!r} looked for in a {type(value).__name__}")
        value = value.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ShapeError(f"{'.'.join(path)}: {value!r} is no finite number")
    return float(value)


def needed(data: Mapping[str, Any], *path: str) -> float:
    """The number at a path of keys.

    Raises:
        ShapeError: it is missing or no number.
    """
    value = number(data, *path)
    if value is None:
        raise ShapeError(f"{'.'.join(path)} is missing")
    return value


def mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table under a key; empty where it is missing or null.

    Raises:
        ShapeError: something else is there.
    """
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ShapeError(f"{key} is a {type(value).__name__}, not an object")
    return value


def numbers(data: Mapping[str, Any], key: str, count: int) -> Sequence[float]:
    """The list of ``count`` numbers under a key.

    Raises:
        ShapeError: it is missing, of another length, or holds something else.
    """
    values = data.get(key)
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise ShapeError(f"{key} is no list of {count}")
    return [needed({key: value}, key) for value in values]
