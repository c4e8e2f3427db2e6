"""How many tokens an engine step had: the batch sizes that serving really used, from ``vllm:iteration_tokens_total``.

The metrics page has a cumulative histogram of tokens per engine step, and their sum. Within a bucket the sizes are not known; one
number θ places them all: a bucket from a to b tokens stands for a^(1−θ)·b^θ tokens, and θ is chosen so that the steps add up to the
sum that the server counted. It is exact where a bucket's steps all had one size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from perfgate.errors import InputError

HISTOGRAM = "vllm:iteration_tokens_total"
_BUCKET = re.compile(re.escape(HISTOGRAM) + r"_bucket le=(\S+)$")


def bucket_name(edge: str) -> str:
    """Under which name a bucket's counter is kept among a run's counters; ``edge`` as the page has it, such as ``8.0`` or ``+Inf``."""
    return f"{HISTOGRAM}_bucket le={edge}"


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Engine steps of about one size."""

    tokens: int
    steps: float
    lower: int
    """Fewest tokens of its bucket."""
    upper: float
    """Most tokens of its bucket; infinite for the last one."""


@dataclass(frozen=True, kw_only=True)
class Iterations:
    """The steps of an engine over some runs.

    Attributes:
        sizes: non-empty buckets, smallest first.
        tokens: the sum that the server counted.
        exact: whether the sizes add up to it; False where no sizes within the buckets do.
    """

    sizes: tuple[BatchSize, ...]
    tokens: float
    exact: bool

    @property
    def steps(self) -> float:
        """All steps."""
        return math.fsum(size.steps for size in self.sizes)


def iterations(counted: Iterable[Mapping[str, float]]) -> Iterations:
    """The steps over some runs, each given by how far the server's counters moved (`RunRecord.server`).

    Raises:
        InputError: the counters have no such histogram, or it is none (a bucket that shrinks).
    """
    moved: dict[str, float] = {}
    for run in counted:
        for name, value in run.items():
            if name.startswith(HISTOGRAM):
                moved[name] = moved.get(name, 0.0) + value
    cumulative = sorted(
        (math.inf if match[1] == "+Inf" else float(match[1]), value)
        for name, value in moved.items()
        if (match := _BUCKET.match(name)) is not None
    )
    if not cumulative or cumulative[-1][1] <= 0:
        raise InputError(
            f"no engine step is counted in {HISTOGRAM}",
            remedy="Measure with a vLLM that has this histogram on its metrics page.",
        )
    counts: list[tuple[int, float, float]] = []
    below, before = 0.0, 0.0
    for edge, value in cumulative:
        if value < before:
            raise InputError(f"{HISTOGRAM}: bucket {edge:g} counts fewer steps than the one below it")
        if value > before:
            counts.append((math.floor(below) + 1, edge, value - before))
        below, before = edge, value
    return _placed(counts, moved.get(f"{HISTOGRAM}_sum", 0.0))


def _placed(counts: list[tuple[int, float, float]], tokens: float) -> Iterations:
    def size(lower: int, upper: float, theta: float) -> float:
        # The last bucket has no end: twice its beginning stands for it.
        top = upper if math.isfinite(upper) else 2.0 * lower
        return float(lower ** (1 - theta) * top**theta)

    def total(theta: float) -> float:
        return math.fsum(count * size(lower, upper, theta) for lower, upper, count in counts)

    low, high = 0.0, 1.0
    exact = total(0.0) <= tokens <= total(1.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) < tokens else (low, middle)
    theta = (low + high) / 2
    return Iterations(
        sizes=tuple(
            BatchSize(
                tokens=max(lower, round(size(lower, upper, theta))), steps=count, lower=lower, upper=upper
            )
            for lower, upper, count in counts
        ),
        tokens=tokens,
        exact=exact,
    )
