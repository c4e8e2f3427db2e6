"""Ask the vLLM of this process, under its emulated GPU, which tuned MoE configuration file it would open.

Runs inside the process that emulates a GPU.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any


def tuned_config(shape: dict[str, Any]) -> dict[str, Any]:
    """The file for ``experts``, ``size`` (of one rank), ``dtype`` and ``block_shape``: its name, whether shipped, its batch sizes."""
    module = importlib.import_module("vllm.model_executor.layers.fused_moe.fused_moe")
    name_of = getattr(module, "get_config_file_name", None)
    if name_of is None:
        return {"error": f"{module.__name__} has no get_config_file_name"}
    name = name_of(shape["experts"], shape["size"], shape["dtype"], shape["block_shape"])
    file = Path(str(module.__file__)).parent / "configs" / name
    shipped = file.is_file()
    batches = batch_sizes(json.loads(file.read_text())) if shipped else ()
    return {"file": name, "shipped": shipped, "batch_sizes": batches}


def batch_sizes(configuration: object) -> tuple[int, ...]:
    """The batch sizes that a configuration file's content has entries for.

    Raises:
        ValueError: it is not a table of them.
    """
    if not isinstance(configuration, dict):
        raise ValueError("not a table of batch sizes")
    # vLLM reads every key as a batch size but this one.
    return tuple(sorted(int(key) for key in configuration if key != "triton_version"))
