"""Which engine steps are decode, and the kernel's share of each serving metric."""

import pytest

from perfgate.changes import ChangeSpec
from perfgate.errors import InputError
from perfgate.experiment.kernelgain import _called, judge_workload
from perfgate.iterations import HISTOGRAM, bucket_name
from perfgate.kernelgain import share_of_time
from perfgate.records import BootRecord, Fingerprint, Measurement, RunRecord
from perfgate.selection import Request, select
from perfgate.server.api import parse_counters

EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
DRAFTED, ACCEPTED = (f"vllm:spec_decode_num_{what}_tokens_total" for what in ("draft", "accepted"))


def counted(*steps: tuple[int, int], **more: float) -> dict[str, float]:
    """The counters of a server that made these steps: tokens, and how often."""
    found = {bucket_name(f"{edge}.0"): float(sum(n for size, n in steps if size <= edge)) for edge in EDGES}
    found[bucket_name("+Inf")] = float(sum(n for _, n in steps))
    found[f"{HISTOGRAM}_sum"] = float(sum(size * n for size, n in steps))
    return {**found, **more}


def workload(name: str):
    """A shipped workload on a server of the study."""
    return select(Request(gpu="gb10", servers=("production-v2",), workloads=(name,)))[0]


def change(**more) -> ChangeSpec:
    """A change of a kernel."""
    entry = {"name": "c", "text": "t", "workloads": ["prefill"], "kernel": "a:b", **more}
    return ChangeSpec.model_validate({"old": {"server": "a"}, "new": {"server": "b"}, **entry}, strict=False)


def measured(target, servers, *, requests, tokens, seconds=100.0, tpot=10.0, ttft=900.0, factors=()):
    """A boot each, slower by its factor, of a run with these counters."""
    return Measurement(
        cell=target.cell,
        fingerprint=Fingerprint(),
        server={},
        workload=target.workload.model_dump(mode="json"),
        boots=tuple(
            BootRecord(
                id=f"boot-{number}",
                runs=(
                    RunRecord(
                        requests=requests,
                        duration_s=seconds * factor,
                        metrics={
                            "output_throughput": tokens / (seconds * factor),
                            "mean_tpot_ms": tpot * factor,
                            "mean_ttft_ms": ttft * factor,
                        },
                        server=server,
                    ),
                ),
            )
            for number, (server, factor) in enumerate(
                zip(servers, factors or [1.0] * len(servers), strict=True)
            )
        ),
    )


@pytest.mark.parametrize(("steps", "sizes"), [("decode", [(4, 2016)]), ("prefill", [(8196, 32)])])
def test_decode_steps_of_a_prefill_workload_are_decode_steps(steps, sizes):
    """Four streams and prompts of 8,192 tokens: the 2,016 steps of four tokens are decode, and only the prompts are prefill."""
    target = workload("prefill")
    old = measured(target, [counted((8196, 32), (4, 2016))] * 2, requests=32, tokens=32 * 256)
    found = _called(change(steps=steps), target, old.boots)
    assert found.fits
    assert [(size.tokens, size.steps / 2) for size in found.sizes] == sizes


def test_the_tokens_of_the_server_count_before_those_of_the_client():
    """Where the server counts what it generated, a client's rate that says otherwise moves no step."""
    target = workload("prefill")
    server = counted((8193, 32), (4, 2040)) | {"vllm:generation_tokens_total": 32 * 256.0}
    old = measured(target, [server], requests=32, tokens=1.0)
    assert _called(change(steps="decode"), target, old.boots).sizes[0].tokens == 4


def test_drafted_and_accepted_tokens_say_what_a_step_computes():
    """Sixteen streams, three drafts of which 1.5 are accepted: steps that generate 40 tokens are decode and compute 64."""
    target, turns = workload("contention"), 16 * 600
    server = counted((8193, 16), (36, 300), (44, 300)) | {DRAFTED: 3.0 * turns, ACCEPTED: 1.5 * turns}
    old = measured(target, [server], requests=256, tokens=256 + 2.5 * turns)
    found = _called(change(steps="decode"), target, old.boots)
    assert [(size.tokens, size.steps) for size in found.sizes] == [(64, 600)]
    assert found.gained == pytest.approx(2.5)


def test_an_open_loop_decodes_as_many_requests_as_were_seen_running():
    """Without a concurrency the largest sampled number of running requests stands for the streams; without that it is an error."""
    target = workload("prefill")
    free = target.workload.model_copy(update={"concurrency": None, "max_concurrency": None})
    target = type(target)(**{**vars(target), "workload": free})
    server = counted((8193, 32), (4, 2040))
    old = measured(target, [server | {"running_peak": 4.0}], requests=32, tokens=32 * 256)
    assert [size.tokens for size in _called(change(steps="decode"), target, old.boots).sizes] == [4]
    unseen = measured(target, [server], requests=32, tokens=32 * 256)
    with pytest.raises(InputError, match="how many requests decode together"):
        _called(change(), target, unseen.boots)


def test_a_boot_whose_steps_never_called_the_kernel_has_a_share_of_zero():
    """In one of three boots all prefills came from the prefix cache: the share is between the boots', and the verdict is one."""
    target = workload("decode")
    prefills, none = counted((513, 20), (1, 10220)), counted((1, 10240))
    old = measured(target, [prefills, prefills, none], requests=20, tokens=20 * 512, seconds=20.0)
    prefill = change(steps="prefill", calls=10)
    called = _called(prefill, target, old.boots)
    times = {513: ([2e-3, 2.01e-3, 2e-3, 1.99e-3], [1e-3, 1.01e-3, 1e-3, 0.99e-3])}
    rate = judge_workload(target, old, old, called, times, change=prefill).gains[0]
    assert rate.share.estimate == pytest.approx((0.02 + 0.02 + 0) / 3, rel=0.01)
    assert rate.share.lower == 0
    assert rate.expected.estimate == pytest.approx(-rate.share.estimate / 2, rel=0.02)


def test_no_step_in_any_boot_is_a_share_of_zero():
    """Boots without a call have a share of exactly 0; a boot that took no time has none and is an error."""
    found = share_of_time([0.0, 0.0], [10.0, 11.0])
    assert (found.estimate, found.lower, found.upper) == (0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="not above 0 s"):
        share_of_time([1.0, 1.0], [10.0, 0.0])


TIMES = {1: ([1e-4] * 4, [5e-5] * 4), 2: ([1e-4] * 4, [5e-5] * 4), 513: ([2e-3] * 4, [2e-3] * 4)}
"""Seconds of one call, old and new: decode twice as fast, prefill as it was."""


def shares(servers, **more):
    """By metric; 20 requests of 512 tokens in 20 s at one stream, ten calls a step."""
    target, ten = workload("decode"), change(calls=10)
    old = measured(
        target, servers, **{"requests": 20, "tokens": 20 * 512, "seconds": 20.0, "tpot": 1.8, **more}
    )
    found = judge_workload(target, old, old, _called(ten, target, old.boots), TIMES, change=ten)
    return {gain.metric: gain.share for gain in found.gains}


def page(engines: int) -> str:
    """A metrics page of engines that made 20 prefills and 10,220 decode steps each."""
    lines = ["# TYPE vllm:iteration_tokens_total histogram"]
    for engine in range(engines):
        for edge, steps in (("1.0", 10220), ("512.0", 10220), ("1024.0", 10240), ("+Inf", 10240)):
            lines.append(f'vllm:iteration_tokens_total_bucket{{engine="{engine}",le="{edge}"}} {steps}')
        lines.append(f'vllm:iteration_tokens_total_count{{engine="{engine}"}} 10240')
        lines.append(f'vllm:iteration_tokens_total_sum{{engine="{engine}"}} {10220 + 20 * 513}')
    return "\n".join(lines) + "\n"


def test_engines_that_work_at_the_same_time_share_the_time():
    """Two engines that each do in 20 s what one does spend the same share of it in the kernel, not twice as much."""
    one = shares([parse_counters(page(1))] * 2)
    two = shares([parse_counters(page(2))] * 2, requests=40, tokens=40 * 512)
    assert one["output_throughput"].estimate == pytest.approx((10.22 + 0.4) / 20, rel=0.01)
    for metric, share in one.items():
        assert two[metric].estimate == pytest.approx(share.estimate, rel=0.01)


def test_with_accepted_drafts_a_step_takes_longer_than_a_tpot():
    """1.6 tokens a step at a TPOT of 1.25 ms are steps of 2 ms, of which ten calls of 0.1 ms are half, not four fifths."""
    turns = 20 * 511 / 1.6
    drafts = {DRAFTED: turns, ACCEPTED: 0.6 * turns}
    server = counted((1, round(0.4 * turns)), (2, round(0.6 * turns)), (513, 20)) | drafts
    assert shares([server] * 2, tpot=1.25)["mean_tpot_ms"].estimate == pytest.approx(0.5, rel=0.01)


def test_shares_of_tpot_and_ttft_have_intervals_over_boots():
    """Boots that differ by 2% leave the share of TPOT as uncertain as that of tok/s, and TTFT's least share is that of the slow boots."""
    found = shares([counted((1, 10220), (513, 20))] * 3, ttft=40.0, factors=(0.98, 1.0, 1.02))
    rate, tpot, ttft = (found[name] for name in ("output_throughput", "mean_tpot_ms", "mean_ttft_ms"))
    assert tpot.estimate == pytest.approx(1 / 1.8, rel=0.01)
    assert tpot.upper / tpot.lower == pytest.approx(rate.upper / rate.lower, rel=1e-6)
    assert tpot.lower < tpot.estimate < tpot.upper
    assert ttft.estimate == pytest.approx(0.5, rel=0.01)
    assert ttft.lower < ttft.estimate < ttft.upper == 1.0


@pytest.mark.parametrize(
    ("more", "message"),
    [({"tpot": 0.8}, "125% of the time of its decode steps"), ({"ttft": 10.0}, "200% of the time to first")],
)
def test_more_kernel_than_tpot_or_ttft_is_an_error(more, message):
    """A kernel that would take longer than the decode steps or the first tokens that it is part of is refused, not cut to 100%."""
    with pytest.raises(InputError, match=message):
        shares([counted((1, 10220), (513, 20))] * 2, **more)
