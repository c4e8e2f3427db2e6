"""The process that emulates one GPU: reads cells from a file, replays them all, writes what it saw to another.

Started as `python -c BOOTSTRAP REQUEST ANSWER` (see `perfgate.autotune.process`); standard output and error are free
for vLLM's logs. The answer file appears only when complete.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfgate.autotune.discovery import UnknownLayoutError
from perfgate.autotune.emulation import EmulatedGpu, emulate
from perfgate.autotune.recorder import Recorder, UnknownTritonError
from perfgate.autotune.replay import Cell, replay


def main(request_file: str, answer_file: str) -> int:
    """Answer one request; returns 0 also when single cells failed, because each says so itself."""
    request = json.loads(Path(request_file).read_text())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    gpu = {**request["gpu"], "capability": tuple(request["gpu"]["capability"])}
    cells, shapes = request.get("cells", ()), request.get("moe", ())
    answer: dict[str, Any] = {}
    try:
        emulate(EmulatedGpu(**gpu))
        recorder = Recorder()
        recorder.install()
    except Exception as error:
        failed = {"error": f"vLLM cannot be set up under an emulated GPU: {_explained(error)}"}
        answer |= {"cells": [failed] * len(cells), "moe": [failed] * len(shapes)}
    else:
        answer["cells"] = [_answer(Cell(**cell), recorder) for cell in cells]
        moe: Any = importlib.import_module("perfgate.autotune.moe_runner") if shapes else None
        answer["moe"] = [_attempt(moe.tuned_config, shape) for shape in shapes]
    for name in ("vllm", "triton"):
        answer[name] = str(getattr(sys.modules.get(name), "__version__", "unknown"))
    partial = Path(answer_file).with_suffix(".partial")
    partial.write_text(json.dumps(answer))
    partial.rename(answer_file)
    return 0


def _answer(cell: Cell, recorder: Recorder) -> dict[str, Any]:
    return _attempt(lambda: dataclasses.asdict(replay(cell, recorder)))


def _attempt(answer: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    try:
        return answer(*arguments)
    except Exception as error:
        return {"error": _explained(error)}


def _explained(error: Exception) -> str:
    """What went wrong, for somebody who sees neither this process nor its log."""
    if isinstance(error, UnknownLayoutError | UnknownTritonError):
        return str(error)
    traceback.print_exc()
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if error.name == "vllm":
            return "vLLM is not installed here; install it, or give --vllm-source the folder of an unpacked wheel"
        if error.name.startswith("vllm."):
            return f"this vLLM has no module {error.name}, which was looked for"
        return f"this vLLM needs the Python package {error.name!r}, which the environment lacks"
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if "/vllm/" in frame.filename), frames[-1])
    return f"{type(error).__name__}: {error} (at {Path(where.filename).name}:{where.lineno} in {where.name})"
