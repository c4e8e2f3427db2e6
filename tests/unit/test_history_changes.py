"""Change points and drift: found where they are, rare where they are not, and never said of too little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfgate.history import trend
from perfgate.history.changes import LONGEST, PENALTIES, RATE, SEGMENT, SHORTEST, penalty, scores


def noise(sessions: int, *, seed: int, sigma: float = 0.02) -> np.ndarray:
    """A stable line of level 100 with log-normal noise."""
    return 100 * np.exp(np.random.default_rng(seed).normal(0, sigma, sessions))


@pytest.mark.parametrize("sessions", range(SHORTEST))
def test_too_few_sessions(sessions: int) -> None:
    """With fewer sessions than can show a change nothing is said, however different the halves are; the note says how many are needed."""
    half = sessions // 2
    found = trend([1.0] * half + [2.0] * (sessions - half))
    assert found.changes == ()
    assert found.drift is None
    assert f"{SHORTEST} are needed" in found.note


@pytest.mark.parametrize("at", range(6, 25))
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_one_step(at: int, factor: float) -> None:
    """A large step with at least six sessions on both sides is found at its session, with its size."""
    line = noise(30, seed=at)
    line[at:] *= factor
    (change,) = trend(line.tolist()).changes
    assert change.index == at
    assert change.ratio == pytest.approx(factor - 1, abs=0.04)


def test_steps_up_and_back() -> None:
    """A level that went up and came back is two changes, not none."""
    line = noise(60, seed=1)
    line[20:40] *= 1.2
    assert [change.index for change in trend(line.tolist()).changes] == [20, 40]


def test_outliers_are_no_level() -> None:
    """Single wild sessions, and two in a row, are no change of level."""
    line = noise(40, seed=2)
    line[[5, 17, 30, 31]] *= 10
    assert trend(line.tolist()).changes == ()


@pytest.mark.parametrize("ratio", [1.12, 0.88])
def test_drift(ratio: float) -> None:
    """A level that creeps is drift of that size, not a number of steps."""
    line = noise(60, seed=3, sigma=0.01) * ratio ** (np.arange(60) / 59)
    found = trend(line.tolist())
    assert found.changes == ()
    assert found.drift is not None
    assert found.drift.ratio == pytest.approx(ratio - 1, abs=0.015)
    assert found.drift.p < RATE


def test_a_step_is_no_drift() -> None:
    """A single step, although it is a trend too, is a change and not drift."""
    line = noise(60, seed=4, sigma=0.01)
    line[30:] *= 1.1
    found = trend(line.tolist())
    assert found.drift is None
    assert [change.index for change in found.changes] == [30]


def test_small_changes_are_not_shown() -> None:
    """A certain change below the size worth showing is not shown, and a larger one beside it still is."""
    line = noise(90, seed=5, sigma=0.001)
    line[30:] *= 1.01
    line[60:] *= 1.10
    assert [change.index for change in trend(line.tolist()).changes] == [30, 60]
    (change,) = trend(line.tolist(), smallest=0.03).changes
    assert change.index == 60
    assert change.ratio == pytest.approx(0.105, abs=0.01)


def test_only_the_newest_sessions() -> None:
    """Beyond the longest line older sessions are not looked at, and positions still count from the beginning."""
    line = noise(LONGEST + 100, seed=6)
    line[:100] *= 3
    line[200:] *= 1.5
    found = trend(line.tolist())
    assert found.sessions == LONGEST
    assert [change.index for change in found.changes] == [200]


@pytest.mark.parametrize("value", [0.0, 1.0, 174_000.0])
def test_constant_line(value: float) -> None:
    """A line that never moves, zero included, shows nothing and raises nothing."""
    found = trend([value] * 30)
    assert (found.changes, found.drift, found.note) == ((), None, "")


def test_from_zero() -> None:
    """A level that leaves zero is an infinite change, and one that falls to zero is a loss of all of it."""
    line = noise(60, seed=7)
    line[:30] = 0
    (up,) = trend(line.tolist()).changes
    assert (up.index, up.ratio) == (30, float("inf"))
    (down,) = trend(line[::-1].tolist()).changes
    assert (down.index, down.ratio) == (30, -1.0)


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=60), st.floats(0, 0.2))
def test_any_line(values: list[float], smallest: float) -> None:
    """Whatever the line, changes lie within it, apart by a segment, each worth showing, and never beside drift."""
    found = trend(values, smallest=smallest)
    edges = [0, *(change.index for change in found.changes), len(values)]
    if found.changes:
        assert min(np.diff(edges)) >= SEGMENT
        assert found.drift is None
    for change in found.changes:
        high, low = max(change.before, change.after), min(change.before, change.after)
        assert high / low - 1 >= smallest


@settings(deadline=None)
@given(st.lists(st.integers(50, 200), min_size=SHORTEST, max_size=40))
def test_only_the_order_counts(values: list[int]) -> None:
    """Whether a line changes depends on the order of its values alone: their cubes change as often."""
    one, cubes = trend([float(value) for value in values]), trend([float(value**3) for value in values])
    assert one.drift or cubes.drift or len(one.changes) == len(cubes.changes)


@settings(deadline=None)
@given(st.integers(SHORTEST, LONGEST))
def test_scores(sessions: int) -> None:
    """Scores of a line without ties have mean zero and square sum as many as there are sessions: what the penalties were drawn for."""
    line = np.random.default_rng(sessions).permutation(np.arange(sessions, dtype=float))
    assert scores(line).mean() == pytest.approx(0, abs=1e-12)
    assert np.square(scores(line)).sum() == pytest.approx(sessions)


def test_penalties_rise() -> None:
    """The table covers all lengths, rises with them, and lengths between two entries lie between their penalties."""
    lengths, penalties = zip(*PENALTIES, strict=True)
    assert (lengths[0], lengths[-1]) == (SHORTEST, LONGEST)
    assert list(penalties) == sorted(penalties)
    assert penalty(22) == pytest.approx(np.interp(np.log(22), np.log(lengths), penalties))
    with pytest.raises(ValueError, match="a line needs 14"):
        penalty(SHORTEST - 1)


@pytest.mark.parametrize("sessions", [14, 30, 100])
def test_false_alarms(sessions: int) -> None:
    """Of 1,000 stable lines with outliers no more show a change or drift than the stated rates allow (99.9% bound of the count)."""
    random = np.random.default_rng([7, sessions])
    lines = 100 * np.exp(random.normal(0, 0.02, (1000, sessions)))
    lines[random.random(lines.shape) < 0.03] *= 1.2
    found = [trend(line.tolist()) for line in lines]
    assert sum(bool(item.changes) for item in found) <= 5
    assert sum(item.drift is not None for item in found) <= 5
