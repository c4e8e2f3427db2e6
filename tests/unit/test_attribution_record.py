"""What is kept of an attribution: how it ended, for a cell that got slower and for one that did not."""

import math
from dataclasses import replace

import pytest

from perfgate.experiment.attribution_record import Log, next_step, record
from perfgate.experiment.attribution_settings import Setting
from perfgate.experiment.confirm import Measured
from perfgate.records import BootRecord, Fingerprint, Measurement, RunRecord
from perfgate.report.attribution import headline
from perfgate.selection import Request, select
from perfgate.statistics.attribution import Search
from perfgate.statistics.attribution_evidence import Response
from perfgate.statistics.attribution_findings import Ended
from perfgate.statistics.attribution_units import Boot
from perfgate.statistics.interval import Prior

(CELL,) = select(Request(gpu="cpu", servers=("tiny",), workloads=("cpu-decode",)))
KEY = (str(CELL.cell), "mean_tpot_ms")
PINS = (Setting(words="--no-async-scheduling"), Setting(words="--block-size 16"))


def side(value: float) -> dict[str, Measurement]:
    boots = tuple(
        BootRecord(id=f"b{number}", runs=(RunRecord(metrics={"mean_tpot_ms": value}),)) for number in range(3)
    )
    return {
        "cpu-decode": Measurement(
            cell=CELL.cell, fingerprint=Fingerprint(), server={}, workload={}, boots=boots
        )
    }


FRESH = Measured(old=side(10.0), new=side(20.0))


def searched(back: dict[int, float]) -> Search:
    """A search across versions that is over; ``back`` is what each pin brings back, log units."""
    response = Response(key=KEY, tolerance=0.02, prior=Prior(df=20.0, variance=1e-4))
    search = Search(len(PINS), [response], pairs=3)
    while (chosen := search.next()) is not None:
        value = -math.fsum(back.get(item, 0.0) for item in chosen)
        search.add(Boot(applied=chosen, values={KEY: -value + 0.001 * (-1) ** len(search.boots)}))
    return search


@pytest.mark.parametrize(
    ("settings", "back", "slower", "ended", "said", "advice"),
    [
        ((), None, False, "no effect", "no difference is confirmed", ""),
        ((), None, True, "elsewhere", "no default that a flag can set has moved", "No setting brings it"),
        (PINS, {}, True, "elsewhere", "the moved defaults do not bring it back", "No setting brings it back"),
        (PINS, {0: 0.7}, True, "explained", "comes back by --no-async-scheduling (", "Set --no-async-sched"),
        (PINS, {0: 0.7}, False, "no effect", "no difference is confirmed", ""),
    ],
)
def test_across_versions_a_slowdown_that_no_pin_brings_back_is_elsewhere(
    settings, back, slower, ended, said, advice
):
    """A confirmed slowdown is never called none: it comes back by a pin, or it is in what no flag sets; the advice follows."""
    log = Log(kind="versions", settings=settings, notes=[], ab_boots=6)
    findings = None if back is None else searched(back).findings()
    kept = record(log, findings, CELL, FRESH, confirmed=slower)
    assert kept.ended == ended
    assert said in headline(kept)
    assert next_step(kept).startswith(advice)
    assert bool(next_step(kept)) == bool(advice)
    if ended == "explained":
        assert kept.metrics[0].parts[0].share == pytest.approx(1.0, abs=0.1)


def test_pins_that_do_not_boot_leave_it_undecided():
    """Where the pins do not boot together nothing was searched, and that is not an answer."""
    log = Log(kind="versions", settings=PINS, notes=["the moved defaults cannot be pinned together"])
    log.add(PINS, {}, [KEY], minutes=1.0, problem="does not boot: unrecognized arguments")
    log.stopped = "unpinnable"
    kept = record(log, None, CELL, FRESH, confirmed=True)
    assert kept.ended == "budget"
    assert headline(kept).startswith("no setting could be named")
    assert next_step(kept).startswith("Pin some of the moved defaults yourself")


@pytest.mark.parametrize(
    ("stopped", "advice"),
    [
        ("time", "--max-minutes"),
        ("interrupted", "to its end"),
        ("unbelieved", "a machine of their own"),
        (None, "do not tell the rest apart"),
    ],
)
def test_what_to_do_about_an_unfinished_search_follows_from_what_ended_it(stopped, advice):
    """More time is offered only to a search that ran out of time."""
    log = Log(kind="settings", settings=PINS, notes=[], ab_boots=6, stopped=stopped)
    findings = replace(searched({0: 0.7}).findings(), ended=Ended.BUDGET)
    kept = record(log, findings, CELL, FRESH, confirmed=True)
    assert (kept.ended, kept.stopped) == ("budget", stopped)
    assert next_step(kept).startswith("Begin with --no-async-scheduling")
    assert advice in next_step(kept)
