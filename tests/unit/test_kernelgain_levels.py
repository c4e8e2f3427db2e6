"""Both levels of a change from measurements: shares, expectations and verdicts by workload, and how they are shown."""

from datetime import UTC, datetime

import pytest

from perfgate.changes import ChangeSpec
from perfgate.errors import CoverageError, InputError
from perfgate.experiment.kernelgain import (
    ReplayedClock,
    _called,
    bench_kernel,
    finding,
    judge_workload,
    load_change,
)
from perfgate.iterations import bucket_name
from perfgate.kernelgain import kernel_level, measured_slowdown, share_of_time
from perfgate.metrics import METRICS
from perfgate.noise import NoiseClass, NoiseModel
from perfgate.records import BootRecord, Fingerprint, Measurement, RunRecord
from perfgate.report import kernelgain as report
from perfgate.selection import Request, select
from perfgate.verdict import boot_means

RATE = METRICS["output_throughput"]
TARGET = select(Request(gpu="gb10", servers=("production-v1",), workloads=("decode",)))[0]
CHANGE = ChangeSpec.model_validate(
    {
        "name": "tile",
        "text": "Larger tiles",
        "old": {"server": "a"},
        "new": {"server": "b"},
        "workloads": ["decode"],
        "kernel": "tests.kernel:make",
    },
    strict=False,
)
DECODE_S, PREFILL_S = 100e-6, 2e-3
"""One call of the old kernel at 1 and at 512 tokens."""
STEPS, PREFILLS = 10_000.0, 20.0
HISTOGRAM = {
    bucket_name("1.0"): STEPS,
    bucket_name("256.0"): STEPS,
    bucket_name("512.0"): STEPS + PREFILLS,
    bucket_name("+Inf"): STEPS + PREFILLS,
    "vllm:iteration_tokens_total_sum": STEPS + 512 * PREFILLS,
}


def measurement(*factors: float) -> Measurement:
    """Boots of one stream; a run of 20 requests takes 20 s times the boot's factor, of which decode steps 2 ms each."""
    boots = tuple(
        BootRecord(
            id=f"boot-{number}",
            runs=(
                RunRecord(
                    requests=20,
                    duration_s=20.0 * factor,
                    metrics={
                        "output_throughput": 500.0 / factor,
                        "mean_tpot_ms": 2.0 * factor,
                        "mean_ttft_ms": 25.0 * factor,
                    },
                    server=HISTOGRAM,
                ),
            ),
        )
        for number, factor in enumerate(factors)
    )
    return Measurement(
        cell=TARGET.cell,
        fingerprint=Fingerprint(),
        server={},
        workload=TARGET.workload.model_dump(mode="json"),
        boots=boots,
    )


def times(speedup: float):
    """Four processes a side; the kernel at 512 tokens stays as it is."""
    spread = (0.99, 1.0, 1.01, 1.0)
    return {
        1: ([DECODE_S * x for x in spread], [DECODE_S / speedup * x for x in spread]),
        512: ([PREFILL_S * x for x in spread], [PREFILL_S * x for x in spread]),
    }


OLD = (1.0, 1.005, 0.995, 1.0)


def judged(new: tuple[float, ...], *, speedup: float = 2.0, calls: int = 10):
    old = measurement(*OLD)
    change = CHANGE.model_copy(update={"calls": calls})
    steps = _called(change, TARGET, old.boots)
    return judge_workload(TARGET, old, measurement(*new), steps, times(speedup), change=change)


def test_the_share_and_the_promise_are_those_of_the_steps():
    """10,000 steps × 10 calls × 0.1 ms and 20 prefills × 10 × 2 ms are 10.4 s of 20 s; twice as fast decodes promise a quarter less."""
    found = judged((0.75, 0.754, 0.746, 0.75))
    rate, tpot, ttft = found.gains
    assert rate.share.estimate == pytest.approx(10.4 / 20, rel=0.01)
    assert rate.expected.estimate == pytest.approx(-0.25, abs=0.01)
    assert tpot.share.estimate == pytest.approx(0.5, rel=0.01)
    assert ttft.share.estimate == pytest.approx(0.8, rel=0.01)
    assert ttft.share.lower < ttft.share.estimate < ttft.share.upper == 1.0
    assert [gain.arrival for gain in (rate, tpot)] == ["reaches serving", "reaches serving"]
    assert rate.expected.lower <= rate.measured.estimate <= rate.expected.upper


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ((1.0, 1.002, 0.998, 1.0), "evaporates"),
        ((1.1, 1.102, 1.098, 1.1), "backfires"),
        ((0.6, 1.4, 0.8, 1.2), "undecided"),
    ],
)
def test_what_becomes_of_a_kernel_twice_as_fast(new, expected):
    """Serving that stays as it is, gets slower, or cannot be told: the same kernel, three verdicts."""
    assert judged(new).gains[0].arrival == expected


def test_a_kernel_that_is_not_faster_promises_nothing():
    """Where the kernel itself did not change, a faster server is not its doing."""
    assert judged((0.75, 0.754, 0.746, 0.75), speedup=1.0).gains[0].arrival == "undecided"


def test_more_kernel_time_than_there_was_is_an_error():
    """A number of calls that cannot be is refused, not turned into a share of 100%."""
    with pytest.raises(InputError, match="of the serving time"):
        judged(OLD, calls=40)


def test_a_kernel_that_was_not_timed_leaves_what_serving_shows():
    """Without times there is no promise, but a server that gets slower by 10% still backfires, and the tables say what is missing."""
    old, new = measurement(*OLD), measurement(1.1, 1.102, 1.098, 1.1)
    steps = _called(CHANGE, TARGET, old.boots)
    found = judge_workload(TARGET, old, new, steps, {}, change=CHANGE)
    assert found.kernel is None
    assert {gain.arrival for gain in found.gains} == {"backfires"}
    made = finding(CHANGE, "gb10", [found], {}, problem="out of memory")
    for text in (report.table(made), report.markdown(made)):
        assert "could not be timed: out of memory" in text
        assert "not measured" in text
        assert "backfires" in text


@pytest.mark.parametrize("workloads", [1, 3])
def test_each_look_of_a_change_has_its_part_of_the_error(workloads):
    """With three metrics a workload, serving has confidence 1 − 0.05/k and the kernel 1 − 0.05/2k, over all workloads of the change."""
    names = [f"w{number}" for number in range(workloads)]
    change = CHANGE.model_copy(update={"calls": 10, "workloads": tuple(names)})
    old, new = measurement(*OLD), measurement(0.75, 0.754, 0.746, 0.75)
    steps = _called(change, TARGET, old.boots)
    error = 0.05 / (3 * workloads)
    gain = judge_workload(TARGET, old, new, steps, times(2.0), change=change).gains[0]
    kept = [boot_means(one.replicates("output_throughput")) for one in (old, new)]
    assert gain.confidence == 1 - error
    assert gain.measured == measured_slowdown(RATE, *kept, confidence=1 - error)
    assert gain.kernel == kernel_level(steps.sizes, times(2.0), calls=10, confidence=1 - error / 2).speedup


@pytest.mark.parametrize(("hardware", "borrowed"), [("here", True), ("elsewhere", False)])
def test_the_noise_model_of_the_same_hardware_lends_its_variance(hardware, borrowed):
    """One boot a side has an interval where a noise model of the same hardware lends one, and the tables say so."""
    lent = NoiseClass(
        metric="output_throughput",
        concurrency="1",
        prior_df=20.0,
        prior_variance=0.01**2,
        boot_variance=0.01**2,
        session_variance=0.0,
        session_variance_upper=0.0,
        cells=5,
        sessions=4,
        boots=40,
        runs=40,
    )
    here = measurement(1.0).fingerprint.hardware()
    noise = NoiseModel(
        gpu="gb10",
        fitted=datetime(2026, 1, 1, tzinfo=UTC),
        perfgate="0",
        sources=("a",),
        hardware=here if hardware == "here" else ("another",),
        classes=(lent,),
    )
    old = measurement(1.0)
    change = CHANGE.model_copy(update={"calls": 10})
    steps = _called(change, TARGET, old.boots)
    found = judge_workload(TARGET, old, measurement(0.75), steps, times(2.0), change=change, noise=noise)
    assert (found.gains[0].borrowed, found.gains[0].measured.known) == (borrowed, borrowed)
    for text in (report.table, report.markdown):
        said = text(finding(change, "gb10", [found], times(2.0)))
        assert "intervals of serving at 98.33%, for 3 metrics together" in said
        assert ("the noise model lends" in said) is borrowed


@pytest.mark.parametrize("new", [(0.75, 0.754, 0.746, 0.75), (1.0, 1.002, 0.998, 1.0)])
def test_nothing_arrives_or_evaporates_that_was_not_timed(new):
    """A server that gets faster by a quarter, or that stays as it is, says nothing of a kernel without times."""
    old = measurement(*OLD)
    steps = _called(CHANGE, TARGET, old.boots)
    found = judge_workload(TARGET, old, measurement(*new), steps, {}, change=CHANGE)
    assert {(gain.arrival, gain.reason) for gain in found.gains} == {
        ("undecided", "the kernel was not timed")
    }


def test_a_metric_without_the_kernel_does_not_keep_its_gain_from_evaporating():
    """The TTFT of a kernel that only decode steps call is left out of what the change is judged by, but for a loss."""
    change = CHANGE.model_copy(update={"calls": 10, "steps": "decode"})
    old = measurement(*OLD)
    called = _called(change, TARGET, old.boots)
    for new, expected in (
        ((1.0, 1.002, 0.998, 1.0), ("evaporates", "evaporates")),
        ((1.1, 1.102, 1.098, 1.1), ("backfires", "backfires", "backfires")),
    ):
        found = judge_workload(TARGET, old, measurement(*new), called, times(2.0), change=change)
        assert finding(change, "gb10", [found], times(2.0)).arrivals == expected


@pytest.mark.parametrize(("steps", "share"), [("prefill", 0.4 / 20), ("decode", 10.0 / 20)])
def test_a_kernel_has_a_share_only_of_the_steps_that_call_it(steps, share):
    """Of 20 s, 10 calls in each of 20 prefills are 0.4 s and in each of 10,000 decode steps 10 s."""
    change = CHANGE.model_copy(update={"calls": 10, "steps": steps})
    old = measurement(*OLD)
    called = _called(change, TARGET, old.boots)
    assert [size.tokens > 1 for size in called.sizes] == [steps == "prefill"]
    found = judge_workload(TARGET, old, old, called, times(2.0), change=change)
    assert found.gains[0].share.estimate == pytest.approx(share, rel=0.01)
    timed = [gain.metric for gain in found.gains if gain.decides]
    assert timed == [gain.metric for gain in found.gains if gain.expected is not None]
    assert timed == ["output_throughput", "mean_ttft_ms" if steps == "prefill" else "mean_tpot_ms"]


def test_the_share_of_one_boot_has_no_interval():
    """One boot leaves the share anywhere between nothing and everything."""
    found = share_of_time([5.0], [20.0])
    assert (found.estimate, found.lower, found.upper) == (0.25, 0.0, 1.0)
    with pytest.raises(InputError, match="0 boots"):
        share_of_time([], [])


def test_both_levels_are_in_both_tables():
    """Terminal and Markdown show sizes, steps, both times, share, expectation, measurement and verdict."""
    gain = judged((1.0, 1.002, 0.998, 1.0))
    made = finding(CHANGE, "gb10", [gain], times(2.0))
    for text in (report.table(made), report.markdown(made)):
        for said in (
            "40,000",
            "100.0 µs",
            "50.0 µs",
            "+100.0%",
            "257–512",
            "52.0%",
            "-25.0%",
            "evaporates",
        ):
            assert said in text


def test_kernels_of_a_container_are_not_timed_from_outside():
    """A docker server's Python cannot be started here, and the message says what to do."""
    with pytest.raises(InputError, match=r"started by docker") as raised:
        bench_kernel(CHANGE, (TARGET, TARGET), [1])
    assert "local launcher" in raised.value.remedy


@pytest.mark.parametrize("name", ["tuned-moe", "gdn-triton-prefill", "moe-tiles-8l", "gdn-prefill-8l"])
def test_the_shipped_changes_can_be_read(name, tmp_path):
    """Each names a factory that exists."""
    from importlib import import_module

    change = load_change(tmp_path, (), name)
    module, _, function = change.kernel.partition(":")
    assert callable(getattr(import_module(module), function))


def test_the_clock_replays_what_was_measured_elsewhere():
    """Each round goes on by the next recorded time, so pytest-benchmark stores the GPU's seconds and not its own."""
    clock = ReplayedClock()
    feed = clock.feeding([0.5, 0.25])
    seen = []
    for _ in range(2):
        feed()
        before = clock()
        clock.take()
        seen.append(clock() - before)
    assert seen == [0.5, 0.25]


def test_a_kernel_that_cannot_be_timed_is_an_error_not_a_number():
    """A process that fails (no such factory, no GPU) ends the measurement with what it said."""
    (target,) = select(Request(gpu="cpu", servers=("tiny",), workloads=("cpu-decode",)))
    with pytest.raises(CoverageError, match=r"left no answer") as raised:
        bench_kernel(CHANGE, (target, target), [1])
    assert raised.value.remedy.startswith("Its last output:")


def test_a_kernel_is_found_without_a_gpu(tmp_path, monkeypatch):
    """With no sizes a process of each side imports the factory alone, and one that is misspelt is named as Python names it."""
    (tmp_path / "elsewhere.py").write_text("def make(tokens, *, model): raise SystemExit\n")
    (tmp_path / "torch.py").write_text("raise SystemExit\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (target,) = select(Request(gpu="cpu", servers=("tiny",), workloads=("cpu-decode",)))
    assert bench_kernel(CHANGE.model_copy(update={"kernel": "elsewhere:make"}), (target, target), ()) == {}
    with pytest.raises(CoverageError) as raised:
        bench_kernel(CHANGE.model_copy(update={"kernel": "elsewhere:mke"}), (target, target), ())
    assert "no attribute 'mke'" in raised.value.remedy


def test_a_kernel_is_timed_in_the_environment_of_its_server(tmp_path, monkeypatch):
    """The process finds modules where the server would, sees the device that it is given, and a relative folder as an absolute one."""
    (tmp_path / "elsewhere.py").write_text(
        "import os\n"
        "names = ('CUDA_VISIBLE_DEVICES', 'CUDA_DEVICE_ORDER', 'VLLM_TUNED_CONFIG_FOLDER', 'TRITON_CACHE_DIR')\n"
        "def make(tokens, *, model):\n"
        "    raise SystemExit('; '.join(f'{name}={os.environ.get(name)}' for name in names))\n"
    )
    # The clock of this machine stands in for a GPU's: the factory ends the process before anything is launched.
    (tmp_path / "torch.py").write_text("int8 = None\ndef empty(*_, **__): return None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    request = Request(
        gpu="cpu",
        servers=("tiny",),
        workloads=("cpu-decode",),
        env=("VLLM_TUNED_CONFIG_FOLDER=./moe",),
    )
    (target,) = select(request)
    change = CHANGE.model_copy(update={"kernel": "elsewhere:make"})
    with pytest.raises(CoverageError) as raised:
        bench_kernel(change, (target, target), [1], device="3")
    said = raised.value.remedy
    assert "CUDA_VISIBLE_DEVICES=3; CUDA_DEVICE_ORDER=PCI_BUS_ID" in said
    assert f"VLLM_TUNED_CONFIG_FOLDER={tmp_path}/moe" in said
    assert "/0/triton" in said
