"""Does a faster kernel make serving faster? Two levels of measurement, and what Amdahl's law connects them by.

*Kernel level.* A kernel takes k_old(n) and k_new(n) seconds for a step of n tokens. Over the steps c(n) that serving really made,
T = Σ c(n)·k(n), and the kernel's speed-up is s = T_old / T_new. One process times all sizes, and what makes it slow (clocks, placement,
what it autotuned) makes it slow at all of them. So a process is one replicate of log T, and log s has Welch's interval over processes.

*Serving level.* With f = the kernel's share of the serving time, Amdahl's law gives the new time as a fraction of the old one,

    t = 1 − f + f/s,        slowdown = t − 1   (negative: faster)

t falls with s, and is monotone in f, so the extremes over an interval of f and one of s lie in their corners; with confidence 1 − α/2
each, the corners cover with 1 − α together (Bonferroni).

*Verdict* from the expected slowdown e and the measured slowdown m of one serving metric, each with its interval:

* backfires: m is above 0 with confidence, and its estimate beyond the tolerance; the only one that needs nothing of the kernel;
* reaches serving: m is below 0 with confidence, and so is e: the kernel was timed and is faster;
* evaporates: the kernel is faster, but a gain as large as Amdahl promises at least, or any as large as the margin, is excluded;
* undecided: everything else, also where the kernel is no part of the metric, was not timed, or is not shown to be faster.

A change looks at k metrics, so each m has confidence 1 − α/k, and each f and s 1 − α/2k: in all of them together a change that does
nothing to serving backfires or reaches serving with α at most, half of it each (Bonferroni).

All slowdowns are of time, whatever the metric: a throughput that falls to 1/(1+x) is a slowdown of x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfgate.errors import InputError
from perfgate.findings import Arrival
from perfgate.iterations import BatchSize
from perfgate.metrics import Metric
from perfgate.statistics.contrast import student_quantile
from perfgate.statistics.interval import Prior, compare

Replicates = Sequence[float]
"""Seconds of one call, one value a process."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number with its interval; infinite ends where nothing is known."""

    estimate: float
    lower: float
    upper: float

    @property
    def known(self) -> bool:
        """Whether it has an interval at all."""
        return math.isfinite(self.lower) and math.isfinite(self.upper)


@dataclass(frozen=True, kw_only=True)
class KernelLevel:
    """A kernel over the steps that serving made.

    Attributes:
        speedup: T_old / T_new; above 1 is faster.
        seconds_old: T_old, all steps of the runs that the sizes are of; the geometric mean over processes.
        by_size: speed-up of each batch size, without an interval of its own; by tokens.
    """

    speedup: Range
    seconds_old: float
    by_size: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Both levels of one serving metric, and the verdict."""

    workload: str
    metric: str
    arrival: Arrival
    reason: str
    measured: Range
    """Slowdown of serving."""
    expected: Range | None = None
    """Slowdown that Amdahl's law expects; None where the kernel was not measured."""
    kernel: Range | None = None
    """Speed-up of the kernel."""
    share: Range | None = None
    """Of the serving time, before the change."""
    decides: bool = True
    """Whether the change can be judged by it: False where the kernel is no part of it."""
    confidence: float | None = None
    """Of the measured interval, two-sided."""
    borrowed: bool = False
    """Whether a noise model lent its variance."""


def kernel_level(
    sizes: Sequence[BatchSize],
    times: Mapping[int, tuple[Replicates, Replicates]],
    *,
    calls: int = 1,
    confidence: float = 0.975,
) -> KernelLevel:
    """The kernel's speed-up over the steps that serving made.

    Args:
        sizes: how many steps of how many tokens.
        times: old and new seconds of one call, by tokens; for every size, one value a process, in the same order at each size.
        calls: of the kernel in one step (layers that have it).
        confidence: two-sided; half the error of the metric, because the share has the other half.

    Raises:
        InputError: a size without times or not timed in all processes of its side, or a time that is not above 0.
    """
    for size in sizes:
        if size.tokens not in times or not all(times[size.tokens]):
            raise InputError(f"the kernel was not timed at {size.tokens} tokens, which serving used")
    old, new = (_log_totals(sizes, times, side, calls) for side in (0, 1))
    difference = compare(new, old)
    lower, upper = difference.interval(confidence)
    return KernelLevel(
        speedup=Range(estimate=math.exp(difference.estimate), lower=_exp(lower), upper=_exp(upper)),
        seconds_old=math.exp(math.fsum(old) / len(old)),
        by_size={
            size.tokens: math.exp(_mean(times[size.tokens][0]) - _mean(times[size.tokens][1]))
            for size in sizes
        },
    )


def expected_slowdown(share: Range, speedup: Range) -> Range:
    """Amdahl's law over the corners of two intervals: −0.04 is four per cent less time.

    Args:
        share: of the old serving time, 0 to 1; its interval with confidence 1 − α/2.
        speedup: of the kernel, above 0; likewise. Infinite ends are taken as they are.

    Raises:
        InputError: a share outside [0, 1], or a speed-up that is not above 0.
    """
    if not (0 <= share.lower <= share.estimate <= share.upper <= 1):
        raise InputError(
            f"a share lies between 0 and 1, not {share.estimate:g} ({share.lower:g} to {share.upper:g})",
            remedy="More kernel time than serving time: steps, calls a step or times belong to different runs.",
        )
    if not (speedup.estimate > 0 and speedup.lower >= 0):
        raise InputError(f"a speed-up is above 0, not {speedup.estimate:g}")
    corners = [
        _amdahl(f, s)
        for f, s in itertools.product((share.lower, share.upper), (speedup.lower, speedup.upper))
    ]
    return Range(estimate=_amdahl(share.estimate, speedup.estimate), lower=min(corners), upper=max(corners))


def measured_slowdown(
    metric: Metric,
    old: Replicates,
    new: Replicates,
    *,
    prior: Prior | None = None,
    confidence: float = 0.95,
) -> Range:
    """Slowdown of serving from boot means of log(metric); infinite ends where the data carry no interval.

    Args:
        metric: says whether larger is better.
        old: before the change.
        new: after it.
        prior: a variance that a noise model lends, to which outliers are pulled in as for claims; Welch's comparison without one.
        confidence: two-sided.
    """
    difference = compare(old, new, prior=prior, winsor_width=2.5 if prior is not None else None)
    lower, upper = difference.interval(confidence)
    ends = (lower, upper) if metric.sign > 0 else (-upper, -lower)
    return Range(
        estimate=math.expm1(metric.sign * difference.estimate),
        lower=_exp(ends[0]) - 1,
        upper=_exp(ends[1]) - 1,
    )


def judge_gain(
    workload: str,
    metric: Metric,
    measured: Range,
    *,
    expected: Range | None = None,
    kernel: Range | None = None,
    share: Range | None = None,
    apart: str = "",
    margin: float | None = None,
    tolerance: float | None = None,
) -> Gain:
    """The verdict of one serving metric; see the module.

    Args:
        workload: its name.
        metric: its margin and tolerance are used where none is given.
        measured: slowdown of serving.
        expected: slowdown by Amdahl's law; None where the kernel was not measured.
        kernel: the speed-up behind it, for the report.
        share: the kernel's share behind it, for the report.
        apart: why the kernel is no part of this metric, in words; empty where it is.
        margin: replaces the metric's.
        tolerance: replaces the metric's.
    """
    margin = metric.margin if margin is None else margin
    tolerance = metric.tolerance if tolerance is None else tolerance
    promised = max(0.0, -expected.upper) if expected is not None else 0.0
    needed = max(promised, margin)
    arrival: Arrival
    if not (math.isfinite(measured.lower) and math.isfinite(measured.upper)):
        arrival, reason = "undecided", "serving has no interval: measure more boots"
    elif measured.lower > 0 and measured.estimate > tolerance:
        arrival, reason = "backfires", f"serving is slower by {measured.lower:.1%} at least"
    elif apart or expected is None:
        arrival, reason = "undecided", apart or "the kernel was not timed"
    elif not expected.upper < 0:
        arrival, reason = "undecided", "the kernel itself is not shown to be faster"
    elif measured.upper < 0:
        arrival = "reaches serving"
        part = " (less than Amdahl's law promises)" if -measured.lower < promised else ""
        reason = f"serving is faster by {-measured.upper:.1%} at least{part}"
    elif -measured.lower < needed:
        arrival = "evaporates"
        what = "what the kernel's share promises" if promised > margin else "the margin"
        reason = f"a gain of {needed:.1%} ({what}) is excluded: {-measured.lower:+.1%} at most"
    else:
        arrival = "undecided"
        reason = f"a gain of up to {-measured.lower:.1%} and a loss of up to {measured.upper:.1%} are both possible"
    return Gain(
        workload=workload,
        metric=metric.name,
        arrival=arrival,
        reason=reason,
        measured=measured,
        expected=expected,
        kernel=kernel,
        share=share,
        decides=not apart,
    )


def _log_totals(
    sizes: Sequence[BatchSize], times: Mapping[int, tuple[Replicates, Replicates]], side: int, calls: int
) -> list[float]:
    """Of each process of a side, log T; T in seconds, over all sizes."""
    counts = {len(times[size.tokens][side]) for size in sizes}
    if len(counts) > 1:
        raise InputError(
            f"the kernel was timed in {min(counts)} to {max(counts)} processes, depending on the size",
            remedy="A process is a replicate of all sizes together: time every size in each of them.",
        )
    for size in sizes:
        _mean(times[size.tokens][side])
    totals = [
        math.fsum(size.steps * calls * times[size.tokens][side][process] for size in sizes)
        for process in range(max(counts, default=0))
    ]
    if not totals or min(totals) <= 0:
        raise InputError("serving made no step with this kernel")
    return [math.log(total) for total in totals]


def _mean(values: Replicates) -> float:
    if not all(0 < value < math.inf for value in values):
        raise InputError(f"a kernel's time is above 0 s: {list(values)}")
    return math.fsum(map(math.log, values)) / len(values)


def _amdahl(share: float, speedup: float) -> float:
    return -share + (share / speedup if speedup > 0 else math.inf if share > 0 else 0.0)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def share_of_time(
    kernel_s: Sequence[float],
    serving_s: Sequence[float],
    *,
    what: str = "serving time",
    confidence: float = 0.975,
) -> Range:
    """The kernel's share f of the serving time, from boots of the old side: a t interval over boots, cut at 0 and 1.

    The interval is of log f, because the shares of boots differ by factors. With a boot whose steps never called the kernel, log f does
    not exist, and the interval is of f itself; all such boots have a share of 0.

    Args:
        kernel_s: seconds in the kernel, a boot each: steps of its runs × time of a call × calls a step.
        serving_s: seconds that these runs took, above 0.
        what: the serving time that it is a share of, for the message of an error.
        confidence: two-sided; see the module.

    Raises:
        InputError: boots that differ in number, no boot, a boot that took no time, or more time in the kernel than there was (by more
            than a tenth, which the clock and the sizes within a bucket may be off).
    """
    if not kernel_s or len(kernel_s) != len(serving_s):
        raise InputError(f"{len(kernel_s)} boots with kernel times, {len(serving_s)} with serving times")
    if not all(serving > 0 for serving in serving_s):
        raise InputError(
            f"a boot whose {what} is not above 0 s has no share of it",
            remedy="Measure again: its runs have no duration.",
        )
    shares = [kernel / serving for kernel, serving in zip(kernel_s, serving_s, strict=True)]
    logs = all(share > 0 for share in shares)
    values = [math.log(share) for share in shares] if logs else shares
    mean = math.fsum(values) / len(values)
    half = math.inf
    if len(values) > 1:
        variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        quantile = float(student_quantile(1 - (1 - confidence) / 2, len(values) - 1))
        half = quantile * math.sqrt(variance / len(values))
    estimate, lower, upper = ((_exp(value) if logs else value) for value in (mean, mean - half, mean + half))
    if estimate > 1.1:
        raise InputError(
            f"the kernel would take {estimate:.0%} of the {what}",
            remedy="Check how often a step calls it (calls), and that it was timed on the GPU that served.",
        )
    return Range(estimate=min(1.0, estimate), lower=min(1.0, max(0.0, lower)), upper=min(1.0, upper))
