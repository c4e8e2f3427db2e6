"""How other tools decide, fed the same data: the rule each documents, nothing else of it.

Each takes the single values that such a tool has (a stored run, a history of one run a session) and one fresh run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from perfgate.statistics.contrast import BoolArray, FloatArray, student_quantile
from perfgate.statistics.simulation import DIRECTIONS, Suites

_FIVE = 0.05


def _slowdown(values: FloatArray) -> FloatArray:
    """Slowdowns from log values of shape (N, T, M)."""
    return np.asarray(values * np.asarray(DIRECTIONS))


def pytest_benchmark(suites: Suites) -> BoolArray:
    """``--benchmark-compare-fail=mean:5%``: the fresh mean exceeds the stored one by more than 5%."""
    alarm: BoolArray = _slowdown(suites.new[..., 0] - suites.base[..., 0]) > math.log1p(_FIVE)
    return alarm


def reframe(suites: Suites) -> BoolArray:
    """``(reference, -0.05, 0.05)`` with one fixed reference: below 95% of a rate, or above 105% of a time."""
    limit = np.where(np.asarray(DIRECTIONS) < 0, -math.log1p(-_FIVE), math.log1p(_FIVE))
    alarm: BoolArray = _slowdown(suites.new[..., 0] - suites.base[..., 0]) > limit
    return alarm


def tensorrt_llm(suites: Suites) -> BoolArray:
    """The perf sanity tests: 5% worse than the best of the history."""
    best = _slowdown(np.moveaxis(suites.history[..., 0], -1, 0)).min(axis=0)
    alarm: BoolArray = _slowdown(suites.new[..., 0]) - best > math.log1p(_FIVE)
    return alarm


def bencher(suites: Suites) -> BoolArray:
    """A threshold of the t-test kind at 0.99: the fresh value lies beyond mean + t·s of the history."""
    whole = suites.history.reshape(*suites.history.shape[:-2], -1)
    past = _slowdown(np.moveaxis(whole, -1, 0))
    quantile = float(student_quantile(0.99, len(past) - 1))
    limit = past.mean(axis=0) + quantile * past.std(axis=0, ddof=1)
    alarm: BoolArray = _slowdown(suites.new[..., 0]) > limit
    return alarm


RIVALS: Mapping[str, Callable[[Suites], BoolArray]] = {
    "pytest-benchmark": pytest_benchmark,
    "ReFrame": reframe,
    "TensorRT-LLM": tensorrt_llm,
    "Bencher": bencher,
}
