"""Which pins boot together."""

import math

import pytest

from perfgate.experiment.attribution_settings import Setting
from perfgate.experiment.attribution_together import together
from perfgate.statistics.attribution_units import Boot

KEY = ("cell", "metric")


class Release:
    """Boots with any settings but some; an error names them or does not. The first boots may fail by chance."""

    def __init__(self, *bad: int, named: bool = False, by_chance: int = 0, most: int = 1000) -> None:
        self.bad, self.named, self.by_chance, self.most = set(bad), named, by_chance, most
        self.booted: list[tuple[str, ...]] = []

    def boot(self, some: tuple[Setting, ...]) -> tuple[Boot, str]:
        self.booted.append(tuple(setting.words for setting in some))
        wrong = [setting for setting in some if setting.args["block-size"] in self.bad]
        if len(self.booted) <= self.by_chance or wrong:
            flags = " ".join(setting.words for setting in wrong) if self.named else "engine core"
            return Boot(applied=frozenset(), failed=True), f"does not boot: {flags}"
        return Boot(applied=frozenset(), values={KEY: 1.0}), ""

    def in_time(self) -> bool:
        return len(self.booted) < self.most


def pins(count: int) -> list[Setting]:
    return [Setting(words=f"pin {number}", args={"block-size": number}) for number in range(count)]


def test_all_that_boot_at_once_cost_one_boot():
    """Where every pin comes up beside the others one boot says so, and counts as the one with everything."""
    release = Release()
    found = together(pins(25), release.boot, release.in_time)
    assert (len(found.settings), found.left_out, len(release.booted)) == (25, (), 1)
    assert found.boot.applied == frozenset(range(25))


@pytest.mark.parametrize("bad", [(7,), (0, 24), (3, 4, 12)])
def test_a_pin_that_nobody_names_is_found_by_halves(bad):
    """One pin of 25 that the new version cannot have costs no other: it alone is left out, in some two boots a halving."""
    release = Release(*bad)
    found = together(pins(25), release.boot, release.in_time)
    assert [setting.args["block-size"] for setting in found.left_out] == list(bad)
    assert len(found.settings) == 25 - len(bad)
    assert len(release.booted) <= 2 + 2 * len(bad) * math.ceil(math.log2(25))
    assert found.boot.values == {KEY: 1.0}
    assert found.boot.applied == frozenset(range(25 - len(bad)))


def test_a_failure_by_chance_costs_one_boot_and_no_pin():
    """The same pins are booted once more before any is suspected."""
    release = Release(by_chance=1)
    found = together(pins(4), release.boot, release.in_time)
    assert (len(found.settings), len(release.booted)) == (4, 2)


def test_nothing_boots():
    """Where no pin comes up all are left out, and there is no boot."""
    release = Release(*range(3))
    found = together(pins(3), release.boot, release.in_time)
    assert (found.settings, len(found.left_out), found.boot) == ((), 3, None)


def test_the_time_is_kept():
    """No boot begins when the time is over, and what is not known by then is no answer."""
    release = Release(5, most=4)
    found = together(pins(16), release.boot, release.in_time)
    assert len(release.booted) == 4
    assert found.boot is None
