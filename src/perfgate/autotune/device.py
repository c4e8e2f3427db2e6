"""vLLM's real layer on a real GPU: start it with empty caches, serve through it, and say what Triton did and what it cost.

The counterpart of `replay` where there is a device: the same layer, configuration, warm-ups and batches, but kernels are compiled,
benchmarked and launched. Projections are left out, as they are no part of the linear-attention kernels.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perfgate.autotune import engine
from perfgate.autotune.batches import LONGEST_PREFILL, Batch, serving_batches
from perfgate.autotune.discovery import find_layer, find_warmups
from perfgate.autotune.eventlog import VARIABLE
from perfgate.autotune.kernelbench import FLUSH_BYTES, time_kernel
from perfgate.autotune.plugin import Watcher
from perfgate.autotune.reference import gated_delta_rule, relative_error
from perfgate.autotune.replay import Cell

MIB = 1024**2


class DeviceLayer:
    """One linear-attention layer on the current CUDA device."""

    def __init__(
        self, cell: Cell, *, prefill_backend: str = "triton", max_tokens: int = LONGEST_PREFILL
    ) -> None:
        package = Path(next(iter(importlib.import_module("vllm").__path__)))
        layer_class = find_layer(cell.layer, package, model_type=cell.model_type)
        self.warmups = find_warmups(package)
        engine.use_tensor_parallel(cell.tp)
        hf_config = engine.hf_config_for(layer_class, {**cell.architecture, "model_type": cell.model_type})
        self.config = engine.vllm_config(
            hf_config=hf_config,
            model_type=cell.model_type,
            tp=cell.tp,
            state_dtype=cell.state_dtype,
            prefill_backend=prefill_backend,
            max_tokens=max_tokens,
        )
        self.layer = engine.build_layer(
            layer_class, self.config, hf_config, interleaved=cell.interleaved, device="cuda"
        )
        rule: Any = getattr(self.layer, "chunk_gated_delta_rule", None)
        if prefill_backend == "triton" and rule is not None and hasattr(rule, "forward_native"):
            rule._forward_method = rule.forward_native
        self._fill()
        self._builder: Any = None

    def _fill(self) -> None:
        """Weights that make sense: a decay between 0 and 1, small convolution weights."""
        torch: Any = importlib.import_module("torch")
        with torch.inference_mode():
            for name, parameter in self.layer.named_parameters():
                parameter.data.fill_(0.5) if name.endswith(("A_log", "dt_bias")) else parameter.data.normal_(
                    0, 0.02
                )

    def profile_run(self) -> None:
        """The forward pass without metadata, in which releases warm their prefill kernels up."""
        engine.forward(self.layer, self.config, LONGEST_PREFILL, None, device="cuda")

    def bind(self) -> None:
        """Allocate the states, after which the layer can serve."""
        spec = engine.bind_caches(self.layer, self.config, device="cuda")
        self._builder = engine.metadata_builder(self.layer, spec, self.config, device="cuda")
        self._spec = spec

    def kernel_warmup(self) -> None:
        """What `kernel_warmup` does for linear-attention layers in this release."""
        runner = engine.runner(self.layer, self.config, self._spec)
        for warmup in self.warmups:
            engine.call_warmup(warmup, runner)

    def serve(self, batch: Batch) -> None:
        """One step."""
        self.step(batch)()

    def step(self, batch: Batch) -> Callable[[], None]:
        """A step that can be repeated; its metadata is made here, as the engine makes it once for all layers."""
        metadata = engine.metadata(self._builder, batch, device="cuda")
        return lambda: engine.forward(self.layer, self.config, batch.tokens, metadata, device="cuda")

    def prefill_times(self, tokens: int, *, rounds: int = 30) -> list[float]:
        """Seconds that the GPU takes for one layer's prefill of ``tokens`` tokens, of each of ``rounds`` calls; see `time_kernel`."""
        torch: Any = importlib.import_module("torch")
        flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
        step = self.step(Batch(name=f"prefill of {tokens}", query=(tokens,), context=(0,)))
        return time_kernel(torch, step, flush, rounds=rounds)

    def prefill_error(self, lengths: Sequence[int], *, seed: int = 7) -> float:
        """Relative error of the layer's Triton prefill against the plain float32 recurrence, over several sequences.

        The relative error is ‖o − o_ref‖₂ / ‖o_ref‖₂ over all outputs. Inputs are bfloat16, keys and queries of unit length.
        """
        torch: Any = importlib.import_module("torch")
        functional: Any = importlib.import_module("torch.nn.functional")
        layer = self.layer
        generator = torch.Generator(device="cuda").manual_seed(seed)
        keys, values = layer.num_k_heads // layer.tp_size, layer.num_v_heads // layer.tp_size
        total = sum(lengths)

        def normal(*shape: int) -> Any:
            return torch.randn(shape, generator=generator, device="cuda")

        q = functional.normalize(normal(1, total, keys, layer.head_k_dim), dim=-1).to(torch.bfloat16)
        k = functional.normalize(normal(1, total, keys, layer.head_k_dim), dim=-1).to(torch.bfloat16)
        v = normal(1, total, values, layer.head_v_dim).to(torch.bfloat16)
        g = functional.logsigmoid(normal(1, total, values) + 2.0)
        beta = torch.sigmoid(normal(1, total, values))
        starts = torch.tensor([0, *_cumulative(lengths)], dtype=torch.int32, device="cuda")
        # Conv state first, recurrent state second, in every release.
        shape = tuple(layer.get_state_shape())[1]
        state = torch.zeros((len(lengths), *shape), device="cuda")
        rule = layer.chunk_gated_delta_rule
        offered = {
            "q": q,
            "k": k,
            "v": v,
            "g": g,
            "beta": beta,
            "initial_state": state,
            "output_final_state": True,
            "cu_seqlens": starts,
            "use_qk_l2norm_in_kernel": False,
        }
        accepted = inspect.signature(rule.forward_native).parameters
        with torch.inference_mode():
            output, _ = rule.forward_native(
                **{name: value for name, value in offered.items() if name in accepted}
            )
        expected = gated_delta_rule(q, k, v, g, beta, lengths)
        return relative_error(output, expected)


def _cumulative(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[: index + 1]) for index in range(len(lengths))]


def main(request_file: str, answer_file: str) -> int:
    """Answer a request of the form ``{"cell": …}`` on this process's GPU; the recorder must be enabled by its variable."""
    watcher = Watcher(Path(os.environ[VARIABLE]))
    watcher.install()
    torch: Any = importlib.import_module("torch")
    request = json.loads(Path(request_file).read_text())
    subject = DeviceLayer(Cell(**request["cell"]))
    steps: dict[str, float] = {}

    def free() -> float:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info()[0]) / MIB

    torch.zeros(1, device="cuda")
    steps["free_before"] = free()
    torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    subject.profile_run()
    torch.cuda.synchronize()
    warm_up_s = time.monotonic() - began
    peak = float(torch.cuda.max_memory_allocated()) / MIB
    steps["free_at_kv_sizing"] = free()
    subject.bind()
    steps["free_after_states"] = free()
    subject.kernel_warmup()
    steps["free_after_warm_up"] = free()
    watcher.say_ready()
    for batch in serving_batches():
        subject.serve(batch)
        torch.cuda.synchronize()
    steps["free_after_serving"] = free()
    served_at = time.time()
    times = {str(tokens): subject.prefill_times(tokens) for tokens in request["timed"]}
    answer = {
        "times_s": times,
        "served_at": served_at,
        "gpu": torch.cuda.get_device_name(),
        "vllm": str(importlib.import_module("vllm").__version__),
        "triton": str(importlib.import_module("triton").__version__),
        "warm_up_s": warm_up_s,
        "peak_mib": peak,
        "free_mib": steps,
        "errors": {str(lengths): subject.prefill_error(lengths) for lengths in request["lengths"]},
    }
    partial = Path(answer_file).with_suffix(".partial")
    partial.write_text(json.dumps(answer))
    partial.rename(answer_file)
    return 0
