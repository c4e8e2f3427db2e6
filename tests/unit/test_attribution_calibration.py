"""The table of ``perfgate calibrate --attribution``."""

import pytest

from perfgate.commands.calibrate import attribution_worlds
from perfgate.report.attribution_calibration import Tried, document
from perfgate.statistics.attribution_simulation import KINDS, Searched, World


def searched(**changes):
    fields = {"confirmed": True, "right": True, "innocent": False, "finished": True, "boots": 16, "ends": 10}
    return Searched(**{**fields, **changes})


def row(tried):
    return document([tried], times=4, seed=8).splitlines()[-1].split(" | ")


def test_rates_are_of_the_searches_whose_total_was_confirmed():
    """A search that never began because the A/B saw nothing counts against the A/B, not against the search."""
    world = World(settings=5, sigma=0.02, kind="one", size=0.05)
    tried = Tried(
        world=world,
        searches=(searched(), searched(boots=20, right=False), searched(confirmed=False, right=False)),
        one_at_a_time=4,
    )
    cells = row(tried)
    assert cells[2] == "one, +5%"
    assert cells[3].startswith("50.0% [")
    assert cells[5:8] == ["66.7%", "8.0", "18.0"]
    assert cells[9].strip() == "24"
    assert cells[10].strip(" |") == "never"


def test_without_any_effect_all_searches_count():
    """Where nothing is at fault, ending after both ends without a name is what is right."""
    tried = Tried(
        world=World(settings=5, sigma=0.02, kind="none", size=0.0),
        searches=(searched(confirmed=False, boots=10),) * 4,
    )
    assert row(tried)[3].startswith("100.0% [")


@pytest.mark.parametrize("settings", [5, 8])
@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.03])
def test_every_truth_is_in_the_table(settings, sigma):
    """None, one, two and interacting settings of five and ten per cent, for each number of settings and noise."""
    kinds = {
        (world.kind, world.size)
        for world in attribution_worlds()
        if (world.settings, world.sigma, world.outlier_share) == (settings, sigma, 0.0)
    }
    assert kinds == {("none", 0.0), *((kind, size) for kind in KINDS[1:] for size in (0.05, 0.10))}
