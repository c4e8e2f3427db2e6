"""Tuned MoE configurations: shapes, and whether a server's log agrees."""

from __future__ import annotations

import pytest

from perfgate.autotune.moe import MoeAnswer, disagreement, moe_in_log, moe_shape, require_names, tuned_configs
from perfgate.autotune.question import Question
from perfgate.catalogue import load_catalogue
from perfgate.errors import InputError
from perfgate.targets import GpuSpec, ModelSpec

FILE = "E=256,N=512,device_name=NVIDIA_GB10,dtype=fp8_w8a8,block_shape=[128,128].json"
MISSING = (
    "WARNING 11-01 10:00:00 [fused_moe.py:1] Using default MoE config. Performance might be sub-optimal! "
    f"Config file not found at /opt/vllm/configs/{FILE}\n"
)
USED = f"INFO 11-01 10:00:00 [fused_moe.py:1] Using configuration from /mnt/moe/{FILE} for MoE layer.\n"


def answer(shipped: bool) -> MoeAnswer:
    return MoeAnswer(gpu="gb10", model="m", tp=1, file=FILE, shipped=shipped)


def test_the_shape_is_that_of_one_rank() -> None:
    """The expert size is divided among the ranks; block-wise FP8 adds dtype and block shape; a dense model has none."""
    gpu = load_catalogue("gpus")["gb10"].parse(GpuSpec)
    models = load_catalogue("models")

    def shape(name: str, tp: int = 1) -> dict[str, object] | None:
        return moe_shape(Question(gpu=gpu, model=models[name].parse(ModelSpec), tp=tp))

    assert shape("qwen3.5-9b") is None
    assert shape("qwen3.5-35b-a3b", 2) == {"experts": 256, "size": 256, "dtype": None, "block_shape": None}
    assert shape("qwen3.5-35b-a3b-fp8") == {
        "experts": 256,
        "size": 512,
        "dtype": "fp8_w8a8",
        "block_shape": [128, 128],
    }


@pytest.mark.parametrize(
    ("facts", "tp", "message"),
    [
        ({"weights": "fp4"}, 1, "has fp4 weights, for which perfgate cannot name"),
        ({"moe_intermediate_size": 100}, 8, "moe_intermediate_size = 100"),
    ],
)
def test_a_file_that_cannot_be_named_is_not_guessed(facts: dict[str, object], tp: int, message: str) -> None:
    """Weights of another type have files of another name, and experts that do not divide have none: both are refused."""
    gpu = load_catalogue("gpus")["gb10"].parse(GpuSpec)
    model = load_catalogue("models")["qwen3.5-35b-a3b"].parse(ModelSpec)
    other = model.model_copy(update={"architecture": {**model.architecture, **facts}})
    with pytest.raises(InputError, match=message):
        require_names([Question(gpu=gpu, model=other, tp=tp)])


def test_a_gpu_without_a_name_has_no_files() -> None:
    """The file is named after what CUDA calls the GPU; under an entry's own name "not shipped" would be a guess."""
    gpu = GpuSpec(name="mine", capability=(8, 9), sms=1, shared_memory_per_block=1, memory_gib=1)
    model = load_catalogue("models")["qwen3.5-35b-a3b"].parse(ModelSpec)
    with pytest.raises(InputError, match="'mine' has no device_name"):
        tuned_configs([Question(gpu=gpu, model=model)])


def test_the_log_names_used_and_missing_files() -> None:
    """Both lines are read by meaning; a file that one layer missed and another used was used."""
    assert [(entry.file, entry.used) for entry in moe_in_log(MISSING)] == [(FILE, False)]
    assert [(entry.file, entry.used) for entry in moe_in_log(MISSING + USED)] == [(FILE, True)]
    assert moe_in_log("INFO all quiet") == ()


@pytest.mark.parametrize(
    ("shipped", "mounted", "log", "finding"),
    [
        (False, (), MISSING, "agrees"),
        (True, (), USED, "agrees"),
        (False, (FILE,), USED, "agrees"),
        (False, (FILE,), MISSING, "contradicts"),
        (True, (), MISSING, "contradicts"),
        (False, (), USED, "contradicts"),
        (False, (FILE,), MISSING.replace("E=256", "E=128"), "contradicts"),
        (False, (FILE,), "INFO all quiet", "silent"),
    ],
)
def test_a_mounted_file_that_is_not_used_is_noticed(
    shipped: bool, mounted: tuple[str, ...], log: str, finding: str
) -> None:
    """What is shipped or mounted must be what the log says is used; a log that says nothing proves nothing."""
    assert disagreement(answer(shipped), log, mounted=mounted)[0] == finding
