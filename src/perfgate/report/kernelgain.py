"""A change to a kernel at both levels, for a terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perfgate.findings import ChangedMetric, ChangedWorkload, ChangeFinding, Estimate, KernelTimes
from perfgate.report import values
from perfgate.report.columns import aligned, markdown_table
from perfgate.report.escape import markdown as escaped
from perfgate.report.escape import visible

SERVING = ("workload", "metric", "kernel", "share", "expected", "serving", "verdict")
KERNEL = ("tokens a step", "steps", "old", "new", "faster by")
_RIGHT = ("kernel", "share", "expected", "serving", *KERNEL)


def table(finding: ChangeFinding) -> str:
    """What the kernel did at the sizes that serving used, what Amdahl's law makes of it, and what serving did."""
    parts = [visible(headline(finding))]
    if finding.problem:
        parts.append(visible(f"the kernel could not be timed: {finding.problem}"))
    for one in finding.workloads:
        if one.kernel:
            parts.append(visible(kernel_title(one)))
            parts.append(aligned(KERNEL, kernel_rows(one), right=_RIGHT))
    parts.append(aligned(SERVING, serving_rows(finding), right=_RIGHT))
    parts += [f"  {visible(line)}" for line in (*confidence(finding), *reasons(finding))]
    return "\n".join(parts)


def markdown(finding: ChangeFinding) -> str:
    """The same as Markdown."""
    parts = [escaped(headline(finding))]
    if finding.problem:
        parts.append(escaped(f"The kernel could not be timed: {finding.problem}"))
    for one in finding.workloads:
        if one.kernel:
            parts.append(escaped(kernel_title(one)))
            parts.append(markdown_table(KERNEL, kernel_rows(one), right=_RIGHT))
    parts.append(markdown_table(SERVING, serving_rows(finding), right=_RIGHT))
    lines = (*confidence(finding), *reasons(finding))
    return "\n\n".join([*parts, "\n".join(f"- {escaped(line)}" for line in lines)])


def headline(finding: ChangeFinding) -> str:
    """What was changed, and where."""
    return f"{finding.change} on {finding.gpu}: {finding.text}"


def kernel_title(one: ChangedWorkload) -> str:
    """Over the kernel's rows of one workload."""
    inexact = "" if one.exact else " (sizes do not add up to the tokens that the server counted)"
    return f"kernel under {one.workload}{inexact}"


def confidence(finding: ChangeFinding) -> list[str]:
    """How sure the intervals of serving are; nothing where an older recording does not say."""
    metrics = [metric for _, metric in _metrics(finding)]
    lent = " with a variance that the noise model lends" if any(one.borrowed for one in metrics) else ""
    levels = sorted({one.confidence for one in metrics if one.confidence is not None})
    return [
        f"intervals of serving at {level:.2%}, for {len(metrics)} metrics together{lent}" for level in levels
    ]


def reasons(finding: ChangeFinding) -> list[str]:
    """Why each verdict."""
    return [f"{name}, {values.label(metric.metric)}: {metric.reason}" for name, metric in _metrics(finding)]


def serving_rows(finding: ChangeFinding) -> list[tuple[str, ...]]:
    """One row a workload and metric. *kernel* is how much faster it is, *expected* and *serving* are slowdowns: negative is faster."""
    return [
        (
            workload,
            values.label(metric.metric),
            _range(metric.kernel),
            _range(metric.share, signed=False),
            _range(metric.expected),
            _range(metric.serving),
            metric.arrival,
        )
        for workload, metric in _metrics(finding)
    ]


def kernel_rows(one: ChangedWorkload) -> list[tuple[str, ...]]:
    """One row a batch size that serving used; none where the kernel was not timed."""
    return [
        (
            _bucket(size),
            f"{size.steps:,.0f}",
            _microseconds(size.old),
            _microseconds(size.new),
            values.percent(size.faster),
        )
        for size in one.kernel
    ]


def _metrics(finding: ChangeFinding) -> list[tuple[str, ChangedMetric]]:
    return [(one.workload, metric) for one in finding.workloads for metric in one.metrics]


def _bucket(size: KernelTimes) -> str:
    if size.fewest == size.most:
        return str(size.tokens)
    return f"{size.tokens} ({size.fewest}–{'…' if size.most is None else size.most})"


def _microseconds(seconds: Sequence[float]) -> str:
    return f"{1e6 * math.exp(math.fsum(map(math.log, seconds)) / len(seconds)):.1f} µs"


def _range(found: Estimate | None, *, signed: bool = True) -> str:
    if found is None:
        return "not measured"
    show = values.percent if signed else (lambda value: f"{value:.1%}")
    if found.lower is None or found.upper is None:
        return f"{show(found.estimate)} (no interval)"
    return f"{show(found.estimate)} ({show(found.lower)} … {show(found.upper)})"
