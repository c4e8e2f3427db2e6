"""Whether a run can be believed: pure functions from what was seen to the reasons why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from perfgate.timings import OK, Timings
from perfgate.workload import WorkloadSpec

LAG_SHARE = 0.01
LAG_MS = 1.0
"""The client's own lag stays below 1% of the mean TTFT, or 1 ms."""

TAIL_SHARE = 0.10
TAIL_MS = 25.0
"""Its 99th percentile stays below 10% of the mean TTFT, or 25 ms: a loop that now and then stops for longer reports its own tail."""

_BARE_EVENTS = 2
"""A chat stream may begin with an event that only names the role, and end with one that only names the reason."""

WAIT_SHARE = 0.05
"""A late client that waited longer than this share of the run for a processor was late because of others, not of its own work."""


def judge_validity(
    timings: Timings,
    workload: WorkloadSpec,
    *,
    exact_prompts: bool | None = None,
    lag_ms: float | None = None,
) -> tuple[str, ...]:
    """Why the run cannot be believed, as far as the client saw; empty for a run that can.

    Args:
        timings: what was seen.
        workload: what was asked for.
        exact_prompts: whether prompts were sent as token ids, so that their length is known; by default with completions.
        lag_ms: the client's mean lag that is put up with where it shares its cores with the server; `LAG_MS` where not given. The
            limit of the tail grows in proportion.
    """
    return (
        *_requests(timings, workload),
        *_lengths(
            timings, workload, workload.api == "completions" if exact_prompts is None else exact_prompts
        ),
        *_streamed(timings),
        *_client(timings, LAG_MS if lag_ms is None else lag_ms),
        *_delivery(timings, workload),
    )


def judge_server(
    before: Mapping[str, float],
    after: Mapping[str, float],
    workload: WorkloadSpec,
    *,
    warmups_counted: bool = False,
    block_size: int | None = None,
) -> tuple[str, ...]:
    """Why the run cannot be believed, as far as the server's own counters tell; empty for a run that can.

    Args:
        before: counters by name (``vllm:prefix_cache_hits_total`` …), summed over engines, before the first measured request.
        after: the same after the last one. A counter that is not in both is not judged.
        workload: what was asked for.
        warmups_counted: whether ``before`` was read before the warm-ups.
        block_size: tokens of a prefix-cache block (the label of ``vllm:cache_config_info``); a shared prefix hits in whole blocks.
    """
    reasons: list[str] = []
    moved: dict[str, float] = {}
    for name, value in after.items():
        if name in before:
            moved[name] = value - before[name]
    shrunk = sorted(name for name, change in moved.items() if change < 0 and name.endswith("_total"))
    if shrunk:
        return (f"the server's counters went back ({', '.join(shrunk)}): it was started anew during the run",)
    requests = workload.num_prompts + (workload.warmups if warmups_counted else 0)
    answered = moved.get("vllm:request_success_total")
    if answered is not None and answered > requests:
        reasons.append(
            f"the server finished {answered:g} requests while {requests} were sent: somebody else is loading it"
        )
    preempted = moved.get("vllm:num_preemptions_total", 0.0)
    if preempted > 0 and not workload.allow_preemption:
        reasons.append(
            f"{preempted:g} preemptions, which this workload does not allow: the KV cache is too small for it"
        )
    reasons += _prefix_hits(moved, workload, requests, block_size)
    return tuple(reasons)


def _prefix_hits(
    moved: Mapping[str, float], workload: WorkloadSpec, requests: int, block_size: int | None
) -> list[str]:
    hits = moved.get("vllm:prefix_cache_hits_total")
    queries = moved.get("vllm:prefix_cache_queries_total")
    if hits is None or not queries:  # no query: the cache is off, and there is nothing to hit
        return []
    prefix = workload.shared_prefix_len
    most = float(requests * prefix)
    if hits > most:
        intended = f"at most {most:g}, the shared prefix of {prefix}" if prefix else "none"
        return [
            f"{hits:g} of {queries:g} prompt tokens came from the prefix cache, intended are {intended}:"
            " prompts were not fresh"
        ]
    if prefix and block_size:
        # Whoever runs beside the first request of the run cannot hit what that one has not computed yet; warm-ups spare it.
        cold = 0 if workload.warmups else min(requests, workload.slots or requests)
        least = float((requests - cold) * (prefix // block_size) * block_size)
        if hits < 0.95 * least:
            return [
                f"{hits:g} of {queries:g} prompt tokens came from the prefix cache, the shared prefix of {prefix}"
                f" should have given {least:g} in blocks of {block_size}"
            ]
    return []


def _requests(timings: Timings, workload: WorkloadSpec) -> list[str]:
    reasons = []
    total = len(timings)
    if total != workload.num_prompts:
        reasons.append(f"{total} requests were made where {workload.num_prompts} were asked for")
    kinds = Counter(outcome for outcome in timings.outcome if outcome != OK)
    for outcome, count in kinds.most_common():
        row = timings.outcome.index(outcome)
        example = timings.detail[row]
        reasons.append(
            f"{count} of {total} requests: {outcome}"
            + (f" (the first, number {row}: {example})" if example else "")
        )
    if timings.warmup_failures:
        reasons.append(
            f"{len(timings.warmup_failures)} of {workload.warmups} warm-ups failed (the first: {timings.warmup_failures[0]})"
        )
    return reasons


def _lengths(timings: Timings, workload: WorkloadSpec, exact_prompts: bool) -> list[str]:
    reasons = []
    ok = timings.ok
    output = timings.output_tokens[ok]
    wrong = output[output != workload.output_len]
    if len(wrong):
        reasons.append(
            f"{len(wrong)} of {len(timings)} requests came back with {wrong.min()} to {wrong.max()} output tokens"
            f" where {workload.output_len} were asked for"
        )
    events = timings.event_counts[ok]
    more = events > output + _BARE_EVENTS
    if more.any():
        row = int(np.argmax(events - output))
        reasons.append(
            f"{int(more.sum())} of {len(timings)} requests streamed more events than the tokens that the server counted"
            f" (at most {events[row]} where it counted {output[row]})"
        )
    prompt = timings.prompt_tokens[ok]
    other = prompt[(prompt != workload.input_len) & (prompt >= 0)]
    if exact_prompts and len(other):
        reasons.append(
            f"{len(other)} of {len(timings)} prompts counted {other.min()} to {other.max()} tokens at the server"
            f" where {workload.input_len} were sent"
        )
    return reasons


def _streamed(timings: Timings) -> list[str]:
    several = timings.ok & (timings.output_tokens > 1)
    if several.any() and bool((timings.last[several] <= timings.first[several]).all()):
        return [
            "every answer came in one piece: it was buffered on the way (by a proxy, say), and no time in it is that of a token"
        ]
    return []


def _client(timings: Timings, lag_ms: float) -> list[str]:
    ok = timings.ok
    if not ok.any():
        return []
    if "lag_mean_ms" not in timings.client:
        return ["the run was too short to measure the client's own lag"]
    ttft = float(np.mean(timings.ttft[ok])) * 1e3
    # A slot refilled late makes a closed loop a little less loaded, by that share of a request's whole time; the request's own times
    # begin when it is sent. In an open loop it delays what the TTFT from schedule measures.
    whole = float(np.mean(timings.e2el[ok])) * 1e3
    send_share = ("mean E2EL", whole) if timings.closed_loop else ("mean TTFT", ttft)
    reasons = []
    for name, what, (of, scale) in (
        ("lag", "ran what was ready", ("mean TTFT", ttft)),
        ("dispatch", "sent what was due", send_share),
    ):
        for statistic, words, limit in (
            ("mean", "on average", max(lag_ms, LAG_SHARE * scale)),
            ("p99", "at the 99th percentile", max(TAIL_MS * lag_ms / LAG_MS, TAIL_SHARE * scale)),
        ):
            late = timings.client.get(f"{name}_{statistic}_ms", 0.0)
            if late > limit:
                reasons.append(
                    f"the client {what} {late:.2f} ms late {words}, its limit is {limit:.2f} ms"
                    f" ({of} {scale:.1f} ms): {_late_because(timings)}"
                )
    return reasons


def _late_because(timings: Timings) -> str:
    waited = timings.client.get("cpu_wait_s")
    if waited is None:
        return "use more load processes, or a less busy machine"
    if waited > WAIT_SHARE * timings.duration:
        return f"others had its processor for {waited:.1f} of {timings.duration:.1f} s, so use a less busy machine"
    return "it has too much to do for one process, so use more load processes"


def _delivery(timings: Timings, workload: WorkloadSpec) -> list[str]:
    if workload.concurrency is None or not len(timings):
        return []
    target, peak = min(workload.concurrency, len(timings)), timings.peak_concurrency()
    if peak < target:
        return [f"{peak} requests were in flight at most where {target} were asked for"]
    return []
