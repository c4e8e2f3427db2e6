"""From what a replay recorded to an answer: what is missed, what differs, and what is never called covered."""

from __future__ import annotations

from typing import Any

import pytest

from perfgate.autotune.coverage import Coverage, compare, differing, require
from perfgate.autotune.question import Question
from perfgate.autotune.tables import details, matrix
from perfgate.catalogue import load_catalogue
from perfgate.errors import CoverageError
from perfgate.targets import GpuSpec, ModelSpec

ANSWER = {"vllm": "9.9", "triton": "3.9"}


def question(model: str = "qwen3.5-35b-a3b", gpu: str = "gb10", **more: Any) -> Question:
    return Question(
        gpu=load_catalogue("gpus")[gpu].parse(GpuSpec),
        model=load_catalogue("models")[model].parse(ModelSpec),
        **more,
    )


def launch(kernel: str = "k", configs: int = 4, when: str = "prefill of 1", **fields: str) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "module": "m",
        "fields": [[name.replace("_dtype", ".dtype"), value] for name, value in fields.items()],
        "when": when,
        "configs": configs,
    }


def replayed(**more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "layer_class": "vllm.Layer",
        "default_backend": "triton",
        "warmed": [],
        "served": [],
        "compiled_warm": [],
        "compiled_serving": [],
        "failures": [],
    }
    return empty | more


def answer(**more: Any) -> Coverage:
    return compare(question(), ANSWER, replayed(**more))


def test_equal_keys_are_covered() -> None:
    """A key is covered when warm-up made exactly it, whatever batch made it."""
    key = launch(BT="64", g_dtype="torch.float32")
    found = answer(warmed=[key], served=[key | {"when": "prefill of 64"}])
    assert (found.status, found.covered, found.keys_missed) == ("covered", True, ())
    assert (found.configs_benched_at_start, found.configs_benched_at_inference) == (4, 0)
    require(found)


def test_a_missed_key_names_the_field_that_differs() -> None:
    """The nearest warmed key of the same kernel is compared, field by field, value and dtype."""
    near, far = launch(BT="64", g_dtype="torch.bfloat16"), launch(BT="16", g_dtype="torch.bfloat16", x="1")
    found = answer(warmed=[far, near], served=[launch(BT="64", g_dtype="torch.float32")])
    (missed,) = found.keys_missed
    assert missed.differs == "g.dtype: torch.bfloat16 in warm-up, torch.float32 in serving"
    assert missed.key == {"BT": "64", "g.dtype": "torch.float32"}
    assert found.configs_benched_at_inference == 4
    assert "1 of 1" in found.reason()


def test_a_dtype_that_only_one_side_has_is_absent_on_the_other() -> None:
    """None adds nothing to a key, so an argument without a tensor is named as absent."""
    text = differing(launch(ht_dtype="torch.float32"), [launch()])
    assert text == "ht.dtype: absent in warm-up, torch.float32 in serving"


def test_a_key_of_another_kernel_does_not_cover() -> None:
    """Kernels of the same name in different modules are different kernels."""
    key = launch(BT="64")
    found = answer(warmed=[key | {"module": "other"}], served=[key])
    assert found.status == "missed"
    assert found.keys_missed[0].differs == "the kernel did not run in warm-up"


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        ({"error": "no gdn layer in x"}, "no gdn layer"),
        (replayed(), "no autotune key was recorded"),
        (replayed(warmed=[launch()]), "no autotune key was recorded"),
        (replayed(warmed=[launch()], served=[launch()], failures=["logged: warmup failed"]), "warmup failed"),
    ],
)
def test_what_is_not_known_is_undetermined(recorded: dict[str, Any], reason: str) -> None:
    """An unknown layout, an empty recording or a failed warm-up is neither covered nor missed, and is an error when required."""
    found = compare(question(), ANSWER, recorded)
    assert (found.status, found.covered) == ("undetermined", False)
    assert reason in found.reason()
    with pytest.raises(CoverageError, match="could not be determined"):
        require(found)


def test_a_failed_warm_up_does_not_hide_missed_keys() -> None:
    """Keys that are missed stay missed, and the failure is quoted with them."""
    found = answer(served=[launch()], failures=["in _warmup: RuntimeError: x"])
    assert found.status == "missed"
    assert "RuntimeError: x" in found.reason()


def test_late_compiles_are_counted_apart() -> None:
    """A specialisation that only serving makes is listed with its difference and does not make a key missed."""
    key, warm = launch(BT="64"), launch(T="i32 divisible by 16")
    found = answer(warmed=[key], served=[key], compiled_warm=[warm], compiled_serving=[launch(T="i32"), warm])
    assert found.covered
    (late,) = found.jit_missed
    assert late.specialisation == "T: i32 divisible by 16 in warm-up, i32 in serving"


def test_a_second_late_compile_is_told_from_the_first() -> None:
    """Of a kernel that warm-up never launches the first specialisation is given in full, another by what it changes."""
    key = launch(BT="64")
    first, second = launch(T="i32", x="*bf16", when="1 decode"), launch(T="constexpr 1", x="*bf16")
    found = answer(warmed=[key], served=[key], compiled_serving=[first, second])
    assert [late.specialisation for late in found.jit_missed] == [
        "not in warm-up at all; T: i32; x: *bf16",
        "not in warm-up at all; T: i32 at '1 decode', constexpr 1",
    ]


def test_tritons_key_decides_whether_two_compiles_are_one() -> None:
    """A specialisation of the same names under another key is compiled again, also where its difference has no name."""
    key, warm = launch(BT="64"), launch(n="i32") | {"key": "one"}
    serving = launch(n="i32") | {"key": "two"}
    found = answer(warmed=[key], served=[key], compiled_warm=[warm], compiled_serving=[warm, serving])
    assert [late.specialisation for late in found.jit_missed] == [
        "Triton's key differs in something that it gives no name"
    ]


def test_the_matrix_says_what_a_start_costs() -> None:
    """Configurations at start and at inference by GPU, kernels that are compiled late, and a default backend without an autotuner."""
    key = launch()
    one = answer(warmed=[key], served=[key], compiled_serving=[launch("late")], default_backend="flashinfer")
    two = compare(question(tp=2), ANSWER, replayed(served=[key]))
    text = matrix([one, two])
    assert (
        "gb10: 0 to 4 configurations benchmarked at start, 0 to 4 at inference; prefills with flashinfer"
        in text
    )
    assert "compiled at inference (no benchmark, but a pause): late" in text


def test_the_json_has_the_agreed_names() -> None:
    """Readers of the JSON rely on these fields."""
    found = answer(warmed=[launch()], served=[launch(BT="1")]).model_dump(mode="json")
    assert {
        "vllm",
        "triton",
        "gpu",
        "model",
        "tp",
        "state_dtype",
        "layer",
        "keys_warmed",
        "keys_reachable",
        "keys_missed",
        "configs_benched_at_start",
        "configs_benched_at_inference",
        "jit_missed",
    } <= set(found)
    assert {"kernel", "key", "differs"} <= set(found["keys_missed"][0])


def test_the_matrix_marks_every_cell() -> None:
    """Covered, missed with its count, and undetermined with its reason are told apart at a glance."""
    key = launch()
    covered = answer(warmed=[key], served=[key])
    missed = compare(question(tp=2), ANSWER, replayed(served=[key]))
    unknown = compare(question(tp=4), ANSWER, {"error": "no such layer"})
    text = matrix([covered, missed, unknown])
    assert [line.split()[-1] for line in text.splitlines()[1:4]] == ["ok", "1/1", "?"]
    assert "1 covered, 1 with missed keys, 1 undetermined" in text
    assert "no such layer" in text
    assert "MISSED" in details(missed)
