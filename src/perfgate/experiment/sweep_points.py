"""What ``--sweep`` asks for: flags with their values, and the points that their combinations are."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from perfgate.errors import InputError
from perfgate.findings import Axis
from perfgate.records import Record
from perfgate.server.flagnames import ALIASES
from perfgate.server.secrets import MASK, Secrets, is_secret_name
from perfgate.server.spec import OWN_FLAGS, flag_name, normal_args, opposite, parse_flags

MOST_POINTS = 64
"""A grid beyond this is a typing error or days of boots."""
_TRUTH = {"true": True, "false": False}
_TABLES = """Write tables as JSON and quote them for the shell: --sweep 'compilation-config={"mode":0},{"mode":3}'."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_STRING = r"""\"(?:\\.|[^"\\])*\"|'[^']*'"""
_QUOTED = re.compile(_STRING)
_MARKS = re.compile(rf"""{_STRING}|[\[\]{{}},"']""")
"""Whole strings, and what else decides where a value ends; a quotation mark of its own is one that nothing closes."""
_CLOSING = {"[": "]", "{": "}"}


class Point(Record):
    """One combination of values."""

    settings: tuple[tuple[str, str], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """As on vLLM's command line; ``true`` is the bare flag, ``false`` its opposite, with ``--no-`` or without."""
        return tuple(_word(flag, value) for flag, value in self.settings)

    def __str__(self) -> str:
        return " ".join(f"{flag}={value}" for flag, value in self.settings)


def parse_sweeps(texts: Sequence[str]) -> tuple[Axis, ...]:
    """``FLAG=VALUE,VALUE,…`` each; several make a grid.

    Commas inside brackets, braces and quotes belong to a value. ``x`` and ``no-x`` are one flag.

    Raises:
        InputError: no ``=``, no flag's name, a variable's name, an empty or doubled value, one that no server entry could have, a secret,
            a flag that perfgate sets itself or that is given twice, a grid of fewer than two points or of more than `MOST_POINTS`.
    """
    axes = [_axis(text) for text in texts]
    flags = [axis.flag.removeprefix("no-") for axis in axes]
    twice = next((flag for flag in flags if flags.count(flag) > 1), None)
    if twice is not None:
        as_well = f", as --no-{twice} too" if any(axis.flag == f"no-{twice}" for axis in axes) else ""
        raise InputError(
            f"--sweep gives {twice} twice{as_well}", remedy="Give all its values in one --sweep."
        )
    size = math.prod(len(axis.values) for axis in axes)
    if axes and size < 2:
        raise InputError(
            f"--sweep {texts[0]}: one point is nothing to compare",
            remedy="Give at least two values, such as --sweep max-num-seqs=1,16.",
        )
    if size > MOST_POINTS:
        raise InputError(
            f"--sweep: {size} points ({' × '.join(str(len(axis.values)) for axis in axes)}) are more than {MOST_POINTS}",
            remedy="Each point boots servers of its own: sweep fewer values at a time.",
        )
    return tuple(axes)


def _axis(text: str) -> Axis:
    name, equals, listed = (part.strip() for part in text.partition("="))
    name = name.lstrip("-")
    flag = flag_name(name)
    if is_secret_name(flag):
        raise _secret(flag)
    text = Secrets().mask(text)
    if name.isupper() and name not in ALIASES:
        raise InputError(
            f"--sweep {text}: {name} is the name of a variable, and only flags are swept",
            remedy=f"Make a server entry for each value, with {name} in its env, and compare two: --server ONE --against-server OTHER.",
        )
    example = "Write it as --sweep max-num-batched-tokens=4096,16384,65536."
    if not equals or not _NAME.fullmatch(flag):
        raise InputError(f"--sweep {text}: not FLAG=VALUE,VALUE", remedy=example)
    if flag in OWN_FLAGS:
        raise InputError(
            f"--sweep {text}: --{flag} cannot be swept", remedy=f"{OWN_FLAGS[flag].capitalize()}."
        )
    try:
        values = tuple(_as_meant(value) for value in _split(listed))
    except ValueError as error:
        raise InputError(f"--sweep {text}: {error}", remedy=_TABLES) from error
    if any(Secrets.of({flag: value}).mask(value) != value for value in values):
        raise _secret(flag)
    if not all(values):
        raise InputError(f"--sweep {text}: an empty value", remedy=example)
    if len(set(values)) < len(values):
        raise InputError(f"--sweep {text}: a value is given twice", remedy="Give each value once.")
    if flag.startswith("no-") and not _TRUTH.keys() >= set(values):
        raise InputError(
            f"--sweep {text}: --{flag} is --{opposite(flag)} taken back, and has no values of its own",
            remedy=f"Write it as --sweep {flag}=true,false, or sweep {opposite(flag)}.",
        )
    for value in values:
        try:
            normal_args(dict(parse_flags([_word(flag, value)])))
        except InputError as error:
            raise InputError(f"--sweep {text}: {error.message}", remedy=_TABLES) from error
        except ValueError as error:
            raise InputError(f"--sweep {text}: {error}", remedy=example) from error
    return Axis(flag=flag, values=values)


def _split(listed: str) -> list[str]:
    """The values between the commas that are outside brackets, braces and quotes.

    Raises:
        ValueError: one of those is not closed.
    """
    values, begun = [], 0
    unclosed: list[str] = []
    for found in _MARKS.finditer(listed):
        mark = found[0]
        if mark in _CLOSING:
            unclosed.append(_CLOSING[mark])
        elif mark in "]}":
            if not unclosed or unclosed.pop() != mark:
                raise ValueError(f"nothing is open that {mark} could close")
        elif mark in "\"'":
            raise ValueError(f"a quotation mark {mark} is not closed")
        elif mark == "," and not unclosed:
            values.append(listed[begun : found.start()])
            begun = found.end()
    if unclosed:
        raise ValueError(f"{unclosed[-1]} is missing")
    return [*values, listed[begun:]]


def _as_meant(value: str) -> str:
    """A value without the quotes that only kept its commas together; words of truth in small letters."""
    value = value.strip()
    if _QUOTED.fullmatch(value):
        value = value[1:-1].strip()
    return value.lower() if value.lower() in _TRUTH else value


def _word(flag: str, value: str) -> str:
    """A setting as it stands on vLLM's command line."""
    if value in _TRUTH:
        return f"--{flag if _TRUTH[value] else opposite(flag)}"
    return f"--{flag}={value}"


def _secret(flag: str) -> InputError:
    """The values would stand in the table and in the results, and behind a mask the points would be all alike."""
    return InputError(
        f"--sweep {flag}={MASK}: secrets are not swept",
        remedy="Give one to every point instead, in the environment or in the server's entry.",
    )


def grid(axes: Sequence[Axis]) -> tuple[Point, ...]:
    """All combinations, the last axis fastest."""
    combinations = itertools.product(*(axis.values for axis in axes))
    return tuple(
        Point(settings=tuple(zip((axis.flag for axis in axes), values, strict=True)))
        for values in combinations
    )
