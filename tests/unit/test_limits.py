"""Bounds of the hardware, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from perfgate.catalogue import load_catalogue
from perfgate.experiment.notes import limit_notes
from perfgate.limits import decode_bound, demand, prefill_bound_ms
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, RunRecord
from perfgate.selection import Target
from perfgate.server import ServerSpec
from perfgate.targets import GpuSpec, ModelSpec
from perfgate.workload import WorkloadSpec

DENSE = ModelSpec(
    name="dense",
    parameters=1e9,
    architecture={
        "weights": "bf16",
        "hidden_size": 1024,
        "num_hidden_layers": 10,
        "linear_layers": 0,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
)
SPARSE = DENSE.model_copy(
    update={
        "parameters": 3e9,
        "active_parameters": 1e9,
        "architecture": {
            **DENSE.architecture,
            "weights": "fp8",
            "linear_layers": 6,
            "linear_num_value_heads": 8,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 4096,
        },
    }
)
GPU = GpuSpec(name="card", bandwidth_gb_s=1000, dense_tflops={"bf16": 100})


def test_one_stream_of_a_dense_model_reads_every_weight_and_its_own_cache():
    """1e9 parameters of 2 bytes and 1000 tokens of 2·10·4·64·2 bytes at 1000 GB/s give 497.5 tok/s."""
    need = demand(DENSE)
    assert need.kv_bytes_per_token == 10240
    assert decode_bound(need, GPU, sequences=1, context=1000) == pytest.approx(1e12 / (2e9 + 10.24e6))


def test_a_batch_shares_the_weights_but_not_the_caches():
    """Four streams read the weights once and four caches."""
    assert decode_bound(demand(DENSE), GPU, sequences=4, context=1000) == pytest.approx(
        4e12 / (2e9 + 4 * 10.24e6)
    )


def test_experts_are_read_as_far_as_tokens_reach_them():
    """One token touches 2 of 8 experts; many touch nearly all: E(1 − (1 − k/E)ⁿ)."""
    need = demand(SPARSE)
    routed = 10 * 8 * 3 * 1024 * 4096
    assert need.expert_bytes == routed
    assert need.shared_bytes == pytest.approx(1e9 - routed / 4)
    assert need.touched_expert_bytes(1) == pytest.approx(routed / 4)
    assert need.touched_expert_bytes(2) == pytest.approx(routed * (1 - 0.75**2))
    assert need.touched_expert_bytes(1000) == pytest.approx(routed)
    assert need.step_bytes(1, 0) == pytest.approx(1e9 + 2 * 6 * 8 * 128 * 128 * 4)


def test_prefill_is_bound_by_reading_or_by_multiplying():
    """A short prompt waits for the weights (2 ms), a long one for the multiplications (2·1e9·8192 at 100 TFLOP/s: 163.84 ms)."""
    need = demand(DENSE)
    assert prefill_bound_ms(need, GPU, tokens=1, dtype="bf16") == pytest.approx(2.0)
    assert prefill_bound_ms(need, GPU, tokens=8192, dtype="bf16") == pytest.approx(163.84)
    assert prefill_bound_ms(need, GPU, tokens=8192, dtype="fp8") == pytest.approx(2.0)


def test_the_study_reached_about_half_of_what_gb10_allows():
    """Active weights of 3 GB at 273 GB/s bound decode near 91 tok/s, of which 48.9 are 54%."""
    model = load_catalogue("models")["qwen3.5-35b-a3b-fp8"].parse(ModelSpec)
    gpu = load_catalogue("gpus")["gb10"].parse(GpuSpec)
    bound = decode_bound(demand(model, kv_dtype_bytes=1), gpu, sequences=1, context=768)
    assert bound == pytest.approx(91, rel=0.05)
    assert 48.92 / bound == pytest.approx(0.54, abs=0.03)


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": None},
        {"architecture": {}},
        {"architecture": {**DENSE.architecture, "weights": "unheard-of"}},
    ],
    ids=["no size", "no shape", "unknown weights"],
)
def test_an_incomplete_entry_has_no_bound(change):
    """Where the entry does not say enough, nothing is shown rather than guessed."""
    assert demand(DENSE.model_copy(update=change)) is None


def test_an_unknown_card_has_no_bound():
    """A GPU without a bandwidth has neither bound."""
    unknown = GpuSpec(name="unknown")
    assert decode_bound(demand(DENSE), unknown, sequences=1, context=1) is None
    assert prefill_bound_ms(demand(DENSE), unknown, tokens=1, dtype="bf16") is None


def test_a_cell_shows_its_share_of_the_bound():
    """The study's single stream is said to reach about half of what GB10's memory allows; an undescribed model is not judged so."""
    model = load_catalogue("models")["qwen3.5-35b-a3b-fp8"].parse(ModelSpec)
    target = Target(
        cell=Cell(gpu="gb10", model="m", server="s", workload="w"),
        gpu=load_catalogue("gpus")["gb10"].parse(GpuSpec),
        model=model,
        server=ServerSpec(name="s", args={"kv-cache-dtype": "fp8_e4m3"}),
        workload=WorkloadSpec(name="w", input_len=512, output_len=512, concurrency=1, num_prompts=1),
    )
    run = RunRecord(metrics={"output_throughput": 48.92, "mean_ttft_ms": 190.0})
    measurement = Measurement(
        cell=target.cell,
        fingerprint=Fingerprint(),
        server={},
        workload={},
        boots=(BootRecord(id="b", runs=(run,)),),
    )
    decode, prefill = limit_notes(target, measurement)
    assert decode.startswith("5")
    assert "tok/s, which the memory bandwidth allows" in decode
    assert "mean TTFT is" in prefill
    bare = replace(target, model=ModelSpec(name="m", id="m"))
    assert limit_notes(bare, measurement) == []
