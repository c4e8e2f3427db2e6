"""What ``--sweep`` asks for: flags with their values, and the points that their combinations are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from perfgate.errors import InputError
from perfgate.findings import Axis
from perfgate.records import Record
from perfgate.server.spec import OWN_FLAGS, flag_name

MOST_POINTS = 64
"""A grid beyond this is a typing error or days of boots."""
_TRUTH = {"true": True, "false": False}


class Point(Record):
    """One combination of values."""

    settings: tuple[tuple[str, str], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """As on vLLM's command line; ``true`` is the bare flag, ``false`` its ``--no-`` form."""
        return tuple(
            f"--{flag}={value}"
            if value not in _TRUTH
            else f"--{flag if _TRUTH[value] else flag_name('no-' + flag)}"
            for flag, value in self.settings
        )

    def __str__(self) -> str:
        return " ".join(f"{flag}={value}" for flag, value in self.settings)


def parse_sweeps(texts: Sequence[str]) -> tuple[Axis, ...]:
    """``FLAG=VALUE,VALUE,…`` each; several make a grid.

    Raises:
        InputError: no ``=``, no flag's name, an empty or doubled value, a flag that perfgate sets itself or that is given twice, a
            grid of fewer than two points or of more than `MOST_POINTS`.
    """
    axes = [_axis(text) for text in texts]
    flags = [axis.flag for axis in axes]
    twice = next((flag for flag in flags if flags.count(flag) > 1), None)
    if twice is not None:
        raise InputError(f"--sweep gives {twice} twice", remedy="Give all its values in one --sweep.")
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
    name, equals, listed = text.partition("=")
    flag = flag_name(name.strip())
    example = "Write it as --sweep max-num-batched-tokens=4096,16384,65536."
    if not equals or not flag or not flag[0].isalpha() or any(letter.isspace() for letter in flag):
        raise InputError(f"--sweep {text}: not FLAG=VALUE,VALUE", remedy=example)
    if flag in OWN_FLAGS:
        raise InputError(
            f"--sweep {text}: --{flag} cannot be swept", remedy=f"{OWN_FLAGS[flag].capitalize()}."
        )
    values = tuple(value.strip() for value in listed.split(","))
    if not all(values):
        raise InputError(f"--sweep {text}: an empty value", remedy=example)
    if len(set(values)) < len(values):
        raise InputError(f"--sweep {text}: a value is given twice", remedy="Give each value once.")
    return Axis(flag=flag, values=values)


def grid(axes: Sequence[Axis]) -> tuple[Point, ...]:
    """All combinations, the last axis fastest."""
    combinations = itertools.product(*(axis.values for axis in axes))
    return tuple(
        Point(settings=tuple(zip((axis.flag for axis in axes), values, strict=True)))
        for values in combinations
    )
