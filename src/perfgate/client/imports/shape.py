"""What an import gives, and looking values up in other tools' files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise ShapeError(f"{'.'.join(path)}: {_shown(value)} is no finite number")
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


def count(data: Mapping[str, Any], *path: str) -> int | None:
    """The whole number, 0 or more, at a path of keys; None where a key is missing or the value is null.

    Raises:
        ShapeError: something else is there.
    """
    value = number(data, *path)
    if value is None:
        return None
    if not value.is_integer() or not 0 <= value < 2**53:
        raise ShapeError(f"{'.'.join(path)}: {value:g} is no count")
    return int(value)


def needed_count(data: Mapping[str, Any], *path: str) -> int:
    """The whole number, 0 or more, at a path of keys.

    Raises:
        ShapeError: it is missing or no such number.
    """
    value = count(data, *path)
    if value is None:
        raise ShapeError(f"{'.'.join(path)} is missing")
    return value


def no_counterpart(names: Iterable[str]) -> tuple[str, ...]:
    """That numbers of these names were not taken; empty for no name."""
    listed = ", ".join(names)
    return (f"{listed}: perfgate has no such metric",) if listed else ()


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
    """The list of ``count`` numbers under a key, each 0 or more.

    Raises:
        ShapeError: it is missing, of another length, or holds something else.
    """
    values = data.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise ShapeError(f"{key} is no list of {count}")
    found = []
    for index, value in enumerate(values):
        one = needed({f"{key}.{index}": value}, f"{key}.{index}")
        if one < 0:
            raise ShapeError(f"{key}.{index}: {one:g} is below 0")
        found.append(one)
    return found


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
