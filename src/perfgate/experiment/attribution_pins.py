"""Moved defaults of a new version as settings: applying one gives the new version the old value by a flag."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from perfgate.experiment.attribution_settings import Setting, written
from perfgate.server import ServerSpec, SettingChange
from perfgate.server.flagnames import arguments_behind
from perfgate.server.spec import Value, opposite


def pins(
    changes: Sequence[SettingChange], spec: ServerSpec, known: Collection[str] | None
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """The moved defaults that a flag can set back, and in words those that none can.

    Args:
        changes: of the resolved configuration, old to new.
        spec: the server on the new version; a flag that it sets itself is not touched.
        known: arguments of the new version; None where they are not known, and the last part of a key is taken for its flag.
    """
    found: dict[str, Setting] = {}
    cannot: list[str] = []
    for change in changes:
        words = str(change).partition(",")[0]
        names = arguments_behind(change.key)
        name = next((name for name in names if known is None or name in known), None)
        pin = _pin(name.replace("_", "-"), change.before) if name is not None else None
        if pin is None or change.asked:
            cannot.append(words)
            continue
        ((flag, value),) = pin.items()
        if flag in spec.args or opposite(flag) in spec.args:
            cannot.append(words)
            continue
        found.setdefault(flag, Setting(words=f"{written(pin, False)} ({words})", args={flag: value}))
    return tuple(found.values()), tuple(dict.fromkeys(cannot))


def _pin(flag: str, value: Any) -> dict[str, Value] | None:
    if isinstance(value, bool):
        return {flag if value else f"no-{flag}": True}
    return {flag: value} if isinstance(value, (int, float, str, dict)) and value != "" else None
