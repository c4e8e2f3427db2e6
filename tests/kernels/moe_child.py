"""Run in a process that emulates a GPU: vLLM looks for MoE configurations, and its log is the answer."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path

from perfgate.autotune.emulation import EmulatedGpu, emulate


def main(request_file: str, answer_file: str) -> int:
    """Answers ``{"gpu": …, "shapes": [[E, N, dtype, block_n, block_k], …]}`` with what vLLM logged for each shape."""
    request = json.loads(Path(request_file).read_text())
    emulate(EmulatedGpu(**{**request["gpu"], "capability": tuple(request["gpu"]["capability"])}))
    module = importlib.import_module("vllm.model_executor.layers.fused_moe.fused_moe")
    logs: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logs[-1].append(record.getMessage())  # type: ignore[method-assign, attr-defined]
    logging.getLogger("vllm").addHandler(handler)
    logging.getLogger("vllm").setLevel(logging.INFO)
    for shape in request["shapes"]:
        logs.append([])  # type: ignore[arg-type]
        module.get_moe_configs(*shape)
    partial = Path(answer_file).with_suffix(".partial")
    partial.write_text(json.dumps({"logs": ["\n".join(lines) for lines in logs]}))
    partial.rename(answer_file)
    return 0
