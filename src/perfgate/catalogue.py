"""Loads the TOML catalogues: servers, workloads, GPUs, models, claims, changes.

The shipped files hold one table an entry. A ``perfgate.toml`` in a user's repository holds ``[servers.NAME]``, ``[workloads.NAME]``,
``[gpus.NAME]``, ``[models.NAME]``, ``[claims.NAME]`` and ``[changes.NAME]`` tables and is merged over them, key by key. An entry
may say ``extends = "OTHER"``: tables merge, every other value replaces, and inside ``args`` or ``env`` the value ``false`` takes an
inherited setting away.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from perfgate.errors import CatalogueError, UnknownNameError
from perfgate.record import NAME_PATTERN

Kind = Literal["servers", "workloads", "gpus", "models", "claims", "changes"]
KINDS: tuple[Kind, ...] = ("servers", "workloads", "gpus", "models", "claims", "changes")
USER_FILE = "perfgate.toml"

Spec = TypeVar("Spec", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One catalogue entry with what it extends already merged in, as plain data."""

    kind: Kind
    name: str
    data: Mapping[str, Any]
    source: Path

    @property
    def table(self) -> str:
        """The table as it is written in its file."""
        return f"[{self.kind}.{self.name}]" if self.source.name == USER_FILE else f"[{self.name}]"

    def parse(self, spec: type[Spec], **more: Any) -> Spec:
        """The entry as a validated specification; ``name`` and ``more`` are added to its data.

        Raises:
            CatalogueError: naming file, table and key.
        """
        try:
            return spec.model_validate({"name": self.name, **self.data, **more}, strict=False)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "(table)"
            problem = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                near = get_close_matches(str(first["loc"][-1]), _keys(spec), n=1, cutoff=0.5)
                problem = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
            given = first.get("input")
            shown = "" if isinstance(given, dict) or first["type"] == "missing" else f" (given: {given!r})"
            raise CatalogueError(
                f"{self.source}: {self.table} key {key!r}: {problem}{shown}",
                remedy=f"Keys of a {self.kind[:-1]} entry: {', '.join(sorted(_keys(spec)))}.",
            ) from error


class Catalogue(Mapping[str, Entry]):
    """The entries of one kind, by name."""

    def __init__(self, kind: Kind, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise self._unknown(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _unknown(self, name: str) -> UnknownNameError:
        near = get_close_matches(name, self._entries, n=3, cutoff=0.4)
        known = near or sorted(self._entries)
        word = "Nearest" if near else "Known"
        # A path or a hub's id is no name, and a name with a dot is a key of its own only in quotes.
        named = re.match(NAME_PATTERN, name)
        key = "NAME" if named is None else name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
        return UnknownNameError(
            f"unknown {self.kind[:-1]} {name!r}",
            remedy=f"{word}: {', '.join(known)}. Add a [{self.kind}.{key}] table to {USER_FILE} for a new one.",
        )


def shipped_directory() -> Path:
    """The folder with the shipped catalogue: ``fixtures/`` of a checkout, or its copy in the installed package."""
    checkout = Path(__file__).resolve().parents[2] / "fixtures"
    if (checkout / "servers.toml").is_file() or (checkout / "gpus.toml").is_file():
        return checkout
    return Path(__file__).resolve().parents[1] / "perfgate_suite" / "fixtures"


def load_catalogue(kind: Kind, *, user_files: Sequence[Path] = (), shipped: Path | None = None) -> Catalogue:
    """Loads the entries of one kind: the shipped file, then each user file merged over it.

    Args:
        kind: which catalogue.
        user_files: ``perfgate.toml`` files, later ones win.
        shipped: folder with ``<kind>.toml``; the project's own where not given.

    Raises:
        CatalogueError: not TOML, an unknown top-level table, an entry that is no table, or a circular or unknown ``extends``.
    """
    raw: dict[str, tuple[dict[str, Any], Path]] = {}
    base = (shipped if shipped is not None else shipped_directory()) / f"{kind}.toml"
    if base.is_file():
        for name, table in _read(base).items():
            raw[name] = (_table(table, base, name), base)
    for path in user_files:
        document = _read(path)
        for section in document:
            if section not in KINDS:
                near = get_close_matches(section, KINDS, n=1)
                raise CatalogueError(
                    f"{path}: unknown table [{section}]"
                    + (f"; did you mean [{near[0]}.NAME]?" if near else ""),
                    remedy=f"{USER_FILE} holds [KIND.NAME] tables; KIND is one of {', '.join(KINDS)}.",
                )
        for name, table in _table(document.get(kind, {}), path, kind).items():
            under = raw[name][0] if name in raw else {}
            raw[name] = (_merge(under, _table(table, path, f"{kind}.{name}")), path)
    return Catalogue(
        kind,
        {
            name: Entry(kind=kind, name=name, data=_resolve(kind, name, raw, ()), source=raw[name][1])
            for name in raw
        },
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CatalogueError(
            f"{path}: no such file", remedy="Give the path of an existing TOML file."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(
            f"{path}: not valid TOML: {error}", remedy="The line and column are those of the file."
        ) from error


def _table(value: Any, path: Path, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CatalogueError(
            f"{path}: {name} is a {type(value).__name__}, not a table", remedy=f"Write it as [{name}]."
        )
    return value


def _merge(under: Mapping[str, Any], over: Mapping[str, Any], *, removable: bool = False) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, removable=key in ("args", "env", "accepts"))
        elif removable and value is False:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _resolve(
    kind: Kind, name: str, raw: Mapping[str, tuple[dict[str, Any], Path]], seen: tuple[str, ...]
) -> dict[str, Any]:
    data, path = raw[name]
    parent = data.get("extends")
    own = {key: value for key, value in data.items() if key != "extends"}
    if parent is None:
        return own
    if not isinstance(parent, str) or parent not in raw:
        near = get_close_matches(str(parent), raw, n=3)
        raise CatalogueError(
            f"{path}: [{name}] key 'extends': unknown {kind[:-1]} {parent!r}",
            remedy=f"Nearest: {', '.join(near)}." if near else f"Known: {', '.join(sorted(raw))}.",
        )
    if parent in (*seen, name):
        raise CatalogueError(
            f"{path}: [{name}] extends itself: {' → '.join((*seen, name, parent))}",
            remedy="Break the circle.",
        )
    return _merge(_resolve(kind, parent, raw, (*seen, name)), own)


def _keys(spec: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in spec.model_fields.items() if name != "name"] + ["extends"]
