"""Finding layers by what they do, in sources written for the test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perfgate.autotune.batches import Batch, serving_batches
from perfgate.autotune.discovery import UnknownLayoutError, find_layer, find_warmups
from perfgate.autotune.engine import UnknownLayoutError as EngineUnknown
from perfgate.autotune.engine import _bind

LAYER = """
class {name}:
    def run(self):
        context = get_forward_context()
        return self.{rule}(context)
"""


def package(folder: Path, files: dict[str, str]) -> Path:
    """A package ``fakevllm_N`` with these files under model_executor."""
    root = folder / f"fakevllm_{abs(hash(str(folder))) % 10**8}"
    for name, source in files.items():
        file = root / "model_executor" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        for parent in (file.parent, *file.parent.parents):
            if parent == folder:
                break
            (parent / "__init__.py").touch()
        file.write_text(source)
    return root


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_a_layer_is_found_wherever_it_lives(tmp_path: Path) -> None:
    """File and class names are free; reading the forward context and calling the rule is what counts."""
    rule = LAYER.format(name="Whatever", rule="chunk_gated_delta_rule")
    root = package(tmp_path, {"layers/new/place.py": rule, "models/x.py": "class Other: pass"})
    assert find_layer("gdn", root).__name__ == "Whatever"


def test_layers_are_told_apart(tmp_path: Path) -> None:
    """The KDA rule makes a KDA layer, OLMo's file an OLMo layer; none is taken for another."""
    root = package(
        tmp_path,
        {
            "layers/a.py": LAYER.format(name="Gdn", rule="chunk_gated_delta_rule"),
            "layers/olmo_b.py": LAYER.format(name="Olmo", rule="chunk_gated_delta_rule"),
            "layers/c.py": LAYER.format(name="Kda", rule="chunk_kda_with_gate"),
        },
    )
    assert [find_layer(kind, root).__name__ for kind in ("gdn", "olmo", "kda")] == ["Gdn", "Olmo", "Kda"]


def test_an_unknown_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    """No class that does it is an error, never an empty answer."""
    root = package(tmp_path, {"layers/a.py": "class A: pass"})
    with pytest.raises(
        UnknownLayoutError, match=r"reads get_forward_context\(\) and calls chunk_gated_delta_rule"
    ):
        find_layer("gdn", root)


def test_two_candidates_are_an_error(tmp_path: Path) -> None:
    """Which of two layers serves is not guessed."""
    root = package(
        tmp_path,
        {
            f"layers/{name}.py": LAYER.format(name=name, rule="chunk_gated_delta_rule")
            for name in ("One", "Two")
        },
    )
    with pytest.raises(UnknownLayoutError, match="2 classes look like"):
        find_layer("gdn", root)


def test_warm_ups_are_found_by_what_they_speak_of(tmp_path: Path) -> None:
    """Imported from anywhere below, also relatively, or written beside it: what deals with linear attention is called, the rest is not."""
    root = package(
        tmp_path,
        {
            "warmup/one.py": "def one(runner):\n    return runner.GatedDelta",
            "warmup/two.py": "def two(worker):\n    return worker._gdn_layers",
            "warmup/gemm.py": "def gemm(worker):\n    return worker",
            "warmup/kernel_warmup.py": (
                f"from {tmp_path.name}_.model_executor.warmup.one import one\n"
                "def own(model):\n    return model._gdn_layers()\n"
                "def helper(model):\n    return model._gdn_layers()\n"
                "def kernel_warmup(worker):\n    from .two import two\n    from .gemm import gemm\n    own(worker.model)\n"
            ),
        },
    )
    source = root / "model_executor" / "warmup" / "kernel_warmup.py"
    source.write_text(source.read_text().replace(f"{tmp_path.name}_", root.name))
    assert [warmup.__name__ for warmup in find_warmups(root)] == ["one", "two", "own"]


def test_a_new_required_parameter_is_named() -> None:
    """A constructor that wants something unknown is an error with its name, not a call that fails somewhere."""

    def layer(config: object, novelty: object) -> None:
        """Only its signature matters."""

    with pytest.raises(EngineUnknown, match="requires novelty"):
        _bind(layer, {"config": 1}, "Layer.__init__")


def test_the_batches_hold_every_length_class() -> None:
    """Below 16, 16, 17 to 32, 33 to 63, 64, above; the reviewer's 20 and 46; decode, mixed, initial state, wide tables."""
    batches = serving_batches()
    single = {batch.query[0] for batch in batches if len(batch.query) == 1 and not batch.context[0]}
    assert {1, 15, 16, 17, 20, 32, 33, 46, 63, 64, 65} <= single
    assert any(min(batch.query) == max(batch.query) == 1 and min(batch.context) > 0 for batch in batches)
    assert any(1 in batch.query and max(batch.query) > 1 for batch in batches)
    assert any(max(batch.query) > 1 and max(batch.context) > 0 for batch in batches)
    assert any(batch.table_width > 1 for batch in batches)
    assert len({batch.name for batch in batches}) == len(batches)
    assert max(batch.tokens for batch in batches) == 8192
    assert max(batch.tokens for batch in serving_batches(longest=300)) == 300


@pytest.mark.parametrize(("query", "context"), [((), ()), ((1,), ()), ((0,), (0,)), ((1,), (-1,))])
def test_a_batch_of_nothing_is_refused(query: tuple[int, ...], context: tuple[int, ...]) -> None:
    """Each request computes at least one token."""
    with pytest.raises(ValueError, match="not a batch"):
        Batch(name="x", query=query, context=context)
