"""What ``--sweep`` asks for: flags with their values, and the points that their combinations are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from perfgate.errors import InputError
from perfgate.findings import Axis
from perfgate.records import Record
from perfgate.server.flagnames import ALIASES
from perfgate.server.secrets import MASK, Secrets, is_secret_name
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
        InputError: no ``=``, no flag's name, a variable's name, an empty or doubled value, a secret, a flag that perfgate sets itself or
            that is given twice, a grid of fewer than two points or of more than `MOST_POINTS`.
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
    if not equals or not flag or not flag[0].isalpha() or any(letter.isspace() for letter in flag):
        raise InputError(f"--sweep {text}: not FLAG=VALUE,VALUE", remedy=example)
    if flag in OWN_FLAGS:
        raise InputError(
            f"--sweep {text}: --{flag} cannot be swept", remedy=f"{OWN_FLAGS[flag].capitalize()}."
        )
    values = tuple(value.strip() for value in listed.split(","))
    if any(Secrets.of({flag: value}).mask(value) != value for value in values):
        raise _secret(flag)
    if not all(values):
        raise InputError(f"--sweep {text}: an empty value", remedy=example)
    if len(set(values)) < len(values):
        raise InputError(f"--sweep {text}: a value is given twice", remedy="Give each value once.")
    return Axis(flag=flag, values=values)


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
