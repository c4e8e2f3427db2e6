"""Does a faster kernel make serving faster? Only with --kernel-change NAME, because it boots servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perfgate.errors import PerfgateError
from perfgate.experiment.kernelgain import (
    ReplayedClock,
    bench_kernel,
    change_not_here,
    load_change,
    measure_change,
)
from perfgate.findings import ChangeFinding
from perfgate.pytest_plugin import missing_gpu, suite_of

pytestmark = [pytest.mark.kernels, pytest.mark.gpu]

CLOCK = ReplayedClock()


@pytest.mark.benchmark(timer=CLOCK, warmup=False, disable_gc=True)
def test_kernel_gain_reaches_serving(
    kernel_change: str,
    request: pytest.FixtureRequest,
    conclude_change: Callable[[ChangeFinding], None],
) -> None:
    """The kernel is faster at the batch sizes that serving uses, and serving gains from it in a primary metric and loses in none."""
    suite = suite_of(request.config)
    try:
        change = load_change(suite.options.root, tuple(suite.options.config), kernel_change)
        absent = change_not_here(suite, change)
        if absent is not None:
            missing_gpu(request, absent)
        finding = measure_change(suite, change, bench=bench_kernel)
    except PerfgateError as error:
        pytest.fail(str(error), pytrace=False)
    # The times were taken by CUDA events in processes of their own; here they only enter pytest-benchmark's records.
    times = {size.tokens: size for one in finding.workloads for size in one.kernel}
    seconds = [new for _, size in sorted(times.items()) for new in size.new]
    if seconds:
        benchmark: Any = request.getfixturevalue("benchmark")
        benchmark.group = f"{change.kernel} on {finding.gpu}"
        benchmark.extra_info.update(
            change=change.name,
            seconds={str(tokens): [list(size.old), list(size.new)] for tokens, size in times.items()},
        )
        benchmark.pedantic(CLOCK.take, setup=CLOCK.feeding(seconds), rounds=len(seconds), iterations=1)
    conclude_change(finding)
