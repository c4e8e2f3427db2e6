"""What is read out of real logs of several releases, and that nothing is guessed."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfgate.server.bootlog import compile_events, failure_cause, parse_boot_log, phase_of, split_config

DATA = Path(__file__).parent / "data"


def text(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "version", "quantities"),
    [
        (
            "h100-0.25.1-eager.log",
            "0.25.1",
            {
                "model_load_gib": 3.54,
                "weights_s": 0.836116,
                "available_kv_gib": 66.42,
                "kv_cache_tokens": 14172160,
                "init_engine_s": 217.51,
            },
        ),
        ("cpu-0.17.1-eager.log", "0.17.1", {"kv_cache_tokens": 1048576, "init_engine_s": 3.66}),
        (
            "cpu-0.25.1-eager.log",
            "0.25.1",
            {"kv_cache_gib": 1.0, "kv_cache_tokens": 2631559, "init_engine_s": 104.53},
        ),
        (
            "cpu-0.32.0-eager.log",
            "0.32.0",
            {
                "kv_cache_gib": 1.0,
                "kv_cache_tokens": 2064699,
                "init_engine_s": 3.15,
            },
        ),
        (
            "cpu-0.32.0-compiled.log",
            "0.32.0",
            {
                "kv_cache_gib": 1.0,
                "kv_cache_tokens": 524288,
                "init_engine_s": 16.49,
                "warmup_s": 0.04,
            },
        ),
        (
            "h100-0.25.1-unfinished.log",
            "0.25.1",
            {"model_load_gib": 3.54, "weights_s": 1.282875, "compile_s": 32.58, "warmup_s": 112.03},
        ),
        ("h100-0.25.1-busy.log", "0.25.1", {}),
    ],
)
def test_quantities_of_real_logs(name, version, quantities):
    """Each real log gives exactly the figures it states; what it does not state is absent."""
    log = parse_boot_log(text(name))
    assert log.version == version
    assert log.quantities == quantities


def test_arguments_and_engine_configuration_of_real_logs():
    """The arguments are parsed as Python, the engine's line into its top-level pairs."""
    log = parse_boot_log(text("h100-0.25.1-eager.log"))
    assert log.arguments["max_num_batched_tokens"] == 16384
    assert log.arguments["enable_prefix_caching"] is True
    assert log.engine_config["enforce_eager"] == "True"
    assert log.engine_config["max_seq_len"] == "16384"
    assert log.engine_config["model"] == "'tiny-qwen3next'"
    assert log.engine_config["compilation_config"].startswith("{'mode': <CompilationMode.NONE: 0>")


@pytest.mark.parametrize(
    ("line", "quantity", "value"),
    [
        ("init engine (profile, create kv cache, warmup model) took 12.34 seconds", "init_engine_s", 12.34),
        ("init engine (profile, create kv cache, warmup model) took 22.1 s (compilation: 9.5 s)", "init_engine_s", 22.1),
        ("torch.compile takes 40.21 s in total", "compile_s", 40.21),
        ("torch.compile took 3.30 s in total", "compile_s", 3.3),
        ("Graph capturing finished in 21 secs, took 0.79 GiB", "graph_capture_s", 21.0),
        ("Graph capturing finished in 21 secs, took 0.79 GiB", "graph_memory_gib", 0.79),
        ("Model loading took 34.2 GiB and 90.123456 seconds", "model_load_gib", 34.2),
        ("Model loading took 34.2 GiB and 90.123456 seconds", "weights_s", 90.123456),
        ("Loading weights took 41.20 seconds", "weights_s", 41.2),
        ("CPU KV cache size: 524,288 tokens, Maximum concurrency for 4,096 tokens per request: 128.00x", "kv_cache_tokens", 524288.0),
    ],
)  # fmt: skip
def test_wordings_of_other_releases(line, quantity, value):
    """The wordings of 0.17 to 0.33 give the same quantity."""
    assert (
        parse_boot_log(f"(EngineCore pid=1) INFO 11-22 02:51:42 [x.py:1] {line}").quantities[quantity]
        == value
    )


def test_slowest_worker_and_smallest_cache_count():
    """With several workers the longest time and the smallest memory are those of the boot."""
    log = parse_boot_log(
        "(Worker_TP0) Available KV cache memory: 40.1 GiB\n(Worker_TP1) Available KV cache memory: 39.7 GiB\n"
        "(Worker_TP0) Model loading took 10 GiB memory and 5.0 seconds\n(Worker_TP1) Model loading took 10 GiB memory and 6.0 seconds"
    )
    assert log.quantities["available_kv_gib"] == 39.7
    assert log.quantities["weights_s"] == 6.0


@pytest.mark.parametrize("wording", [
    "CUDA graph memory profiling is enabled (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=1). This will become the default in v0.19. "
    "The current --gpu-memory-utilization=0.4500 is equivalent to --gpu-memory-utilization=0.4434 without CUDA graph memory profiling. "
    "To maintain the same effective KV cache size as before, increase --gpu-memory-utilization to 0.4566.",
    "CUDA graph memory profiling is enabled (default since v0.21.0). The current --gpu-memory-utilization=0.4500 is equivalent to "
    "--gpu-memory-utilization=0.4434 without CUDA graph memory profiling. To maintain the same effective KV cache size as before, "
    "increase --gpu-memory-utilization to 0.4566. To disable, set VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0.",
])  # fmt: skip
def test_graph_accounting_is_explained_with_the_logs_numbers(wording):
    """The study's three numbers are found in the wording of 0.18 and of 0.21, and said to change no capacity."""
    accounting = parse_boot_log(wording).accounting
    assert (accounting.enabled, accounting.utilization, accounting.equivalent, accounting.suggested) == (
        True, 0.45, 0.4434, 0.4566,
    )  # fmt: skip
    assert "0.45 now equals 0.4434" in accounting.explain()
    assert "0.4566 would give the KV cache of before; the capacity did not change" in accounting.explain()


def test_graph_accounting_that_is_off():
    """Without the accounting only the value that keeps the KV cache is known."""
    accounting = parse_boot_log(
        "WARNING CUDA graph memory profiling is disabled (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0). Consider re-enabling it "
        "and increasing --gpu-memory-utilization from 0.4500 to 0.4566."
    ).accounting
    assert (accounting.enabled, accounting.equivalent, accounting.suggested) == (False, None, 0.4566)
    assert "0.4566 would give the KV cache that 0.45 gives now" in accounting.explain()
    assert parse_boot_log("CUDA graph memory profiling is enabled.").accounting is None


def test_autotuned_configurations_are_counted_by_kernel():
    """Each configuration that Triton prints counts once; a kernel from the cache counts none."""
    log = parse_boot_log(
        "Autotuning kernel chunk_fwd_kernel_o with config BK: 64, num_warps: 2\n"
        "Autotuning kernel chunk_fwd_kernel_o with config BK: 128, num_warps: 4\n"
        "Triton autotuning for function chunk_fwd_kernel_o,\nwith key as (32, 128),\nfinished after 1.20s,\n"
        "Triton autotuning for function solve_tril,\nfinished after 0.00s,\n"
    )
    assert log.autotuned == {"chunk_fwd_kernel_o": 2, "solve_tril": 0}


def test_compilations_during_inference_are_named():
    """The JIT monitor's five kernels of the real run are found, each once; a quiet log gives none."""
    lines = text("h100-0.25.1-eager.log").splitlines()
    assert compile_events(lines + lines) == (
        "fused_moe_kernel",
        "_causal_conv1d_update_kernel",
        "fused_recurrent_gated_delta_rule_packed_decode_kernel",
        "layer_norm_fwd_kernel",
        "batch_memcpy_kernel",
    )
    assert compile_events(text("cpu-0.32.0-eager.log").splitlines()) == ()
    assert compile_events(["Triton autotuning for function chunk_fwd_kernel_o,"]) == ("chunk_fwd_kernel_o",)


def test_phases_follow_each_other():
    """The lines of a real boot lead through the phases in their order."""
    phases = [phase for line in text("cpu-0.32.0-compiled.log").splitlines() if (phase := phase_of(line))]
    assert list(dict.fromkeys(phases)) == [
        "reading the configuration",
        "starting the engine",
        "loading the weights",
        "compiling",
        "profiling",
        "warming up",
        "starting the API server",
    ]


def test_cause_of_a_real_failed_boot_is_the_engines_own():
    """The busy GPU's log gives the engine's error, not the API server's "see root cause above", and what to do."""
    cause = failure_cause(text("h100-0.25.1-busy.log"))
    assert cause.line.startswith(
        "ValueError: Free memory on device cuda:0 (5.71/79.18 GiB) on startup is less than desired"
    )
    assert cause.remedy.startswith("Another process holds GPU memory")


@pytest.mark.parametrize(
    ("log", "line", "remedy"),
    [
        (
            "api_server.py: error: unrecognized arguments: --nope",
            "unrecognized arguments: --nope",
            "does not know the flag",
        ),
        ("/usr/bin/python: No module named 'vllm'", "No module named 'vllm'", "has no vLLM"),
        (
            "(EngineCore pid=3) torch.OutOfMemoryError: CUDA out of memory. Tried",
            "torch.OutOfMemoryError",
            "Lower --gpu",
        ),
        ("KeyError: 'x'\nStrange", "KeyError: 'x'", "The log says more."),
    ],
)
def test_causes_and_remedies(log, line, remedy):
    """Common failures come with what to do; others with the last exception."""
    cause = failure_cause(log)
    assert line in cause.line
    assert remedy in cause.remedy


def test_log_without_a_reason_has_no_cause():
    """A log that names no exception gives no cause, rather than some line."""
    assert failure_cause("INFO all fine\nWARNING Error rate is low\n") is None


def test_imports_take_until_the_first_stamp():
    """Start to first stamped line is the import time; clocks that do not fit together give nothing."""
    log = parse_boot_log("INFO 03-05 10:20:30 [x.py:1] non-default args: {}")
    zone = datetime.now().astimezone().tzinfo
    start = datetime(2026, 3, 5, 10, 20, 16, 500000, tzinfo=zone)
    assert log.imports_s(start) == pytest.approx(13.5)
    assert log.imports_s(start + timedelta(seconds=14)) == 0.0
    assert log.imports_s(start - timedelta(hours=2)) is None
    assert log.imports_s(start + timedelta(hours=1)) is None
    assert parse_boot_log("").imports_s(start) is None
    assert parse_boot_log("INFO 02-29 10:20:30 x").imports_s(start) is None


def test_pairs_are_split_at_top_level_commas_only():
    """Brackets and quotes protect their commas."""
    pairs = dict(split_config("a='x, y', b=F(c=1, d=[2, 3]), e={'f': 'g, h'}, i=0, noise"))
    assert pairs == {"a": "'x, y'", "b": "F(c=1, d=[2, 3])", "e": "{'f': 'g, h'}", "i": "0"}


def test_arguments_with_an_object_keep_the_others():
    """One value that is no literal does not cost the rest of the arguments."""
    log = parse_boot_log(
        "non-default args: {'port': 8000, 'compilation_config': <object at 0x7f>, 'dtype': 'auto'}"
    )
    assert log.arguments["port"] == 8000
    assert log.arguments["dtype"] == "auto"


def test_colours_do_not_matter():
    """A log in colours says the same."""
    assert parse_boot_log(
        "\x1b[0;36m(EngineCore)\x1b[0;0m GPU KV cache size: \x1b[1m174,000\x1b[0m tokens"
    ).quantities == {"kv_cache_tokens": 174000.0}


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_any_text_is_a_log(noise):
    """No text makes the parsers fail."""
    parse_boot_log(noise)
    parse_boot_log(f"non-default args: {{{noise}}}")
    parse_boot_log(f"Initializing a V1 LLM engine (v1) with config: {noise}")
    failure_cause(noise)
    compile_events([noise])


@given(st.integers(0, 7000))
def test_logs_cut_anywhere_say_only_what_they_say(end):
    """A log cut at any byte gives a subset of the whole log's figures, never others."""
    whole = parse_boot_log(text("h100-0.25.1-eager.log")).quantities
    cut = parse_boot_log(text("h100-0.25.1-eager.log")[:end]).quantities
    for name, value in cut.items():
        assert name in whole
        assert value <= whole[name]
