"""What measurements say about a claim, and what a claim may be."""

import pytest

from perfgate.claims import ClaimSpec, Side, judge_claim, judge_flags, kv_state
from perfgate.effects import Effect, FlagReport
from perfgate.experiment.claims import load_claims, missing_files
from perfgate.experiment.interleaved import differing
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, RunRecord
from perfgate.report import claims as report
from perfgate.selection import Catalogues, Request, select
from perfgate.server import ServerSpec

GB10 = "gb10"


def claim(**more) -> ClaimSpec:
    given = {
        "name": "c",
        "text": "It changes nothing",
        "old": Side(server="a"),
        "new": Side(server="b"),
        "expect": [{"workload": "w", "metric": "output_throughput", "least": -0.05, "most": 0.05}],
        **more,
    }
    return ClaimSpec.model_validate(given, strict=False)


def side(*rates: float, server: dict[str, float] | None = None) -> dict[str, Measurement]:
    """One workload; a boot a rate."""
    counted = {"kv_peak": 0.3, "vllm:generation_tokens_total": 10.0} if server is None else server
    boots = tuple(
        BootRecord(
            id=f"b{index}", runs=(RunRecord(metrics={"output_throughput": rate}, server=dict(counted)),)
        )
        for index, rate in enumerate(rates)
    )
    return {
        "w": Measurement(
            cell=Cell(gpu=GB10, model="m", server="s", workload="w"),
            fingerprint=Fingerprint(),
            server={},
            workload={"concurrency": 1},
            boots=boots,
        )
    }


OLD = (100.0, 101.0, 99.0)


@pytest.mark.parametrize(
    ("new", "answer"),
    [
        ((100.5, 99.5, 101.0), "holds"),
        ((60.0, 61.0, 59.0), "does not hold"),
        ((100.0, 130.0, 80.0), "undecidable"),
        ((100.0,), "undecidable"),
    ],
)
def test_the_answer_is_the_intervals(new, answer):
    """Inside the band it holds, outside it does not, and in between or with one boot nothing is decided."""
    found = judge_claim(claim(), side(*OLD), side(*new), gpu=GB10)
    assert found.answer == answer
    assert found.parts[0].boots == min(len(OLD), len(new))
    assert found.answer in report.table([found])


@pytest.mark.parametrize(
    ("counters", "state", "answer"),
    [
        ({"kv_peak": 0.3, "vllm:generation_tokens_total": 1.0}, "roomy", "holds"),
        ({"kv_peak": 0.97, "vllm:generation_tokens_total": 1.0}, "tight", "undecidable"),
        ({"kv_peak": 0.3, "vllm:num_preemptions_total": 2.0}, "tight", "undecidable"),
        ({"vllm:generation_tokens_total": 1.0}, "unknown", "undecidable"),
        ({}, "unknown", "undecidable"),
    ],
)
def test_a_condition_is_checked_by_the_servers_own_counters(counters, state, answer):
    """Equal speeds say nothing about a claim for roomy KV caches if one was tight, preempted, or did not say."""
    new = side(*OLD, server=counters)
    assert kv_state(new["w"].boots)[0] == state
    found = judge_claim(claim(while_kv_is_not_tight=True), side(*OLD), new, gpu=GB10)
    assert found.answer == answer


def test_several_metrics_share_the_error():
    """With two metrics each interval has 97.5% confidence, and both must hold."""
    both = claim(
        expect=[
            {"workload": "w", "metric": "output_throughput", "least": -0.05},
            {"workload": "w", "metric": "mean_ttft_ms", "most": 0.5},
        ]
    )
    found = judge_claim(both, side(*OLD), side(*OLD), gpu=GB10)
    assert [part.confidence for part in found.parts] == [0.975, 0.975]
    assert [part.answer for part in found.parts] == ["holds", "undecidable"]
    assert found.answer == "undecidable"


def flag(effect: Effect, running: str | None) -> FlagReport:
    return FlagReport(name="--mamba-cache-mode", asked="none", running=running, effect=effect)


@pytest.mark.parametrize(
    ("reports", "answer"),
    [
        ([flag(Effect.OVERRIDDEN, "align")], "holds"),
        ([flag(Effect.HONOURED, None)], "does not hold"),
        ([flag(Effect.UNKNOWN, None)], "undecidable"),
        ([], "undecidable"),
    ],
)
def test_what_a_flag_becomes_needs_no_load(reports, answer):
    """The server's own word decides; where it says nothing, nothing is decided."""
    forced = claim(expect=[], old=None, runs_as={"mamba_cache_mode": "align"})
    assert judge_flags(forced, reports, gpu=GB10).answer == answer


def test_only_what_differs_between_the_sides_must_be_in_effect():
    """The settings that a comparison is about are those that one side has and the other has not."""
    old = ServerSpec.model_validate({"name": "a", "args": {"x": 1, "y": 2}, "env": {"E": "1"}})
    new = ServerSpec.model_validate({"name": "b", "args": {"x": 1, "no-y": True}, "env": {"E": "2"}})
    assert differing(old, new) == ("y", "E")
    assert differing(new, old) == ("no-y", "E")


@pytest.mark.parametrize(
    ("tokens", "answer"), [(174_100.0, "holds"), (160_000.0, "does not hold"), (None, "undecidable")]
)
def test_a_size_that_repeats_exactly_is_decided(tokens, answer):
    """KV tokens are computed, so equal values of all boots are knowledge and not a lack of it; no value decides nothing."""
    expect = [{"workload": "w", "metric": "kv_cache_tokens", "least": -0.02, "most": 0.02}]

    def booted(value: float | None) -> dict[str, Measurement]:
        one = side(100.0, 100.0, 100.0)["w"]
        metrics = {} if value is None else {"kv_cache_tokens": value}
        boots = tuple(boot.model_copy(update={"metrics": metrics}) for boot in one.boots)
        return {"w": one.model_copy(update={"boots": boots})}

    found = judge_claim(claim(expect=expect), booted(174_000.0), booted(tokens), gpu=GB10)
    assert found.answer == answer


def test_the_shipped_claims_name_entries_that_exist(tmp_path):
    """Every server, workload and GPU of claims.toml is in its catalogue, and each finding of the study is there."""
    catalogues = Catalogues.load()
    claims = load_claims(tmp_path)
    for one in claims:
        assert all(gpu in catalogues.gpus for gpu in one.gpus)
        assert all(workload in catalogues.workloads for workload in one.workloads)
        assert all(entry.server in catalogues.servers for entry in (one.old, one.new) if entry is not None)
    assert sum(one.needs_gpu for one in claims) == 11
    assert sum(not one.needs_gpu for one in claims) == 5


def test_the_bands_of_the_study_contain_what_it_measured(tmp_path):
    """A claim's own source lies inside its band, but for the tuned file, which the study found to hurt."""
    for one in load_claims(tmp_path):
        for part in one.expect:
            if part.measured is not None:
                assert part.band.least <= part.measured <= part.band.most, (one.name, part.metric)


@pytest.mark.parametrize(
    "wrong",
    [
        {"expect": []},
        {"runs_as": {"x": 1}},
        {"old": None},
        {"new": {"server": "b", "args": {"x": [1, 2]}}},
        {"expect": [{"workload": "w", "metric": "mean_ttft_ms", "most": 0.1}] * 2},
        {"text": ""},
    ],
)
def test_a_claim_says_one_thing(wrong):
    """Neither or both kinds of claim, no old side, a doubled metric, or no text are refused."""
    with pytest.raises(ValueError, match=r"claim|several values|text"):
        claim(**wrong)


def test_files_that_a_side_needs_are_looked_for_first(tmp_path, monkeypatch):
    """A mounted folder or a model that is not on the machine is named; with both there nothing is missing."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (target,) = select(Request(gpu=GB10, servers=("study-3",), workloads=("decode",)))
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    assert missing_files(target, tmp_path) == "server study-3 mounts ./moe-configs, which is not there"
    (tmp_path / "moe-configs").mkdir()
    assert "Qwen/Qwen3.5-35B-A3B-FP8 is not on this machine" in missing_files(target, tmp_path)
    (tmp_path / "hub/models--Qwen--Qwen3.5-35B-A3B-FP8").mkdir(parents=True)
    assert missing_files(target, tmp_path) is None
