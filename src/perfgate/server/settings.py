"""The configuration that a server resolved to, as one flat table, and what moved between two of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfgate.records import Baseline, BootRecord, Measurement
from perfgate.server.reading import Member, agrees, parsed
from perfgate.shortening import shortened

_OWN_TO_A_BOOT = re.compile(
    r"(?:^|\.)(?:_\w+|instance_id|served_model_name|model|model_weights|tokenizer|compilation_time|encoder_compilation_time"
    r"|num_gpu_blocks|num_cpu_blocks|kv_cache_size_tokens|kv_cache_max_concurrency|traced_files|static_forward_context"
    r"|static_all_moe_layers|enabled_custom_ops|disabled_custom_ops|\w*cache_dir|debug_dump_path|\w+_ip|\w*_addr|\w*_port|port"
    r"|\w*token|\w*api_key|assigned_physical_gpu_ids)(?:\.|$)"
)
"""Keys that belong to one boot, one machine or one path, and never say how the server behaves. They are not kept."""

_TELLING = (
    "scheduler_config",
    "cache_config",
    "model_config",
    "parallel_config",
    "attention_config",
    "mamba_config",
    "kernel_config",
)
"""Sections in the order in which their moved settings are quoted."""

FROM_LOG = "engine"
"""The section of settings that only the engine's log line told."""

UNASKED = "not set by you"
ASKED = "set by you"
"""How the line of a change ends that no flag asked for."""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration as ``section.key`` → value, all of it.

    Args:
        config: the ``vllm_config`` of ``/server_info``.
    """
    return dict(_flat(config, ""))


def read(texts: Mapping[str, str], section: str = "") -> dict[str, Any]:
    """Settings that were printed as text, flat."""
    values = {key: parsed(text) for key, text in texts.items()}
    return flat({section: values} if section else values)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings as JSON can hold them: a member of an enumeration by its name."""
    return {key: str(value) if isinstance(value, Member) else value for key, value in settings.items()}


def lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings without what belongs to one boot, one machine or one path."""
    return {key: value for key, value in settings.items() if not _OWN_TO_A_BOOT.search(key)}


def settings_hash(settings: Mapping[str, Any]) -> str | None:
    """Sixteen hexadecimal digits that are equal for equal settings; None for none at all."""
    if not settings:
        return None
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class SettingChange:
    """One resolved setting that is not what it was."""

    key: str
    before: Any
    after: Any
    asked: bool
    """Whether the flags that were asked for differ in it."""
    versions: tuple[str | None, str | None] = (None, None)
    beside: bool = False
    """Whether the same release was given other flags, from which this may well follow."""

    @property
    def name(self) -> str:
        """The key without its section."""
        return self.key.rpartition(".")[2]

    def __str__(self) -> str:
        old, new = self.versions
        if self.asked:
            why = ASKED
        elif old and new and old != new:
            why = f"new default between vLLM {old} and {new}; {UNASKED}"
        elif self.beside:
            why = f"{UNASKED}, but beside other flags of the same release"
        else:
            why = UNASKED
        return f"{shortened(f'{self.name}: {_word(self.before)} → {_word(self.after)}')}, {why}"


def moved_settings(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    asked_before: Mapping[str, Any] | None = None,
    asked_after: Mapping[str, Any] | None = None,
    versions: tuple[str | None, str | None] = (None, None),
) -> tuple[SettingChange, ...]:
    """What a later boot resolved differently, the settings nobody asked for first.

    A key that only one side has is a setting that a release added or dropped. A change counts only where one of the values says
    something (not null, false, auto, or empty). Where one side is known from its log alone, which tells less and in other sections,
    only settings that both name are compared. Without settings on either side nothing is known, and nothing is said.

    Args:
        before: flat settings stored with the baseline.
        after: flat settings of the boot.
        asked_before: arguments of the baseline's server.
        asked_after: arguments of the server now.
        versions: vLLM then and now.
    """
    if not before or not after:
        return ()
    if _from_the_log(before) != _from_the_log(after):
        before, after = _contradictions(before, after)
    changed_flags = _changed_flags(asked_before or {}, asked_after or {})
    changes = [
        SettingChange(
            key=key,
            before=before.get(key),
            after=after.get(key),
            asked=_concerns(key, changed_flags),
            versions=versions,
            beside=bool(changed_flags) and versions[0] is not None and versions[0] == versions[1],
        )
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
        and (_says_something(before.get(key)) or _says_something(after.get(key)))
    ]
    both = {key for key in before if key in after}
    return tuple(
        sorted(changes, key=lambda change: (change.asked, change.key not in both, *_rank(change.key)))
    )


def _from_the_log(settings: Mapping[str, Any]) -> bool:
    return any(key.startswith(f"{FROM_LOG}.") for key in settings)


def _contradictions(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that both sides name, in whatever section, and that do not agree; under the old side's keys."""
    left, right = _by_name(before), _by_name(after)
    names = [
        name for name, (_, value) in left.items() if name in right and agrees(value, right[name][1]) is False
    ]
    return {left[name][0]: left[name][1] for name in names}, {left[name][0]: right[name][1] for name in names}


def _by_name(settings: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Name → (key, value) for names that have one value only."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for key, value in settings.items():
        found.setdefault(key.rpartition(".")[2], []).append((key, value))
    return {
        name: pairs[0] for name, pairs in found.items() if all(value == pairs[0][1] for _, value in pairs)
    }


def _rank(key: str) -> tuple[int, int, str]:
    """What decides most about speed first: the scheduler's own settings before the inner ones of a compiler pass."""
    section = key.partition(".")[0]
    return (
        key.count("."),
        _TELLING.index(section) if section in _TELLING else len(_TELLING),
        key,
    )


def moved_defaults(baseline: Baseline | Measurement, now: Measurement) -> tuple[SettingChange, ...]:
    """What the measured servers resolved differently from the baseline's or the old side's, the settings nobody asked for first.

    The first boot with settings stands for its side: all boots of a side have the same flags and release.
    """
    return moved_settings(
        _first_settings(baseline.boots),
        _first_settings(now.boots),
        asked_before=_asked(baseline.server),
        asked_after=_asked(now.server),
        versions=(baseline.fingerprint.vllm, now.fingerprint.vllm),
    )


def _first_settings(boots: Sequence[BootRecord]) -> Mapping[str, Any]:
    return next((boot.settings for boot in boots if boot.settings), {})


def _asked(server: Mapping[str, Any]) -> Mapping[str, Any]:
    args, env = server.get("args"), server.get("env")
    return {**(env if isinstance(env, Mapping) else {}), **(args if isinstance(args, Mapping) else {})}


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def _changed_flags(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    return {
        flag.removeprefix("no-").replace("-", "_")
        for flag in {*before, *after}
        if before.get(flag) != after.get(flag)
    }


def _concerns(key: str, flags: Collection[str]) -> bool:
    parts = key.split(".")
    return any(flag in parts or flag.partition(".")[0] in parts for flag in flags)


def _says_something(value: Any) -> bool:
    return value not in (None, False, 0, "", "auto") and value != [] and value != {}


def _word(value: Any) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value, default=str)
