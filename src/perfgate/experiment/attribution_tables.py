"""JSON flags key by key: the table behind a flag, what two of them differ in, and a table with some keys changed.

vLLM takes a table whole (``--compilation-config '{"mode": 0}'``) or by dotted keys (``--compilation-config.mode 0``). Where both are given
it forgets the whole one, so that such a flag is no table here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias

from perfgate.server.spec import Value

Path: TypeAlias = tuple[str, ...]
"""A flag, and the keys from it to one value of its table."""


class _Absent(Enum):
    ABSENT = "absent"


ABSENT: Final = _Absent.ABSENT
"""In place of a value: the key is not in the table. A null is a value."""

Leaf: TypeAlias = Any
"""What a key of a table has, or ABSENT."""


def is_whole(args: Mapping[str, Value], flag: str) -> bool:
    """Whether the flag is given a whole table."""
    return isinstance(_decoded(args.get(flag)), dict)


def table(args: Mapping[str, Value], flag: str) -> dict[str, Any] | None:
    """The table that vLLM makes of a flag, empty where it is not given; None where it is given something else, or in both ways."""
    dotted = {name: value for name, value in args.items() if name.startswith(f"{flag}.")}
    if flag not in args:
        found: dict[str, Any] = {}
        for name, value in dotted.items():
            _put(found, tuple(name.split(".")[1:]), copy.deepcopy(_decoded(value)))
        return found
    whole = _decoded(args[flag])
    return whole if isinstance(whole, dict) and not dotted else None


def differing(
    before: Mapping[str, Any], after: Mapping[str, Any], at: Path
) -> Iterator[tuple[Path, Leaf, Leaf]]:
    """The keys that two tables differ in, as deep as both have tables there or one has nothing.

    Args:
        before: the old table.
        after: the new one.
        at: the path to both.
    """
    for key in dict.fromkeys((*after, *before)):
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if old == new:
            continue
        if all(side is ABSENT or (isinstance(side, dict) and side) for side in (old, new)):
            yield from differing({} if old is ABSENT else old, {} if new is ABSENT else new, (*at, key))
        else:
            yield (*at, key), old, new


def with_keys(args: Mapping[str, Value], keys: Mapping[Path, Leaf]) -> dict[str, Value]:
    """Arguments with some keys of their tables changed; such a table is then given whole, and one without a key is not given.

    Args:
        args: by flag; those whose tables change have tables.
        keys: path to value.
    """
    made = dict(args)
    for flag in dict.fromkeys(path[0] for path in keys):
        changed = copy.deepcopy(table(args, flag) or {})
        for path, leaf in keys.items():
            if path[0] == flag:
                _put(changed, path[1:], leaf)
        for name in args:
            if name == flag or name.startswith(f"{flag}."):
                del made[name]
        if changed:
            made[flag] = changed
    return made


def at(args: Mapping[str, Value], path: Path) -> Leaf:
    """What the arguments give for one key of a table, or for a part of it; ABSENT where they give nothing."""
    inner: Any = table(args, path[0])
    for key in path[1:]:
        inner = inner.get(key, ABSENT) if isinstance(inner, dict) else ABSENT
    return inner


def _put(table: dict[str, Any], path: Path, leaf: Leaf) -> None:
    """Sets a key, or takes it and the tables that are empty without it away."""
    key, rest = path[0], path[1:]
    if not rest and leaf is not ABSENT:
        table[key] = leaf
        return
    if rest:
        inner = table.get(key)
        if not isinstance(inner, dict):
            if leaf is ABSENT:
                return
            inner = table[key] = {}
        _put(inner, rest, leaf)
        if inner:
            return
    table.pop(key, None)


def _decoded(value: Any) -> Any:
    """Text as the JSON that it holds, which is how vLLM reads it; any other value, and other text, as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
