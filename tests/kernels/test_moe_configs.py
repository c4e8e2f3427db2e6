"""Tuned MoE configurations: what a release ships, what a mounted folder changes, and what vLLM then writes into its log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perfgate.autotune.moe import disagreement, moe_shape, mounted_configs, tuned_configs
from perfgate.autotune.process import ask
from perfgate.autotune.question import Question, emulated
from perfgate.catalogue import load_catalogue
from perfgate.targets import GpuSpec, ModelSpec

pytestmark = [pytest.mark.kernels, pytest.mark.truth]

CELLS = {
    "shipped": ("h100", "qwen3-next-80b-a3b", 1),
    "mounted": ("h100", "qwen3.5-35b-a3b", 8),
    "nowhere": ("h100", "qwen3.5-35b-a3b", 4),
}


def question(gpu: str, model: str, tp: int) -> Question:
    return Question(
        gpu=load_catalogue("gpus")[gpu].parse(GpuSpec),
        model=load_catalogue("models")[model].parse(ModelSpec),
        tp=tp,
    )


def test_the_log_of_vllm_agrees_with_what_is_there(tmp_path: Path) -> None:
    """The lines that vLLM logs for a shipped, a mounted and a missing file agree with what was predicted, and contradict anything else."""
    questions = {name: question(*cell) for name, cell in CELLS.items()}
    answers = dict(zip(questions, tuned_configs(list(questions.values())), strict=True))
    assert {name: answer.shipped for name, answer in answers.items()} == {
        "shipped": True,
        "mounted": False,
        "nowhere": False,
    }
    assert answers["shipped"].batch_sizes[0] == 1
    wanted = str(answers["mounted"].file)
    entry = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4}
    (tmp_path / wanted).write_text(json.dumps({"triton_version": "3.9.0", "64": entry, "1": entry}))
    mounted = mounted_configs(tmp_path)
    assert mounted == {wanted: (1, 64)}
    shapes = [moe_shape(asked) for asked in questions.values()]
    logs = ask(
        {
            "gpu": emulated(questions["shipped"].gpu),
            "shapes": [[shape["experts"], shape["size"], None, None, None] for shape in shapes if shape],
        },
        entry="moe_child",
        environment={"PYTHONPATH": str(Path(__file__).parent), "VLLM_TUNED_CONFIG_FOLDER": str(tmp_path)},
    )["logs"]
    for (name, answer), log in zip(answers.items(), logs, strict=True):
        assert disagreement(answer, log, mounted=mounted)[0] == "agrees", (name, log)
        other = answer.model_copy(update={"shipped": not answer.shipped})
        expected = "agrees" if name == "mounted" else "contradicts"
        assert disagreement(other, log, mounted=mounted)[0] == expected, (name, log)
    assert disagreement(answers["mounted"], logs[1])[0] == "contradicts"
