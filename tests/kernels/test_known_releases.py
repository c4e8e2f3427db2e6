"""Truth first: releases whose coverage was established by other means are judged as they are.

The sources come from the package index; a release that cannot be had fails its test. Those marked ``releases`` are left out unless asked
for with ``-m "kernels and releases"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from perfgate.autotune import process
from perfgate.autotune.agreement import agreement
from perfgate.autotune.coverage import Coverage, determine
from perfgate.autotune.events import read_events
from perfgate.autotune.question import Question, cell, emulated
from perfgate.catalogue import load_catalogue
from perfgate.targets import GpuSpec, ModelSpec

pytestmark = [pytest.mark.kernels, pytest.mark.truth]

DATA = Path(__file__).parents[1] / "data"

Ask = Callable[..., list[Coverage]]


@pytest.fixture(scope="module")
def ask(vllm_release: Callable[[str], Path]) -> Ask:
    """Coverage of models on a GB10 in one release."""
    gpu = load_catalogue("gpus")["gb10"].parse(GpuSpec)
    models = load_catalogue("models")

    def answer(version: str, names: Sequence[str] = ("qwen3.5-35b-a3b",)) -> list[Coverage]:
        questions = [Question(gpu=gpu, model=models[name].parse(ModelSpec)) for name in names]
        return determine(questions, vllm_source=vllm_release(version))

    return answer


def test_a_release_without_warm_up_misses_every_key(ask: Ask) -> None:
    """0.17.1 warms nothing: 8 of 8 keys are missed and 136 configurations are benchmarked at inference."""
    (found,) = ask("0.17.1")
    assert (found.vllm, found.status) == ("0.17.1", "missed")
    assert (found.keys_warmed, found.keys_reachable, len(found.keys_missed)) == (0, 8, 8)
    assert (found.configs_benched_at_start, found.configs_benched_at_inference) == (0, 136)
    assert {missed.differs for missed in found.keys_missed} == {"the kernel did not run in warm-up"}


def test_the_dry_run_says_what_an_h100_did(vllm_release: Callable[[str], Path]) -> None:
    """Every key that an H100 benchmarked in a cold start of 0.25.1 is predicted and no other, and so is every kernel it compiled late."""
    gpu = load_catalogue("gpus")["h100"].parse(GpuSpec)
    model = load_catalogue("models")["qwen3.5-9b"].parse(ModelSpec)
    request = {"gpu": emulated(gpu), "cells": [cell(Question(gpu=gpu, model=model))]}
    (replayed,) = process.ask(request, vllm_source=vllm_release("0.25.1"))["cells"]
    found = agreement(replayed, read_events(DATA / "h100-0.25.1-cold-start.events.jsonl"))
    assert found.complete, found.text()
    assert (found.keys, len(found.compiles)) == (6, 4)


def test_a_warm_up_with_other_dtypes_misses_every_key(ask: Ask) -> None:
    """0.18.1 warms 8 keys and misses 8, because of the gate's dtype, 64-bit sequence starts and an absent final state."""
    (found,) = ask("0.18.1")
    assert (found.status, found.keys_warmed, found.keys_reachable, len(found.keys_missed)) == (
        "missed",
        8,
        8,
        8,
    )
    differs = {missed.kernel: missed.differs for missed in found.keys_missed}
    assert (
        "s.dtype: torch.bfloat16 in warm-up, torch.float32 in serving"
        in differs["chunk_local_cumsum_scalar_kernel"]
    )
    assert "ht.dtype: absent in warm-up" in differs["chunk_gated_delta_rule_fwd_kernel_h_blockdim64"]
    assert all(
        "cu_seqlens.dtype: torch.int64 in warm-up, torch.int32 in serving" in text
        for text in differs.values()
    )


def test_the_repaired_warm_up_covers_all_lengths(ask: Ask) -> None:
    """0.19.1 warms block sizes 16, 32 and 64 with serving's dtypes: 8 of 8 keys."""
    (found,) = ask("0.19.1")
    assert (found.status, found.keys_warmed, found.keys_reachable) == ("covered", 8, 8)


def test_late_jit_compiles_are_those_a_gpu_reported(ask: Ask) -> None:
    """0.25.1 covers 6 of 6 keys, and ordinary batches compile the two decode kernels late that an H100's JIT monitor named."""
    (found,) = ask("0.25.1")
    assert (found.status, found.keys_warmed, found.keys_reachable) == ("covered", 6, 6)
    assert found.configs_benched_at_start == 88
    ordinary = {late.kernel for late in found.jit_missed if "block table" not in late.when}
    assert ordinary == {
        "_causal_conv1d_update_kernel",
        "fused_recurrent_gated_delta_rule_packed_decode_kernel",
    }


RELEASES = {
    **dict.fromkeys(
        ("0.11.2", "0.12.0", "0.13.0", "0.14.1", "0.15.1", "0.16.0", "0.17.0", "0.17.1"), (0, 8, 8)
    ),
    **dict.fromkeys(("0.18.0", "0.18.1"), (8, 8, 8)),
    **dict.fromkeys(("0.19.0", "0.19.1"), (8, 8, 0)),
    **dict.fromkeys(
        (
            *(
                "0.20.0",
                "0.20.1",
                "0.20.2",
                "0.21.0",
                "0.22.0",
                "0.22.1",
                "0.23.0",
                "0.24.0",
                "0.25.0",
                "0.25.1",
            ),
            *("0.26.0", "0.27.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"),
        ),
        (6, 6, 0),
    ),
}
"""Keys warmed, reachable and missed: every release from 0.16 on, and the last patch of the ones before."""


@pytest.mark.releases
@pytest.mark.parametrize("version", RELEASES)
def test_every_release_between_is_understood(ask: Ask, version: str) -> None:
    """Releases that nobody wrote code for are determined all the same, for Qwen3.5 and Qwen3-Next."""
    for found in ask(version, ("qwen3.5-35b-a3b", "qwen3-next-80b-a3b")):
        assert not found.undetermined
        assert (found.keys_warmed, found.keys_reachable, len(found.keys_missed)) == RELEASES[version]


def test_a_layer_that_a_release_lacks_is_undetermined(ask: Ask) -> None:
    """0.17.1 has no OLMo hybrid: the answer says what was looked for, and never "covered"."""
    (found,) = ask("0.17.1", ("olmo-hybrid-7b",))
    assert found.status == "undetermined"
    assert not found.covered
    assert "chunk_gated_delta_rule" in found.undetermined
