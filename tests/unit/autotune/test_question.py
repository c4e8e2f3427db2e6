"""What a question may be about: any model and GPU whose facts are given, and none whose facts would have to be guessed."""

from __future__ import annotations

from typing import Any

import pytest

from perfgate.autotune.question import TP_SIZES, Question, cell, divisible_sizes, emulated, layer_of
from perfgate.catalogue import load_catalogue
from perfgate.errors import InputError
from perfgate.targets import GpuSpec, ModelSpec


def question(model: str = "qwen3.5-35b-a3b", gpu: str = "gb10", **more: Any) -> Question:
    return Question(
        gpu=load_catalogue("gpus")[gpu].parse(GpuSpec),
        model=load_catalogue("models")[model].parse(ModelSpec),
        **more,
    )


def test_heads_must_divide() -> None:
    """A model whose heads do not divide by the tensor-parallel size is refused, with the sizes that do."""
    assert divisible_sizes(question("olmo-hybrid-7b").model, TP_SIZES) == [1, 2]
    with pytest.raises(InputError, match="cannot be split over 4"):
        cell(question("olmo-hybrid-7b", tp=4))


def shaped(**facts: Any) -> Question:
    """A model of odd sizes, with these facts on top; None takes one away."""
    shape: dict[str, Any] = {
        "layer": "gdn",
        "model_type": "qwen3_next",
        "hidden_size": 1536,
        "linear_num_key_heads": 3,
        "linear_num_value_heads": 9,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 192,
        "linear_conv_kernel_dim": 3,
    }
    architecture = {name: value for name, value in (shape | facts).items() if value is not None}
    return question().model_copy(update={"model": ModelSpec(name="odd", architecture=architecture)})


def test_any_shape_is_a_cell() -> None:
    """Odd heads, keys and values of different widths and another convolution are split by what they divide by."""
    odd = shaped()
    assert divisible_sizes(odd.model) == [1, 3]
    assert cell(odd)["architecture"]["linear_value_head_dim"] == 192
    with pytest.raises(InputError, match=r"3 GPUs|split over 2") as raised:
        cell(odd.model_copy(update={"tp": 2}))
    assert raised.value.remedy == "Tensor-parallel sizes that divide: 1, 3."


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"linear_conv_kernel_dim": None}, "has no linear_conv_kernel_dim, which its gdn layer"),
        ({"hidden_size": None, "linear_key_head_dim": None}, "has no hidden_size, linear_key_head_dim"),
        ({"linear_num_key_heads": "three"}, "linear_num_key_heads is 'three'"),
        ({"linear_value_head_dim": 0}, "linear_value_head_dim is 0"),
        (
            {"linear_num_key_heads": 4},
            "linear_num_value_heads = 9 is no multiple of linear_num_key_heads = 4",
        ),
        ({"layer": "kda"}, "has no linear_attn_config.num_heads"),
        ({"layer": "mamba2"}, "layer is 'mamba2', known are gdn, olmo, kda"),
        (
            {"layer": None, "linear_num_value_heads": None, "text_config": {"layer": "gdn"}},
            "but a text_config, whose content belongs there itself",
        ),
    ],
)
def test_a_shape_that_is_not_given_is_not_guessed(facts: dict[str, Any], message: str) -> None:
    """A missing or impossible fact is refused by name: with a default, another model's coverage would pass for this one's."""
    with pytest.raises(InputError, match=message):
        cell(shaped(**facts))


def test_a_question_cannot_give_a_model_another_layer() -> None:
    """Where the entry names its layer, that is the one; where it does not, the question's is taken, for the sizes that divide too."""
    with pytest.raises(InputError, match="'olmo-hybrid-7b' has layer 'olmo', not 'gdn'"):
        cell(question("olmo-hybrid-7b", layer="gdn"))
    assert cell(question("olmo-hybrid-7b", layer="olmo"))["layer"] == "olmo"
    kimi = load_catalogue("models")["kimi-linear-48b-a3b"].parse(ModelSpec)
    facts = {name: value for name, value in kimi.architecture.items() if name != "layer"}
    unnamed = kimi.model_copy(update={"architecture": facts})
    assert divisible_sizes(unnamed, TP_SIZES, layer="kda") == [1, 2, 4, 8]
    asked = question(layer="kda", tp=3).model_copy(update={"model": unnamed})
    with pytest.raises(InputError, match="cannot be split over 3") as raised:
        cell(asked)
    assert raised.value.remedy.endswith("1, 2, 4, 8, 16, 32.")


def test_every_catalogued_model_has_a_cell() -> None:
    """Each entry with an architecture or a hybrid configuration becomes a cell of its layer; a dense model is refused."""
    layers = {
        name: cell(question(name))["layer"] for name in load_catalogue("models") if name != "tiny-qwen3"
    }
    assert layers["olmo-hybrid-7b"] == "olmo"
    assert layers["kimi-linear-48b-a3b"] == "kda"
    assert layers["tiny-qwen3next"] == "gdn"
    with pytest.raises(InputError, match="no linear-attention layer"):
        layer_of(question("tiny-qwen3"))


def test_every_catalogued_gpu_can_be_emulated_but_cpu() -> None:
    """An entry with capability, multiprocessors, shared memory, L2 and memory is enough; one without says what it lacks."""
    for name in load_catalogue("gpus"):
        if name != "cpu":
            assert emulated(question(gpu=name).gpu)["shared_memory"] > 0
    with pytest.raises(InputError, match="capability"):
        emulated(question(gpu="cpu").gpu)


def test_a_gpu_needs_no_more_than_the_page_on_adding_one_says() -> None:
    """Capability, multiprocessors, shared memory and memory are enough to emulate a GPU; each that is missing is named."""
    needed: dict[str, Any] = {
        "capability": (8, 9),
        "sms": 128,
        "shared_memory_per_block": 101376,
        "memory_gib": 24,
    }
    assert emulated(GpuSpec(name="rtx4090", **needed))["l2_cache"] is None
    for name in needed:
        with pytest.raises(InputError, match=f"has no {name}"):
            emulated(GpuSpec(name="rtx4090", **{other: needed[other] for other in needed if other != name}))
