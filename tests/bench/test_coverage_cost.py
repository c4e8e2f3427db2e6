"""What coverage costs: the full matrix, in seconds of processor time, so that a loaded machine does not change the answer."""

from __future__ import annotations

import resource
import time

import pytest

from perfgate.autotune.coverage import determine
from perfgate.autotune.question import STATE_DTYPES, TP_SIZES, Question, divisible_sizes
from perfgate.catalogue import load_catalogue
from perfgate.commands.coverage import MATRIX_GPUS, MATRIX_MODELS
from perfgate.targets import GpuSpec, ModelSpec

pytestmark = pytest.mark.bench

BUDGET_S = 120.0
CORES = 2


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_matrix_fits_two_cores_for_two_minutes() -> None:
    """Six models × tensor-parallel sizes × four GPUs × two state dtypes take at most 2 × 120 s of processor time."""
    gpus, models = load_catalogue("gpus"), load_catalogue("models")
    questions = [
        Question(
            gpu=gpus[gpu].parse(GpuSpec), model=models[model].parse(ModelSpec), tp=size, state_dtype=dtype
        )
        for gpu in MATRIX_GPUS
        for model in MATRIX_MODELS
        for size in divisible_sizes(models[model].parse(ModelSpec), TP_SIZES)
        for dtype in STATE_DTYPES
    ]
    before, began = _children_s(), time.perf_counter()
    found = determine(questions)
    spent, wall = _children_s() - before, time.perf_counter() - began
    print(
        f"\n{len(found)} cells: {spent:.0f} s of processor time, {wall:.0f} s by the clock, {1e3 * spent / len(found):.0f} ms a cell"
    )
    assert len(found) == 192
    assert all(cell.status != "undetermined" for cell in found)
    assert spent <= CORES * BUDGET_S
