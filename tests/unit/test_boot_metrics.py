"""Boot metrics are in the table, and a computed size is judged although it repeats exactly."""

from pathlib import Path

import pytest

from perfgate.experiment.confirm import Measured, computed_verdicts
from perfgate.metrics import METRICS
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, Outcome, RunRecord
from perfgate.selection import Target
from perfgate.server import ServerSpec, usage_per_token
from perfgate.server.bootlog import parse_boot_log
from perfgate.targets import GpuSpec, ModelSpec
from perfgate.verdict import judge_metric
from perfgate.workload import WorkloadSpec

DATA = Path(__file__).parent / "server" / "data"
KV = METRICS["kv_cache_tokens"]


def boots(*values):
    return [(value,) for value in values]


@pytest.mark.parametrize("log", sorted(DATA.glob("*.log")), ids=lambda path: path.stem)
def test_everything_a_log_says_is_a_boot_metric(log):
    """Every quantity read from a real log has its unit, direction and margin in the table."""
    for name in parse_boot_log(log.read_text()).quantities:
        assert METRICS[name].of == "boot"


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        ((474_144, 474_144, 474_144), Outcome.PASS),
        ((471_800, 471_800, 471_800), Outcome.PASS),
        ((450_437, 450_437, 450_437), Outcome.REGRESSION),
        ((500_000, 500_000, 500_000), Outcome.IMPROVEMENT),
        ((474_144, 430_000, 500_000), Outcome.INCONCLUSIVE),
    ],
    ids=["equal", "half a per cent less", "five per cent less", "more", "all over the place"],
)
def test_kv_tokens_must_not_shrink_by_more_than_their_margin(now, outcome):
    """Exactly repeated KV sizes carry an interval; 5% fewer tokens fail, 0.5% fewer pass, and wild ones decide nothing."""
    verdict = judge_metric(KV, boots(474_144, 474_144, 474_144), boots(*now))
    assert verdict.outcome is outcome
    if outcome is Outcome.REGRESSION:
        assert verdict.reason.startswith("KV tokens smaller by +5.3%")


def test_timed_boot_metrics_are_not_lent_a_variance():
    """Seconds that repeat exactly carry no interval: only computed sizes declare a noise."""
    verdict = judge_metric(METRICS["ready_s"], boots(50.0, 50.0), boots(80.0, 80.0))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert {metric.unit for metric in METRICS.values() if metric.noise is not None} == {
        "GiB",
        "tokens",
        "benched",
    }


def test_usage_per_token_is_a_difference_over_tokens():
    """CPU milliseconds and joules per token come from two readings; what one of them lacks is absent."""
    found = usage_per_token({"cpu_s": 10.0, "energy_j": 1000.0}, {"cpu_s": 14.0, "energy_j": 4000.0}, 2000)
    assert found == {"server_cpu_ms_per_token": 2.0, "energy_j_per_token": 1.5}
    assert {METRICS[name].of for name in found} == {"server"}
    assert usage_per_token({"cpu_s": 10.0}, {"cpu_s": 14.0, "energy_j": 1.0}, 1000) == {
        "server_cpu_ms_per_token": 4.0
    }
    assert usage_per_token({"cpu_s": 10.0}, {"cpu_s": 14.0}, 0) == {}
    assert usage_per_token({"cpu_s": 10.0}, {"cpu_s": 9.0}, 5) == {}


def test_an_ab_judges_the_sizes_of_its_boots():
    """Two sides whose KV cache differs by 5% are a REGRESSION of KV tokens, equal graph memory passes, and timed phases are not judged."""
    cell = Cell(gpu="g", model="m", server="s", workload="w")
    target = Target(
        cell=cell,
        gpu=GpuSpec(name="g"),
        model=ModelSpec(name="m", id="m"),
        server=ServerSpec(name="s"),
        workload=WorkloadSpec(name="w", input_len=1, output_len=1, concurrency=1, num_prompts=1),
    )

    def side(tokens):
        metrics = {"kv_cache_tokens": tokens, "graph_memory_gib": 0.5, "ready_s": 50.0}
        runs = (RunRecord(metrics={"mean_ttft_ms": 1.0}),)
        made = tuple(BootRecord(id=str(number), metrics=metrics, runs=runs) for number in range(3))
        return {"w": Measurement(cell=cell, fingerprint=Fingerprint(), server={}, workload={}, boots=made)}

    verdicts = computed_verdicts(Measured(old=side(474_144.0), new=side(450_437.0)), target)
    assert {verdict.metric: verdict.outcome for verdict in verdicts} == {
        "kv_cache_tokens": Outcome.REGRESSION,
        "graph_memory_gib": Outcome.PASS,
    }
    kv = next(verdict for verdict in verdicts if verdict.metric == "kv_cache_tokens")
    assert kv.primary
    assert kv.change == pytest.approx(-0.05, abs=0.001)
