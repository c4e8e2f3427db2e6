"""Both levels of a change as an H100 measured them: its steps, kernel times and boots, judged again from the recording.

When it was recorded, decode and prefill were placed together, and the kernel was timed at 11 tokens for decode steps of 16. A bucket's
times stand for its steps here, wherever they are placed today.
"""

from pathlib import Path

import pytest

from perfgate.catalogue import load_catalogue
from perfgate.changes import ChangeSpec
from perfgate.experiment.kernelgain import _called, judge_workload
from perfgate.noise import NoiseModel
from perfgate.results import read_results
from perfgate.selection import Request, select

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDED = REPOSITORY / "tests" / "data" / "h100-0.25.1-moe-tiles.results.json"


@pytest.fixture(scope="module")
def recorded():
    """The session: MoE tiles of 16 × 32 before, vLLM's own after."""
    return read_results(RECORDED)


@pytest.fixture(scope="module")
def judged(recorded):
    """What the mechanism says of the recorded boots and times today, with the noise model of these GPUs, by workload."""
    stored = (REPOSITORY / "baselines" / "h100" / "noise.json").read_text()
    return judge(recorded, NoiseModel.model_validate_json(stored))


def judge(recorded, noise):
    change = load_catalogue("changes")["moe-tiles-8l"].parse(ChangeSpec)
    (kept,) = recorded.findings.changes
    timed = {
        (workload.workload, kernel.fewest): (kernel.old, kernel.new)
        for workload in kept.workloads
        for kernel in workload.kernel
    }
    found = {}
    for target in select(
        Request(gpu="h100", model=change.model, servers=("gdn-8l",), workloads=change.workloads)
    ):
        name = target.cell.workload
        new, old = sorted(
            (one for one in recorded.measurements if one.cell.workload == name),
            key=lambda one: len(one.server["env"]),
        )
        steps = _called(change, target, old.boots)
        times = {size.tokens: timed[name, size.lower] for size in steps.sizes}
        found[name] = judge_workload(target, old, new, steps, times, change=change, noise=noise)
    return found


def test_the_recording_is_judged_as_it_was(recorded, judged):
    """Kernel, expectation and verdict come out of the raw recording as they did on the GPU machine; there TPOT was pooled over boots."""
    (kept,) = recorded.findings.changes
    for workload in kept.workloads:
        today = {gain.metric: gain for gain in judged[workload.workload].gains}
        for then in workload.metrics:
            assert today[then.metric].arrival == then.arrival
            assert today[then.metric].kernel.estimate - 1 == pytest.approx(then.kernel.estimate, rel=1e-3)
            assert today[then.metric].expected.estimate == pytest.approx(then.expected.estimate, rel=0.03)
            assert today[then.metric].measured.estimate == pytest.approx(then.serving.estimate)


def test_a_gain_at_prefill_sizes_reaches_ttft_and_no_decode_step(judged):
    """Four times as fast at 2,600 tokens and more, as fast at 11: TTFT under contention gains, TPOT is not claimed to."""
    contention = {gain.metric: gain for gain in judged["contention-brief"].gains}
    assert contention["mean_ttft_ms"].arrival == "reaches serving"
    assert contention["mean_ttft_ms"].kernel.lower > 4
    assert (contention["mean_ttft_ms"].measured.lower, contention["mean_ttft_ms"].measured.upper) == (
        pytest.approx((-0.566, -0.302), abs=1e-3)
    )
    assert (contention["mean_ttft_ms"].confidence, contention["mean_ttft_ms"].borrowed) == (
        1 - 0.05 / 6,
        True,
    )
    assert contention["mean_tpot_ms"].arrival == "undecided"
    assert contention["mean_tpot_ms"].kernel.lower < 1.001


def test_decode_steps_of_sixteen_streams_had_sixteen_tokens(judged):
    """The recording's 2,040 steps of 9 to 16 tokens generated 16 each: 32 requests of 512 tokens in each of two boots."""
    sizes = {size.lower: size for size in judged["contention-brief"].iterations.sizes}
    assert (sizes[9].tokens, sizes[9].steps, sizes[9].decode) == (16, 2040, True)
    assert judged["contention-brief"].iterations.fits
    assert {size.lower for size in sizes.values() if size.decode} == {2, 9}


def test_two_pairs_of_their_own_tell_nothing_in_six_looks(recorded):
    """Without the noise model no metric is decided, and the TTFT's interval reaches from a gain of three quarters to a loss."""
    found = judge(recorded, None)
    assert {gain.arrival for one in found.values() for gain in one.gains} == {"undecided"}
    ttft = {gain.metric: gain for gain in found["contention-brief"].gains}["mean_ttft_ms"]
    assert (ttft.measured.lower, ttft.measured.upper) == pytest.approx((-0.738, 0.157), abs=1e-3)
