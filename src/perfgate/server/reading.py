"""Values as vLLM prints them, and whether one is what was asked for.

The configuration line of the log is made of Python reprs: literals, calls such as ``StructuredOutputsConfig(backend='auto')``, members of
enumerations such as ``<CUDAGraphMode.FULL: 2>``, and objects that say nothing. The configuration page is JSON, where the same member is
only its value. What cannot be compared is *None*, never a guess.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Member:
    """A member of an enumeration: what it is called, and what it stands for."""

    name: str
    value: Any

    def __str__(self) -> str:
        return self.name


_MEMBER = re.compile(r"<[A-Za-z_]\w*\.([A-Za-z_]\w*): ([^<>]*)>")
_OBJECT = re.compile(r"<[^<>]*>")
_SAME = {"half": "float16", "float": "float32", "fp8": "fp8_e4m3"}
"""Two names of one thing."""
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def parsed(text: str) -> Any:
    """The value that a repr shows; the text itself where it is none."""
    source = _MEMBER.sub(lambda found: f"Member({found[1]}, {found[2]})", text)
    source = _OBJECT.sub("None", source) if source != text or "<" in text else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = ast.parse(source.strip(), mode="eval").body
        if isinstance(node, ast.Tuple) and not source.strip().startswith("("):
            return text
        return _value(node)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return node.id
        case ast.Attribute():
            return ast.unparse(node)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(item) for item in node.elts]
        case ast.Dict():
            return {
                str(_value(key)): _value(value)
                for key, value in zip(node.keys, node.values, strict=True)
                if key is not None
            }
        case ast.Call(func=ast.Name(id="Member"), args=[ast.Name() as name, value]):
            return Member(name.id, _value(value))
        case ast.Call():
            return {word.arg: _value(word.value) for word in node.keywords if word.arg is not None}
        case _:
            raise ValueError("not a value")


def agrees(wanted: Any, running: Any) -> bool | None:
    """Whether what runs is what was asked for; None where the two cannot be compared."""
    if running is None:
        return None
    if wanted == "auto":
        return True
    if isinstance(running, Member):
        return _is_member(wanted, running)
    if isinstance(wanted, str) and wanted.lstrip()[:1] in ("{", "["):
        wanted = _decoded(wanted)
    if isinstance(wanted, Mapping):
        return _table(wanted, running)
    if isinstance(running, list):
        return (
            _list(wanted if isinstance(wanted, list) else [wanted], running)
            if running or isinstance(wanted, list)
            else None
        )
    if isinstance(wanted, list):
        return None
    if isinstance(running, Mapping):
        return agrees(wanted, running["count"]) if "count" in running else None
    if isinstance(wanted, bool) or isinstance(running, bool):
        return _truth(wanted, running)
    left, right = _amount(wanted), _amount(running)
    if left is not None and right is not None:
        return left == right
    if (left is None) != (right is None):
        return None  # a name here and the number of an enumeration there
    return _name(wanted) == _name(running)


def agrees_text(wanted: str, running: Any) -> bool | None:
    """The same for a variable, whose wanted value is always text."""
    if isinstance(running, bool):
        text = wanted.strip().lower()
        return running if text in _TRUE else (not running if text in _FALSE else None)
    if isinstance(running, (list, Mapping)):
        return None
    return agrees(wanted, running)


def _is_member(wanted: Any, running: Member) -> bool | None:
    if isinstance(wanted, str) and _amount(wanted) is None:
        return _name(wanted) == _name(running.name) or agrees(wanted, running.value) is True
    return agrees(wanted, running.value)


def _table(wanted: Mapping[str, Any], running: Any) -> bool | None:
    if isinstance(running, str):
        running = parsed(running)
    if not isinstance(running, Mapping):
        return None
    answers = [agrees(value, running.get(key, _inner(key, running))) for key, value in wanted.items()]
    if False in answers:
        return False
    return None if None in answers or not answers else True


def _inner(key: str, running: Mapping[str, Any]) -> Any:
    """A table below the key, put together again from flat keys."""
    below = {
        name.removeprefix(f"{key}."): value for name, value in running.items() if name.startswith(f"{key}.")
    }
    return below or None


def _list(wanted: list[Any], running: list[Any]) -> bool | None:
    """The same values; vLLM sorts sizes, so that the order says nothing."""
    if any(isinstance(item, (list, Mapping)) for item in (*wanted, *running)):
        return True if wanted == running else None
    if len({_amount(item) is None for item in (*wanted, *running)}) > 1:
        return None  # a name here and the numbers of an enumeration there
    return Counter(map(_plain, wanted)) == Counter(map(_plain, running))


def _plain(value: Any) -> str:
    amount = None if isinstance(value, bool) else _amount(value)
    return _name(value) if amount is None else f"{amount:g}"


def _truth(wanted: Any, running: Any) -> bool | None:
    left, right = _bool(wanted), _bool(running)
    return None if left is None or right is None else left == right


def _bool(value: Any) -> bool | None:
    text = str(value).strip().lower()
    return value if isinstance(value, bool) else (text == "true" if text in ("true", "false") else None)


def _amount(value: Any) -> float | None:
    """A number, also in words: 16k is 16000 and 16K is 16384, as vLLM reads them."""
    if isinstance(value, (int, float)):
        return float(value)
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:[eE]-?\d+)?)([kKmMgGtT]?)", str(value).strip())
    if match is None:
        return None
    factors = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return float(match[1]) * factors.get(match[2], 1)


def _name(value: Any) -> str:
    name = str(value).removeprefix("torch.").replace("-", "_").casefold()
    return _SAME.get(name, name)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
