"""How often the history cries wolf, and how soon it sees a real change: the tables of docs/history.md.

    pytest -m bench -s tests/bench/test_history_rates.py

``PERFGATE_LINES`` sets the number of simulated lines (default 2000). The tables of the docs come from 3000, the penalties of the table from
100000 orders and more.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from ruptures import KernelCPD

from perfgate.history import trend
from perfgate.history.changes import PENALTIES, RATE, SEGMENT, scores

pytestmark = pytest.mark.bench

LINES = int(os.environ.get("PERFGATE_LINES", "2000"))
Noise = Callable[[np.random.Generator, int], np.ndarray]


def largest_gain(line: np.ndarray, *, most: int = 3) -> float:
    """The smallest penalty under which the line shows no change: the largest reduction of squares a change."""
    detector = KernelCPD(kernel="linear", min_size=SEGMENT).fit(line[:, np.newaxis])
    total = np.square(line - line.mean()).sum()
    best = 0.0
    for count in range(1, min(most, len(line) // SEGMENT - 1) + 1):
        left = [
            np.square(part - part.mean()).sum()
            for part in np.split(line, detector.predict(n_bkps=count)[:-1])
        ]
        best = max(best, (total - sum(left)) / count)
    return float(best)


def test_penalties() -> None:
    """Penalties drawn anew, beside those of the table."""
    print("\nsessions  table  drawn anew")
    for sessions, known in PENALTIES:
        random = np.random.default_rng([20260413, sessions])
        ordered = scores(np.arange(sessions, dtype=np.float64))
        gains = [largest_gain(random.permutation(ordered)) for _ in range(LINES)]
        print(f"{sessions:8d}  {known:5.2f}  {np.quantile(gains, 1 - RATE):5.2f}")


def gaussian(random: np.random.Generator, sessions: int) -> np.ndarray:
    return random.normal(0, 1, sessions)


def outliers(random: np.random.Generator, sessions: int) -> np.ndarray:
    return random.normal(0, 1, sessions) + 10 * (random.random(sessions) < 0.03)


def heavy(random: np.random.Generator, sessions: int) -> np.ndarray:
    return random.standard_t(2, sessions)


def bimodal(random: np.random.Generator, sessions: int) -> np.ndarray:
    return random.normal(0, 1, sessions) + 4 * (random.random(sessions) < 0.3)


def autoregressive(share: float) -> Noise:
    def noise(random: np.random.Generator, sessions: int) -> np.ndarray:
        steps = random.normal(0, np.sqrt(1 - share**2), sessions)
        steps[0] = random.normal()
        for at in range(1, sessions):
            steps[at] += share * steps[at - 1]
        return steps

    return noise


KINDS: dict[str, Noise] = {
    "normal": gaussian,
    "3% outliers of 10 sigma": outliers,
    "Student t, 2 degrees": heavy,
    "bimodal, 30% 4 sigma slower": bimodal,
    "autocorrelated 0.2": autoregressive(0.2),
    "autocorrelated 0.4": autoregressive(0.4),
    "autocorrelated 0.6": autoregressive(0.6),
}


def test_false_alarms() -> None:
    """The share of stable lines that show a change, or drift, by noise and length; sigma is 1%."""
    lengths = (14, 30, 100)
    print("\nnoise                         " + "".join(f"  {length:>4} sessions      " for length in lengths))
    print(" " * 30 + "  change   drift     " * len(lengths))
    for name, noise in KINDS.items():
        cells = []
        for length in lengths:
            random = np.random.default_rng([1, length])
            found = [trend(np.exp(0.01 * noise(random, length)).tolist()) for _ in range(LINES)]
            changes = sum(bool(item.changes) for item in found) / LINES
            drifts = sum(item.drift is not None for item in found) / LINES
            cells.append(f"  {changes:7.3%} {drifts:7.3%}    ")
        print(f"{name:30}" + "".join(cells))


def test_looking_again_and_again() -> None:
    """The share of stable lines that show a change at least once when looked at after every session, from the 14th to the 100th."""
    lines = max(LINES // 5, 50)
    print("\nsmallest change shown / sigma    ever a change, 14..100 sessions")
    for smallest in (0.0, 2.0):
        random = np.random.default_rng(2)
        ever = 0
        for _ in range(lines):
            line = np.exp(0.01 * gaussian(random, 100)).tolist()
            ever += any(trend(line[:length], smallest=0.01 * smallest).changes for length in range(14, 101))
        print(f"{smallest:12.0f} {ever / lines:30.2%}   ({lines} lines)")


def test_how_soon() -> None:
    """How many sessions after a step it is shown, half and nine times out of ten, by the step in sigmas and the sessions before it."""
    lines = max(LINES // 20, 50)
    print("\nsessions before  step/sigma   half   9 of 10")
    for before in (14, 30, 100):
        for step in (1.0, 1.5, 2.0, 3.0, 5.0):
            random = np.random.default_rng(3)
            waits = []
            for _ in range(lines):
                line = gaussian(random, before + 40)
                line[before:] += step
                line = np.exp(0.01 * line)
                waits.append(
                    next(
                        (
                            after
                            for after in range(1, 41)
                            if any(
                                change.index >= before - 3
                                for change in trend(line[: before + after].tolist()).changes
                            )
                        ),
                        999,
                    )
                )
            half, most = np.quantile(waits, [0.5, 0.9], method="higher")
            print(f"{before:15d}  {step:10.1f}  {_words(half):>5}  {_words(most):>8}")


def _words(wait: float) -> str:
    return f"{wait:.0f}" if wait <= 40 else ">40"
