"""Record which autotune keys and JIT specialisations Triton derives from a launch, without launching.

The rules stay Triton's own: `Autotuner.run` builds the key (its cache is emptied for the call, so the one key in
it afterwards is this launch's), and the JIT binder builds the specialisation, which reaches `jit_cache_hook`
just before a compile; answering True there makes Triton skip compile and launch. Nothing of a key is rebuilt here.

Runs inside the process that emulates a GPU.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@dataclasses.dataclass(frozen=True)
class Launch:
    """One distinct key of one kernel.

    `fields` names every element of the autotune key, or every argument of the specialisation; `when` is the first
    batch that produced it; `configs` is how many configurations Triton would benchmark (autotune only); `key` is Triton's own text of a
    specialisation, which decides whether two are the same.
    """

    kernel: str
    module: str
    fields: tuple[tuple[str, str], ...]
    when: str
    configs: int = 0
    key: str = ""


class UnknownTritonError(Exception):
    """This Triton does not build keys the way every release from 3.4 to 3.9 does."""


class Recorder:
    """Collects launches by phase; installed once a process, because Triton's hooks are global."""

    def __init__(self) -> None:
        self.autotuned: dict[str, dict[tuple[Any, ...], Launch]] = {}
        self.compiled: dict[str, dict[tuple[Any, ...], Launch]] = {}
        self.phase = ""
        self.when = ""
        self._benched = 0
        self._autotuners: list[Any] = []

    def reset(self) -> None:
        """Forget every launch, and every configuration an autotuner chose meanwhile."""
        self.autotuned.clear()
        self.compiled.clear()
        for autotuner in self._autotuners:
            autotuner.cache.clear()
            if hasattr(autotuner, "best_config"):
                del autotuner.best_config
        self._autotuners.clear()

    @contextmanager
    def during(self, phase: str, when: str) -> Iterator[None]:
        """Attribute launches to `phase` ("warm-up" or "serving") and to the batch `when`."""
        before = self.phase, self.when
        self.phase, self.when = phase, when
        try:
            yield
        finally:
            self.phase, self.when = before

    def install(self) -> None:
        """Replace benchmarking and compiling in this process's Triton.

        Raises:
            UnknownTritonError: this Triton has no `Autotuner._bench` or no `knobs.runtime.jit_cache_hook`.
        """
        autotuner_class = importlib.import_module("triton.runtime.autotuner").Autotuner
        knobs = importlib.import_module("triton").knobs
        if not hasattr(autotuner_class, "_bench") or not hasattr(autotuner_class, "run"):
            raise UnknownTritonError("triton.runtime.autotuner.Autotuner has no run and _bench")
        if not hasattr(knobs.runtime, "jit_cache_hook"):
            raise UnknownTritonError("triton.knobs.runtime has no jit_cache_hook")
        original_run, original_init = autotuner_class.run, autotuner_class.__init__
        recorder = self

        def init(
            autotuner: Any, fn: Any, arg_names: Any, configs: Any, key: Any, *args: Any, **kwargs: Any
        ) -> None:
            # Triton 3.9 refuses names that are no arguments; every release before leaves them out of the key, and the
            # sources under test were written for one of those.
            known = [name for name in key if name in arg_names]
            original_init(autotuner, fn, arg_names, configs, known, *args, **kwargs)

        def bench(_self: Any, *_args: Any, **_kwargs: Any) -> list[float]:
            recorder._benched += 1
            return [1.0, 1.0, 1.0]

        def run(autotuner: Any, *args: Any, **kwargs: Any) -> Any:
            recorder._autotuners.append(autotuner)
            # A key found on disk would count as benchmarked never; a cold machine has no disk cache.
            autotuner.cache_results = False
            kept, autotuner.cache = autotuner.cache, {}
            recorder._benched = 0
            try:
                return original_run(autotuner, *args, **kwargs)
            finally:
                keys, benched = list(autotuner.cache), recorder._benched
                kept.update(autotuner.cache)
                autotuner.cache = kept
                recorder._record_key(autotuner, args, kwargs, keys, benched)

        autotuner_class.__init__ = init
        autotuner_class._bench = bench
        autotuner_class.run = run
        knobs.runtime.jit_cache_hook = self._before_compile
        jit: Any = importlib.import_module("triton.runtime.jit")
        if hasattr(jit, "serialize_specialization_data"):
            # Made for hooks that store compiles; it fails on constants that JSON does not know, and nothing here reads it.
            jit.serialize_specialization_data = lambda *_args, **_kwargs: ""

    def _record_key(
        self, autotuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], keys: list[Any], benched: int
    ) -> None:
        if len(autotuner.configs) <= 1 or not benched:
            return
        if len(keys) != 1:
            raise UnknownTritonError(
                f"one launch of {autotuner.base_fn.__name__} left {len(keys)} keys in Autotuner.cache, not one"
            )
        (key,) = keys
        given = {**dict(zip(autotuner.arg_names, args, strict=False)), **kwargs}
        arguments = {name: value for name, value in given.items() if name in autotuner.arg_names}
        names = [name for name in autotuner.keys if name in arguments]
        names += [f"{name}.dtype" for name, value in arguments.items() if hasattr(value, "dtype")]
        if len(names) != len(key):
            names = [f"key[{index}]" for index in range(len(key))]
        function = autotuner.base_fn
        phase = self.autotuned.setdefault(self.phase, {})
        phase.setdefault(
            (function.__module__, function.__name__, key),
            Launch(
                kernel=function.__name__,
                module=function.__module__,
                fields=tuple((name, str(value)) for name, value in zip(names, key, strict=True)),
                when=self.when,
                configs=benched,
            ),
        )

    def _before_compile(self, *, key: Any, fn: Any, **more: Any) -> bool:
        phase = self.compiled.setdefault(self.phase, {})
        identity = (fn.module, fn.name, str(key))
        if identity not in phase:
            phase[identity] = Launch(
                kernel=str(fn.name).rsplit(".", 1)[-1],
                module=str(fn.module),
                fields=_specialisation(more["compile"], str(key)),
                when=self.when,
                key=str(key),
            )
        return True


def _specialisation(job: dict[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    """Name what Triton specialised each argument on, from what it hands to a compile hook, and from the key what that leaves out."""
    names = list(job["signature"])
    described: dict[str, str] = {name: str(kind) for name, kind in job["signature"].items()}
    for path, value in dict(job.get("constants") or {}).items():
        name = _argument(path, names)
        described[name] = f"constexpr {value}"
    for configuration in job.get("configs") or ():
        for path, attributes in dict(configuration or {}).items():
            name = _argument(path, names)
            if any("divisibility" in str(attribute) for attribute in attributes):
                described[name] = f"{described.get(name, '')} divisible by 16".strip()
    for name, value in zip(names, _values(key, len(names)), strict=False):
        # An integer 1 that stays an argument (Triton 3.9): neither a constant nor an attribute, but another compile.
        if isinstance(value, int) and "constexpr" not in described[name]:
            described[name] += f" equal to {value}"
    options = tuple((name, str(job[name])) for name in ("num_warps", "num_stages") if name in job)
    return tuple(described.items()) + options


def _values(key: str, arguments: int) -> list[Any]:
    """The second halves of a key that begins with one (type, value) pair an argument; nothing for a key of another form."""
    pairs, _, _ = key.partition("]{")
    try:
        found = ast.literal_eval(f"{pairs}]")
        return [value for _type, value in found] if len(found) == arguments else []
    except (ValueError, SyntaxError, TypeError):
        return []


def _argument(path: Any, names: list[str]) -> str:
    """The argument a path such as `(3,)`, `3` or `(3, 0)` leads to."""
    if isinstance(path, str):
        return path
    index = path[0] if isinstance(path, tuple) else path
    return names[index] if isinstance(index, int) and index < len(names) else str(path)
