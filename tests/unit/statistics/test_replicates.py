"""Why the boot is the replicate."""

from __future__ import annotations

import numpy as np

from perfgate.statistics.contrast import welch


def test_runs_of_a_boot_are_no_replicates() -> None:
    """Counting five runs on each of three boots as fifteen replicates alarms ten times too often; boot means do not."""
    rng = np.random.default_rng(1)
    shape = (20_000, 3, 5)
    old, new = (rng.standard_normal((*shape[:2], 1)) + rng.standard_normal(shape) for _ in range(2))
    flat = (shape[0], -1)
    by_run = (welch(old.reshape(flat), new.reshape(flat)).p_greater() <= 0.01).mean()
    by_boot = (welch(old.mean(axis=2), new.mean(axis=2)).p_greater() <= 0.01).mean()
    assert by_run > 0.08
    assert by_boot <= 0.01
