"""Warm-up with a cleared Triton cache reaches every autotune key that serving can reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perfgate.autotune.coverage import Coverage
from perfgate.autotune.tables import details

pytestmark = pytest.mark.kernels


def test_warm_up_reaches_every_key_that_serving_reaches(
    coverage: Coverage, keep_cell: Callable[[Coverage], None]
) -> None:
    """No request ever waits for, or runs out of memory in, Triton's autotuner."""
    keep_cell(coverage)
    if not coverage.covered:
        pytest.fail(details(coverage), pytrace=False)


def test_nothing_is_benchmarked_while_serving(coverage: Coverage) -> None:
    """All configurations are benchmarked at start, and some are: an empty recording proves nothing."""
    if coverage.undetermined or not coverage.configs_benched_at_start:
        pytest.fail(coverage.undetermined or "no configuration is benchmarked at start", pytrace=False)
    if coverage.configs_benched_at_inference:
        late = ", ".join(f"{missed.kernel} ({missed.configs})" for missed in coverage.keys_missed)
        pytest.fail(
            f"{coverage.configs_benched_at_inference} configurations are benchmarked while serving: {late}",
            pytrace=False,
        )
