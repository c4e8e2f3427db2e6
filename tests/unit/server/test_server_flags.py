"""Asked versus in effect, source by source, and what moved between two boots."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from perfgate.experiment.gate import moved_notes
from perfgate.records import Baseline, BootRecord, Cell, Fingerprint, Measurement, Provenance, RunRecord
from perfgate.server import UNASKED, Effect, ServerSpec, moved_defaults, moved_settings, settings_hash
from perfgate.server.api import parse_cache_config, parse_counters
from perfgate.server.bootlog import BootLog, parse_boot_log
from perfgate.server.flags import Evidence, flags_in_effect, stale_accepts
from perfgate.server.settings import FROM_LOG, flat, lasting, plain, read
from perfgate.server.spec import OWN_FLAGS

DATA = Path(__file__).parent / "data"
ALIGN = (
    "Mamba cache mode is set to 'align' for Qwen3NextForCausalLM by default when prefix caching is enabled"
)


def h100(*, settings=True, cache=True, log=True) -> Evidence:
    """The real H100 server's evidence, with some of the sources."""
    info = json.loads((DATA / "h100-0.25.1-eager.server_info.json").read_text())
    page = (DATA / "h100-0.25.1-eager.metrics.txt").read_text()
    return Evidence(
        settings=flat(info["vllm_config"]) if settings else {},
        cache_config=parse_cache_config(page) if cache else {},
        log=parse_boot_log((DATA / "h100-0.25.1-eager.log").read_text()) if log else BootLog(),
    )


def report(args, evidence, **more):
    (only,) = flags_in_effect(ServerSpec(name="s", args=args, **more), evidence)
    return only


@pytest.mark.parametrize(
    ("evidence", "source"),
    [
        (h100(), "/server_info"),
        (h100(settings=False), "vllm:cache_config_info"),
        (h100(settings=False, cache=False), "log"),
    ],
)
def test_silent_override_is_caught_by_every_source(evidence, source):
    """--mamba-cache-mode none is reported as overridden by align, with the log line, whichever source the release offers."""
    found = report({"mamba-cache-mode": "none"}, evidence)
    assert found.effect is Effect.OVERRIDDEN
    assert (found.running, found.source) == ("align", source)
    assert ALIGN in found.because
    assert found.harmful


def test_accepted_override_is_shown_and_not_harmful():
    """An entry that accepts the override by name, with a reason, lets it pass, and the reason is shown."""
    found = report(
        {"mamba-cache-mode": "none"},
        h100(),
        accepts={"mamba-cache-mode": "align is forced with prefix caching"},
    )
    assert found.effect is Effect.OVERRIDDEN
    assert not found.harmful
    assert "accepted: align is forced with prefix caching" in str(found)


@pytest.mark.parametrize(
    "args",
    [
        {"max-model-len": 16384},
        {"max-model-len": "16K"},
        {"enforce-eager": True},
        {"load-format": "dummy"},
        {"enable-prefix-caching": True},
        {"max-num-batched-tokens": 16384},
        {"gdn-prefill-backend": "triton"},
        {"async-scheduling": True},
        {"enable-chunked-prefill": True},
        {"kv-cache-dtype": "auto"},
        {"dtype": "bfloat16"},
        {"gpu-memory-utilization": 0.92},
        {"seed": 0},
        {"tensor-parallel-size": 1},
        {"no-trust-remote-code": True},
        {"jit-monitor-mode": "warn"},
    ],
)
def test_flags_of_the_real_server_are_honoured(args):
    """Every flag that the real H100 server runs with is found honoured in its own configuration."""
    found = report(args, h100())
    assert found.effect is Effect.HONOURED, found
    assert found.source == "/server_info"


@pytest.mark.parametrize(
    ("args", "running"),
    [
        ({"no-async-scheduling": True}, "true"),
        ({"no-enable-prefix-caching": True}, "true"),
        ({"max-num-seqs": 32}, "1024"),
        ({"gpu-memory-utilization": 0.45}, "0.92"),
        ({"kv-cache-dtype": "fp8_e4m3"}, "auto"),
        ({"block-size": 16}, "544"),
        ({"dtype": "float16"}, "torch.bfloat16"),
    ],
)
def test_flags_that_the_real_server_does_not_run_with_are_overridden(args, running):
    """A flag whose setting runs with another value is overridden, whatever it is."""
    found = report(args, h100())
    assert (found.effect, found.running) == (Effect.OVERRIDDEN, running)


def test_override_names_the_line_that_explains_it():
    """The block size that hybrid models force is explained by the log's own line."""
    found = report({"block-size": 16}, h100())
    assert "Setting attention block size to 544 tokens" in found.because


@pytest.mark.parametrize(
    ("args", "effect", "source"),
    [
        ({"max-model-len": 16384}, Effect.HONOURED, "engine configuration in the log"),
        ({"enforce-eager": True}, Effect.HONOURED, "engine configuration in the log"),
        ({"load-format": "safetensors"}, Effect.OVERRIDDEN, "engine configuration in the log"),
        ({"no-async-scheduling": True}, Effect.OVERRIDDEN, "log"),
        ({"max-num-batched-tokens": 16384}, Effect.HONOURED, "log"),
        ({"max-num-seqs": 32}, Effect.UNKNOWN, ""),
    ],
)
def test_log_answers_where_nothing_better_does(args, effect, source):
    """Without /server_info and metrics the log decides what it states, and only that."""
    found = report(args, h100(settings=False, cache=False))
    assert (found.effect, found.source) == (effect, source)


def test_nothing_known_is_unknown():
    """A server that says nothing about itself gives unknown, never honoured and never overridden."""
    for args in ({"max-num-seqs": 32}, {"enforce-eager": True}, {"tool-call-parser": "x"}):
        found = report(args, Evidence())
        assert found.effect is Effect.UNKNOWN
        assert not found.harmful


def test_argument_of_the_front_end_is_honoured_when_parsed():
    """What the engine's configuration never shows is in effect when the API server parsed it; an unlisted one stays unknown."""
    evidence = Evidence(
        settings={"model_config.seed": 0},
        log=parse_boot_log(
            "non-default args: {'enable_auto_tool_choice': True, 'tool_call_parser': 'qwen3_coder', 'novel': 1}"
        ),
    )
    spec = ServerSpec(
        name="s",
        args={
            "enable-auto-tool-choice": True,
            "tool-call-parser": "qwen3_coder",
            "novel": 1,
            "middleware": "m",
        },
    )
    effects = [found.effect for found in flags_in_effect(spec, evidence)]
    assert effects == [Effect.HONOURED, Effect.HONOURED, Effect.UNKNOWN, Effect.UNKNOWN]


def test_tables_are_compared_key_by_key():
    """A JSON flag is honoured when every key it sets runs so, also through a count and below a section."""
    evidence = Evidence(
        settings={
            "model_config.multimodal_config.limit_per_prompt.image.count": 1,
            "compilation_config.mode": 3,
            "compilation_config.pass_config.fuse_norm_quant": False,
            "compilation_config.cudagraph_mode": 2,
        }
    )
    assert report({"limit-mm-per-prompt": {"image": 1}}, evidence).effect is Effect.HONOURED
    assert report({"limit-mm-per-prompt": {"image": 2}}, evidence).effect is Effect.OVERRIDDEN
    assert report({"compilation-config": {"mode": 3}}, evidence).effect is Effect.HONOURED
    assert (
        report({"compilation-config": {"pass_config": {"fuse_norm_quant": True}}}, evidence).effect
        is Effect.OVERRIDDEN
    )
    # The name of an enumeration cannot be compared with its number.
    assert report({"compilation-config": {"cudagraph_mode": "FULL"}}, evidence).effect is Effect.UNKNOWN
    assert report({"compilation-config.mode": 3}, evidence).effect is Effect.HONOURED


def test_member_of_an_enumeration_is_found_in_the_engines_line():
    """The page shows a graph mode as a number; the log's line has its name, and decides."""
    line = "Initializing a V1 LLM engine (v0.25.1) with config: model='m', compilation_config={'cudagraph_mode': <CUDAGraphMode.NONE: 0>}"
    evidence = Evidence(settings={"compilation_config.cudagraph_mode": 0}, log=parse_boot_log(line))
    found = report({"compilation-config": {"cudagraph_mode": "FULL"}}, evidence)
    assert (found.effect, found.running, found.source) == (
        Effect.OVERRIDDEN, '{"cudagraph_mode": "NONE"}', "engine configuration in the log",
    )  # fmt: skip
    assert report({"compilation-config.cudagraph_mode": "NONE"}, evidence).effect is Effect.HONOURED
    assert report({"compilation-config.cudagraph_mode": 0}, evidence).source == "/server_info"


def test_arguments_inside_sections_of_the_engines_line():
    """A parser that only the engine's line shows, inside a section of it, is found there."""
    evidence = h100(settings=False, cache=False)
    assert report({"jit-monitor-mode": "warn"}, evidence).effect is Effect.HONOURED
    assert report({"jit-monitor-mode": "error"}, evidence).running == "warn"
    assert report({"reasoning-parser": "qwen3"}, evidence).effect is Effect.OVERRIDDEN


def test_automatic_length_is_whatever_vllm_chose():
    """-1 and auto leave the model length to vLLM, so that no length contradicts them."""
    for value in (-1, "auto"):
        assert report({"max-model-len": value}, h100()).effect is Effect.HONOURED


def test_settings_of_a_draft_model_are_not_the_flags():
    """A speculative configuration has a length and a dtype of its own, which do not make the flag ambiguous."""
    evidence = Evidence(
        settings={"model_config.max_model_len": 4096, "speculative_config.max_model_len": 2048}
    )
    assert report({"max-model-len": 4096}, evidence).effect is Effect.HONOURED


def test_abbreviated_flag_is_the_argument_that_vllm_parsed():
    """An unambiguous beginning of a flag, which argparse takes, is compared as the argument that it became."""
    log = parse_boot_log("non-default args: {'max_num_batched_tokens': 2048, 'port': 1}")
    evidence = Evidence(settings={"scheduler_config.max_num_batched_tokens": 4096}, log=log)
    assert report({"max-num-batched": 2048}, evidence).running == "4096"


@pytest.mark.parametrize(
    ("key", "asked", "running", "line"),
    [
        ("max-num-batched-tokens", 2048, 8192, "Raising max_num_batched_tokens from 2048 to 8192 to accommodate 'image' input"),
        ("max-num-batched-tokens", 8192, 2048, "max_num_batched_tokens was lowered to 2048"),
        ("enable-prefix-caching", True, False, "Prefix caching is not supported for this model; disabling it"),
        ("enable-chunked-prefill", True, False, "MLA is enabled; forcing chunked prefill and prefix caching to be disabled."),
        ("block-size", 16, 64, "Forcing kv cache block size to 64 for FlashMLA backend."),
        ("max-num-seqs", 512, 128, "Capped max_num_seqs at 128, as many as there are state slots"),
        ("kv-cache-dtype", "fp8_e5m2", "auto", "CPU backend doesn't support KV cache quantization fallback to auto for kv_cache_dtype"),
        ("async-scheduling", True, False, "Asynchronous scheduling is disabled."),
        ("cudagraph-mode", "FULL", "NONE", "CUDA graph mode FULL is not compatible with compilation mode 0. Overriding to NONE."),
        ("enable-dbo", True, False, "dbo: Dual-Batch Overlap is not supported on CPU, disabled."),
        ("max-model-len", 131072, 32768, "Auto-fit max_model_len: reduced from 131072 to 32768 to fit in available GPU memory"),
    ],
)  # fmt: skip
def test_overrides_of_any_flag_are_quoted(key, asked, running, line):
    """Whatever flag runs with another value, the line that speaks of it is quoted, rather one that shows what runs."""
    name = key.replace("-", "_")
    log = parse_boot_log(
        f"INFO 11-22 02:51:42 [x.py:1] {name} is set to something\nINFO 11-22 02:51:43 [x.py:1] {line}"
    )
    found = report({key: asked}, Evidence(settings={f"some_config.{name}": running}, log=log))
    assert found.effect is Effect.OVERRIDDEN
    assert line in found.because or "is set to something" in found.because
    if str(running) in line:
        assert line in found.because


@pytest.mark.parametrize(
    "line",
    [
        "WARNING max_parallel_loading_workers is currently not supported and will be ignored.",
        "WARNING --max-parallel-loading-workers has no effect when using the Ray executor.",
        "arg_utils.py:1953: UserWarning: --max-parallel-loading-workers is deprecated and has no effect since it has been removed.",
    ],
)
def test_a_configuration_that_repeats_an_ignored_flag_proves_nothing(line):
    """VLLM keeps some flags that it ignores in its configuration: its warning decides."""
    evidence = Evidence(
        settings={"parallel_config.max_parallel_loading_workers": 4}, log=parse_boot_log(line)
    )
    found = report({"max-parallel-loading-workers": 4}, evidence)
    assert (found.effect, found.because) == (Effect.IGNORED, line)


def test_warnings_about_other_things_ignore_no_flag():
    """The warnings of the real logs name no flag as ignored."""
    for name in ("h100-0.25.1-eager.log", "cpu-0.32.0-eager.log", "cpu-0.32.0-compiled.log"):
        evidence = Evidence(log=parse_boot_log((DATA / name).read_text()))
        names = {key.replace("_", "-") for key in evidence.log.arguments}
        spec = ServerSpec(name="s", args=dict.fromkeys(names - set(OWN_FLAGS), 1))
        assert len(spec.args) > 2
        assert not [found for found in flags_in_effect(spec, evidence) if found.effect is Effect.IGNORED]


def test_acceptance_that_no_longer_applies_is_said():
    """An accepted flag that is honoured, or that nobody sets any more, is named; one that is still overridden, or unknown, is not."""
    spec = ServerSpec(
        name="s",
        args={"mamba-cache-mode": "none", "max-num-seqs": 1024, "no-async-scheduling": True, "novel": 1},
        env={"VLLM_X": "1"},
        accepts=dict.fromkeys(
            ("mamba-cache-mode", "max-num-seqs", "async-scheduling", "novel", "gone", "VLLM_X", "VLLM_Y"),
            "because",
        ),
    )
    evidence = replace(h100(), process_environment={"VLLM_X": "1"})
    reports = flags_in_effect(spec, evidence)
    assert not [found for found in reports if found.harmful]
    assert stale_accepts(spec, reports) == (
        "accepts 'max-num-seqs', which is honoured here (/server_info): remove it",
        "accepts 'gone', which the server does not set: remove it",
        "accepts 'VLLM_X', which is honoured here (process environment): remove it",
        "accepts 'VLLM_Y', which the server does not set: remove it",
    )


def test_name_that_several_sections_have_is_not_guessed():
    """A name with different values in different sections gives no answer; with the same value it does."""
    differing = Evidence(settings={"a_config.backend": "x", "b_config.backend": "y"})
    assert report({"backend": "x"}, differing).effect is Effect.UNKNOWN
    agreeing = Evidence(settings={"a_config.backend": "x", "b_config.backend": "x"})
    assert report({"backend": "x"}, agreeing).effect is Effect.HONOURED


def test_flag_that_the_log_calls_ignored():
    """A deprecated flag without effect is ignored, with the line."""
    evidence = Evidence(
        log=parse_boot_log("WARNING The argument --swap-space has no effect and will be removed")
    )
    found = report({"swap-space": 4}, evidence)
    assert found.effect is Effect.IGNORED
    assert "has no effect" in found.because
    assert found.harmful


@pytest.mark.parametrize(
    ("variable", "value", "effect", "source"),
    [
        ("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", "1", Effect.HONOURED, "/server_info"),
        ("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", "0", Effect.OVERRIDDEN, "/server_info"),
        ("VLLM_CPU_KVCACHE_SPACE", "1", Effect.HONOURED, "/server_info"),
        ("VLLM_CPU_KVCACHE_SPACE", "4", Effect.OVERRIDDEN, "/server_info"),
        ("VLLM_MISSPELT", "1", Effect.IGNORED, "log"),
        ("VLLM_OF_A_PLUGIN", "1", Effect.UNKNOWN, ""),
        ("VLLM_API_KEY_FILE", "x", Effect.HONOURED, "process environment"),
        ("TORCHINDUCTOR_COMPILE_THREADS", "1", Effect.HONOURED, "process environment"),
        ("TORCHINDUCTOR_COMPILE_THREADS", "2", Effect.OVERRIDDEN, "process environment"),
    ],
)
def test_variables(variable, value, effect, source):
    """Variables are compared with vLLM's own reading of them, the log's warning, and the environment that the process has."""
    evidence = Evidence(
        variables={"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": True, "VLLM_CPU_KVCACHE_SPACE": 1},
        log=parse_boot_log("WARNING Unknown vLLM environment variable detected: VLLM_MISSPELT"),
        process_environment={
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "VLLM_MISSPELT": "1",
            "VLLM_OF_A_PLUGIN": "1",
            "VLLM_API_KEY_FILE": "x",
        },
    )
    (found,) = flags_in_effect(ServerSpec(name="s", env={variable: value}), evidence)
    assert (found.effect, found.source) == (effect, source)


@pytest.mark.parametrize("source", ["variables", "process_environment"])
def test_relative_path_in_a_variable_is_in_effect(source, tmp_path, monkeypatch):
    """A path that the launcher makes absolute for the server is what was asked for, and another path is not."""
    monkeypatch.chdir(tmp_path)
    spec = ServerSpec(name="s", env={"VLLM_TUNED_CONFIG_FOLDER": "./configs"})
    running = spec.local_environment()["VLLM_TUNED_CONFIG_FOLDER"]
    assert running == str(tmp_path / "configs")
    (found,) = flags_in_effect(spec, Evidence(**{source: {"VLLM_TUNED_CONFIG_FOLDER": running}}))
    assert found.effect is Effect.HONOURED
    (found,) = flags_in_effect(spec, Evidence(**{source: {"VLLM_TUNED_CONFIG_FOLDER": "/elsewhere/configs"}}))
    assert found.effect is Effect.OVERRIDDEN


def test_variable_of_a_container_is_unknown():
    """Where neither vLLM nor the process can be asked, a variable stays unknown."""
    (found,) = flags_in_effect(ServerSpec(name="s", env={"TORCHINDUCTOR_COMPILE_THREADS": "1"}), Evidence())
    assert found.effect is Effect.UNKNOWN


def test_no_secret_is_reported():
    """Keys among flags and variables are masked wherever a report shows them."""
    canary = "canary-0d9e8f"
    spec = ServerSpec(name="s", args={"api-key": canary, "x": f"pre-{canary}"}, env={"HF_TOKEN": canary})
    evidence = Evidence(
        settings={"a.x": "other"},
        log=parse_boot_log(f"WARNING x is set to other because of {canary}"),
        process_environment={"HF_TOKEN": canary},
        secrets=spec.secrets(),
    )
    for found in flags_in_effect(spec, evidence):
        assert canary not in found.model_dump_json()


def test_counters_are_summed_and_gauges_of_shares_are_not():
    """Counters add up over their labels, buckets and creation times are left out, the larger cache usage counts."""
    page = (DATA / "h100-0.25.1-eager.metrics.txt").read_text()
    counters = parse_counters(page)
    assert counters["vllm:generation_tokens_total"] == 3155.0
    assert counters["vllm:request_success_total"] == 7.0
    assert counters["vllm:prefix_cache_hits_total"] == 3264.0
    assert counters["vllm:request_queue_time_seconds_sum"] == pytest.approx(0.00016023, rel=1e-4)
    assert counters["process_cpu_seconds_total"] == 35.36
    assert not [name for name in counters if name.endswith(("_bucket", "_created", "_info"))]
    two = 'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
    assert parse_counters(two) == {"vllm:kv_cache_usage_perc": 0.75}
    assert parse_counters('vllm:x_total{engine="0"} 1\nvllm:x_total{engine="1"} 2\nvllm:y NaN\n') == {
        "vllm:x_total": 3.0
    }
    assert parse_counters("") == {}


def test_cache_config_labels():
    """The resolved cache settings are the labels of one sample; a page without it gives none."""
    labels = parse_cache_config((DATA / "h100-0.25.1-eager.metrics.txt").read_text())
    assert labels["mamba_cache_mode"] == "align"
    assert labels["kv_cache_size_tokens"] == "14172160"
    assert parse_cache_config("vllm:x 1\n") == {}


def test_settings_are_flat_and_without_what_belongs_to_one_boot():
    """Names, addresses, ports and sizes found at boot are no settings."""
    settings = lasting(h100().settings)
    assert settings["cache_config.mamba_cache_mode"] == "align"
    assert settings["parallel_config.eplb_config.window_size"] == 1000
    for key in (
        "model_config.model",
        "model_config.served_model_name",
        "instance_id",
        "cache_config.num_gpu_blocks",
        "cache_config._block_size_resolved",
        "parallel_config.data_parallel_master_port",
        "model_config.hf_token",
    ):
        assert key not in settings


def test_settings_hash_depends_on_settings_alone():
    """Order does not matter, every value does, and no settings have no hash."""
    assert settings_hash({"a": 1, "b": [2]}) == settings_hash({"b": [2], "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})
    assert settings_hash({}) is None


def test_moved_default_is_said_with_its_release():
    """A setting that nobody set and that moved with the release is quoted first, in words."""
    changes = moved_settings(
        {
            "scheduler_config.async_scheduling": False,
            "scheduler_config.max_num_seqs": 32,
            "cache_config.x": 1,
        },
        {"scheduler_config.async_scheduling": True, "scheduler_config.max_num_seqs": 16, "cache_config.x": 1},
        asked_before={"max-num-seqs": 32},
        asked_after={"max-num-seqs": 16},
        versions=("0.18.1", "0.19.1"),
    )
    assert [str(change) for change in changes] == [
        "async_scheduling: false → true, new default between vLLM 0.18.1 and 0.19.1; not set by you",
        "max_num_seqs: 32 → 16, set by you",
    ]


def test_moved_setting_of_the_same_release_is_not_called_a_new_default():
    """With one and the same release the change is only said not to be set."""
    (change,) = moved_settings({"a.b": 1}, {"a.b": 2}, versions=("0.32.0", "0.32.0"))
    assert str(change) == "b: 1 → 2, not set by you"


def test_many_moved_defaults_do_not_hide_what_was_set():
    """Of many settings a dozen that nobody set are listed and the rest counted; those that were set are listed after them."""
    before, after = lasting(page_of("0.28.0")), lasting(page_of("0.32.0"))
    moved = moved_settings(
        before,
        {**after, "scheduler_config.max_num_seqs": 1},
        asked_before={"max-num-seqs": 16},
        asked_after={"max-num-seqs": 1},
        versions=("0.28.0", "0.32.0"),
    )
    lines = moved_notes(moved)
    assert lines[0].startswith(
        "mamba_ssm_cache_dtype: auto → float32, new default between vLLM 0.28.0 and 0.32.0"
    )
    assert lines[12:] == ["2 more settings moved that you did not set", "max_num_seqs: 16 → 1, set by you"]


def test_what_follows_from_a_flag_is_not_called_a_default():
    """With one release and a changed flag, the other settings that moved follow it probably: said so, and not quoted first."""
    changes = moved_settings(
        {"s.max_num_seqs": 1024, "c.sizes": [1, 512]},
        {"s.max_num_seqs": 4, "c.sizes": [1, 4]},
        asked_after={"max-num-seqs": 4},
        versions=("0.25.1", "0.25.1"),
    )
    assert [str(change) for change in changes] == [
        "sizes: [1, 512] → [1, 4], not set by you, but beside other flags of the same release",
        "max_num_seqs: 1024 → 4, set by you",
    ]
    assert not str(changes[0]).endswith(UNASKED)


def test_negated_flag_concerns_its_setting():
    """Taking --no-async-scheduling away is a change that was asked for."""
    (change,) = moved_settings(
        {"s.async_scheduling": False},
        {"s.async_scheduling": True},
        asked_before={"no-async-scheduling": True},
    )
    assert change.asked


def test_settings_that_a_release_adds_count_only_when_they_say_something():
    """A new key with an empty value is silence; with a value it is listed after the others."""
    changes = moved_settings(
        {"a.old": 1}, {"a.old": 2, "a.new_off": False, "a.new_none": None, "a.new_on": True}
    )
    assert [change.key for change in changes] == ["a.old", "a.new_on"]


def page_of(release):
    """The configuration that a release resolves for the same command line on the CPU."""
    return flat(json.loads((DATA / f"cpu-{release}.server_info.json").read_text())["vllm_config"])


@pytest.mark.parametrize("release", ["0.28.0", "0.32.0"])
def test_silent_override_is_caught_on_the_page_of_each_release(release):
    """What was asked for on the command line is found on each release's page, and the forced cache mode is not it."""
    evidence = Evidence(settings=page_of(release))
    assert report({"mamba-cache-mode": "none"}, evidence).running == "align"
    for args in (
        {"max-model-len": 4096},
        {"-tp": 1},
        {"enforce-eager": True},
        {"load-format": "dummy"},
        {"dtype": "bfloat16"},
    ):
        assert report(args, evidence).effect is Effect.HONOURED, args


def test_defaults_that_moved_between_two_real_releases():
    """Of some 300 settings of 0.28.0 and 0.32.0 fourteen moved; those of the state's type and of the kernels' warm-up come first."""
    before, after = lasting(page_of("0.28.0")), lasting(page_of("0.32.0"))
    changes = [str(change) for change in moved_settings(before, after, versions=("0.28.0", "0.32.0"))]
    assert (len(before), len(after), len(changes)) == (285, 324, 14)
    assert changes[:2] == [
        "mamba_ssm_cache_dtype: auto → float32, new default between vLLM 0.28.0 and 0.32.0; not set by you",
        "enable_jit_warmup: true → false, new default between vLLM 0.28.0 and 0.32.0; not set by you",
    ]


def test_an_engines_own_configuration_is_not_the_servers():
    """Engines tell of configurations that they make for parts of themselves: what the API server resolved counts, not those."""
    evidence = Evidence(log=parse_boot_log((DATA / "cpu-0.17.1-eager.log").read_text()))
    assert sum("Asynchronous scheduling is" in line for line in evidence.log.lines) == 2
    assert report({"async-scheduling": True}, evidence).effect is Effect.HONOURED
    contradicting = Evidence(
        log=parse_boot_log("Asynchronous scheduling is enabled.\nAsynchronous scheduling is disabled.")
    )
    assert report({"async-scheduling": True}, contradicting).effect is Effect.UNKNOWN


def test_settings_known_from_the_log_alone_are_compared_by_name():
    """A side without the page tells fewer settings, in other sections: only what both name and what differs is said."""
    page = lasting(h100().settings)
    log = parse_boot_log((DATA / "h100-0.25.1-eager.log").read_text())
    told = lasting(plain(read(log.engine_config, FROM_LOG)))
    assert json.dumps(told)
    assert len(told) > 60
    assert moved_settings(page, told) == ()
    assert moved_settings(told, page) == ()
    (change,) = moved_settings({**page, "model_config.seed": 7}, told)
    assert str(change) == "seed: 7 → 0, not set by you"
    assert moved_settings(told, {**told, f"{FROM_LOG}.new": 1}) != ()


def test_unknown_settings_say_nothing():
    """A baseline without settings, or a server that offers none, lists no change."""
    assert moved_settings({}, {"a": 1}) == ()
    assert moved_settings({"a": 1}, {}) == ()


def test_moved_defaults_of_a_baseline_and_a_measurement():
    """Settings, flags and releases come from the records; void of settings on either side, nothing is said."""
    cell = Cell(gpu="g", model="m", server="s", workload="w")
    run = RunRecord(metrics={"output_throughput": 1.0})
    old = BootRecord(id="b1", settings={"s.async_scheduling": False, "s.max_num_seqs": 8}, runs=(run,))
    new = BootRecord(id="b2", settings={"s.async_scheduling": True, "s.max_num_seqs": 4}, runs=(run,))
    baseline = Baseline(
        cell=cell,
        provenance=Provenance(by="me", source="measured"),
        fingerprint=Fingerprint(vllm="0.18.1"),
        server={"args": {"max-num-seqs": 8}},
        boots=(old,),
    )
    now = Measurement(
        cell=cell,
        fingerprint=Fingerprint(vllm="0.19.1"),
        server={"args": {"max-num-seqs": 4}},
        workload={},
        boots=(BootRecord(id="b0", runs=()), new),
    )
    assert [str(change) for change in moved_defaults(baseline, now)] == [
        "async_scheduling: false → true, new default between vLLM 0.18.1 and 0.19.1; not set by you",
        "max_num_seqs: 8 → 4, set by you",
    ]
    assert moved_defaults(baseline, now.model_copy(update={"boots": ()})) == ()
