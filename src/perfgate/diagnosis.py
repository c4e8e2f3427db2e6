"""Why a metric moved, as far as the server's own counters tell: shown beside a verdict, never judged.

A run keeps how far each counter moved (`RunRecord.server`). Histograms give means: ``…_sum`` over ``…_count``. What a release does not
count is not said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from perfgate.records import BootRecord, CellVerdict, Outcome, RunRecord

KV_PEAK = "kv_peak"
RUNNING_PEAK = "running_peak"
WAITING_PEAK = "waiting_peak"
"""Sampled while the run went on; shares of 1 and numbers of requests."""

_STAGES = (
    ("queue", "vllm:request_queue_time_seconds"),
    ("prefill", "vllm:request_prefill_time_seconds"),
    ("decode", "vllm:request_decode_time_seconds"),
    ("ttft", "vllm:time_to_first_token_seconds"),
)
_STEPS, _GENERATED = "vllm:iteration_tokens_total", "vllm:generation_tokens_total"
_TIGHT, _LOOSE = 0.95, 0.50
_SAME_BATCH = 0.10


@dataclass(frozen=True, kw_only=True)
class ServerView:
    """What the server says of some runs, means over requests; None where it does not say.

    Attributes:
        queue_ms: waiting to be scheduled.
        prefill_ms: from being scheduled to the first token.
        decode_ms: from the first token to the last.
        ttft_ms: time to first token as the server saw it.
        client_ttft_ms: the same as the client saw it.
        step_tokens: tokens scheduled in a step of the engine.
        batch: output tokens of a step, which is the sequences decoded together.
        preemptions: requests put back for want of KV cache, in all runs together.
        kv_peak: largest sampled share of the KV cache in use.
        running_peak: most requests running at a sample.
        waiting_peak: most requests waiting at a sample.
        hit_tokens: prompt tokens from the prefix cache, in all runs together.
        output_tokens: tokens generated, in all runs together.
    """

    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    ttft_ms: float | None = None
    client_ttft_ms: float | None = None
    step_tokens: float | None = None
    batch: float | None = None
    preemptions: float | None = None
    kv_peak: float | None = None
    running_peak: float | None = None
    waiting_peak: float | None = None
    hit_tokens: float | None = None
    output_tokens: float | None = None

    @property
    def outside_ms(self) -> float | None:
        """TTFT that the server did not see: the client's, the network's, and the API server's own before it counts."""
        if self.client_ttft_ms is None or self.ttft_ms is None:
            return None
        return self.client_ttft_ms - self.ttft_ms

    @property
    def step_prompt_tokens(self) -> float | None:
        """Prompt tokens that a step carries beside the output tokens."""
        return (
            None
            if self.step_tokens is None or self.batch is None
            else max(0.0, self.step_tokens - self.batch)
        )

    def __str__(self) -> str:
        """In one line, of what is known."""
        stages = {"queue": self.queue_ms, "prefill": self.prefill_ms, "decode": self.decode_ms}
        said = [f"{name} {value:.1f} ms" for name, value in stages.items() if value is not None]
        if self.ttft_ms is not None and self.outside_ms is not None:
            said.append(f"TTFT {self.ttft_ms:.1f} ms, {self.outside_ms:+.1f} ms more for the client")
        if self.batch is not None and self.step_prompt_tokens is not None:
            said.append(f"{self.batch:.1f} output and {self.step_prompt_tokens:.1f} prompt tokens a step")
        if self.kv_peak is not None:
            said.append(f"KV peak {self.kv_peak:.0%}")
        peaks = {"running": self.running_peak, "waiting": self.waiting_peak}
        said += [f"at most {value:.0f} {name}" for name, value in peaks.items() if value is not None]
        counts = {
            "preemptions": self.preemptions,
            "prompt tokens from the prefix cache": self.hit_tokens,
            "output tokens": self.output_tokens,
        }
        said += [f"{value:.0f} {name}" for name, value in counts.items() if value is not None]
        return ", ".join(said)


def server_view(boots: Iterable[BootRecord]) -> ServerView:
    """Sums up what the server counted over the valid runs of some boots."""
    runs = [run for boot in boots for run in boot.valid_runs()]
    moved: dict[str, float] = {}
    for run in runs:
        for name, value in run.server.items():
            moved[name] = moved.get(name, 0.0) + value
    stages = {name: _mean(moved, stem, 1e3) for name, stem in _STAGES}
    steps = moved.get(f"{_STEPS}_count", 0.0)
    generated = moved.get(_GENERATED)
    client = [run.metrics["mean_ttft_ms"] for run in runs if "mean_ttft_ms" in run.metrics]
    return ServerView(
        queue_ms=stages["queue"],
        prefill_ms=stages["prefill"],
        decode_ms=stages["decode"],
        ttft_ms=stages["ttft"],
        client_ttft_ms=math.fsum(client) / len(client) if client else None,
        step_tokens=_mean(moved, _STEPS, 1.0),
        batch=generated / steps if generated is not None and steps > 0 else None,
        preemptions=_counted(moved, "vllm:num_preemptions_total", bool(runs)),
        kv_peak=_peak(runs, KV_PEAK),
        running_peak=_peak(runs, RUNNING_PEAK),
        waiting_peak=_peak(runs, WAITING_PEAK),
        hit_tokens=_counted(moved, "vllm:prefix_cache_hits_total", bool(runs)),
        output_tokens=generated,
    )


def diagnose(verdict: CellVerdict, before: Sequence[BootRecord], now: Sequence[BootRecord]) -> list[str]:
    """What the server's counters say about a verdict that is not a PASS, one sentence a finding.

    Args:
        verdict: the verdict; only metrics that moved are explained.
        before: boots of the reference.
        now: boots of what was judged.
    """
    old, new = server_view(before), server_view(now)
    moved = {
        metric.metric: metric.change
        for metric in verdict.metrics
        if metric.change is not None
        and metric.outcome in _MOVED
        and abs(metric.change) >= (metric.tolerance or 0.0)
    }
    found: list[str] = []
    if "mean_ttft_ms" in moved:
        found += _ttft(old, new)
    if "mean_tpot_ms" in moved:
        found += _tpot(moved["mean_tpot_ms"], old, new)
    if verdict.metrics and verdict.outcome is not Outcome.PASS:
        found += _cache(new)
    return found + _first_autotuning(before, now)


_MOVED = {Outcome.REGRESSION, Outcome.SUSPECT, Outcome.INCONCLUSIVE, Outcome.IMPROVEMENT}


def _first_autotuning(before: Sequence[BootRecord], now: Sequence[BootRecord]) -> list[str]:
    """A count that was zero has no ratio, and so no verdict of its own."""
    counts = [
        [boot.metrics["autotune_configs"] for boot in boots if "autotune_configs" in boot.metrics]
        for boots in (before, now)
    ]
    if not counts[0] or max(counts[0]) > 0 or not counts[1] or max(counts[1]) == 0:
        return []
    return [
        f"the boots benchmarked {max(counts[1]):.0f} autotune configurations, none before: the tuning is no longer in a cache"
    ]


def _ttft(old: ServerView, new: ServerView) -> list[str]:
    parts = {
        "queueing": _difference(old.queue_ms, new.queue_ms),
        "prefill": _difference(old.prefill_ms, new.prefill_ms),
        "outside the server": _difference(old.outside_ms, new.outside_ms),
    }
    known = {name: value for name, value in parts.items() if value is not None}
    whole = _difference(old.client_ttft_ms, new.client_ttft_ms)
    if whole is None or not known or abs(whole) < 1e-9:
        return []
    name = max(known, key=lambda part: known[part] * math.copysign(1.0, whole))
    shares = ", ".join(f"{part} {value:+.1f} ms" for part, value in known.items())
    share = known[name] / whole
    because = f": mostly {name}" if share >= 0.5 else ": no single part explains it"
    crowd = ""
    if because.endswith("queueing") and new.running_peak is not None and new.waiting_peak is not None:
        crowd = f"; at most {new.running_peak:.0f} running and {new.waiting_peak:.0f} waiting"
    return [f"mean TTFT {whole:+.1f} ms{because} ({shares}{crowd})"]


def _tpot(change: float, old: ServerView, new: ServerView) -> list[str]:
    before, now = (old.batch, new.batch) if old.batch and new.batch else (old.step_tokens, new.step_tokens)
    if not before or not now:
        return []
    unit = "sequences" if old.batch and new.batch else "tokens"
    batches = f"{before:.1f} → {now:.1f} {unit} a step"
    preempted = f"; {new.preemptions:.0f} preemptions" if new.preemptions else ""
    if abs(now / before - 1) >= _SAME_BATCH:
        word = "larger" if now > before else "smaller"
        return [f"mean TPOT {change:+.1%} with {word} batches ({batches}{preempted})"]
    prompts = old.step_prompt_tokens, new.step_prompt_tokens
    if prompts[0] is not None and prompts[1] is not None and prompts[1] - prompts[0] >= _SAME_BATCH * before:
        more = f"{prompts[0]:.1f} → {prompts[1]:.1f} prompt tokens beside them"
        return [
            f"mean TPOT {change:+.1%} at the same batch size ({batches}), with more prefill in each step ({more}{preempted})"
        ]
    return [
        f"mean TPOT {change:+.1%} at the same batch size ({batches}{preempted}): each step takes another time"
    ]


def _cache(new: ServerView) -> list[str]:
    if new.kv_peak is None or new.preemptions is None:
        return []
    said = f"KV peak {new.kv_peak:.0%}, {new.preemptions:.0f} preemptions"
    if new.preemptions > 0 or new.kv_peak >= _TIGHT:
        return [f"{said}: the KV cache is tight, more memory for it or fewer sequences would help"]
    if new.kv_peak <= _LOOSE:
        return [f"{said}: more KV memory cannot help"]
    return []


def _mean(moved: Mapping[str, float], stem: str, scale: float) -> float | None:
    count = moved.get(f"{stem}_count", 0.0)
    total = moved.get(f"{stem}_sum", 0.0)
    return scale * total / count if count > 0 else None


def _counted(moved: Mapping[str, float], name: str, measured: bool) -> float | None:
    """A counter that did not move is not among the differences: 0, if the server counts at all."""
    return moved.get(name, 0.0) if measured and moved else None


def _peak(runs: Iterable[RunRecord], name: str) -> float | None:
    return max((run.server[name] for run in runs if name in run.server), default=None)


def _difference(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else now - before
