"""How many tokens an engine step had: the batch sizes that serving really used, from ``vllm:iteration_tokens_total``.

The metrics page has a cumulative histogram of tokens per engine step, and their sum. A step counts the tokens that it generated, and the
prompt tokens of the requests whose prefill it ended (`IterationStats` in ``vllm/v1/metrics/stats.py``): a prompt in chunks counts whole
in the step of its last chunk, steps of its other chunks count what they generated beside it (nothing: no step), and a token that was
drafted and not accepted counts nowhere.

Within a bucket the sizes are not known; one number θ places a group of buckets: a bucket from a to b tokens stands for a^(1−θ)·b^θ tokens,
and θ is chosen so that the group's steps add up to its tokens. Decode and prefill are two groups, each with a θ of its own, because a few
large prefills have most of the tokens. With n streams a decode step has at most L = n·c tokens, where c tokens are computed for a
request in a step (1, and the drafts), so a bucket that begins at L tokens or fewer is decode, and ends at L. Of the tokens S in all steps
those of decode steps, D, are bounded three times over:

* G − R − (P·n − R)·g ≤ D ≤ G − R: each of R requests gets one of the G generated tokens from its prefill; in P prefill steps there is
  room for P·n requests, and those that do not end their prefill there may decode, g tokens each (1, and the accepted drafts);
* by the ends of the decode buckets;
* by the ends of the prefill buckets, which S − D lies between.

D is the middle of what all three leave, and half of (P·n − R)·g is all that it can be wrong by. That the sums fit does not say that the
sizes are right, except where a bucket's steps all had one size. A prefill of no more than L tokens cannot be told from a decode step.

With drafts (c > 1) the tokens that a step generates depend on what was accepted. All decode steps then stand for one size: requests were
D / g times in one of them, which is so many a step, times c.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from perfgate.errors import InputError

HISTOGRAM = "vllm:iteration_tokens_total"
_BUCKET = re.compile(re.escape(HISTOGRAM) + r"_bucket le=(\S+)$")


def bucket_name(edge: str) -> str:
    """Under which name a bucket's counter is kept among a run's counters; ``edge`` as the page has it, such as ``8.0`` or ``+Inf``."""
    return f"{HISTOGRAM}_bucket le={edge}"


_ENGINE = re.compile(re.escape(HISTOGRAM) + r"_count engine=\S+$")
_LATE = 0.01
"""Of the decode tokens: as much they may be off from what the steps can hold (a reading a step late, a request put back)."""


def engine_name(engine: str) -> str:
    """Under which name the steps of one engine are kept among a run's counters; ``engine`` is the page's label."""
    return f"{HISTOGRAM}_count engine={engine}"


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Engine steps of about one size."""

    tokens: int
    """That the model computes; with speculative decoding more than the histogram counts."""
    steps: float
    lower: int
    """Fewest tokens of its bucket."""
    upper: float
    """Most tokens of its bucket; infinite for the last one."""
    decode: bool = False
    """Whether it is small enough for a step of decoding requests alone."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What is known of decode steps beside the histogram.

    Attributes:
        streams: most requests that decode together.
        tokens: G − R, all generated ones but the first of each request.
        requests: R.
        computed: tokens that the model computes for a request in a step: 1, and the drafts.
        gained: tokens that a request gets from a step: 1, and the accepted drafts.
    """

    streams: int
    tokens: float
    requests: float
    computed: float = 1.0
    gained: float = 1.0

    @property
    def limit(self) -> int:
        """Most tokens of a decode step."""
        return math.ceil(self.streams * self.computed - 1e-9)


@dataclass(frozen=True, kw_only=True)
class Iterations:
    """The steps of an engine over some runs.

    Attributes:
        sizes: non-empty buckets, smallest first.
        tokens: the sum that the server counted.
        fits: whether sizes within the buckets add up to it, and to what is known of decode steps; False where none do.
        engines: that made steps; more than one with data parallelism.
        gained: tokens that a request got from a decode step.
    """

    sizes: tuple[BatchSize, ...]
    tokens: float
    fits: bool
    engines: int = 1
    gained: float = 1.0

    @property
    def steps(self) -> float:
        """All steps."""
        return math.fsum(size.steps for size in self.sizes)


def iterations(counted: Iterable[Mapping[str, float]], decoding: Decoding | None = None) -> Iterations:
    """The steps over some runs.

    Args:
        counted: how far the server's counters moved, a run each (`RunRecord.server`).
        decoding: of the same runs together; without it all buckets are one group, and no step is known to be decode.

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
    groups, fits = _groups(counts, moved.get(f"{HISTOGRAM}_sum", 0.0), decoding)
    return Iterations(
        sizes=tuple(size for group in groups for size in group),
        tokens=moved.get(f"{HISTOGRAM}_sum", 0.0),
        fits=fits,
        engines=max(1, sum(1 for name, value in moved.items() if value > 0 and _ENGINE.match(name))),
        gained=decoding.gained if decoding is not None else 1.0,
    )


_Counts = list[tuple[int, float, float]]
"""Fewest and most tokens of a bucket, and its steps."""


def _groups(counts: _Counts, tokens: float, decoding: Decoding | None) -> tuple[list[list[BatchSize]], bool]:
    """Decode and prefill, each placed, and whether their sums fit."""
    if decoding is None:
        return [_placed(counts, tokens)], _total(counts, 0.0) <= tokens <= _total(counts, 1.0)
    limit = decoding.limit
    small = [one for one in counts if one[0] <= limit]
    large = [one for one in counts if one[0] > limit]
    capped = [(lower, min(upper, limit), steps) for lower, upper, steps in small]
    room = math.fsum(steps for _, _, steps in large) * decoding.streams - decoding.requests
    beside = max(0.0, room) * decoding.gained
    slack = _LATE * decoding.tokens
    ends = [
        (decoding.tokens - beside - slack, decoding.tokens + slack),
        (_total(capped, 0.0), _total(capped, 1.0)),
        (tokens - _total(large, 1.0), tokens - _total(large, 0.0)),
    ]
    low, high = max(end[0] for end in ends), min(end[1] for end in ends)
    fits = low <= high
    if fits:
        low, high = max(low, min(decoding.tokens - beside, high)), min(high, max(decoding.tokens, low))
    # Where nothing fits, the tokens that were generated count for more than the sum, which a few prefills decide.
    decoded = (low + high) / 2 if fits else min(max(decoding.tokens, ends[1][0]), ends[1][1])
    if decoding.computed > 1 and small:
        placed = [_mean_step(small, decoded, decoding)]
    else:
        sizes = zip(_placed(capped, decoded), small, strict=True)
        placed = [replace(size, upper=bucket[1], decode=True) for size, bucket in sizes]
    return [placed, _placed(large, tokens - decoded)], fits


def _mean_step(counts: _Counts, tokens: float, decoding: Decoding) -> BatchSize:
    """All decode steps as one size: with drafts their generated tokens say more of luck than of how many requests decoded."""
    steps = math.fsum(count for _, _, count in counts)
    requests = min(float(decoding.streams), max(1.0, tokens / decoding.gained / steps))
    return BatchSize(
        tokens=round(requests * decoding.computed),
        steps=steps,
        lower=counts[0][0],
        upper=counts[-1][1],
        decode=True,
    )


def _size(lower: int, upper: float, theta: float) -> float:
    # The last bucket has no end: twice its beginning stands for it.
    top = upper if math.isfinite(upper) else 2.0 * lower
    return float(lower ** (1 - theta) * top**theta)


def _total(counts: _Counts, theta: float) -> float:
    return math.fsum(steps * _size(lower, upper, theta) for lower, upper, steps in counts)


def _placed(counts: _Counts, tokens: float) -> list[BatchSize]:
    """One group of buckets, with the θ whose sizes add up to its tokens, or come nearest."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _total(counts, middle) < tokens else (low, middle)
    theta = (low + high) / 2
    return [
        BatchSize(tokens=max(lower, round(_size(lower, upper, theta))), steps=steps, lower=lower, upper=upper)
        for lower, upper, steps in counts
    ]
