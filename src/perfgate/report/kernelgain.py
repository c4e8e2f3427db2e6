"""A change to a kernel at both levels, for a terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perfgate.experiment.kernelgain import ChangeFinding, WorkloadGain
from perfgate.iterations import BatchSize
from perfgate.kernelgain import Gain, Range
from perfgate.report import values
from perfgate.report.columns import aligned, markdown_table
from perfgate.report.escape import markdown as escaped
from perfgate.report.escape import visible

SERVING = ("workload", "metric", "kernel", "share", "expected", "serving", "verdict")
KERNEL = ("tokens a step", "steps", "old", "new", "faster by")
_RIGHT = ("kernel", "share", "expected", "serving", *KERNEL)


def table(finding: ChangeFinding) -> str:
    """What the kernel did at the sizes that serving used, what Amdahl's law makes of it, and what serving did."""
    parts = [visible(f"{finding.change.name} on {finding.gpu}: {finding.change.text}")]
    if finding.problem:
        parts.append(visible(f"the kernel could not be timed: {finding.problem}"))
    for one in finding.workloads:
        if one.kernel is not None:
            parts.append(f"kernel under {visible(one.workload)}{_inexact(one)}")
            parts.append(aligned(KERNEL, kernel_rows(finding, one), right=_RIGHT))
    parts.append(aligned(SERVING, serving_rows(finding), right=_RIGHT))
    parts += [f"  {gain.workload}, {values.label(gain.metric)}: {gain.reason}" for gain in _gains(finding)]
    return "\n".join(parts)


def markdown(finding: ChangeFinding) -> str:
    """The same as Markdown."""
    parts = [f"**{escaped(finding.change.name)}** on {escaped(finding.gpu)}: {escaped(finding.change.text)}"]
    if finding.problem:
        parts.append(escaped(f"The kernel could not be timed: {finding.problem}"))
    for one in finding.workloads:
        if one.kernel is not None:
            parts.append(f"Kernel under {escaped(one.workload)}{_inexact(one)}")
            parts.append(markdown_table(KERNEL, kernel_rows(finding, one), right=_RIGHT))
    parts.append(markdown_table(SERVING, serving_rows(finding), right=_RIGHT))
    reasons = [f"- {gain.workload}, {values.label(gain.metric)}: {gain.reason}" for gain in _gains(finding)]
    return "\n\n".join([*parts, "\n".join(map(escaped, reasons))])


def serving_rows(finding: ChangeFinding) -> list[tuple[str, ...]]:
    """One row a workload and metric. *kernel* is how much faster it is, *expected* and *serving* are slowdowns: negative is faster."""
    return [
        (
            gain.workload,
            values.label(gain.metric),
            _range(gain.kernel, -1.0),
            _range(gain.share),
            _range(gain.expected, signed=True),
            _range(gain.measured, signed=True),
            gain.arrival.value,
        )
        for gain in _gains(finding)
    ]


def kernel_rows(finding: ChangeFinding, one: WorkloadGain) -> list[tuple[str, ...]]:
    """One row a batch size that serving used; none where the kernel was not timed."""
    if one.kernel is None:
        return []
    return [
        (
            _bucket(size),
            f"{size.steps:,.0f}",
            _microseconds(finding.times[size.tokens][0]),
            _microseconds(finding.times[size.tokens][1]),
            values.percent(one.kernel.by_size[size.tokens] - 1),
        )
        for size in one.iterations.sizes
    ]


def _gains(finding: ChangeFinding) -> list[Gain]:
    return [gain for one in finding.workloads for gain in one.gains]


def _inexact(one: WorkloadGain) -> str:
    return "" if one.iterations.exact else " (sizes do not add up to the tokens that the server counted)"


def _bucket(size: BatchSize) -> str:
    if size.lower == size.upper:
        return str(size.tokens)
    top = f"{size.upper:.0f}" if math.isfinite(size.upper) else "…"
    return f"{size.tokens} ({size.lower}–{top})"


def _microseconds(seconds: Sequence[float]) -> str:
    return f"{1e6 * math.exp(math.fsum(map(math.log, seconds)) / len(seconds)):.1f} µs"


def _range(found: Range | None, shift: float = 0.0, *, signed: bool = False) -> str:
    if found is None:
        return "not measured"
    show = values.percent if signed or shift else (lambda value: f"{value:.1%}")
    if not found.known:
        return f"{show(found.estimate + shift)} (no interval)"
    return f"{show(found.estimate + shift)} ({show(found.lower + shift)} … {show(found.upper + shift)})"
