"""What two server entries differ in, as settings that can be applied one by one.

A setting is a flag (``x`` and ``no-x`` are one), one key of a flag's table, a variable, or a part of the launcher, and applying it gives
the old entry the new side's value. Between two versions it is a default that moved: see `perfgate.experiment.attribution_pins`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfgate.errors import InputError
from perfgate.experiment.attribution_tables import ABSENT, Leaf, Path, differing, is_whole, table, with_keys
from perfgate.server import ServerSpec
from perfgate.server.secrets import MASK, is_secret_name, masked
from perfgate.server.spec import Value, opposite


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One difference.

    Attributes:
        words: as it is shown, secrets masked.
        args: flags by name with what they become; None takes the flag away.
        keys: keys of flags' tables with what they become; ABSENT takes the key away.
        env: variables likewise.
        launcher: fields of the launcher with their value, or the whole launcher under ``""``.
        group: settings of one group are applied together.
    """

    words: str
    args: Mapping[str, Value | None] | None = None
    keys: Mapping[Path, Leaf] | None = None
    env: Mapping[str, str | None] | None = None
    launcher: Mapping[str, Any] | None = None
    group: str = ""

    def is_blamed(self, problem: str) -> bool:
        """Whether the reason why a server does not boot names the flag, and the key where it is one of a table."""
        return any(f"--{name}" in problem for name in self.args or {}) or any(
            f"--{path[0]}" in problem and re.search(rf"\b{re.escape(path[-1])}\b", problem)
            for path in self.keys or {}
        )


def differences(old: ServerSpec, new: ServerSpec) -> tuple[Setting, ...]:
    """What makes the new entry out of the old one, in the new entry's order.

    Raises:
        InputError: nothing differs, or a side is attached: perfgate cannot boot it with other settings.
    """
    for side in (old, new):
        if side.launcher.kind == "attach":
            raise InputError(
                f"server {side.name!r} is attached: perfgate cannot boot it with some of the settings",
                remedy="Give entries with a local or docker launcher.",
            )
    found = (*_flags(old, new), *_variables(old, new), *_launcher(old, new))
    if not found:
        raise InputError(
            f"--attribute: servers {old.name!r} and {new.name!r} have the same settings",
            remedy="Give --against-server another entry, or changes with --vllm-arg and --env.",
        )
    return found


def _flags(old: ServerSpec, new: ServerSpec) -> list[Setting]:
    found: list[Setting] = []
    stems = dict.fromkeys(name.removeprefix("no-") for name in (*new.args, *old.args))
    for head in dict.fromkeys(stem.partition(".")[0] for stem in stems):
        before, after = table(old.args, head), table(new.args, head)
        if (
            before is not None
            and after is not None
            and (is_whole(old.args, head) or is_whole(new.args, head))
        ):
            keys = [_key(*change) for change in differing(before, after, (head,))]
        else:
            keys = []
        found += keys or _plain_flags(old, new, [stem for stem in stems if stem.partition(".")[0] == head])
    return found


def _plain_flags(old: ServerSpec, new: ServerSpec, stems: Sequence[str]) -> list[Setting]:
    """The flags, or dotted keys of one flag, that differ."""
    found = []
    # Of a table that is given whole and by keys, vLLM reads the keys only: apart, each would change what the other does.
    together = (
        f"--{stems[0].partition('.')[0]}" if len(stems) > 1 and not all("." in stem for stem in stems) else ""
    )
    for stem in stems:
        before, after = _state(old, stem), _state(new, stem)
        if before != after:
            secret = is_secret_name(stem)
            words = _change(written(before, secret), written(after, secret))
            found.append(Setting(words=words, args={**dict.fromkeys(before), **after}, group=together))
    return found


def _key(path: Path, before: Leaf, after: Leaf) -> Setting:
    old, new = (written_key(path, leaf) if leaf is not ABSENT else "" for leaf in (before, after))
    return Setting(words=_change(old, new), keys={path: after})


def _state(spec: ServerSpec, stem: str) -> dict[str, Value]:
    return {name: spec.args[name] for name in (stem, opposite(stem)) if name in spec.args}


def _variables(old: ServerSpec, new: ServerSpec) -> list[Setting]:
    found = []
    for name in dict.fromkeys((*new.env, *old.env)):
        before, after = old.env.get(name), new.env.get(name)
        if before != after:
            hide = MASK if is_secret_name(name) else None
            words = _change(
                f"{name}={hide or before}" if before is not None else "",
                f"{name}={hide or after}" if after is not None else "",
            )
            found.append(Setting(words=words, env={name: after}))
    return found


def _launcher(old: ServerSpec, new: ServerSpec) -> list[Setting]:
    if old.launcher == new.launcher:
        return []
    if old.launcher.kind != new.launcher.kind:
        words = f"launcher {old.launcher.kind} → {new.launcher.kind}"
        return [Setting(words=words, launcher={"": new.launcher})]
    before, after = old.launcher.model_dump(), new.launcher.model_dump()
    return [
        Setting(
            words=f"launcher {name} {in_words(before[name])} → {in_words(after[name])}",
            launcher={name: getattr(new.launcher, name)},
        )
        for name in after
        if before[name] != after[name]
    ]


def applied(base: ServerSpec, settings: Sequence[Setting], *, like: ServerSpec) -> ServerSpec:
    """The base with some settings on top; name and boot timeout are those of ``like``."""
    args, env, launcher = dict(base.args), dict(base.env), base.launcher
    for setting in settings:
        for name, value in (setting.args or {}).items():
            args.pop(name, None)
            if value is not None:
                args.pop(opposite(name), None)
                args[name] = value
        for name, text in (setting.env or {}).items():
            env.pop(name, None)
            if text is not None:
                env[name] = text
        if setting.keys:
            args = with_keys(args, setting.keys)
        if setting.launcher:
            launcher = setting.launcher.get("") or launcher.model_copy(update=dict(setting.launcher))
    return like.model_copy(update={"args": args, "env": env, "launcher": launcher})


def written_key(path: Path, leaf: Leaf) -> str:
    """One key of a flag's table in words."""
    name = ".".join(path)
    return f"--{name} {MASK if is_secret_name(name) else in_words(leaf, nothing='null')}"


def written(state: Mapping[str, Value], secret: bool) -> str:
    """Flags in words, a secret value masked."""
    words = [
        f"--{name}"
        if value is True and "." not in name
        else f"--{name} {MASK if secret else in_words(value)}"
        for name, value in state.items()
    ]
    return " ".join(words)


def _change(before: str, after: str) -> str:
    if before and after:
        name, _, value = after.partition("=" if "=" in after and not after.startswith("--") else " ")
        same = before.startswith(f"{name}{'=' if '=' in after and not after.startswith('--') else ' '}")
        return f"{before} → {value}" if same and value else f"{before} → {after}"
    return after or f"without {before}"


def in_words(value: Any, *, nothing: str = "none") -> str:
    """A value as it is shown, all of it.

    Args:
        value: anything that can be a setting.
        nothing: what None is called.
    """
    if value is None:
        return nothing
    return value if isinstance(value, str) else json.dumps(masked(value), default=str, ensure_ascii=False)
