"""Bounds of the hardware, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from perfgate.catalogue import load_catalogue
from perfgate.experiment.deployment import deployment
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


VOCABULARY = {**DENSE.architecture, "vocab_size": 100_000}


@pytest.mark.parametrize(
    ("facts", "shared", "flops"),
    [
        # 1e9 parameters, of which 100000·1024 are the embedding and as many the output layer.
        (VOCABULARY, (1e9 - 102.4e6) * 2, 2 * (1e9 - 204.8e6)),
        ({**VOCABULARY, "tie_word_embeddings": True}, 1e9 * 2, 2 * (1e9 - 102.4e6)),
        # In FP8 the output layer stays in two bytes, which the embedding makes up for.
        ({**VOCABULARY, "weights": "fp8"}, 1e9, 2 * (1e9 - 204.8e6)),
        ({**VOCABULARY, "weights": "fp4"}, (1e9 - 204.8e6) / 2 + 204.8e6, 2 * (1e9 - 204.8e6)),
    ],
    ids=["own output layer", "tied", "fp8", "fp4"],
)
def test_an_embedding_is_looked_up_and_an_output_layer_is_read(facts, shared, flops):
    """With the size of the vocabulary known, decode leaves the embedding out, and a prompt both matrices."""
    need = demand(DENSE.model_copy(update={"architecture": facts}))
    assert need.shared_bytes == pytest.approx(shared)
    assert need.flops_per_token == pytest.approx(flops)


def test_copies_of_the_model_share_the_sequences():
    """Two copies on two GPUs each: four times the bandwidth, the shared weights read twice, each expert and each cache once."""
    need = demand(SPARSE)
    routed = 10 * 8 * 3 * 1024 * 4096
    own = 100 * need.kv_bytes_per_token + 2 * need.state_bytes
    read = 2 * (1e9 - routed / 4) + routed * (1 - 0.75**4) + 4 * own
    assert decode_bound(need, GPU, sequences=4, context=100, gpus=2, copies=2) == pytest.approx(
        4 * 4e12 / read
    )
    alone = decode_bound(need, GPU, sequences=1, context=100, gpus=2, copies=2)
    assert alone == pytest.approx(decode_bound(need, GPU, sequences=1, context=100, gpus=2)), (
        "one sequence uses one copy"
    )


def target(*, args=None, model=None, **workload):
    given = {"input_len": 512, "output_len": 512, "concurrency": 1, "num_prompts": 1, **workload}
    return Target(
        cell=Cell(gpu="gb10", model="m", server="s", workload="w"),
        gpu=load_catalogue("gpus")["gb10"].parse(GpuSpec),
        model=model or load_catalogue("models")["qwen3.5-35b-a3b-fp8"].parse(ModelSpec),
        server=ServerSpec(name="s", args={"kv-cache-dtype": "fp8_e4m3"} if args is None else args),
        workload=WorkloadSpec(name="w", **given),
    )


def measured(where, *, settings=None, **metrics):
    run = RunRecord(metrics={"output_throughput": 48.92, "mean_ttft_ms": 190.0, **metrics})
    boot = BootRecord(id="b", settings=settings or {}, runs=(run,))
    return Measurement(cell=where.cell, fingerprint=Fingerprint(), server={}, workload={}, boots=(boot,))


def test_a_cell_shows_its_share_of_the_bound():
    """The study's single stream reaches 56% of 273 GB/s over 3 GB of weights, 8 MB of cache and 126 MB of state; other models not."""
    where = target()
    decode, prefill = limit_notes(where, measured(where))
    assert decode == "56% of 87.1 tok/s, which the memory bandwidth allows at this concurrency"
    assert prefill == "mean TTFT is 1.5 times the 125 ms that one prefill takes at best"
    bare = replace(where, model=ModelSpec(name="m", id="m"))
    assert limit_notes(bare, measured(bare)) == []


@pytest.mark.parametrize(
    ("args", "settings", "made"),
    [
        ({}, {}, ("fp8", 2.0, 4.0, 1, 1, False)),
        ({"kv-cache-dtype": "fp8"}, {}, ("fp8", 1.0, 4.0, 1, 1, False)),
        ({}, {"cache_config.cache_dtype": "fp8_e4m3"}, ("fp8", 1.0, 4.0, 1, 1, False)),
        ({"mamba-ssm-cache-dtype": "bfloat16"}, {}, ("fp8", 2.0, 2.0, 1, 1, False)),
        ({}, {"cache_config.mamba_ssm_cache_dtype": "float16"}, ("fp8", 2.0, 2.0, 1, 1, False)),
        ({"quantization": "awq"}, {}, ("int4", 2.0, 4.0, 1, 1, False)),
        ({"quantization": "nvfp4"}, {}, ("fp4", 2.0, 4.0, 1, 1, False)),
        ({"quantization": "compressed-tensors"}, {}, ("fp8", 2.0, 4.0, 1, 1, False)),
        ({"tensor-parallel-size": 2, "pipeline-parallel-size": 2, "data-parallel-size": 3}, {}, ("fp8", 2.0, 4.0, 4, 3, False)),
        ({"speculative-config": {"method": "mtp"}}, {}, ("fp8", 2.0, 4.0, 1, 1, True)),
        ({}, {"speculative_config.method": "mtp"}, ("fp8", 2.0, 4.0, 1, 1, True)),
    ],
)  # fmt: skip
def test_a_deployment_is_what_the_server_resolved_or_else_its_flags(args, settings, made):
    """Types of weights, cache and state, ranks, copies and speculation are those of the server, not of the entry alone."""
    where = target(args=args)
    found = deployment(where, measured(where, settings=settings).boots)
    assert (
        found.weights,
        found.kv_bytes,
        found.state_bytes,
        found.gpus,
        found.copies,
        found.speculative,
    ) == made


@pytest.mark.parametrize("args", [{"kv-cache-dtype": "turboquant"}, {"quantization": "of_a_plugin"}])
def test_an_unknown_type_has_no_bound(args):
    """A cache or a quantization of unknown size shows nothing rather than a guess."""
    plain = load_catalogue("models")["qwen3.5-9b"].parse(ModelSpec)
    where = target(args=args, model=plain)
    assert limit_notes(where, measured(where)) == []


def test_a_bound_that_does_not_hold_is_not_shown():
    """Speculative decoding gives several tokens a step, an open loop has no concurrency: both leave the decode bound out."""
    speculating = target(args={"speculative-config": {"method": "mtp"}})
    assert [note[:9] for note in limit_notes(speculating, measured(speculating))] == ["mean TTFT"]
    open_loop = target(concurrency=None, request_rate=1.0)
    assert [note[:9] for note in limit_notes(open_loop, measured(open_loop))] == ["mean TTFT"]


def test_a_cached_prefix_is_not_computed():
    """The tokens of a shared prefix are in the cache, so that the bound is of the rest: one token reads 8 of 256 experts."""
    whole, shared = target(), target(shared_prefix_len=511)
    assert "125 ms" in limit_notes(whole, measured(whole))[1]
    assert "11 ms" in limit_notes(shared, measured(shared))[1]


def test_more_than_the_hardware_allows_is_a_wrong_entry():
    """A speed above its bound is not a share of it: the entry that gave the bound is wrong."""
    where = target()
    assert limit_notes(where, measured(where, output_throughput=120.0))[0].startswith(
        "120 tok/s is more than the 87.1 tok/s that the memory bandwidth allows"
    )
