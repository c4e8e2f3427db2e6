"""Seeds of runs: fixed, so that two sides of a comparison, and two sessions, send the same lengths in the same order."""

from __future__ import annotations

FIRST_SEED = 42


def run_seed(run: int) -> int:
    """The seed of a boot's run number ``run`` (from 0). Prompts differ between boots by the boot's token, not by the seed."""
    return FIRST_SEED + run
