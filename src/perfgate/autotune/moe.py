"""Tuned MoE configurations: which file a release would open for a model on a GPU, and whether the server's log agrees.

vLLM's fused MoE kernel takes its block sizes from ``E=…,N=…,device_name=….json``. Without such a file it says so in its log and runs
with defaults. A file can also be mounted (``VLLM_TUNED_CONFIG_FOLDER``); whether the server then uses it is in the same log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from perfgate.autotune.moe_runner import batch_sizes
from perfgate.autotune.process import TIMEOUT_S, ask_all
from perfgate.autotune.question import Question, emulated
from perfgate.errors import CoverageError, InputError
from perfgate.records import Record


class MoeAnswer(Record):
    """What a release ships for one model on one GPU."""

    gpu: str
    model: str
    tp: int
    file: str | None
    """The name vLLM looks for; None for a model without experts."""
    shipped: bool
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes the shipped file has configurations for; others take the nearest."""


Finding = Literal["agrees", "contradicts", "silent"]


class MoeInServer(Record):
    """Whether a server's log says what the files that are there should make it say."""

    gpu: str
    model: str
    tp: int
    finding: Finding
    """``silent``: the log names no MoE configuration, which proves nothing."""
    text: str


class MoeLog(Record):
    """What a server's log says about one MoE configuration."""

    file: str
    path: str
    used: bool


def tuned_configs(
    questions: Sequence[Question],
    *,
    vllm_source: Path | None = None,
    python: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[MoeAnswer]:
    """Answer for every question, in order; the name is computed by vLLM's own function under the emulated GPU.

    Raises:
        InputError: see `require_names`.
        CoverageError: this vLLM has no such function.
    """
    require_names(questions)
    answers: dict[int, MoeAnswer] = {}
    asked: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        if moe_shape(question) is None:
            answers[index] = MoeAnswer(
                gpu=question.gpu.name, model=question.model.name, tp=question.tp, file=None, shipped=False
            )
        else:
            asked.setdefault(question.gpu.name, []).append(index)
    requests = [
        {
            "gpu": emulated(questions[indices[0]].gpu),
            "moe": [moe_shape(questions[index]) for index in indices],
        }
        for indices in asked.values()
    ]
    replies = (
        ask_all(requests, vllm_source=vllm_source, python=python, timeout_s=timeout_s) if requests else []
    )
    for indices, reply in zip(asked.values(), replies, strict=True):
        if isinstance(reply, CoverageError):
            raise reply
        for index, found in zip(indices, reply["moe"], strict=True):
            if "error" in found:
                raise CoverageError(
                    f"vLLM {reply['vllm']}: {found['error']}",
                    remedy="It names the tuned MoE configuration files; without it their names would be guesses.",
                )
            question = questions[index]
            answers[index] = MoeAnswer(
                gpu=question.gpu.name,
                model=question.model.name,
                tp=question.tp,
                file=found["file"],
                shipped=found["shipped"],
                batch_sizes=tuple(found["batch_sizes"]),
            )
    return [answers[index] for index in range(len(questions))]


def require_names(questions: Sequence[Question]) -> None:
    """Make sure that every file's name can be computed; takes no time.

    Raises:
        InputError: a GPU's entry does not have the name that the files are named after, or see `moe_shape`.
    """
    for gpu in (question.gpu for question in questions if moe_shape(question) is not None):
        if gpu.device_name is None and not gpu.product_names:
            raise InputError(
                f"GPU {gpu.name!r} has no device_name, after which tuned MoE configurations are named",
                remedy='Give its entry the name that CUDA reports: device_name = "NVIDIA GeForce RTX 4090".',
            )


_DTYPES = {"bf16": None, "fp16": None, "fp8": "fp8_w8a8"}
"""Type of the weights → what vLLM calls it in a file's name. Others have names of their own, or other kernels."""


def moe_shape(question: Question) -> dict[str, object] | None:
    """Experts, size of one rank's share, quantisation and block shape; None for a model without experts.

    Raises:
        InputError: the weights are of a type whose files perfgate cannot name, or the size does not divide by the ranks.
    """
    model = question.model
    facts = {**model.config, **model.architecture}
    if "num_experts" not in facts or "moe_intermediate_size" not in facts:
        return None
    weights, size = str(facts.get("weights", "bf16")), int(facts["moe_intermediate_size"])
    if weights not in _DTYPES:
        raise InputError(
            f"model {model.name!r} has {weights} weights, for which perfgate cannot name a tuned MoE configuration",
            remedy=f"It can for {', '.join(_DTYPES)}; leave --moe out.",
        )
    if size % question.tp:
        raise InputError(
            f"model {model.name!r}: its experts cannot be split over {question.tp} GPUs: moe_intermediate_size = {size}",
            remedy="Give a tensor-parallel size that divides it, or leave --moe out.",
        )
    dtype = _DTYPES[weights]
    block_shape = facts.get("weight_block_size") if dtype is not None else None
    return {
        "experts": int(facts["num_experts"]),
        "size": size // question.tp,
        "dtype": dtype,
        "block_shape": None if block_shape is None else list(block_shape),
    }


_DEFAULT = re.compile(
    r"Using default MoE config.*?Config file not found at\s+(?P<paths>.*?\.json)", re.DOTALL
)
_USED = re.compile(r"Using configuration from\s+(?P<path>\S.*?\.json)\s+for MoE layer")
_FILE = re.compile(r"E=\d+,N=[^/\\'\"]*?\.json")


def moe_in_log(log: str) -> tuple[MoeLog, ...]:
    """The MoE configurations a server's log speaks of, used or not found, each file once."""
    found: dict[str, MoeLog] = {}
    for match in _DEFAULT.finditer(log):
        for name in _FILE.findall(match["paths"]):
            found.setdefault(name, MoeLog(file=name, path=match["paths"].strip(), used=False))
    for match in _USED.finditer(log):
        for name in _FILE.findall(match["path"]):
            found[name] = MoeLog(file=name, path=match["path"].strip(), used=True)
    return tuple(found.values())


def mounted_configs(folder: Path) -> dict[str, tuple[int, ...]]:
    """The MoE configurations of a folder for ``VLLM_TUNED_CONFIG_FOLDER``: batch sizes by file name.

    Raises:
        InputError: there is no such folder, no such file in it, or one that vLLM could not read.
    """
    try:
        files = sorted(file for file in folder.iterdir() if _FILE.fullmatch(file.name))
    except OSError as error:
        raise InputError(
            f"--moe-configs {folder}: {error.strerror}",
            remedy="Give the folder that the server has as VLLM_TUNED_CONFIG_FOLDER.",
        ) from error
    if not files:
        raise InputError(
            f"--moe-configs {folder} has no file named E=…,N=…,device_name=….json",
            remedy="Give the folder that the server has as VLLM_TUNED_CONFIG_FOLDER; vLLM looks for no other names.",
        )
    found = {}
    for file in files:
        try:
            found[file.name] = batch_sizes(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file} is no MoE configuration: {error}", remedy="Replace the file, or take it away."
            ) from error
    return found


def in_server(answer: MoeAnswer, log: str, *, mounted: Collection[str] = ()) -> MoeInServer:
    """`disagreement` as a record."""
    finding, text = disagreement(answer, log, mounted=mounted)
    return MoeInServer(gpu=answer.gpu, model=answer.model, tp=answer.tp, finding=finding, text=text)


def disagreement(answer: MoeAnswer, log: str, *, mounted: Collection[str] = ()) -> tuple[Finding, str]:
    """Whether a server's log says what the release's files (and those ``mounted``, by name) should make it say.

    Returns:
        the finding and one sentence; "silent" when the log names no MoE configuration, which proves nothing.
    """
    if answer.file is None:
        return "agrees", f"{answer.model} has no experts"
    spoken = {entry.file: entry for entry in moe_in_log(log)}
    if not spoken:
        return "silent", "the log names no MoE configuration: neither used nor missing"
    entry = spoken.get(answer.file)
    if entry is None:
        return "contradicts", f"the log speaks of {', '.join(sorted(spoken))}, not of {answer.file}"
    expected = answer.shipped or answer.file in mounted
    if entry.used == expected:
        return "agrees", f"{answer.file} is {'used' if entry.used else 'not there, as expected'}"
    if expected:
        return (
            "contradicts",
            f"{answer.file} is {'mounted' if answer.file in mounted else 'shipped'}, yet the server did not find it",
        )
    return "contradicts", f"the server uses {entry.path}, which is neither shipped nor known to be mounted"
