"""``perfgate import``: files that other tools wrote, one each run against the scripted server (30 ms TTFT, 5 ms a token)."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfgate.baseline.directory import DirectoryStore
from perfgate.cli import main
from perfgate.client.imports import read_file
from perfgate.errors import BaselineConflictError, InputError
from perfgate.noise import NoiseClass, NoiseModel, write_noise
from perfgate.records import Cell, Fingerprint
from perfgate.results import read_results

DATA = Path(__file__).parents[2] / "data"
BENCH, GUIDELLM, AIPERF = (
    DATA / name
    for name in ("vllm-bench-serve-detailed.json", "guidellm-benchmarks.json", "aiperf-profile.json")
)
EARLIER = DATA / "guidellm-0.3-benchmarks.json"
PER_REQUEST = (
    "start_times",
    "ttfts",
    "itls",
    "latencies",
    "queue_times",
    "input_lens",
    "output_lens",
    "errors",
    "generated_texts",
)


@pytest.fixture
def changed(tmp_path) -> Callable[..., Path]:
    """Writes a copy of a file after a change to its data."""

    def write(source: Path, change: Callable[[dict[str, Any]], object]) -> Path:
        data = json.loads(source.read_text())
        change(data)
        path = tmp_path / source.name
        path.write_text(json.dumps(data))
        return path

    return write


def plain(data: dict[str, Any]) -> None:
    for key in PER_REQUEST:
        data.pop(key)


def test_vllm_bench_serve_keeps_its_names_and_values(changed):
    """A plain result gives the metrics of its summary, and the workload as far as the file knows it."""
    recorded = json.loads(BENCH.read_text())
    found = read_file(changed(BENCH, plain))
    (run,) = found.runs
    assert run.metrics
    assert run.metrics == {name: recorded[name] for name in run.metrics}
    assert {"mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "output_throughput"} <= set(
        run.metrics
    )
    assert found.workload == {"api": "completions", "num_prompts": 32, "concurrency": 4}
    assert found.model == "tiny-qwen3next"


def test_a_detailed_result_gives_more_and_agrees_with_its_summary():
    """From the times of every request come percentiles and the steady state too, and the common metrics are those of the summary."""
    recorded = json.loads(BENCH.read_text())
    (run,) = read_file(BENCH).runs
    assert {"p90_ttft_ms", "p99_e2el_ms", "steady_output_throughput", "peak_concurrency"} <= set(run.metrics)
    shared = {name: value for name, value in recorded.items() if name in run.metrics and value is not None}
    assert {name: run.metrics[name] for name in shared} == pytest.approx(shared)
    assert not [name for name in run.metrics if "scheduled" in name]


def test_a_result_of_the_rust_client_is_one_of_vllm_bench_serve():
    """vllm-rs writes the same fields: its summary agrees with its times, and they are those of the scripted server."""
    found = read_file(DATA / "vllm-rs-bench-serve-detailed.json")
    (run,) = found.runs
    assert found.tool == "vllm bench serve"
    assert found.workload | {"input_len": 32, "output_len": 6, "concurrency": 2} == found.workload
    assert 30 < run.metrics["mean_ttft_ms"] < 31
    assert run.metrics["mean_tpot_ms"] == pytest.approx(5, abs=0.1)
    assert run.metrics["peak_concurrency"] == 2


def test_a_summary_that_contradicts_its_own_times_is_refused(changed):
    """An edited summary is found out by the times beside it."""
    path = changed(BENCH, lambda data: data.update(mean_ttft_ms=50.0))
    with pytest.raises(InputError, match=r"mean_ttft_ms is 50, the file's own times give 94\.27"):
        read_file(path)


def test_appended_results_are_the_runs_of_one_boot(tmp_path):
    """--append-result writes objects one after another: each is a run."""
    path = tmp_path / "appended.json"
    path.write_text(BENCH.read_text() + "\n" + BENCH.read_text())
    assert len(read_file(path).runs) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"completed": 0, "failed": 32}, "no request succeeded"),
        ({"completed": 30, "failed": 2}, "30 of 32 requests succeeded"),
        ({"completed": 30}, "30 of 32 requests succeeded"),
    ],
)
def test_failed_requests_make_an_imported_run_invalid(changed, change, reason):
    """Zeros, which vllm bench serve reports when every request failed, are no metrics at all here."""
    (run,) = read_file(changed(BENCH, lambda data: (plain(data), data.update(change)))).runs
    assert run.metrics == {}
    assert reason in run.invalid[0]


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values, of a list its first item's only."""
    items = data.items() if isinstance(data, dict) else enumerate(data[:1]) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from leaves(value, (*path, key))


@pytest.mark.parametrize("source", [BENCH, GUIDELLM, EARLIER, AIPERF], ids=lambda path: path.stem)
def test_a_value_of_another_kind_is_refused_by_name_or_has_no_part_in_the_metrics(source, tmp_path):
    """Each value in turn null, a text, a list, or beyond any float: the same numbers as before, fewer, or a message."""
    path = tmp_path / "changed.json"
    whole = json.loads(source.read_text())
    values = {name: value for run in read_file(source).runs for name, value in run.metrics.items()}
    for where in leaves(whole):
        for value in (None, "12.5", [], 10**400):
            data = copy.deepcopy(whole)
            inner = data
            for key in where[:-1]:
                inner = inner[key]
            inner[where[-1]] = value
            path.write_text(json.dumps(data))
            try:
                found = read_file(path)
            except InputError:
                continue
            for run in found.runs:
                assert {name: values[name] for name in run.metrics} == pytest.approx(run.metrics), where


@pytest.mark.parametrize(
    ("source", "change", "words"),
    [
        (BENCH, {"completed": 31.5}, "completed: 31.5 is no count"),
        (BENCH, {"completed": -1}, "completed: -1 is no count"),
        (BENCH, {"request_rate": "4"}, "request_rate: '4' is no finite number"),
        (BENCH, {"max_concurrency": -4}, "max_concurrency: -4 is no count"),
        (BENCH, {"itls": [None] * 32}, "itls.0 is no list"),
        (BENCH, {"ttfts": [-0.1] * 32}, "ttfts.0: -0.1 is below 0"),
        (BENCH, {"output_lens": [63.5] * 32}, "output_lens: 63.5 is no count"),
        (BENCH, {"mean_ttft_ms": 10**400}, "mean_ttft_ms: 1000"),
        (
            AIPERF,
            {"request_throughput": {"unit": "requests/min", "avg": 5.0}},
            "'requests/min', not a second",
        ),
        (AIPERF, {"request_latency": {"unit": [], "avg": 5.0}}, "no unit of time"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(changed, source, change, words):
    """What is no count, below zero, or of another unit is named with its field."""
    with pytest.raises(InputError, match=re.escape(words)):
        read_file(changed(source, lambda data: data.update(change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.update(start_time=1e20), "start_time: 1e+20 is no time"),
        (
            lambda one: one["requests"]["successful"].__setitem__(1, None),
            "requests.successful.1 is a NoneType",
        ),
        (
            lambda one: one["requests"]["successful"][2]["info"]["timings"].update(request_start=1e12),
            "requests.successful.2: its times are out of order",
        ),
    ],
)
def test_guidellm_requests_that_cannot_be_are_refused_by_number(changed, change, words):
    """A request that is none, or that ended before it began, is named."""
    with pytest.raises(InputError, match=re.escape(words)):
        read_file(changed(GUIDELLM, lambda data: change(data["benchmarks"][0])))


def test_goodput_is_read_under_its_misspelt_name_too(changed):
    """Earlier releases of vLLM wrote "request_goodput:", with the colon."""

    def misspelt(data: dict[str, Any]) -> None:
        plain(data)
        del data["request_goodput"]
        data["request_goodput:"] = 3.5

    (run,) = read_file(changed(BENCH, misspelt)).runs
    assert run.metrics["request_goodput"] == 3.5


def test_what_vllm_bench_serve_counts_and_perfgate_does_not_is_named():
    """Deviations, counts per whole second, and the Rust client's own steady state are told to be left out."""
    (line,) = read_file(DATA / "vllm-rs-bench-serve-detailed.json").refused
    assert line == (
        "input_throughput, max_output_tokens_per_s, max_concurrent_requests, rtfx, std_ttft_ms, std_tpot_ms, std_itl_ms, std_e2el_ms,"
        " steady_state: perfgate has no such metric"
    )


def test_sglangs_results_are_not_taken_for_vllms(changed):
    """SGLang's bench_serving has the same fields with definitions of its own."""
    with pytest.raises(InputError, match="of no tool that perfgate knows"):
        read_file(changed(BENCH, lambda data: data.update(total_output_tokens_retokenized=2000)))


def test_an_unbounded_rate_may_be_a_number(changed):
    """Infinity, as Python writes it, is the "inf" of vllm bench serve: a closed loop."""
    assert (
        read_file(changed(BENCH, lambda data: data.update(request_rate=math.inf))).workload["concurrency"]
        == 4
    )


def test_a_byte_order_mark_is_passed_over(tmp_path):
    """An editor's mark before the first brace changes nothing."""
    path = tmp_path / "marked.json"
    path.write_bytes(b"\xef\xbb\xbf" + BENCH.read_bytes())
    assert read_file(path).runs == read_file(BENCH).runs


def test_zeros_of_single_token_requests_are_absent(changed):
    """One output token has no TPOT; the tool's zero is not taken for a measurement."""

    def single(data: dict[str, Any]) -> None:
        plain(data)
        data.update({name: 0.0 for name in data if "tpot" in name or "itl" in name})

    (run,) = read_file(changed(BENCH, single)).runs
    assert not [name for name in run.metrics if "tpot" in name or "itl" in name]
    assert "mean_ttft_ms" in run.metrics


def test_guidellms_itl_is_tpot_here_and_its_tpot_is_nothing():
    """From its times: TTFT, (last − first)/(n − 1) as TPOT, rates over the whole run; its own TPOT and ITL are refused by name."""
    benchmark = json.loads(GUIDELLM.read_text())["benchmarks"][0]
    requests = benchmark["requests"]["successful"]
    found = read_file(GUIDELLM)
    (run,) = found.runs
    assert run.metrics["mean_ttft_ms"] == pytest.approx(
        np.mean([one["time_to_first_token_ms"] for one in requests])
    )
    assert run.metrics["mean_tpot_ms"] == pytest.approx(
        np.mean([one["inter_token_latency_ms"] for one in requests])
    )
    begin, end = (
        min(one["request_start_time"] for one in requests),
        max(one["request_end_time"] for one in requests),
    )
    assert run.metrics["output_throughput"] == pytest.approx(48 / (end - begin))
    assert not [name for name in run.metrics if "itl" in name or "scheduled" in name]
    assert any(reason.startswith("time_per_output_token_ms:") for reason in found.refused)
    assert found.workload["concurrency"] == 2
    assert found.workload["output_len"] == 8
    assert found.tool == "GuideLLM 0.8.1"


def test_guidellm_0_3_is_read_by_the_same_definitions(changed):
    """An earlier layout of the file: the same metrics from the times of every request, and a warm-up in it leaves no rate."""
    source = DATA / "guidellm-0.3-benchmarks.json"
    requests = json.loads(source.read_text())["benchmarks"][0]["requests"]["successful"]
    found = read_file(source)
    (run,) = found.runs
    for name, key in (("mean_ttft_ms", "time_to_first_token_ms"), ("mean_tpot_ms", "inter_token_latency_ms")):
        assert run.metrics[name] == pytest.approx(np.mean([one[key] for one in requests]))
    assert (found.tool, found.model) == ("GuideLLM", "scripted")
    assert found.workload | {"concurrency": 2, "output_len": 8, "num_prompts": 6} == found.workload
    warmed = changed(source, lambda data: data["benchmarks"][0]["args"].update(warmup_number=2))
    assert all(name.endswith("_ms") for name in read_file(warmed).runs[0].metrics)


def test_guidellms_summary_gives_only_means_that_cannot_differ(changed):
    """Without the times of all requests: no percentile, no rate, and a token-weighed mean only where all weights are equal."""

    def sampled(data: dict[str, Any]) -> None:
        del data["benchmarks"][0]["requests"]["successful"][2:]

    def uneven(data: dict[str, Any]) -> None:
        sampled(data)
        data["benchmarks"][0]["metrics"]["output_token_count"]["successful"]["max"] = 9.0

    (run,) = read_file(changed(GUIDELLM, sampled)).runs
    assert set(run.metrics) == {"mean_ttft_ms", "mean_tpot_ms"}
    found = read_file(changed(GUIDELLM, uneven))
    assert set(found.runs[0].metrics) == {"mean_ttft_ms"}
    assert any("weighs it by tokens" in reason for reason in found.refused)


def test_guidellms_cut_off_ends_leave_no_rate(changed):
    """With a warm-up cut off the whole run is not in the file, so no throughput is."""
    found = read_file(changed(GUIDELLM, lambda data: data["benchmarks"][0].update(warmup_duration=5.0)))
    assert found.runs[0].metrics
    assert all(name.endswith("_ms") for name in found.runs[0].metrics)


def test_aiperfs_own_token_counts_are_not_believed_against_the_servers():
    """It counted 144 tokens where the server says 48: latencies stay, whatever is divided by tokens is refused with both numbers."""
    found = read_file(AIPERF)
    (run,) = found.runs
    assert not [
        name for name in run.metrics if "tpot" in name or "token" in name or name == "output_throughput"
    ]
    assert {"mean_ttft_ms", "mean_itl_ms", "p99_e2el_ms", "request_throughput"} <= set(run.metrics)
    assert found.refused == (
        "TPOT and tok/s: AIPerf counted 144 output tokens with its own tokenizer, the server says 48",
        "output_token_throughput_per_user, output_sequence_length, total_isl: perfgate has no such metric",
    )


def test_aiperfs_itl_is_tpot_and_its_chunk_gap_is_itl(changed):
    """Where its count is the server's, its ITL is taken as TPOT and its inter-chunk latency as ITL."""
    recorded = json.loads(AIPERF.read_text())
    (run,) = read_file(changed(AIPERF, lambda data: data["total_osl"].update(avg=48.0))).runs
    assert run.metrics["mean_tpot_ms"] == recorded["inter_token_latency"]["avg"]
    assert run.metrics["p99_itl_ms"] == recorded["inter_chunk_latency"]["p99"]
    assert run.metrics["output_throughput"] == recorded["output_token_throughput"]["avg"]


def test_aiperfs_units_are_read_and_not_assumed(changed):
    """A latency in seconds becomes milliseconds; a unit of something else is refused."""
    (run,) = read_file(changed(AIPERF, lambda data: data["request_latency"].update(unit="sec", avg=0.5))).runs
    assert run.metrics["mean_e2el_ms"] == 500.0
    with pytest.raises(InputError, match="'parsec', no unit of time"):
        read_file(changed(AIPERF, lambda data: data["request_latency"].update(unit="parsec")))


@pytest.mark.parametrize(
    ("load", "known"),
    [
        ({"concurrency": 2}, {"concurrency": 2}),
        ({"request_rate": 5.0, "concurrency": 8}, {"request_rate": 5.0, "max_concurrency": 8}),
    ],
)
def test_aiperfs_earlier_configuration_is_read_too(changed, load, known):
    """Up to 0.8 the model's name was the endpoint's, and the load was one table."""
    config = {"endpoint": {"model_names": ["scripted"], "type": "chat"}, "loadgen": load}
    found = read_file(changed(AIPERF, lambda data: data.update(input_config=config)))
    assert found.model == "scripted"
    assert found.workload | known | {"api": "chat"} == found.workload


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"was_cancelled": True}, "cancelled"),
        ({"is_complete": False, "incomplete_reason": "stalled"}, "stalled"),
        ({"error_request_count": {"unit": "requests", "avg": 2.0}}, "6 of 8 requests succeeded"),
    ],
)
def test_an_aiperf_run_that_says_it_is_not_whole_is_invalid(changed, change, reason):
    """Cancelled, incomplete or with errors: no metrics, and its own reason."""
    (run,) = read_file(changed(AIPERF, lambda data: data.update(change))).runs
    assert run.metrics == {}
    assert reason in run.invalid[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("not json", "line 1: not JSON"),
        ("[" * 100_000, "not JSON"),
        ("17", "holds a int"),
        ('{"hello": 1}', "of no tool that perfgate knows (its fields begin: hello)"),
        ('{"mean_ttft_ms": 1, "completed": 3, "duration": null}', "duration is missing"),
        ('{"mean_ttft_ms": NaN, "completed": 3, "duration": 1}', "no finite number"),
        ('{"mean_ttft_ms": -4, "completed": 3, "duration": 1}', "mean_ttft_ms"),
        ('{"mean_ttft_ms": "4", "completed": 3, "duration": 1}', "'4' is no finite number"),
        ('{"metadata": {}, "benchmarks": []}', "benchmarks is empty"),
        ('{"metadata": {}, "benchmarks": [3]}', "benchmarks.0 is no object"),
        ('{"metadata": {}, "benchmarks": [{"metrics": {}}]}', "successful is missing"),
        ('{"aiperf_version": "1", "request_latency": 5}', "request_latency is a int"),
    ],
    ids=range(13),
)
def test_a_file_that_is_none_is_refused_with_file_and_field(tmp_path, content, words):
    """Whatever is in the file, the message names it and what is wrong."""
    path = tmp_path / "given.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_file(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message


def test_a_missing_file_is_a_message(tmp_path):
    """No such file is said, without a traceback."""
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_file(tmp_path / "none.json")


def test_a_file_of_several_workloads_is_refused(tmp_path):
    """Runs of different workloads are never mixed into one measurement."""
    one = json.loads(BENCH.read_text())
    other = copy.deepcopy(one)
    other["max_concurrency"] = 8
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(one) + "\n" + json.dumps(other))
    with pytest.raises(InputError, match="line 2: another tool, model or workload"):
        read_file(path)


CELL = "--cell=h100/tiny/default/chat"


@pytest.mark.parametrize(("factor", "status", "word"), [(1.0, 3, "PASS"), (1.3, 1, "REGRESSION")])
def test_existing_recordings_are_judged(changed, tmp_path, capsys, factor, status, word):
    """Five recordings a side, taken in turn: the same TTFT passes, one 30% longer is a regression; what has no noise model stays open."""

    def recording(side: str, number: int, scale: float) -> str:
        def change(data: dict[str, Any]) -> None:
            plain(data)
            for name in data:
                if name.endswith("_ttft_ms"):
                    data[name] *= scale * (1 + 0.002 * number)

        path = changed(BENCH, change)
        return str(path.rename(tmp_path / f"{side}-{number}.json"))

    machine = Fingerprint(gpu_name="NVIDIA H100", gpu_count=1)
    one = {"metric": "mean_ttft_ms", "concurrency": "2-4", "prior_df": 20.0, "prior_variance": 2e-4}
    one |= {"boot_variance": 2e-4, "session_variance": 0.0, "session_variance_upper": 0.0}
    one |= {"cells": 5, "sessions": 4, "boots": 40, "runs": 40}
    write_noise(
        tmp_path / "noise.json",
        NoiseModel(
            gpu="h100",
            fitted=datetime(2026, 1, 1, tzinfo=UTC),
            perfgate="0",
            sources=("a",),
            hardware=machine.hardware(),
            classes=(NoiseClass.model_validate(one),),
        ),
    )
    for side, scale in (("old", 1.0), ("new", factor)):
        files = [recording(side, number, scale) for number in range(5)]
        target = f"--json={tmp_path / side}.json"
        assert main(["import", *files, CELL, "--gpu-name=NVIDIA H100", "--gpu-count=1", target]) == 0
    capsys.readouterr()
    given = [str(tmp_path / "old.json"), str(tmp_path / "new.json"), f"--noise={tmp_path / 'noise.json'}"]
    found = main(["compare", "--interleaved", *given])
    line = next(text for text in capsys.readouterr().out.splitlines() if "mean TTFT" in text)
    assert word in line
    assert found == status


def test_the_command_writes_results_and_a_baseline_with_what_was_told(tmp_path, capsys):
    """Two files are two boots of one cell; the baseline says where it comes from, and is never changed by a second import."""
    results, baselines = tmp_path / "results.json", tmp_path / "baselines"
    arguments = ["import", str(BENCH), str(BENCH), CELL, "--gpu-name=NVIDIA H100", "--vllm-version=0.32.0"]
    assert main([*arguments, f"--json={results}", f"--baselines={baselines}"]) == 0
    (measurement,) = read_results(results).measurements
    assert [len(boot.runs) for boot in measurement.boots] == [1, 1]
    assert measurement.fingerprint.gpu_name == "NVIDIA H100"
    cell = Cell(gpu="h100", model="tiny", server="default", workload="chat")
    stored = DirectoryStore(baselines).read(cell).baseline
    assert stored.provenance.source.startswith("vllm bench serve: ")
    assert stored.replicates("mean_ttft_ms") == ((94.27360128124462,),) * 2
    capsys.readouterr()
    assert main([*arguments, f"--baselines={baselines}"]) == 2
    assert capsys.readouterr().err.startswith("perfgate import: ")
    with pytest.raises(BaselineConflictError):
        DirectoryStore(baselines).write(stored, replacing=None)


def test_an_invalid_run_is_shown_and_never_becomes_a_baseline(changed, tmp_path, capsys):
    """Exit status 2, the reason printed, kept in results, refused as a baseline."""
    path = changed(BENCH, lambda data: (plain(data), data.update(completed=0, failed=32)))
    assert main(["import", str(path)]) == 2
    assert "INVALID: no request succeeded" in capsys.readouterr().out
    assert main(["import", str(path), CELL, f"--baselines={tmp_path / 'baselines'}"]) == 2
    assert "never becomes part of a baseline" in capsys.readouterr().err
    assert not (tmp_path / "baselines").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell=a/b"], "--cell 'a/b'"),
        (["--baselines=somewhere"], "--baselines without --cell"),
        ([str(AIPERF)], "another model or workload"),
        (["--gpu-count=0"], "--gpu-count 0"),
    ],
)
def test_bad_input_of_the_command_is_a_message(arguments, words, capsys):
    """What was given and what to write, with status 2."""
    assert main(["import", str(BENCH), *arguments]) == 2
    assert words in capsys.readouterr().err
