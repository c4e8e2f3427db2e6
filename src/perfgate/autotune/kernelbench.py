"""Times one kernel at given batch sizes, in a process of its own on the GPU: what `perfgate.autotune.process.ask` starts.

The kernel is named by a factory, ``package.module:function``. It is called with the number of tokens of a step, the facts of the model
(its configuration's attributes, and as ``cell`` what `perfgate.autotune.coverage.cell` makes of them) and the entry's options, and returns
a callable without arguments that launches the kernel once. What differs between two sides (environment, configuration folder,
backend) is in the process's environment and in the options.

Each round is one launch between two CUDA events, after a write through a buffer larger than any L2 cache, as `triton.testing.do_bench`
does it: serving finds the weights of a layer in memory, not in a cache that the last round filled.
"""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENTRY = "perfgate.autotune.kernelbench"
ROUNDS, WARMUPS = 50, 5
FLUSH_BYTES = 256 * 1024**2


def main(request_file: str, answer_file: str) -> int:
    """Answers ``{"factory": …, "sizes": […], "model": {…}, "options": {…}}`` with the rounds of each size in seconds."""
    torch: Any = importlib.import_module("torch")
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    module, _, function = request["factory"].partition(":")
    factory = getattr(importlib.import_module(module), function)
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
    partial = Path(answer_file).with_suffix(".partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.rename(answer_file)
    return 0


def time_kernel(torch: Any, launch: Callable[[], Any], flush: Any, *, rounds: int) -> list[float]:
    """Seconds of each round by CUDA events; compilation and autotuning happen in the rounds before."""
    for _ in range(WARMUPS):
        launch()
    begins = [torch.cuda.Event(enable_timing=True) for _ in range(rounds)]
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(rounds)]
    for begin, end in zip(begins, ends, strict=True):
        flush.zero_()
        begin.record()
        launch()
        end.record()
    torch.cuda.synchronize()
    return [float(begin.elapsed_time(end)) / 1e3 for begin, end in zip(begins, ends, strict=True)]


def fused_moe(tokens: int, *, model: dict[str, Any], seed: int = 7) -> Callable[[], Any]:
    """The fused mixture of experts of vLLM itself in bfloat16, with whatever configuration file this process finds.

    Args:
        tokens: of the step.
        model: its experts, their size and number per token, and the hidden size.
        seed: of the random weights and routing.
    """
    experts, top_k = int(model["num_experts"]), int(model["num_experts_per_tok"])
    size, hidden = int(model["moe_intermediate_size"]), int(model["hidden_size"])
    torch: Any = importlib.import_module("torch")
    layers: Any = importlib.import_module("vllm.model_executor.layers.fused_moe")
    generator = torch.Generator(device="cuda").manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) * 0.02

    states, gate_up, down = (
        normal(tokens, hidden),
        normal(experts, 2 * size, hidden),
        normal(experts, hidden, size),
    )
    scores = torch.rand((tokens, experts), generator=generator, device="cuda")
    weights, chosen = torch.topk(torch.softmax(scores, dim=-1), top_k, dim=-1)
    chosen = chosen.to(torch.int32)
    return lambda: layers.fused_experts(states, gate_up, down, weights, chosen)


def gdn_prefill(tokens: int, *, model: dict[str, Any], backend: str = "triton") -> Callable[[], Any]:
    """One linear-attention layer of vLLM with a prefill of ``tokens``.

    Args:
        tokens: of the step, one sequence.
        model: ``cell`` of it.
        backend: value of ``--gdn-prefill-backend``.
    """
    device: Any = importlib.import_module("perfgate.autotune.device")
    batches: Any = importlib.import_module("perfgate.autotune.batches")
    replay: Any = importlib.import_module("perfgate.autotune.replay")
    layer = device.DeviceLayer(replay.Cell(**model["cell"]), prefill_backend=backend)
    layer.profile_run()
    layer.bind()
    layer.kernel_warmup()
    batch = batches.Batch(name=f"prefill of {tokens}", query=(tokens,), context=(0,))
    return lambda: layer.serve(batch)
