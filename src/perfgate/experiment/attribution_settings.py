"""What two sides differ in, as settings that can be applied one by one.

Between two server entries a setting is a flag (``x`` and ``no-x`` are one), a variable, or a part of the launcher, and applying it gives
the old entry the new side's value. Between two versions with the same flags a setting is a default that moved, and applying it pins the
old version's value on the new one.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfgate.errors import InputError
from perfgate.server import ServerSpec, SettingChange
from perfgate.server.flagnames import arguments_behind
from perfgate.server.secrets import MASK, is_secret_name
from perfgate.server.spec import LocalLauncher, Value, opposite

_ASK = """
import dataclasses, json
from vllm.engine.arg_utils import EngineArgs
print(json.dumps([field.name for field in dataclasses.fields(EngineArgs)]))
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One difference.

    Attributes:
        words: as it is shown, secrets masked.
        args: flags by name with what they become; None takes the flag away.
        env: variables likewise.
        launcher: fields of the launcher with their value, or the whole launcher under ``""``.
        group: settings of one group are applied together.
    """

    words: str
    args: Mapping[str, Value | None] | None = None
    env: Mapping[str, str | None] | None = None
    launcher: Mapping[str, Any] | None = None
    group: str = ""


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
    found = []
    stems = dict.fromkeys(name.removeprefix("no-") for name in (*new.args, *old.args))
    changed = [stem for stem in stems if _state(old, stem) != _state(new, stem)]
    for stem in changed:
        before, after = _state(old, stem), _state(new, stem)
        secret = is_secret_name(stem)
        head = stem.partition(".")[0]
        # A table and single keys of it are read together by vLLM.
        together = sum(other.partition(".")[0] == head for other in changed) > 1
        found.append(
            Setting(
                words=_change(_written(before, secret), _written(after, secret)),
                args={**dict.fromkeys(before), **after},
                group=f"--{head}" if together else "",
            )
        )
    return found


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
            words=f"launcher {name} {_text(before[name])} → {_text(after[name])}",
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
        if setting.launcher:
            launcher = setting.launcher.get("") or launcher.model_copy(update=dict(setting.launcher))
    return like.model_copy(update={"args": args, "env": env, "launcher": launcher})


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
        found.setdefault(flag, Setting(words=f"{_written(pin, False)} ({words})", args={flag: value}))
    return tuple(found.values()), tuple(dict.fromkeys(cannot))


def _pin(flag: str, value: Any) -> dict[str, Value] | None:
    if isinstance(value, bool):
        return {flag if value else f"no-{flag}": True}
    return {flag: value} if isinstance(value, (int, float, str, dict)) and value != "" else None


@functools.lru_cache(maxsize=8)
def _known(python: str, env: tuple[tuple[str, str], ...]) -> frozenset[str] | None:
    try:
        answer = subprocess.run(
            [python, "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
            env={**os.environ, **dict(env)},
            cwd="/",  # the working directory is on the module path
        )
        return frozenset(json.loads(answer.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def known_arguments(spec: ServerSpec) -> frozenset[str] | None:
    """The engine arguments of a server's vLLM, asked of its own interpreter; None where it does not say (a container, another layout)."""
    if not isinstance(spec.launcher, LocalLauncher):
        return None
    return _known(spec.launcher.python, tuple(sorted(spec.env.items())))


def _written(state: Mapping[str, Value], secret: bool) -> str:
    words = [
        f"--{name}" if value is True else f"--{name} {MASK if secret else _text(value)}"
        for name, value in state.items()
    ]
    return " ".join(words)


def _change(before: str, after: str) -> str:
    if before and after:
        name, _, value = after.partition("=" if "=" in after and not after.startswith("--") else " ")
        same = before.startswith(f"{name}{'=' if '=' in after and not after.startswith('--') else ' '}")
        return f"{before} → {value}" if same and value else f"{before} → {after}"
    return after or f"without {before}"


def _text(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value, default=str)
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
