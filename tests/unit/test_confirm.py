"""Confirmations that are cut short: by their time, by a boot that cannot be believed, by a server that does not come up."""

import math
from datetime import UTC, datetime

import pytest

from perfgate.errors import BootError
from perfgate.experiment.confirm import Confirmer, questions_of
from perfgate.experiment.lab import Lab, LabSettings
from perfgate.experiment.plans import Allowance, Cost, expected_minutes, shows, size
from perfgate.metrics import METRICS
from perfgate.noise import NoiseClass, NoiseModel
from perfgate.records import Baseline, BootRecord, Fingerprint, Provenance, RunRecord
from perfgate.selection import Request, select
from perfgate.statistics.gate import Policy
from perfgate.statistics.interval import Outcome, Prior
from perfgate.statistics.planning import Design

METRIC = "mean_ttft_ms"


class ScriptedLab(Lab):
    """A lab whose boots are not booted: each takes scripted minutes and measures a scripted time, or fails."""

    def __init__(self, folder, *, minutes=0.0, fails_at=None, invalid_at=None, slowdown=1.0):
        super().__init__(LabSettings(root=folder, directory=folder, devices=("cpu",)))
        self.minutes, self.fails_at, self.invalid_at, self.slowdown = minutes, fails_at, invalid_at, slowdown
        self.allowance = Allowance()
        self.booted = 0

    def _replicate(self, targets, *, token, words):
        self.booted += 1
        if self.booted == self.fails_at:
            raise BootError("it did not boot")
        self.allowance.begun -= 60 * self.minutes
        slower = 1.0 if "(A)" in words else self.slowdown
        run = RunRecord(
            metrics={METRIC: 100.0 * slower * (1 + self.booted % 3 / 1000)},
            invalid=("short",) if self.booted == self.invalid_at else (),
        )
        record = BootRecord(id=f"boot-{self.booted}", runs=(run,))
        return {target.cell.workload: record for target in targets}


@pytest.fixture(scope="module")
def cell():
    (found,) = select(Request(gpu="cpu", servers=("tiny",), workloads=("cpu-chat",)))
    return found


def noise(sd=0.02):
    one = NoiseClass(
        metric=METRIC,
        concurrency="2-4",
        prior_df=20.0,
        prior_variance=sd**2,
        boot_variance=sd**2,
        session_variance=0.0,
        session_variance_upper=0.0,
        cells=5,
        sessions=4,
        boots=40,
        runs=40,
    )
    return NoiseModel(
        gpu="cpu",
        fitted=datetime(2026, 1, 1, tzinfo=UTC),
        perfgate="0",
        sources=("a",),
        hardware=("x",),
        classes=(one,),
    )


class Asked:
    """One metric of one cell, confirmed with a scripted lab."""

    def __init__(self, lab, target, *, max_minutes=math.inf, model=None, replicate=None):
        self.lab, self.target, self.told = lab, target, []
        lab.allowance = Allowance(minutes=max_minutes)
        self.confirmer = Confirmer(lab=lab, noise=model, tell=self.told.append)
        self.asked = questions_of(target, model, [METRIC])
        self.cost = Cost(replicate=replicate, runs=1)

    def interleaved(self, pairs=5, *, own_variance=False, position=1):
        judged, self.measured = self.confirmer.interleaved(
            [self.target],
            [self.target],
            self.asked,
            cost=self.cost,
            allowance=self.lab.allowance,
            pairs=pairs,
            own_variance=own_variance,
            position=position,
            label="t",
        )
        (found,) = judged.values()
        return found

    def looks(self, *stored):
        boots = [
            BootRecord(id=f"old-{n}", runs=(RunRecord(metrics={METRIC: value}),))
            for n, value in enumerate(stored)
        ]
        baseline = Baseline(
            cell=self.target.cell,
            provenance=Provenance(by="t", source="measured"),
            fingerprint=Fingerprint(),
            boots=tuple(boots),
        )
        return self.confirmer.looks(
            self.target,
            baseline,
            self.asked,
            cost=self.cost,
            allowance=self.lab.allowance,
            family=3,
            label="t",
        )


def test_all_pairs_are_measured_where_there_is_time(tmp_path, cell):
    """Five pairs of a server twice as slow are ten boots and a REGRESSION."""
    asked = Asked(ScriptedLab(tmp_path, slowdown=2.0), cell, model=noise())
    assert asked.interleaved().outcome is Outcome.REGRESSION
    assert (asked.lab.booted, asked.measured.pairs) == (10, 5)


def test_a_plan_that_is_too_long_is_cut_before_it_starts(tmp_path, cell):
    """With a boot known to take two minutes, ten minutes are two pairs of the five, and the plan says so with what two pairs show."""
    asked = Asked(ScriptedLab(tmp_path, slowdown=2.0), cell, model=noise(), replicate=2.0, max_minutes=10)
    assert asked.interleaved().outcome is Outcome.REGRESSION
    assert asked.lab.booted == 4
    shown = math.expm1(
        Design(base_size=2, new_size=2, prior=Prior(df=20.0, variance=0.02**2)).smallest_detectable(
            alpha=Policy().level(1), tolerance=math.log1p(asked.asked[0].tolerance)
        )
    )
    assert asked.told == [
        "confirming tiny: 2 interleaved pairs (of 5; --max-minutes), 4 boots, 4 runs, about 8 min; "
        f"shows a slowdown of mean TTFT {shown:+.0%} with 80% power"
    ]


def test_what_is_shown_depends_on_the_place_in_the_queue(tmp_path, cell):
    """The fourth confirmation of a session has an eighth of the first one's error, so its plan promises less."""
    first, fourth = (Asked(ScriptedLab(tmp_path), cell, model=noise(0.2)) for _ in range(2))
    first.interleaved(position=1)
    fourth.interleaved(position=4)
    percent = [float(one.told[0].split("TTFT +")[1].split("%")[0]) for one in (first, fourth)]
    assert percent[1] > percent[0]


def test_less_than_two_pairs_are_not_begun(tmp_path, cell):
    """Where the time is enough for one pair only nothing is booted, and what was suspected stays SUSPECT."""
    asked = Asked(ScriptedLab(tmp_path), cell, model=noise(), replicate=2.0, max_minutes=7)
    assert asked.interleaved().outcome is Outcome.SUSPECT
    assert asked.lab.booted == 0
    assert asked.told == [
        "tiny is not confirmed: 5 pairs take about 20 min, --max-minutes leaves 7.0 min; it stays SUSPECT"
    ]


def test_boots_that_take_longer_than_thought_end_the_pairs_in_time(tmp_path, cell):
    """With no cost known, no pair begins that would end after --max-minutes; what two pairs show is judged."""
    lab = ScriptedLab(tmp_path, minutes=2.0, slowdown=2.0)
    asked = Asked(lab, cell, model=noise(), max_minutes=11)
    assert asked.interleaved().outcome is Outcome.REGRESSION
    assert lab.booted == 4
    assert asked.told[1:] == [
        "tiny: a pair takes about 4 min, all of them about 20 min",
        "tiny: the time is over (--max-minutes) after 2 of 5 pairs",
    ]


@pytest.mark.parametrize("own_variance", [False, True])
def test_one_pair_convicts_nobody(tmp_path, cell, own_variance):
    """A server twice as slow on the only pair that there was time for stays SUSPECT: of one boot nobody knows what was slow."""
    lab = ScriptedLab(tmp_path, minutes=2.0, slowdown=2.0)
    asked = Asked(lab, cell, model=noise(), max_minutes=5)
    assert asked.interleaved(own_variance=own_variance).outcome is Outcome.SUSPECT
    assert asked.measured.pairs == 1


def test_a_boot_that_cannot_be_believed_ends_the_pairs(tmp_path, cell):
    """After a boot without a valid run no further pair is made: the comparison is invalid whatever they would say."""
    lab = ScriptedLab(tmp_path, invalid_at=2)
    asked = Asked(lab, cell, model=noise())
    asked.interleaved()
    assert lab.booted == 2
    assert asked.measured.invalid("cpu-chat") == "new side: boot 1 of 1: short"


def test_without_a_noise_model_the_plan_says_what_is_not_known(tmp_path, cell):
    """An A/B that nothing is known about says how many boots, and that what it shows is known only afterwards."""
    asked = Asked(ScriptedLab(tmp_path), cell)
    asked.interleaved(own_variance=True)
    assert asked.told[0] == (
        "A/B of tiny: 5 interleaved pairs, 10 boots, 10 runs; "
        "without a noise model what it shows of mean TTFT is known only afterwards"
    )


def test_looks_end_in_time(tmp_path, cell):
    """A look that would end after --max-minutes is not begun, and what is undecided stays SUSPECT."""
    lab = ScriptedLab(tmp_path, minutes=1.0, slowdown=1.6)
    asked = Asked(lab, cell, model=noise(0.2), replicate=1.0, max_minutes=4)
    judged, measured = asked.looks(100.0, 101.0, 102.0)
    assert [found.outcome for found in judged.values()] == [Outcome.SUSPECT]
    assert len(measured.boots) == 3
    assert (
        "after 3 or 5 or 7 fresh boots: at most 7 boots, 7 runs, about 7 min; shows a slowdown of"
        in asked.told[0]
    )
    assert asked.told[-1].endswith("the time is over (--max-minutes) after 3 fresh boots")


def test_no_time_for_a_look_measures_nothing(tmp_path, cell):
    """With less time than three boots take there is no measurement."""
    asked = Asked(ScriptedLab(tmp_path), cell, model=noise(), replicate=1.0, max_minutes=2)
    assert asked.looks(100.0) == ({}, None)


def test_an_ab_that_breaks_off_keeps_its_boots(tmp_path, cell):
    """When the fourth boot of an A/B does not come up, the three before it are kept, each on its side."""
    lab = ScriptedLab(tmp_path, fails_at=4)
    asked = Asked(lab, cell, model=noise())
    with pytest.raises(BootError):
        asked.interleaved()
    old, new = lab.broken_off()
    assert (old.side, [boot.id for boot in old.boots]) == ("old", ["boot-1"])
    assert (new.side, [boot.id for boot in new.boots]) == ("now", ["boot-2", "boot-3"])


def test_what_was_finished_is_not_kept_twice(tmp_path, cell):
    """After an A/B that ran to its end nothing is broken off."""
    lab = ScriptedLab(tmp_path)
    Asked(lab, cell, model=noise()).interleaved()
    assert lab.broken_off() == ()


def test_looks_that_break_off_keep_every_boot(tmp_path, cell):
    """When the fifth fresh boot does not come up, the three of the first look and the one after it are kept."""
    lab = ScriptedLab(tmp_path, fails_at=5, slowdown=1.6)
    with pytest.raises(BootError):
        Asked(lab, cell, model=noise(0.2)).looks(100.0, 101.0, 102.0)
    kept = [boot.id for measurement in lab.broken_off() for boot in measurement.boots]
    assert kept == ["boot-1", "boot-2", "boot-3", "boot-4"]


def stored(ready, *seconds):
    """One recorded boot with a run of each duration."""
    runs = tuple(RunRecord(metrics={METRIC: 1.0}, duration_s=value) for value in seconds)
    return (BootRecord(id="b", metrics={"ready_s": ready}, runs=runs),)


def test_the_cost_of_a_boot_is_read_from_baselines():
    """Time to ready once, and the runs of every workload; unknown where a run does not say how long it was."""
    nothing = {"ready_s": [], "loaded_s": []}
    workloads = [stored(60.0, 10.0, 20.0), stored(70.0, 30.0)]
    assert expected_minutes(**nothing, stored=workloads) == pytest.approx(2.0)
    assert expected_minutes(**nothing, stored=[stored(50.0, None)]) is None
    assert expected_minutes(**nothing, stored=[]) is None


def test_a_first_boot_that_compiled_is_not_the_rule():
    """One boot of 330 s, which filled the caches, leaves time for more where an earlier boot took 54 s; runs are those of this session."""
    found = expected_minutes(
        ready_s=[330.0], loaded_s=[30.0], stored=[(*stored(320.0, 9.0), *stored(54.0, 9.0))]
    )
    assert found == pytest.approx((54 + 30) / 60)
    assert expected_minutes(ready_s=[330.0, 60.0], loaded_s=[30.0, 40.0], stored=[]) == pytest.approx(95 / 60)


def test_sizes_are_told_in_words():
    """Boots and runs always, minutes where they are known, and the range of a metric over workloads."""
    assert size(6, Cost(replicate=0.25, runs=2)) == "6 boots, 12 runs, about 90 s"
    assert size(3, Cost(replicate=None, runs=1)) == "3 boots, 3 runs"
    assert METRICS[METRIC].label == "mean TTFT"
    assert (
        shows([(METRIC, 0.1), (METRIC, 0.2)]) == "; shows a slowdown of mean TTFT +10% to +20% with 80% power"
    )
