"""Masks tokens and keys wherever text leaves the server side: errors, log excerpts, reprs, results.

A value is secret when its name says so (a flag or variable with *key*, *token*, *secret*, *password* … as a whole word), or when it looks
like a well-known token. ``max-num-batched-tokens`` and ``tokenizer`` are no secrets: only whole words count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"

_WORDS = frozenset(
    {
        "key",
        "keys",
        "apikey",
        "token",
        "secret",
        "password",
        "passwd",
        "credential",
        "credentials",
        "authorization",
    }
)
_COUNTS = frozenset(
    {
        "threshold",
        "num",
        "max",
        "min",
        "count",
        "size",
        "len",
        "length",
        "limit",
        "budget",
        "per",
        "id",
        "ids",
    }
)
"""Beside one of these *token* is what a model reads."""
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{16,})"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SHORTEST = 4
"""A shorter value is masked by name only: replacing "1" everywhere would destroy the text it protects."""
_SHORTEST_INHERITED = 8


def is_secret_name(name: str) -> bool:
    """Whether a flag or variable of this name carries a secret."""
    words = set(re.split(r"[-_.\s]+", name.lower()))
    found = words & _WORDS
    # vLLM counts tokens too: --long-prefill-token-threshold is a number, and masking it would hide what was measured.
    return bool(found) and not (found == {"token"} and words & _COUNTS)


class Secrets:
    """The secret values of one boot, and how to take them out of text."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = tuple(sorted({v for v in values if len(v) >= _SHORTEST}, key=len, reverse=True))

    @classmethod
    def of(cls, *sources: Mapping[str, Any], inherited: Mapping[str, str] | None = None) -> Secrets:
        """The values of all secret names in these mappings (arguments, environments).

        Args:
            sources: what was given for the server.
            inherited: the environment around it, where names mean less: only values of a real key's length count.
        """
        given = (value for source in sources for value in _secret_values(source))
        around = (value for value in _secret_values(inherited or {}) if len(value) >= _SHORTEST_INHERITED)
        return cls((*given, *around))

    def __bool__(self) -> bool:
        return bool(self._values)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)} masked)"

    def mask(self, text: str) -> str:
        """The text with every known secret, and everything that looks like one, replaced by ``***``."""
        for value in self._values:
            text = text.replace(value, MASK)
        return _SHAPES.sub(MASK, text)

    def mask_bytes(self, data: bytes) -> bytes:
        """The same on undecoded bytes, for known values only."""
        for value in self._values:
            data = data.replace(value.encode(), MASK.encode())
        return data


def masked(data: Any, secrets: Secrets | None = None) -> Any:
    """Plain data (mappings, lists, scalars) with the values of secret names, and known secrets inside strings, masked.

    Numbers are never secrets: ``eos_token_id = 2`` stays.
    """
    known = secrets or Secrets()
    if isinstance(data, Mapping):
        return {
            key: MASK
            if is_secret_name(str(key)) and isinstance(value, str) and value
            else masked(value, known)
            for key, value in data.items()
        }
    if isinstance(data, (list, tuple)):
        return [masked(item, known) for item in data]
    return known.mask(data) if isinstance(data, str) else data


def _secret_values(source: Mapping[str, Any]) -> Iterable[str]:
    for name, value in source.items():
        if isinstance(value, Mapping):
            yield from _secret_values(value)
        elif is_secret_name(name):
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, str):
                    yield item
