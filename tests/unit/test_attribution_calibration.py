"""The table of ``perfgate calibrate --attribution``."""

import pytest

from perfgate.cli import main
from perfgate.commands.calibrate import attribution_tasks, attribution_worlds
from perfgate.report.attribution_calibration import Tried, document
from perfgate.statistics.attribution_simulation import KINDS, MOST_REPLICATES, Searched, World


def searched(**changes):
    fields = {"confirmed": True, "right": True, "innocent": False, "finished": True, "boots": 16, "ends": 10}
    return Searched(**{**fields, **changes})


def row(tried):
    return document([tried], times=4, seed=8).splitlines()[-1].split(" | ")


def test_rates_are_of_the_searches_whose_total_was_confirmed():
    """A search that never began because the A/B saw nothing counts against the A/B; one that could not tell is no wrong set."""
    world = World(settings=5, sigma=0.02, kind="one", size=0.05)
    tried = Tried(
        world=world,
        searches=(
            searched(),
            searched(right=False, innocent=True),
            searched(boots=20, right=False, finished=False),
            searched(boots=20, right=False),
            searched(confirmed=False, right=False),
        ),
        one_at_a_time=4,
    )
    cells = row(tried)
    assert cells[2] == "one, +5%"
    assert cells[3].startswith("25.0% [")
    assert cells[4:7] == ["25.0%", "50.0%", "25.0%"]
    assert cells[7:10] == ["80.0%", "8.0", "18.0"]
    assert cells[11].strip() == "24"
    assert cells[12].strip(" |") == "never"
    more = Tried(world=world, searches=(searched(),), one_at_a_time=MOST_REPLICATES + 1, full_factorial=1)
    assert [cell.strip(" |") for cell in row(more)[11:]] == ["over 360", "32"]


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


def test_some_rows_of_the_table_are_the_same_rows():
    """Asked for one number of settings and one noise alone, every truth draws the random numbers that it draws among all."""
    every = attribution_tasks(attribution_worlds(), 10, 8)
    some = attribution_tasks(attribution_worlds([8], [0.03]), 10, 8)
    assert len(some) == 1 + 2 * (len(KINDS) - 1) + 2
    assert set(some) <= set(every)
    assert len({seed for _, _, seed in every}) == len(every)


@pytest.mark.parametrize(
    "wrong", [["--settings", "2"], ["--settings", "11"], ["--sigma", "0"], ["--sigma", "2"]]
)
def test_rows_that_cannot_be_simulated_are_bad_input(wrong, capsys):
    """Too few settings for a truth, more than are told apart, or a noise that is none end with exit status 2."""
    assert main(["calibrate", "--attribution", *wrong]) == 2
    assert f"{wrong[0]} {wrong[1]}" in capsys.readouterr().err


def test_a_hundred_searches_a_row_are_the_default(monkeypatch, capsys):
    """A search costs far more than a simulated suite: without a number of its own it is not asked for the gate's two thousand."""
    asked = []

    def counted(world, rng):
        asked.append(world)
        return searched()

    monkeypatch.setattr("perfgate.commands.calibrate.search_once", counted)
    monkeypatch.setattr("perfgate.commands.calibrate.replicates_needed", lambda *_: 1)
    assert main(["calibrate", "--attribution", "--settings=3", "--sigma=0.01", "--workers=1"]) == 0
    said = capsys.readouterr()
    assert {asked.count(world) for world in asked} == {100}
    assert "--suites 100 --seed 8" in said.out
    assert said.err == ""
