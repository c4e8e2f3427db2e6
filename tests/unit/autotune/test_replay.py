"""Each cell of a process starts as the first one did."""

from __future__ import annotations

import functools
import types

from perfgate.autotune.replay import _FreshState


def test_a_second_cell_finds_what_the_first_found() -> None:
    """Flags, also new ones, containers about warming up and function caches are put back; registries keep what later imports added."""

    class Layer:
        prefill_done = False
        warmed_shapes: set[int] = set()
        registry: dict[str, int] = {}

    calls = []
    module = types.ModuleType("vllm.something")
    module.count = 0  # type: ignore[attr-defined]
    module.say_once = functools.lru_cache(calls.append)  # type: ignore[attr-defined]
    shared = Layer.warmed_shapes
    fresh = _FreshState()
    for _cell in range(2):
        fresh.restore([Layer, module])
        assert not Layer.prefill_done
        assert not hasattr(Layer, "added")
        assert (module.count, len(shared)) == (0, 0)  # type: ignore[attr-defined]
        module.say_once("warm-up failed")  # type: ignore[attr-defined]
        Layer.prefill_done, module.count = True, 3  # type: ignore[attr-defined]
        Layer.added = 1  # type: ignore[attr-defined]
        Layer.warmed_shapes.add(64)
        Layer.registry["imported later"] = 1
    assert calls == ["warm-up failed"] * 2
    assert Layer.registry
