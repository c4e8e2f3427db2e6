"""The shipped baselines of the DGX Spark study against the study's figures, typed here a second time."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfgate.baseline import DirectoryStore
from perfgate.catalogue import load_catalogue
from perfgate.records import Baseline, Cell
from perfgate.server import ServerSpec
from perfgate.workload import WorkloadSpec

ROOT = Path(__file__).resolve().parents[2] / "baselines"
STORE = DirectoryStore(ROOT)
MODEL = "qwen3.5-35b-a3b-fp8"
PHASES = {
    "study-baseline": "baseline",
    "study-2": "2",
    "study-2.5a": "2.5a",
    "study-3": "3",
    "study-4": "4",
    "study-5a": "5a",
    "production-v1": "6",
    "production-v2": "7",
}
LETTERS = {"decode": "A", "prefill": "B", "contention": "C", "chat": "D"}
LENGTHS = {"A": (512, 512, 1), "B": (8192, 256, 4), "C": (2048, 512, 16), "D": (2048, 256, 2)}

# phase | A tok/s | A P99 TTFT | B mean TTFT | B tok/s | C mean TTFT | C tok/s | C P99 TPOT; a dash: the study does not say
MATRIX = """
baseline  48.92  -    4855  75.88  4828  208.04  -
2         49.76  -    5941  70.06  6893  197.67  -
2.5a      49.01  -    5249  71.73  5153  204.39  68.34
3         48.94  -    5776  69.96  5302  204.46  68.02
4         48.67  -    5744  -      5571  204.01  67.67
5a        30.02  -    7460  -      -     -       -
6         49.31  668  5170  73.33  4943  193.24  97.07
7         49.15  176  4935  -      4146  207.92  77.34
"""
COLUMNS = (
    ("A", "output_throughput"),
    ("A", "p99_ttft_ms"),
    ("B", "mean_ttft_ms"),
    ("B", "output_throughput"),
    ("C", "mean_ttft_ms"),
    ("C", "output_throughput"),
    ("C", "p99_tpot_ms"),
)
MORE = {
    ("baseline", "A", "mean_ttft_ms"): 190,
    ("baseline", "A", "mean_tpot_ms"): 20.11,
    ("baseline", "B", "mean_tpot_ms"): 33.87,
    ("baseline", "C", "mean_tpot_ms"): 67.61,
    ("6", "B", "p99_tpot_ms"): 39,
    ("6", "C", "p99_ttft_ms"): 5917,
    ("7", "B", "p99_tpot_ms"): 50,
    ("7", "C", "p99_ttft_ms"): (8269 + 5283) / 2,
    ("7", "D", "mean_ttft_ms"): 719,
    ("7", "D", "p99_ttft_ms"): 902,
    ("7", "D", "mean_tpot_ms"): 24.97,
    ("7", "D", "p99_tpot_ms"): 25.67,
    ("7", "D", "output_throughput"): 72.26,
}
SEEDS = {
    ("3", "B", "mean_ttft_ms"): {42: 5857.0, 123: 5678.0, 456: 5793.0},
    ("7", "C", "p99_ttft_ms"): {42: 8269.0, 123: 5283.0},
}
AVERAGES = {
    ("3", "B", "output_throughput"): 3,
    ("4", "B", "mean_ttft_ms"): 2,
    ("6", "B", "p99_tpot_ms"): 2,
    ("7", "B", "mean_ttft_ms"): 2,
    ("7", "B", "p99_tpot_ms"): 2,
    ("7", "C", "mean_ttft_ms"): 2,
    ("7", "C", "output_throughput"): 2,
    **{("7", "D", metric): 2 for phase, letter, metric in MORE if letter == "D"},
}

Key = tuple[str, str, str]


def figures() -> dict[Key, float]:
    """What the study says, by phase, workload letter and metric."""
    said = dict(MORE)
    for line in MATRIX.strip().splitlines():
        phase, *values = line.split()
        assert len(values) == len(COLUMNS)
        said |= {
            (phase, *column): float(value)
            for column, value in zip(COLUMNS, values, strict=True)
            if value != "-"
        }
    return said


def stored() -> dict[tuple[str, str], Baseline]:
    """The shipped baselines, by phase and workload letter."""
    return {
        (PHASES[cell.server], LETTERS[cell.workload]): STORE.read(cell).baseline
        for cell in STORE.cells()
        if cell.gpu == "gb10"
        if cell.gpu == "gb10"
    }


def test_every_figure_and_no_other() -> None:
    """The files hold every figure of the study's table, as the mean over its runs, and not one more."""
    found: dict[Key, float] = {}
    for (phase, letter), baseline in stored().items():
        for metric in {name for boot in baseline.boots for run in boot.runs for name in run.metrics}:
            ((*values,),) = baseline.replicates(metric)
            found[phase, letter, metric] = sum(values) / len(values)
    assert found == pytest.approx(figures(), abs=0.5 / 100, rel=0)


def test_one_replicate_is_one_replicate() -> None:
    """Each file is one boot; a value has several runs only where the study gives them one by one."""
    for (phase, letter), baseline in stored().items():
        assert len(baseline.boots) == 1
        for metric in {name for run in baseline.boots[0].runs for name in run.metrics}:
            runs = [run for run in baseline.boots[0].runs if metric in run.metrics]
            given = SEEDS.get((phase, letter, metric))
            if given is None:
                assert len(runs) == 1, (phase, letter, metric)
            else:
                assert {run.seed: run.metrics[metric] for run in runs} == given


def test_averages_say_so() -> None:
    """A value is marked as an average exactly where the study gives it as one, and such a run claims no seed."""
    marked = {
        (phase, letter, metric): run.averaged_over
        for (phase, letter), baseline in stored().items()
        for run in baseline.boots[0].runs
        for metric in run.metrics
        if run.averaged_over > 1 or run.seed is None
        if (phase, letter, metric)
        != ("7", "C", "p99_tpot_ms")  # not said whether it is an average: no seed, no mark
    }
    assert marked == AVERAGES


def test_seed_counted_once() -> None:
    """The one value that the study gives both alone and within a mean is kept as a note, and counted in the mean alone."""
    notes = stored()["3", "B"].provenance.notes
    assert any("69.32" in note for note in notes)


def test_provenance_and_machine() -> None:
    """Each file names the study as its source, the GPU as NVML writes it, and no version that the study does not give."""
    for (phase, _), baseline in stored().items():
        assert baseline.provenance.source == "DGX Spark tuning study, two days on one GB10 (2026-04)"
        assert baseline.fingerprint.hardware() == ("NVIDIA GB10", "1 GPU")
        assert baseline.fingerprint.driver is None
        known = None if phase == "baseline" else "0.19.1rc1.dev231+g9dd5ee011"
        assert baseline.fingerprint.vllm == known


def test_workloads() -> None:
    """Each file says the lengths and the concurrency of its workload letter."""
    for (_, letter), baseline in stored().items():
        work = baseline.workload
        assert (work["input_len"], work["output_len"], work["concurrency"]) == LENGTHS[letter]


def test_names_are_in_the_catalogues() -> None:
    """Every shipped baseline belongs to a model, a server and a workload of the catalogues, which ask for the same flags and work."""
    models, servers, workloads = (load_catalogue(kind) for kind in ("models", "servers", "workloads"))
    for cell in STORE.cells():
        baseline = STORE.read(cell).baseline
        assert cell.model in models
        work = workloads[cell.workload].parse(WorkloadSpec).model_dump(mode="json")
        assert {name: work[name] for name in baseline.workload} == baseline.workload
        entry = servers[cell.server].parse(ServerSpec).public()
        for table in ("args", "env"):
            given = baseline.server[table]
            assert {name: entry[table].get(name) for name in given} == given


def test_files_are_as_the_store_writes_them(tmp_path: Path) -> None:
    """Writing a shipped baseline again gives the same bytes, so that an update shows only what it changed."""
    copy = DirectoryStore(tmp_path)
    for cell in STORE.cells():
        copy.write(STORE.read(cell).baseline, replacing=None)
        assert copy.path(cell).read_bytes() == STORE.path(cell).read_bytes()


def test_the_cell_of_the_headline() -> None:
    """The three seeds that made the study's regression credible are stored raw, and their mean is what the study says."""
    ((*values,),) = STORE.read(
        Cell(gpu="gb10", model=MODEL, server="study-3", workload="prefill")
    ).baseline.replicates("mean_ttft_ms")
    assert values == [5857.0, 5678.0, 5793.0]
    assert sum(values) / 3 == 5776.0
