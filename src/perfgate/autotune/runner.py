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
    emulate(EmulatedGpu(**gpu))
    recorder = Recorder()
    recorder.install()
    answer: dict[str, Any] = {
        "vllm": str(importlib.import_module("vllm").__version__),
        "triton": str(importlib.import_module("triton").__version__),
        "cells": [_answer(Cell(**cell), recorder) for cell in request.get("cells", ())],
    }
    if request.get("moe"):
        moe = importlib.import_module("perfgate.autotune.moe_runner")
        answer["moe"] = [moe.tuned_config(shape) for shape in request["moe"]]
    partial = Path(answer_file).with_suffix(".partial")
    partial.write_text(json.dumps(answer))
    partial.rename(answer_file)
    return 0


def _answer(cell: Cell, recorder: Recorder) -> dict[str, Any]:
    try:
        replayed = replay(cell, recorder)
    except (UnknownLayoutError, UnknownTritonError) as error:
        return {"error": str(error)}
    except ModuleNotFoundError as error:
        return {"error": f"this vLLM needs the Python package {error.name!r}, which the environment lacks"}
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        return {
            "error": f"{type(error).__name__}: {error} (at {Path(where.filename).name}:{where.lineno} in {where.name})"
        }
    return dataclasses.asdict(replayed)
