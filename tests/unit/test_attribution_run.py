"""A search on boots, as far as it is not the statistics: what it may cost, and what is said of a boot that is none."""

import pytest

from perfgate.errors import BootError
from perfgate.experiment.attribution import UNBELIEVED, Attributor
from perfgate.experiment.attribution_settings import Setting
from perfgate.experiment.confirm import Measured
from perfgate.records import (
    Attribution,
    BootRecord,
    CellVerdict,
    Fingerprint,
    Measurement,
    MetricVerdict,
    Outcome,
    RunRecord,
)
from perfgate.selection import Request, select
from perfgate.statistics.attribution_forecast import MOST_SIMULATED

(OLD,) = select(Request(gpu="cpu", servers=("tiny",), workloads=("cpu-decode",)))
(NEW,) = select(
    Request(
        gpu="cpu", servers=("tiny",), workloads=("cpu-decode",), vllm_args=("--seed=7", "--max-num-seqs=1")
    )
)
WORDS = ("--seed 7", "--max-num-seqs 16 → 1")
VERDICT = CellVerdict(
    cell=NEW.cell,
    outcome=Outcome.REGRESSION,
    metrics=(MetricVerdict(metric="mean_tpot_ms", outcome=Outcome.REGRESSION),),
)


def measurement(*values: float, invalid: str = "") -> dict[str, Measurement]:
    boots = tuple(
        BootRecord(
            id=f"b{number}",
            runs=(RunRecord(metrics={}, invalid=(invalid,)),)
            if invalid
            else (RunRecord(metrics={"mean_tpot_ms": value}),),
        )
        for number, value in enumerate(values)
    )
    return {
        "cpu-decode": Measurement(
            cell=NEW.cell, fingerprint=Fingerprint(), server={}, workload={}, boots=boots
        )
    }


class ScriptedLab:
    """Boots at once; one stream of requests takes twice as long a token with one slot. Can fail or not be believed instead."""

    def __init__(
        self, *, boot_s: float = 1.0, invalid: str = "", needs_seed: bool = False, interrupted_at: int = 0
    ) -> None:
        self.boot_seconds, self.run_seconds = [boot_s], [1.0]
        self.interrupted_at = interrupted_at
        self.invalid, self.needs_seed = invalid, needs_seed
        self.booted: list[dict] = []

    def close(self) -> None:
        """Nothing runs."""

    def measure(self, targets, *, replicates, label):
        assert replicates == 1
        args = targets[0].server.args
        self.booted.append(args)
        if len(self.booted) == self.interrupted_at:
            raise KeyboardInterrupt
        if self.needs_seed and args["max-num-seqs"] == 1 and "seed" not in args:
            raise BootError("one slot needs a seed")
        return measurement(20.0 if args["max-num-seqs"] == 1 else 10.0, invalid=self.invalid)


FRESH = Measured(old=measurement(10.0, 10.1, 9.9), new=measurement(20.0, 20.2, 19.8))


class Pinnable(Attributor):
    """Two defaults have moved that a flag can set."""

    def _pins(self, old, new, fresh):
        return (
            Setting(words="--block-size 32 (block_size: 16 → 32)", args={"block-size": 32}),
            Setting(words="--max-num-seqs 16 (max_num_seqs: 1 → 16)", args={"max-num-seqs": 16}),
        ), []


class VersionsLab(ScriptedLab):
    """The new version has one slot; since the A/B the machine has become faster by a third. Boots may fail first."""

    def __init__(self, *, helps: bool, failures: int = 0, problem: str = "CUDA error: out of memory") -> None:
        super().__init__()
        self.helps, self.failures, self.problem = helps, failures, problem

    def measure(self, targets, *, replicates, label):
        args = targets[0].server.args
        self.booted.append(args)
        if len(self.booted) <= self.failures:
            raise BootError(self.problem)
        slow = 10.0 if self.helps and args["max-num-seqs"] == 16 else 15.0
        return measurement(slow + 0.01 * (len(self.booted) % 4))


def across_versions(lab: VersionsLab) -> Attribution:
    attributor = Pinnable(lab=lab, noise=None, tell=lambda _words: None)
    found: dict[str, Attribution] = {}
    attributor.attribute(
        [NEW], [NEW], {"cpu-decode": VERDICT}, FRESH, versions=True, label="t", keep=found.update
    )
    return found["cpu-decode"]


def attributed(
    lab: ScriptedLab, *, into: dict[str, Attribution] | None = None, fresh: Measured = FRESH, **more
):
    told: list[str] = []
    attributor = Attributor(lab=lab, noise=None, tell=told.append, **more)
    found = {} if into is None else into
    attributor.attribute(
        [OLD], [NEW], {"cpu-decode": VERDICT}, fresh, versions=False, label="t", keep=found.update
    )
    return found["cpu-decode"], told


def test_the_culprit_is_named_and_the_plan_told_first():
    """Of two changed flags the one that doubles the TPOT is named; the plan says how many boots and minutes before any is made."""
    lab = ScriptedLab()
    found, told = attributed(lab)
    assert found.responsible == (WORDS[1],)
    assert found.ended == "explained"
    assert "attributing the difference of tiny to 2 settings: about" in told[0]
    assert len(told) == 1 + len(lab.booted) == 1 + found.search_boots


def test_a_plan_whose_end_is_not_in_sight_is_no_promise():
    """Where the simulated searches reach the boots after which none is followed, the plan says at least so many, not about."""
    apart = Measured(old=measurement(3.0, 10.0, 30.0), new=measurement(6.0, 20.0, 62.0))
    _, told = attributed(ScriptedLab(), fresh=apart)
    assert f"to 2 settings: at least {MOST_SIMULATED} boots" in told[0]


def test_out_of_time_keeps_what_is_known():
    """A boot that would end after --max-minutes is not begun: what is undecided is said, and that time was over."""
    lab = ScriptedLab(boot_s=600.0)
    found, _ = attributed(lab, max_minutes=5.0)
    assert lab.booted == []
    assert (found.ended, found.responsible) == ("budget", ())
    assert set(found.undecided) == set(WORDS)
    assert any("time was over" in note for note in found.notes)


@pytest.mark.parametrize("boot", [1, 2])
def test_an_interrupted_search_keeps_its_boots(boot):
    """Ctrl-C in a boot of the search keeps the boots before it with their values, says so, and goes on to end the session."""
    found: dict[str, Attribution] = {}
    with pytest.raises(KeyboardInterrupt):
        attributed(ScriptedLab(interrupted_at=boot), into=found)
    kept = found["cpu-decode"]
    assert (len(kept.boots), kept.ended) == (boot - 1, "budget")
    assert all(one.metrics["mean_tpot_ms"] for one in kept.boots)
    assert any(note.startswith("broken off") for note in kept.notes)


def test_boots_that_cannot_be_believed_end_it():
    """After a few boots whose runs are invalid the search ends without a name, with each boot's reason."""
    lab = ScriptedLab(invalid="short answers")
    found, told = attributed(lab)
    assert len(lab.booted) == UNBELIEVED
    assert (found.ended, found.responsible) == ("budget", ())
    assert all("short answers" in boot.problem for boot in found.boots)
    assert all("short answers" in line for line in told[1:])


def test_settings_that_do_not_boot_apart_are_one():
    """A flag that boots only with another is named together with it, and a note says why."""
    found, _ = attributed(ScriptedLab(needs_seed=True))
    assert set(found.responsible) == set(WORDS)
    assert found.failed_boots >= 1
    assert any(note.startswith("kept together, because they do not boot apart") for note in found.notes)


def test_across_versions_a_machine_that_has_changed_since_the_ab_is_no_pin():
    """All boots with a pin are younger than the A/B: nothing and everything pinned are booted by turns, and only that is believed."""
    lab = VersionsLab(helps=False)
    found = across_versions(lab)
    assert (found.responsible, found.ended) == ((), "elsewhere")
    pinned = ["block-size" in args for args in lab.booted]
    assert pinned == [True, False, False, True, True, False]


def test_across_versions_the_first_boot_with_every_pin_counts():
    """The boot that shows that the pins come up together is a boot of the search, and what helps is named."""
    lab = VersionsLab(helps=True)
    found = across_versions(lab)
    assert found.responsible == ("--max-num-seqs 16 (max_num_seqs: 1 → 16)",)
    assert found.ended == "explained"
    assert sum("block-size" in args and args["max-num-seqs"] == 16 for args in lab.booted) == 3


@pytest.mark.parametrize(("failures", "ended"), [(1, "explained"), (99, "budget")])
def test_across_versions_one_failure_of_all_pins_is_repeated(failures, ended):
    """A machine may fail once; pins of which none comes up, together or apart, are said so with what to do."""
    lab = VersionsLab(helps=True, failures=failures)
    found = across_versions(lab)
    assert found.ended == ended
    assert found.stopped == (None if failures == 1 else "unpinnable")
    assert failures == 1 or len(lab.booted) == 4
    assert len(found.settings) == 2


def test_a_cell_that_did_not_get_slower_is_not_searched():
    """Without a confirmed slowdown nothing boots."""
    lab = ScriptedLab()
    attributor = Attributor(lab=lab, noise=None, tell=lambda _words: None)
    passed = VERDICT.model_copy(update={"outcome": Outcome.PASS, "metrics": ()})
    fresh = Measured(old=measurement(10.0, 10.1), new=measurement(10.0, 10.1))
    found: dict[str, Attribution] = {}
    attributor.attribute(
        [OLD], [NEW], {"cpu-decode": passed}, fresh, versions=False, label="t", keep=found.update
    )
    assert found["cpu-decode"].ended == "no effect"
    assert lab.booted == []
