"""Warm-up with a cleared Triton cache reaches every autotune key that serving can reach."""

from __future__ import annotations

import pytest

from perfgate.autotune.coverage import Coverage
from perfgate.autotune.tables import details

pytestmark = pytest.mark.kernels


def test_warm_up_reaches_every_key_that_serving_reaches(coverage: Coverage) -> None:
    """No request ever waits for, or runs out of memory in, Triton's autotuner."""
    assert coverage.covered, details(coverage)


def test_nothing_is_benchmarked_while_serving(coverage: Coverage) -> None:
    """All configurations are benchmarked at start, and some are: an empty recording proves nothing."""
    assert coverage.configs_benched_at_start > 0, details(coverage)
    assert coverage.configs_benched_at_inference == 0, details(coverage)
