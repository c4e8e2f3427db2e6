"""The recorder inside a live vLLM: an entry point of ``vllm.general_plugins``, which every vLLM process loads.

Inert unless ``PERFGATE_AUTOTUNE_EVENTS`` names a file. It only watches: whatever fails in it is written down as an event, and the engine
goes on. vLLM's own JIT monitor, which takes the same hooks later, calls the ones it finds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from perfgate.autotune.eventlog import VARIABLE, append

# The worker's last step before it serves, in every release with the V1 engine.
_WORKERS = ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.cpu_worker")
_LAST_STEP = "compile_or_warm_up_model"

_installed = False


def register() -> None:
    """What vLLM calls in each of its processes, possibly more than once."""
    global _installed
    target = os.environ.get(VARIABLE)
    if not target or _installed:
        return
    _installed = True
    Watcher(Path(target)).install()


class Watcher:
    """Appends this process's events to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready = False
        self._started: dict[str, float] = {}

    def install(self) -> None:
        """Hook into this process's Triton and its worker; says ``start``, or ``error`` with the reason."""
        try:
            version = self._watch_triton()
            self._watch_worker()
        except Exception:
            self._write(kind="error", text=traceback.format_exc(limit=3))
            return
        self._write(kind="start", triton=version)
        os.register_at_fork(after_in_child=lambda: self._forked(version))

    def _forked(self, version: str | None) -> None:
        """A forked process (`VLLM_WORKER_MULTIPROC_METHOD=fork`) has these hooks, and vLLM loads no plugin in it again."""
        self.ready = False
        self._started.clear()
        self._write(kind="start", triton=version)

    def say_ready(self) -> None:
        """From here on, what is tuned or compiled makes a request wait."""
        self.ready = True
        self._write(kind="ready")

    def _write(self, **event: Any) -> None:
        append(
            self.path,
            {
                "time": time.time(),
                "pid": os.getpid(),
                "process": Path(sys.argv[0]).name if sys.argv else "",
                "after_ready": self.ready,
                **event,
            },
        )

    def _watch_triton(self) -> str | None:
        try:
            triton = importlib.import_module("triton")
            autotuner_class = importlib.import_module("triton.runtime.autotuner").Autotuner
        except ImportError:
            return None
        if os.environ.get("VLLM_TRITON_FORCE_FIRST_CONFIG", "0") not in ("", "0"):
            raise RuntimeError(
                "VLLM_TRITON_FORCE_FIRST_CONFIG replaces Autotuner.run: nothing would be autotuned"
            )
        knobs = triton.knobs
        _make_hooks_safe()
        self._chain(knobs.runtime, "jit_cache_hook", self._before_compile)
        self._chain(knobs.runtime, "jit_post_compile_hook", self._after_compile)
        if has_listener(knobs):
            self._chain(knobs.autotuning, "listener", self._autotuned)
        else:
            self._wrap_autotuner(autotuner_class)
        return str(triton.__version__)

    def _chain(self, owner: Any, name: str, ours: Any) -> None:
        """Have `ours` called after the hook that is there, whose answer counts."""
        theirs = getattr(owner, name)

        def both(*args: Any, **kwargs: Any) -> Any:
            answer = theirs(*args, **kwargs) if theirs is not None else None
            with contextlib.suppress(Exception):
                ours(*args, **kwargs)
            return answer

        setattr(owner, name, both)

    def _before_compile(self, *, key: Any, **_more: Any) -> None:
        self._started[str(key)] = time.monotonic()

    def _after_compile(self, *, key: Any, fn: Any, **_more: Any) -> None:
        began = self._started.pop(str(key), None)
        self._write(
            kind="jit",
            kernel=_kernel_name(fn),
            key=[str(key)[:2000]],
            duration_s=None if began is None else time.monotonic() - began,
        )

    def _autotuned(
        self,
        *,
        fn: Any,
        key: Any,
        best_config: Any,
        configs_timings: Any,
        duration: float | None,
        cache_hit: bool,
        **_more: Any,
    ) -> None:
        timings = {
            str(config): _milliseconds(timing) for config, timing in dict(configs_timings or {}).items()
        }
        self._write(
            kind="autotune",
            kernel=_kernel_name(fn),
            key=[str(part) for part in key],
            winner=str(best_config),
            timings_ms=timings,
            failed=sum(timing is None for timing in timings.values()),
            duration_s=duration,
            cache_hit=bool(cache_hit),
        )

    def _wrap_autotuner(self, autotuner_class: Any) -> None:
        """For Triton before 3.8, which has no listener: a key that appears in the cache was tuned by this call."""
        original = autotuner_class.run

        @functools.wraps(original)
        def run(autotuner: Any, *args: Any, **kwargs: Any) -> Any:
            before = set(autotuner.cache)
            autotuner.bench_time = None
            began = time.monotonic()
            try:
                return original(autotuner, *args, **kwargs)
            finally:
                took = time.monotonic() - began
                with contextlib.suppress(Exception):
                    for key in set(autotuner.cache) - before:
                        benched = getattr(autotuner, "bench_time", None)
                        self._autotuned(
                            fn=autotuner.base_fn,
                            key=key,
                            best_config=autotuner.cache[key],
                            configs_timings=getattr(autotuner, "configs_timings", None),
                            duration=took if benched is None else benched,
                            # Only a benchmark sets bench_time; a winner read from disk leaves it unset.
                            cache_hit=benched is None,
                        )

        autotuner_class.run = run

    def _watch_worker(self) -> None:
        for name in _WORKERS:
            if name in sys.modules:
                self._wrap_worker(sys.modules[name])
        sys.meta_path.insert(0, _AfterImport(self._wrap_worker))

    def _wrap_worker(self, module: Any) -> None:
        for worker in vars(module).values():
            if not isinstance(worker, type) or _LAST_STEP not in vars(worker):
                continue
            setattr(worker, _LAST_STEP, self._then_ready(vars(worker)[_LAST_STEP]))

    def _then_ready(self, original: Any) -> Any:
        if getattr(original, "__perfgate__", False):
            return original

        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            answer = original(*args, **kwargs)
            self.say_ready()
            return answer

        step.__perfgate__ = True  # type: ignore[attr-defined]
        return step


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls back after a worker module has been imported, by whichever finder."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback
        self._busy = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        """The other finders' specification, its loader wrapped; None for any other module."""
        if fullname not in _WORKERS or self._busy:
            return None
        self._busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy = False
        if spec is None or spec.loader is None:
            return None
        loader, callback = spec.loader, self._callback
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            with contextlib.suppress(Exception):
                callback(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def has_listener(knobs: Any) -> bool:
    """Whether this Triton (3.8 and later) tells a listener what it tuned."""
    return hasattr(knobs.autotuning, "listener")


def _make_hooks_safe() -> None:
    """Triton serialises a specialisation for its hooks and fails on constants that JSON does not know; the launch must not."""
    jit: Any = importlib.import_module("triton.runtime.jit")
    original = getattr(jit, "serialize_specialization_data", None)
    if original is None:
        return

    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except (TypeError, ValueError):
            return None

    jit.serialize_specialization_data = guarded


def _kernel_name(fn: Any) -> str:
    name = getattr(fn, "name", None) or getattr(fn, "__name__", None) or str(fn)
    return str(name).rsplit(".", 1)[-1]


def _milliseconds(timing: Any) -> float | None:
    median = timing[0] if isinstance(timing, list | tuple) else timing
    value = float(median)
    return value if math.isfinite(value) else None
