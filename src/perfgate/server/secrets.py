"""Masks tokens and keys wherever text leaves the server side: errors, log excerpts, reprs, results, the log file itself.

A value is secret when its name says so (a flag, variable or JSON key with *key*, *token*, *secret*, *password* … as a whole word), when
it stands where an address carries one (``//user:password@``, ``?api_key=``), when an assignment in free text names it so, or when it
looks like a well-known token. ``max-num-batched-tokens`` and ``tokenizer`` are no secrets: only whole words count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MASK = "***"

_WORDS = frozenset(
    {
        *("key", "keys", "token", "secret", "secrets", "password", "passwd", "passphrase", "auth"),
        *("credential", "credentials", "authorization", "signature"),
    }
)
_ENDINGS = ("apikey", "token", "secret", "password", "passwd", "accesskey")
"""Written together: ``hftoken``, ``clientsecret``."""
_COUNTS = frozenset(
    {
        *("threshold", "num", "max", "min", "count", "size", "len", "length", "limit", "budget", "per", "id", "ids"),
        *("index", "type", "strategy", "rate", "ratio"),
    }
)  # fmt: skip
"""Beside one of these *token* is what a model reads."""
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|nvapi-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])|AIza[A-Za-z0-9_-]{35}"
    r"|eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*)"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]+|(?<=Basic )[A-Za-z0-9+/]{8,}={0,2}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)
_ASSIGNED = re.compile(
    r"((?:api[_-]?key|access[_-]?key(?:[_-]?id)?|secret(?:[_-]?key)?|password|passwd|passphrase"
    r"|(?:auth|access|hf|bearer|refresh|session|api)[_-]?token|[?&](?:key|token|sig|signature))"
    r"""['"]?(?:\s*[=:]\s*|%3D)['"\[]*)(?!None\b|null\b|True\b|False\b|true\b|false\b)([^\s'",;&}\])*]{4,})""",
    re.IGNORECASE,
)
"""A secret that free text names: ``api_key='…'``, ``"hf_token": "…"``, ``?token=…``."""
_SHORTEST = 4
"""A shorter value is masked by name only: replacing "1" everywhere would destroy the text it protects."""
_SHORTEST_INHERITED = 8


def is_secret_name(name: str) -> bool:
    """Whether a flag, variable or JSON key of this name carries a secret."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = set(re.split(r"[-_.\s]+", apart.lower()))
    found = words & _WORDS | {word for word in words if word.endswith(_ENDINGS)}
    # vLLM counts tokens too: --long-prefill-token-threshold is a number, and masking it would hide what was measured.
    return bool(found) and not (found == {"token"} and words & _COUNTS)


class Secrets:
    """The secret values of one boot, and how to take them out of text."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        given = {value for value in values if len(value) >= _SHORTEST}
        self._count = len(given)
        written = {form for value in given for form in _forms(value)}
        self._values = tuple(sorted(written, key=len, reverse=True))

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
        return f"Secrets({self._count} masked)"

    def mask(self, text: str) -> str:
        """The text with every known secret, and everything that looks like one, replaced by ``***``."""
        for value in self._values:
            text = text.replace(value, MASK)
        return _ASSIGNED.sub(rf"\1{MASK}", _SHAPES.sub(MASK, text))

    def mask_bytes(self, data: bytes) -> bytes:
        """The same on bytes; those that are no text stay as they are."""
        return self.mask(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


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
        if isinstance(value, str) and value[:1] in ("{", "["):
            yield from _secret_values({name: _decoded(value)})
        if isinstance(value, Mapping):
            yield from _secret_values(value)
            continue
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Mapping):
                yield from _secret_values(item)
            elif isinstance(item, str):
                yield from (item,) if is_secret_name(name) else _in_address(item)


def _decoded(text: str) -> Any:
    """What JSON text holds; nothing where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _in_address(text: str) -> Iterable[str]:
    """The password and the keys that an address carries."""
    if "://" not in text:
        return
    try:
        parts = urlsplit(text)
        password = parts.password
    except ValueError:
        return
    if password:
        yield unquote(password)
    yield from (value for name, value in parse_qsl(parts.query) if is_secret_name(name))


def _forms(value: str) -> set[str]:
    """The value as it stands in JSON, in a Python literal and in an address."""
    return {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe="")}
