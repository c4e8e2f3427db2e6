"""Times one kernel at given batch sizes, in a process of its own on the GPU: what `perfgate.autotune.process.ask` starts.

The kernel is named by a factory, ``package.module:function``. It is called with the number of tokens of a step, the facts of the model
(its configuration's attributes, and as ``cell`` what `perfgate.autotune.question.cell` makes of them) and the entry's options, and returns
a callable without arguments that launches the kernel once. What differs between two sides (environment, configuration folder,
backend) is in the process's environment and in the options.

Each round is one launch between two CUDA events, after a write through a buffer larger than any L2 cache, as `triton.testing.do_bench`
does it: serving finds the weights of a layer in memory, not in a cache that the last round filled. Before the first event the GPU is
kept waiting for as long as the host takes to submit a launch: what is timed is the GPU's work and not the Python above it, which a
server's graphs do without.
"""

from __future__ import annotations

import importlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

ENTRY = "perfgate.autotune.kernelbench"
ROUNDS, WARMUPS = 50, 5
FLUSH_BYTES = 256 * 1024**2
CYCLES_PER_S = 2e9
"""Of a GPU's clock, at most; only how long it is kept waiting depends on it."""
LONGEST_WAIT_S = 0.02
LARGEST_STEP = 65536
"""Tokens that a layer under test is configured for; the study's ``--max-num-batched-tokens``."""


def main(request_file: str, answer_file: str) -> int:
    """Answers ``{"factory": …, "sizes": […], "model": {…}, "options": {…}}`` with the rounds of each size in seconds.

    Without sizes it answers that there is such a factory, and touches no GPU.
    """
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    module, _, function = request["factory"].partition(":")
    factory = getattr(importlib.import_module(module), function)
    if not request["sizes"]:
        return _write(answer_file, {"seconds": {}, "medians": {}})
    torch: Any = importlib.import_module("torch")
    rounds = int(request.get("rounds", ROUNDS))
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    seconds = {}
    for tokens in request["sizes"]:
        launch = factory(int(tokens), model=request["model"], **request.get("options", {}))
        seconds[str(tokens)] = time_kernel(torch, launch, flush, rounds=rounds)
    answer = {
        "gpu": torch.cuda.get_device_name(),
        "torch": str(torch.__version__),
        "seconds": seconds,
        "medians": {tokens: statistics.median(values) for tokens, values in seconds.items()},
    }
    return _write(answer_file, answer)


def _write(answer_file: str, answer: Mapping[str, Any]) -> int:
    partial = Path(answer_file).with_suffix(".partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.rename(answer_file)
    return 0


def time_kernel(torch: Any, launch: Callable[[], Any], flush: Any, *, rounds: int) -> list[float]:
    """Seconds of each round by CUDA events; compilation and autotuning happen in the rounds before."""
    host_s = LONGEST_WAIT_S
    for _ in range(WARMUPS):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        launch()
        host_s = min(host_s, time.perf_counter() - begun)
    wait = int(2 * host_s * CYCLES_PER_S)
    begins = [torch.cuda.Event(enable_timing=True) for _ in range(rounds)]
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(rounds)]
    for begin, end in zip(begins, ends, strict=True):
        flush.zero_()
        torch.cuda._sleep(wait)  # noqa: SLF001 - what PyTorch's own tests keep a stream busy with
        begin.record()
        launch()
        end.record()
    torch.cuda.synchronize()
    return [float(begin.elapsed_time(end)) / 1e3 for begin, end in zip(begins, ends, strict=True)]


def fused_moe(tokens: int, *, model: dict[str, Any], seed: int = 7) -> Callable[[], Any]:
    """The fused mixture of experts of vLLM itself, with whatever configuration file this process finds.

    Args:
        tokens: of the step.
        model: its experts, their size and number per token, the hidden size and how many ``ranks`` share an expert; ``weights`` fp8
            with ``weight_block_size`` for a model in block-wise FP8, bfloat16 otherwise.
        seed: of the random weights and routing.
    """
    torch: Any = importlib.import_module("torch")
    layers: Any = importlib.import_module("vllm.model_executor.layers.fused_moe")
    experts, top_k = int(model["num_experts"]), _experts_per_token(model)
    size, hidden = (
        int(model["moe_intermediate_size"]) // int(model.get("ranks", 1)),
        int(model["hidden_size"]),
    )
    block = tuple(model["weight_block_size"]) if model.get("weights") == "fp8" else None
    gate_up, down, extra = _experts(experts, size, hidden, block, seed)
    generator = torch.Generator(device="cuda").manual_seed(seed + 1)
    states = torch.randn((tokens, hidden), generator=generator, device="cuda", dtype=torch.bfloat16)
    scores = torch.rand((tokens, experts), generator=generator, device="cuda")
    weights, chosen = torch.topk(torch.softmax(scores, dim=-1), top_k, dim=-1)
    chosen = chosen.to(torch.int32)
    return lambda: layers.fused_experts(states, gate_up, down, weights, chosen, **extra)


def _experts_per_token(model: Mapping[str, Any]) -> int:
    """Releases of models name it differently."""
    return int(model.get("num_experts_per_tok") or model["num_experts_per_token"])


@lru_cache(maxsize=1)
def _experts(
    experts: int, size: int, hidden: int, block: tuple[int, int] | None, seed: int
) -> tuple[Any, Any, dict[str, Any]]:
    """Both weights of one layer, made once for all sizes of a step, and what the kernel is told about them."""
    torch: Any = importlib.import_module("torch")
    generator = torch.Generator(device="cuda").manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) * 0.02

    gate_up, down = normal(experts, 2 * size, hidden), normal(experts, hidden, size)
    if block is None:
        return gate_up, down, {}
    configs: Any = importlib.import_module("vllm.model_executor.layers.fused_moe.config")

    def scales(weight: Any) -> Any:
        rows, columns = (-(-length // step) for length, step in zip(weight.shape[1:], block, strict=True))
        return torch.ones((experts, rows, columns), device="cuda", dtype=torch.float32)

    quantised = configs.fp8_w8a8_moe_quant_config(
        w1_scale=scales(gate_up), w2_scale=scales(down), block_shape=list(block)
    )
    return (
        gate_up.to(torch.float8_e4m3fn),
        down.to(torch.float8_e4m3fn),
        {"quant_config": quantised},
    )


def gdn_prefill(tokens: int, *, model: dict[str, Any], backend: str = "triton") -> Callable[[], Any]:
    """One linear-attention layer of vLLM with a prefill of ``tokens``.

    Args:
        tokens: of the step, one sequence.
        model: ``cell`` of it.
        backend: value of ``--gdn-prefill-backend``.
    """
    batches: Any = importlib.import_module("perfgate.autotune.batches")
    layer = _gdn_layer(json.dumps(model["cell"], sort_keys=True), backend)
    step: Callable[[], Any] = layer.step(
        batches.Batch(name=f"prefill of {tokens}", query=(tokens,), context=(0,))
    )
    return step


@lru_cache(maxsize=1)
def _gdn_layer(cell: str, backend: str) -> Any:
    """The layer, warmed up; made once for all sizes of a step."""
    device: Any = importlib.import_module("perfgate.autotune.device")
    replay: Any = importlib.import_module("perfgate.autotune.replay")
    layer = device.DeviceLayer(
        replay.Cell(**json.loads(cell)), prefill_backend=backend, max_tokens=LARGEST_STEP
    )
    layer.profile_run()
    layer.bind()
    layer.kernel_warmup()
    return layer
