"""What measurements say about a claim, and what a claim may be."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from perfgate.claims import ClaimSpec, Expected, Side, band_words, judge_claim, judge_flags, kv_state
from perfgate.effects import Effect, FlagReport
from perfgate.experiment.claims import Compared, check_claims, load_claims, missing_files, untuned
from perfgate.experiment.interleaved import differing
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, RunRecord
from perfgate.report import claims as report
from perfgate.selection import Catalogues, Request, select
from perfgate.server import ServerSpec
from perfgate.server.flags import Evidence, flags_in_effect, running_flag

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


def test_only_the_claim_about_the_tuned_moe_file_needs_one(tmp_path):
    """A machine with the model but without ./moe-configs can be asked every other finding of the study."""
    catalogues = Catalogues.load()
    needing = {
        one.name
        for one in load_claims(tmp_path)
        for side in (one.old, one.new)
        if side is not None and "moe-configs" in str(catalogues.servers[side.server].data.get("launcher"))
    }
    assert needing == {"a-tuned-moe-file-does-not-help"}


def test_the_shipped_claims_name_what_can_be_had(tmp_path):
    """Every shipped claim passes the look-up that a selected one has to pass, and compares two servers."""
    check_claims([one.name for one in load_claims(tmp_path)], tmp_path)


def test_the_bands_of_the_study_contain_what_it_measured(tmp_path):
    """A claim's own source lies inside its band, but for the tuned file, which the study found to hurt."""
    for one in load_claims(tmp_path):
        for part in one.expect:
            if part.measured is not None:
                assert part.band.least <= part.measured <= part.band.most, (one.name, part.metric)


SAID = Evidence(
    settings={
        "scheduler_config.async_scheduling": False,
        "cache_config.enable_prefix_caching": True,
        "cache_config.gpu_memory_utilization": 0.9,
        "model_config.limit_mm_per_prompt": {"image": 1},
        "cache_config.block_size": 16,
    }
)
ASKED = ServerSpec.model_validate(
    {
        "name": "a",
        "args": {"async-scheduling": True, "no-enable-prefix-caching": True, "gpu-memory-utilization": 0.9},
    }
)


@pytest.mark.parametrize(
    ("runs_as", "answer", "said"),
    [
        ({"async-scheduling": False}, "holds", "--async-scheduling: asked for true, false runs"),
        ({"no-async-scheduling": True}, "holds", "--async-scheduling: asked for true, false runs"),
        ({"async_scheduling": True}, "does not hold", "--async-scheduling: asked for true, false runs"),
        ({"enable-prefix-caching": True}, "holds", "--enable-prefix-caching: asked for false, true runs"),
        (
            {"no-enable-prefix-caching": True},
            "does not hold",
            "--enable-prefix-caching: asked for false, true runs",
        ),
        ({"gpu-memory-utilization": 0.90}, "holds", "--gpu-memory-utilization: asked for 0.9, 0.9 runs"),
        (
            {"limit-mm-per-prompt": {"image": 1}},
            "holds",
            '--limit-mm-per-prompt: not asked for, {"image": 1} runs',
        ),
        ({"block-size": 16}, "holds", "--block-size: not asked for, 16 runs"),
        ({"block-size": "auto"}, "does not hold", "--block-size: not asked for, 16 runs"),
        ({"no-such-flag": True}, "undecidable", "nothing says what --such-flag runs as"),
    ],
)
def test_what_runs_is_compared_as_the_server_means_it(runs_as, answer, said):
    """Booleans, numbers, tables and both states of a flag are compared by their meaning, asked for or not."""
    forced = claim(expect=[], old=None, runs_as=runs_as)
    running = {name: running_flag(name, SAID) for name in forced.runs_as}
    found = judge_flags(forced, flags_in_effect(ASKED, SAID), gpu=GB10, running=running)
    assert (found.answer, found.reason) == (answer, said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"old": {"server": "x"}}, "old mean nothing beside runs_as"),
        (
            {"pairs": 2, "while_kv_is_not_tight": True},
            "pairs and while_kv_is_not_tight mean nothing beside runs_as",
        ),
        ({"runs_as": {"no-x": 3}}, "no-x runs or does not"),
        ({"runs_as": {"no-x": True, "x": True}}, "--x is claimed about twice"),
    ],
)
def test_keys_without_a_meaning_are_refused_beside_runs_as(more, said):
    """A claim about what a flag becomes has no old side, no pairs and no load, and names each flag once."""
    with pytest.raises(ValueError, match=said):
        claim(**{"expect": [], "old": None, "runs_as": {"x": 1}, **more})


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [
        (-0.004, 0.004, "-0.4% to +0.4%"),
        (None, -0.03, "at most -3%"),
        (-0.333, 0.5, "-33.3% to +50%"),
        (0.0, None, "at least +0%"),
        (None, 0.00025, "at most +0.025%"),
    ],
)
def test_a_band_is_shown_as_it_was_written(least, most, words):
    """No digit of a band is rounded away."""
    assert band_words(Expected(workload="w", metric="mean_ttft_ms", least=least, most=most)) == words


@pytest.mark.parametrize("band", [{"least": -5, "most": 5}, {"least": -5}, {"most": -3}])
def test_per_cents_in_place_of_fractions_are_refused(band):
    """Nothing becomes less by more than all of it, so such a band was meant as per cent."""
    with pytest.raises(ValueError, match=r"0\.05 is five per cent"):
        Expected(workload="w", metric="mean_ttft_ms", **band)


def running(log: str, **env: str) -> SimpleNamespace:
    return SimpleNamespace(
        spec=ServerSpec.model_validate({"name": "a", "env": env}), log=SimpleNamespace(text=lambda: log)
    )


def booted(**settings) -> SimpleNamespace:
    """A server that says this about its flags, and nothing about others and its variables."""
    return SimpleNamespace(
        running_flag=lambda name: (settings[name],) if name in settings else (),
        running_variable=lambda _name: None,
        log=None,
    )


@pytest.mark.parametrize(
    ("new_args", "old_runs", "new_runs", "same", "alike"),
    [
        ({"no-a": True}, {"a": False}, {"a": False}, ("--a false",), True),
        ({"no-a": True, "b": 1}, {"a": False, "b": 2}, {"a": False, "b": 1}, ("--a false",), False),
        ({"no-a": True, "b": 1}, {"a": False}, {"a": False, "b": 1}, ("--a false",), False),
        ({"b": 1}, {}, {"b": 1}, (), False),
    ],
    ids=["all the same", "one differs", "one unknown", "nothing known"],
)
def test_sides_are_alike_when_every_setting_between_them_runs_the_same(
    new_args, old_runs, new_runs, same, alike
):
    """One setting that differs, or of which nothing is known, leaves something to compare."""
    (target,) = select(Request(gpu=GB10, servers=("standard",), workloads=("decode",)))
    other = replace(
        target, server=target.server.model_copy(update={"args": {**target.server.args, **new_args}})
    )
    both = Compared.of(target, other)
    assert both.check(booted(**old_runs)) is None
    assert (both.check(booted(**new_runs)) is not None) is alike
    assert (both.same, both.alike) == (same, alike)


def test_the_same_settings_on_other_software_are_something_to_compare():
    """Two images are two servers, whatever their flags."""
    (target,) = select(Request(gpu=GB10, servers=("study-2",), workloads=("decode",)))
    launcher = target.server.launcher.model_copy(update={"image": "another"})
    server = target.server.model_copy(
        update={"launcher": launcher, "args": {**target.server.args, "a": True}}
    )
    both = Compared.of(target, replace(target, server=server))
    assert [both.check(booted(a=True)) for _ in range(2)] == [None, None]
    assert both.same == ()


FILE = "E=256,N=512,device_name=NVIDIA_GB10.json"


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        (f"INFO Using configuration from /opt/moe/{FILE} for MoE layer.", None),
        (
            f"INFO Using configuration from /vllm/configs/{FILE} for MoE layer.",
            f"the log speaks of {FILE}, not from there",
        ),
        (
            f"Using default MoE config. Config file not found at /opt/moe/{FILE}",
            f"the log speaks of {FILE}, not from there",
        ),
        ("", "the log names no MoE configuration"),
    ],
)
def test_a_tuned_moe_file_counts_when_the_log_says_that_it_is_used(log, problem):
    """An empty folder, another folder's file and a silent log are no tuned server."""
    found = untuned(running(log, VLLM_TUNED_CONFIG_FOLDER="/opt/moe"))
    assert found == (problem and f"no tuned MoE configuration of /opt/moe is used: {problem}")
    assert untuned(running(log)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"expect": []},
        {"runs_as": {"x": 1}},
        {"old": None},
        {"new": {"server": "b", "args": {"x": [1, 2]}}},
        {"expect": [{"workload": "w", "metric": "mean_ttft_ms", "most": 0.1}] * 2},
        {"text": ""},
        {"new": {"server": "a"}},
        {"new": {"server": "b", "env": {"X": True}}},
    ],
)
def test_a_claim_says_one_thing(wrong):
    """Neither or both kinds of claim, no or the same old side, a doubled metric, or no text are refused."""
    with pytest.raises(ValueError, match=r"claim|several values|text|must be a string"):
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
