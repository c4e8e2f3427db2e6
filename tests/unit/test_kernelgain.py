"""From kernel times and engine steps to a verdict about serving."""

import math
from pathlib import Path

import numpy as np
import pytest

from perfgate.baseline import DirectoryStore
from perfgate.errors import InputError
from perfgate.iterations import BatchSize, iterations
from perfgate.kernelgain import (
    Range,
    expected_slowdown,
    judge_gain,
    kernel_level,
    measured_slowdown,
)
from perfgate.metrics import METRICS
from perfgate.records import Cell
from perfgate.server.api import parse_counters
from perfgate.statistics.interval import Prior
from perfgate.verdict import boot_means

REPOSITORY = Path(__file__).resolve().parents[2]
H100 = REPOSITORY / "tests/data/h100-0.25.1-compiled.iterations.txt"


def exactly(value: float) -> Range:
    return Range(estimate=value, lower=value, upper=value)


def size(tokens: int, steps: float) -> BatchSize:
    return BatchSize(tokens=tokens, steps=steps, lower=tokens, upper=tokens)


def test_the_batch_sizes_of_a_real_server_add_up_to_what_it_counted():
    """An H100's page gives decode steps of 1, a few and 16 sequences and long prefills; together the tokens it counted."""
    found = iterations([parse_counters(H100.read_text())])
    assert found.fits
    assert found.steps == 24675
    assert found.tokens == 869439
    assert [(one.lower, one.upper, one.steps) for one in found.sizes] == [
        (1, 1, 11535), (2, 8, 8409), (9, 16, 4581), (513, 1024, 21), (2049, 4096, 45), (4097, 8192, 12), (8193, 16384, 72),
    ]  # fmt: skip
    assert all(one.lower <= one.tokens <= one.upper for one in found.sizes)
    assert sum(one.tokens * one.steps for one in found.sizes) == pytest.approx(found.tokens, rel=0.05)


def test_steps_are_summed_over_runs_and_engines():
    """Two runs of one engine, and two engines on one page, count together."""
    page = H100.read_text()
    twice = page + page.replace('engine="0"', 'engine="1"')
    once = iterations([parse_counters(page)])
    for both in (iterations([parse_counters(page)] * 2), iterations([parse_counters(twice)])):
        assert both.steps == 2 * once.steps
        assert [one.tokens for one in both.sizes] == [one.tokens for one in once.sizes]


@pytest.mark.parametrize(
    ("tokens", "fits", "sizes"), [(40.0, True, (4,)), (1e6, False, (8,)), (0.0, False, (2,))]
)
def test_sizes_stay_inside_their_bucket(tokens, fits, sizes):
    """A sum that no sizes of the bucket can give is said not to fit, and the nearest end stands for it."""
    found = iterations(
        [
            {
                "vllm:iteration_tokens_total_bucket le=1.0": 0.0,
                "vllm:iteration_tokens_total_bucket le=8.0": 10.0,
                "vllm:iteration_tokens_total_bucket le=+Inf": 10.0,
                "vllm:iteration_tokens_total_sum": tokens,
            }
        ]
    )
    assert found.fits is fits
    assert tuple(one.tokens for one in found.sizes) == sizes


@pytest.mark.parametrize(
    ("counted", "message"),
    [
        ({}, "no engine step"),
        ({"vllm:iteration_tokens_total_bucket le=+Inf": 0.0}, "no engine step"),
        (
            {
                "vllm:iteration_tokens_total_bucket le=1.0": 5.0,
                "vllm:iteration_tokens_total_bucket le=8.0": 3.0,
                "vllm:iteration_tokens_total_bucket le=+Inf": 5.0,
            },
            "fewer steps",
        ),
    ],
)
def test_no_histogram_is_an_error(counted, message):
    """Without steps, or with buckets that shrink, there are no batch sizes to guess."""
    with pytest.raises(InputError, match=message):
        iterations([counted])


def test_the_speedup_is_that_of_the_steps_serving_made():
    """Twice as fast where 90% of the time goes and half as fast in the rest: 1/(0.9/2 + 0.1·2)."""
    times = {1: ([0.9], [0.45]), 100: ([0.1], [0.2])}
    found = kernel_level([size(1, 10), size(100, 10)], times)
    assert found.speedup.estimate == pytest.approx(1 / 0.65)
    assert found.seconds_old == pytest.approx(10.0)
    assert found.by_size == pytest.approx({1: 2.0, 100: 0.5})
    assert not found.speedup.known


@pytest.mark.parametrize("processes", [2, 4])
def test_the_speedup_interval_covers_as_often_as_promised(processes):
    """With a process effect of 3% that all its sizes share, the 97.5% interval of 2000 measurements covers the truth in 96.5% at least."""
    random = np.random.default_rng(3)
    sizes = [size(1, 1000), size(16, 500), size(64, 200), size(512, 50), size(4096, 10)]
    truth = {
        1: (1e-4, 0.8e-4),
        16: (2e-4, 1.9e-4),
        64: (5e-4, 5e-4),
        512: (2e-3, 1e-3),
        4096: (1e-2, 1e-2),
    }
    total = [sum(one.steps * truth[one.tokens][side] for one in sizes) for side in (0, 1)]
    covered = 0
    for _ in range(2000):
        shared = random.normal(0, 0.03, (2, processes))
        times = {
            tokens: tuple(
                (both[side] * np.exp(shared[side] + random.normal(0, 0.002, processes))).tolist()
                for side in (0, 1)
            )
            for tokens, both in truth.items()
        }
        found = kernel_level(sizes, times).speedup
        covered += found.lower <= total[0] / total[1] <= found.upper
    assert covered / 2000 >= 0.965


def test_more_sizes_are_no_more_replicates():
    """A kernel that takes the same time at five sizes has the interval that it has at one of them."""
    old, new = [1.0, 1.02], [0.8, 0.83]
    one = kernel_level([size(1, 5)], {1: (old, new)}).speedup
    five = kernel_level([size(n, 1) for n in range(1, 6)], dict.fromkeys(range(1, 6), (old, new))).speedup
    assert (five.lower, five.upper) == pytest.approx((one.lower, one.upper))


def test_each_process_times_every_size():
    """Values that cannot be put together to processes are refused."""
    with pytest.raises(InputError, match="1 to 2 processes"):
        kernel_level([size(1, 1), size(2, 1)], {1: ([1.0, 1.0], [1.0, 1.0]), 2: ([1.0], [1.0, 1.0])})


@pytest.mark.parametrize(
    ("share", "speedup", "expected"),
    [
        (0.0, 5.0, 0.0),
        (1.0, 2.0, -0.5),
        (0.3, 1.5, -0.1),
        (0.3, 1.0, 0.0),
        (0.2, 0.5, 0.2),
        (0.3, math.inf, -0.3),
    ],
)
def test_amdahl(share, speedup, expected):
    """1 − f + f/s: no share gains nothing, all of it gains everything, and a slower kernel costs its share."""
    assert expected_slowdown(exactly(share), exactly(speedup)).estimate == pytest.approx(expected)


def test_the_expected_interval_contains_every_inner_combination():
    """No share and speed-up inside their intervals give a slowdown outside the corners', also across a speed-up of 1."""
    share, speedup = Range(estimate=0.2, lower=0.1, upper=0.4), Range(estimate=1.1, lower=0.9, upper=1.3)
    found = expected_slowdown(share, speedup)
    for f in np.linspace(0.1, 0.4, 7):
        for s in np.linspace(0.9, 1.3, 9):
            assert found.lower - 1e-12 <= -f + f / s <= found.upper + 1e-12


@pytest.mark.parametrize("share", [1.2, -0.1])
def test_an_impossible_share_is_an_error(share):
    """More kernel time than serving time is a contradiction, not a large gain."""
    with pytest.raises(InputError, match="between 0 and 1"):
        expected_slowdown(exactly(share), exactly(2.0))


RATE = METRICS["output_throughput"]


@pytest.mark.parametrize(
    ("expected", "measured", "arrival"),
    [
        ((-0.10, -0.08), (-0.11, -0.07), "reaches serving"),
        ((-0.10, -0.08), (-0.05, -0.03), "reaches serving"),
        ((-0.10, -0.08), (-0.04, 0.03), "evaporates"),
        ((-0.10, -0.08), (-0.09, 0.03), "undecided"),
        ((-0.02, -0.01), (-0.04, 0.03), "evaporates"),
        ((-0.02, -0.01), (-0.06, 0.03), "undecided"),
        ((-0.10, -0.08), (0.04, 0.08), "backfires"),
        ((-0.10, -0.08), (0.001, 0.02), "evaporates"),
        ((-0.10, 0.02), (-0.11, -0.07), "undecided"),
        ((-0.10, 0.02), (0.04, 0.08), "backfires"),
        (None, (-0.11, -0.07), "undecided"),
        (None, (-0.04, 0.03), "undecided"),
        (None, (0.04, 0.08), "backfires"),
        ((-0.10, -0.08), (-math.inf, math.inf), "undecided"),
    ],
)
def test_verdicts(expected, measured, arrival):
    """Each verdict follows from where the two intervals lie; the margin of tok/s is 5%, its tolerance 2%."""
    promise = (
        None if expected is None else Range(estimate=sum(expected) / 2, lower=expected[0], upper=expected[1])
    )
    middle = sum(measured) / 2 if math.isfinite(measured[0]) else 0.0
    found = judge_gain(
        "w", RATE, Range(estimate=middle, lower=measured[0], upper=measured[1]), expected=promise
    )
    assert found.arrival == arrival, found.reason


def test_a_throughput_that_falls_is_a_slowdown():
    """The slowdown of a throughput is the inverse of its ratio, with the interval's ends swapped."""
    prior = Prior(df=20, variance=0.01**2)
    found = measured_slowdown(RATE, [math.log(100)], [math.log(80)], prior=prior)
    assert found.estimate == pytest.approx(0.25)
    assert found.lower < 0.25 < found.upper


def test_times_must_fit_the_steps():
    """A size without times, or a time of zero, is an error that says so."""
    with pytest.raises(InputError, match="not timed at 16 tokens"):
        kernel_level([size(16, 1)], {1: ([1.0], [1.0])})
    with pytest.raises(InputError, match="above 0"):
        kernel_level([size(1, 1)], {1: ([0.0], [1.0])})


def test_a_metric_that_the_kernel_is_no_part_of_can_only_backfire():
    """A faster TTFT is not the doing of a kernel that no prefill calls, and says why; a slower one backfires all the same."""
    faster, slower = Range(estimate=-0.2, lower=-0.3, upper=-0.1), Range(estimate=0.2, lower=0.1, upper=0.3)
    found = judge_gain("w", RATE, faster, apart="no prefill step calls the kernel")
    assert (found.arrival, found.reason, found.decides) == (
        "undecided",
        "no prefill step calls the kernel",
        False,
    )
    assert judge_gain("w", RATE, slower, apart="no prefill step calls the kernel").arrival == "backfires"


def test_a_change_that_does_nothing_is_rarely_called_anything():
    """With nine metrics and three pairs of boots, 5% of 1000 changes of no effect backfire or reach serving somewhere, at most."""
    random = np.random.default_rng(5)
    promise = Range(estimate=-0.1, lower=-0.12, upper=-0.08)
    wrong = 0
    for _ in range(1000):
        found = set()
        for old, new in random.normal(0, 0.05, (9, 2, 3)):
            measured = measured_slowdown(RATE, old.tolist(), new.tolist(), confidence=1 - 0.05 / 9)
            found.add(judge_gain("w", RATE, measured, expected=promise).arrival)
        wrong += bool(found & {"backfires", "reaches serving"})
    assert wrong / 1000 <= 0.05


@pytest.mark.parametrize("spread", [0.015, 0.03])
@pytest.mark.parametrize(
    ("workload", "metric", "arrival", "excluded"),
    [
        ("prefill", "mean_ttft_ms", {0.015: "backfires", 0.03: "undecided"}, (0.015, 0.03)),
        ("prefill", "output_throughput", {}, (0.015,)),
        ("contention", "mean_ttft_ms", {}, (0.015, 0.03)),
        ("contention", "output_throughput", {}, ()),
        ("decode", "output_throughput", {}, ()),
    ],
)
def test_the_study_backfires_on_b_if_boots_vary_little(spread, workload, metric, arrival, excluded):
    """Phase 3 against 2.5a, one boot a side, five looks at a borrowed spread: B's TTFT backfires at 1.5%, and some gains are excluded."""
    store = DirectoryStore(REPOSITORY / "baselines")
    old, new = (
        boot_means(
            store.read(
                Cell(gpu="gb10", model="qwen3.5-35b-a3b-fp8", server=server, workload=workload)
            ).baseline.replicates(metric)
        )
        for server in ("study-2.5a", "study-3")
    )
    assert len(old) == len(new) == 1
    prior = Prior(df=20, variance=spread**2)
    measured = measured_slowdown(METRICS[metric], old, new, prior=prior, confidence=1 - 0.05 / 5)
    assert judge_gain(workload, METRICS[metric], measured).arrival == arrival.get(spread, "undecided")
    assert (-measured.lower < METRICS[metric].margin) is (spread in excluded)
