"""Moved defaults of a new version as settings: applying one gives the new version the old value by a flag.

A key of the resolved configuration is set by a flag of its own, or by a key of the table that a flag takes. Everything below a flag that
takes a table belongs to that table: ``speculative_config.draft_model_config.max_model_len`` is not the target's ``--max-model-len``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from perfgate.experiment.attribution_settings import Setting, in_words, written, written_key
from perfgate.experiment.attribution_tables import ABSENT, Path, at, table
from perfgate.server import ServerSpec, SettingChange
from perfgate.server.arguments import Asked, as_taken, known_arguments
from perfgate.server.flagnames import ALIASES, called_otherwise
from perfgate.server.settings import FROM_LOG
from perfgate.server.spec import Value, opposite
from perfgate.shortening import shortened

UNSETTABLE = "no flag sets"
UNGIVABLE = "the old value cannot be given for"
SET_BY_USER = "set by you, and not pinned:"
"""How the note about a moved default begins that is not pinned."""

Taken: TypeAlias = Callable[[Sequence[Asked]], Sequence[tuple[Any, ...]] | None]
"""Values as the new version takes them: see `perfgate.server.arguments.as_taken`."""


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How a key is set: by a flag, or by a key of its table."""

    argument: str
    path: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return self.argument.replace("_", "-")

    def keys(self) -> Path:
        return (self.flag, *self.path)

    def is_used(self, spec: ServerSpec) -> bool:
        """Whether the server sets it, or its table in a way that no key can be added to."""
        if not self.path:
            return self.flag in spec.args or opposite(self.flag) in spec.args
        return table(spec.args, self.flag) is None or at(spec.args, self.keys()) is not ABSENT


def moved_pins(
    changes: Sequence[SettingChange], spec: ServerSpec
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """The moved defaults as settings, and notes on those that cannot be one, with what the server's own vLLM says of its flags."""
    known = known_arguments(spec)
    return pins(
        changes,
        spec,
        known,
        sections=known or {},
        taken=lambda asked: as_taken(spec, asked) if known else None,
    )


def pins(
    changes: Sequence[SettingChange],
    spec: ServerSpec,
    known: Collection[str] | None,
    *,
    sections: Mapping[str, str] = MappingProxyType({}),
    taken: Taken = lambda _: None,
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """The moved defaults that a flag can set back, and in words those that none can, each with the reason.

    Args:
        changes: of the resolved configuration, old to new.
        spec: the server on the new version; what it sets itself is not touched.
        known: arguments of the new version; None where they are not known, and the last part of a key is taken for its flag.
        sections: argument → section of the configuration that declares it, as far as that is known.
        taken: asks the new version which values it takes; one that does not tell takes all.
    """
    wanted: dict[_Way, SettingChange] = {}
    notes: list[str] = []
    for change in changes:
        ways = list(_ways(change.key, spec, known, sections))
        if change.asked or any(way.is_used(spec) for way in ways):
            notes.append(f"{SET_BY_USER} {shortened(_moved(change))}")
        elif not ways:
            notes.append(f"{UNSETTABLE} {shortened(_moved(change))}")
        elif change.before is None or (not ways[0].path and change.before in ("", [])):
            notes.append(f"{UNGIVABLE} {shortened(_moved(change))}")
        else:
            wanted.setdefault(ways[0], change)
    asked = [
        Asked(argument=way.argument, path=way.path, value=change.before) for way, change in wanted.items()
    ]
    answers = (taken(asked) if asked else None) or [(one.value,) for one in asked]
    found = []
    for (way, change), answer in zip(wanted.items(), answers, strict=True):
        if answer:
            found.append(_pin(way, answer[0], change))
        else:
            notes.append(f"{UNGIVABLE} {shortened(_moved(change))}")
    return tuple(found), tuple(dict.fromkeys(notes))


def _ways(
    key: str, spec: ServerSpec, known: Collection[str] | None, sections: Mapping[str, str]
) -> Iterator[_Way]:
    """How a key may be set, what is best first."""
    parts = tuple(key.removeprefix(f"{FROM_LOG}.").split("."))
    *outer, name = parts
    if _is_of_another_model(outer, sections):
        return
    owner = next((n for n, part in enumerate(outer) if _takes_table(part, spec, known)), None)
    for other, length in called_otherwise(key):
        if (known is None or other in known) and (owner is None or len(parts) - length <= owner):
            yield _Way(argument=other)
    if (known is None or name in known) and _is_its_own(name, outer, owner, sections):
        yield _Way(argument=name)
    if owner is not None:
        yield _Way(argument=parts[owner], path=parts[owner + 1 :])


def _is_of_another_model(outer: Sequence[str], sections: Mapping[str, str]) -> bool:
    """Whether a section lies inside another one under a name of its own, as ``draft_model_config`` does."""
    names = {_plain(section) for section in sections.values()} | {"modelconfig"}
    return any(
        _plain(part).endswith(name) and _plain(part) != name for part in outer[1:] for name in names if name
    )


def _takes_table(part: str, spec: ServerSpec, known: Collection[str] | None) -> bool:
    if known is not None:
        return part in known
    flag = part.replace("_", "-")
    return flag in ALIASES.values() or any(name.partition(".")[0] == flag for name in spec.args)


def _is_its_own(name: str, outer: Sequence[str], owner: int | None, sections: Mapping[str, str]) -> bool:
    """Whether the flag of this name is the setting's own rather than one of the same name elsewhere."""
    if owner is None and len(outer) <= 1:
        return True
    return bool(sections.get(name)) and _plain(sections[name]) in map(_plain, outer)


def _plain(section: str) -> str:
    return section.replace("_", "").lower()


def _pin(way: _Way, value: Any, change: SettingChange) -> Setting:
    if way.path:
        return Setting(words=f"{written_key(way.keys(), value)} ({_moved(change)})", keys={way.keys(): value})
    args: dict[str, Value] = (
        {way.flag if value else opposite(way.flag): True} if isinstance(value, bool) else {way.flag: value}
    )
    return Setting(words=f"{written(args, False)} ({_moved(change)})", args=args)


def _moved(change: SettingChange) -> str:
    before, after = (in_words(value, nothing="unset") for value in (change.before, change.after))
    return f"{change.name}: {before} → {after}"
