"""The metric table: name, unit, direction, tolerance and margin, each declared once.

Names and definitions are those of ``vllm bench serve`` (the keys of its JSON), so that a number here means what its users think it
means. *tolerance* is the slowdown that nobody minds even when it is certain; *margin* is the slowdown that must be excluded for a
PASS. Both are relative: 0.05 is five per cent. A GPU or workload entry may widen them by name (``margins``), never the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np

from perfgate.errors import InputError, UnknownNameError
from perfgate.timings import Floats, Timings

Direction = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a run or of a boot."""

    name: str
    label: str
    unit: str
    better: Direction
    tolerance: float
    margin: float
    primary: bool = False
    of: Literal["run", "server", "boot"] = "run"
    """Of a run as the client sees it, of what the server used for a run, or of the boot itself."""
    advisory: bool = False
    """A tail quantile: it may ask for replication, never fail alone."""
    noise: float | None = None
    """Relative standard deviation between boots of a size that is computed, not timed, and so may repeat exactly: without it, equal
    values would carry no interval. It stands in for other measurements with little weight."""

    @property
    def sign(self) -> int:
        """+1 where more is slower, -1 where more is faster: slowdown = sign × log ratio."""
        return 1 if self.better == "lower" else -1


def _latency(
    stem: str, label: str, *, margin: float, tolerance: float, primary: bool = False
) -> list[Metric]:
    def metric(statistic: str, words: str, *, scale: float, primary: bool, advisory: bool = False) -> Metric:
        return Metric(
            name=f"{statistic}_{stem}_ms",
            label=f"{words} {label}",
            unit="ms",
            better="lower",
            tolerance=tolerance * scale,
            margin=margin * scale,
            primary=primary,
            advisory=advisory,
        )

    return [
        metric("mean", "mean", scale=1, primary=primary),
        metric("median", "median", scale=1, primary=False),
        metric("p90", "P90", scale=2, primary=False, advisory=True),
        metric("p99", "P99", scale=2, primary=False, advisory=True),
    ]


def _rate(name: str, label: str, unit: str, *, primary: bool = False) -> Metric:
    return Metric(
        name=name, label=label, unit=unit, better="higher", tolerance=0.02, margin=0.05, primary=primary
    )


def _boot(
    name: str,
    label: str,
    unit: str,
    *,
    tolerance: float,
    margin: float,
    noise: float | None = None,
    better: Direction = "lower",
    primary: bool = False,
) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit=unit,
        better=better,
        tolerance=tolerance,
        margin=margin,
        noise=noise,
        primary=primary,
        of="boot",
    )


_ALL: tuple[Metric, ...] = (
    *_latency("ttft", "TTFT", margin=0.10, tolerance=0.03, primary=True),
    *_latency("tpot", "TPOT", margin=0.05, tolerance=0.02, primary=True),
    *_latency("itl", "ITL", margin=0.05, tolerance=0.02),
    *_latency("e2el", "E2EL", margin=0.05, tolerance=0.02),
    *_latency("scheduled_ttft", "TTFT from schedule", margin=0.10, tolerance=0.03),
    _rate("output_throughput", "output tok/s", "tok/s", primary=True),
    _rate("total_token_throughput", "total tok/s", "tok/s"),
    _rate("request_throughput", "requests/s", "req/s"),
    _rate("request_goodput", "goodput", "req/s"),
    _rate("steady_output_throughput", "steady-state tok/s", "tok/s"),
    Metric(
        name="peak_concurrency",
        label="peak concurrency",
        unit="requests",
        better="lower",
        tolerance=0.10,
        margin=0.50,
    ),
)

_ALL += (
    Metric(
        name="server_cpu_ms_per_token",
        label="server CPU per token",
        unit="ms",
        better="lower",
        tolerance=0.02,
        margin=0.10,
        of="server",
    ),
    Metric(
        name="energy_j_per_token",
        label="energy per token",
        unit="J",
        better="lower",
        tolerance=0.03,
        margin=0.10,
        of="server",
    ),
    _boot("ready_s", "time to ready", "s", tolerance=0.10, margin=0.30),
    _boot("imports_s", "imports", "s", tolerance=0.10, margin=0.50),
    _boot("weights_s", "weights", "s", tolerance=0.10, margin=0.50),
    _boot("compile_s", "compile", "s", tolerance=0.10, margin=0.50),
    _boot("warmup_s", "profile and warm-up", "s", tolerance=0.10, margin=0.50),
    _boot("graph_capture_s", "graph capture", "s", tolerance=0.10, margin=0.50),
    _boot("init_engine_s", "engine initialisation", "s", tolerance=0.10, margin=0.50),
    _boot("autotune_configs", "autotune configurations", "benched", tolerance=0.02, margin=0.10, noise=0.005),
    _boot("model_load_gib", "model load", "GiB", tolerance=0.01, margin=0.03, noise=0.005),
    _boot("graph_memory_gib", "graph memory", "GiB", tolerance=0.05, margin=0.20, noise=0.02),
    _boot(
        "available_kv_gib", "memory for KV", "GiB", tolerance=0.01, margin=0.03, noise=0.005, better="higher"
    ),
    _boot("kv_cache_gib", "KV cache", "GiB", tolerance=0.01, margin=0.03, noise=0.005, better="higher"),
    _boot(
        "kv_cache_tokens",
        "KV tokens",
        "tokens",
        tolerance=0.01,
        margin=0.03,
        noise=0.005,
        better="higher",
        primary=True,
    ),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UnknownNameError: no such metric; the nearest names are listed.
    """
    try:
        return METRICS[name]
    except KeyError:
        near = get_close_matches(name, METRICS, n=3) or sorted(METRICS)[:5]
        raise UnknownNameError(f"unknown metric {name!r}", remedy=f"Nearest: {', '.join(near)}.") from None


def summarise(
    timings: Timings, *, slo: Mapping[str, float] | None = None, steady_share: float = 0.95
) -> dict[str, float]:
    """The metrics of one run, defined as ``vllm bench serve`` defines them; empty where no request succeeded, never zeros.

    Latencies are over successful requests, TPOT over those of more than one token, ITL over all gaps of all of them; percentiles
    are ``numpy.percentile``'s (linear). Rates divide by the run's duration, from just before the first arrival until the last
    response ended. A metric that this run cannot have (TPOT of single tokens, goodput without service levels) is absent.

    Args:
        timings: what was seen.
        slo: the most milliseconds for ``ttft``, ``tpot`` and ``e2el``; a request that keeps all of them is good. A request of a
            single token has no TPOT, and keeps it.
        steady_share: see `perfgate.timings.Timings.steady_window`.

    Raises:
        InputError: a service level for something else.
    """
    for name in slo or {}:
        if name not in ("ttft", "tpot", "e2el"):
            raise InputError(
                f"service level for {name!r}", remedy="Service levels are for ttft, tpot and e2el."
            )
    ok = timings.ok
    if not ok.any() or timings.duration <= 0:
        return {}
    found: dict[str, float] = {}
    for stem, seconds in (
        ("ttft", timings.ttft[ok]),
        ("tpot", timings.tpot[ok]),
        ("itl", timings.itl(ok)),
        ("e2el", timings.e2el[ok]),
        ("scheduled_ttft", timings.scheduled_ttft[ok]),
    ):
        found |= _distribution(stem, seconds[np.isfinite(seconds)] * 1e3)
    completed, output = int(ok.sum()), float(timings.output_tokens[ok].sum())
    found["output_throughput"] = output / timings.duration
    found["request_throughput"] = completed / timings.duration
    if (timings.prompt_tokens[ok] >= 0).all():
        found["total_token_throughput"] = (output + float(timings.prompt_tokens[ok].sum())) / timings.duration
    if slo:
        found["request_goodput"] = good_requests(timings, slo) / timings.duration
    steady = _steady_throughput(timings, steady_share)
    if steady is not None:
        found["steady_output_throughput"] = steady
    found["peak_concurrency"] = float(timings.peak_concurrency())
    return found


def good_requests(timings: Timings, slo: Mapping[str, float]) -> int:
    """How many successful requests keep every service level, in milliseconds by ``ttft``, ``tpot``, ``e2el``."""
    good = timings.ok
    for name, limit in slo.items():
        values = {"ttft": timings.ttft, "tpot": np.nan_to_num(timings.tpot), "e2el": timings.e2el}[name]
        good &= values * 1e3 <= limit
    return int(good.sum())


def _distribution(stem: str, milliseconds: Floats) -> dict[str, float]:
    if not len(milliseconds):
        return {}
    return {
        f"mean_{stem}_ms": float(np.mean(milliseconds)),
        f"median_{stem}_ms": float(np.median(milliseconds)),
        f"p90_{stem}_ms": float(np.percentile(milliseconds, 90)),
        f"p99_{stem}_ms": float(np.percentile(milliseconds, 99)),
    }


def _steady_throughput(timings: Timings, share: float) -> float | None:
    """Output tokens a second within the steady window; an event of several tokens counts as its request's average event does."""
    window = timings.steady_window(share)
    if window is None:
        return None
    begin, end = window
    counts = timings.event_counts
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(timings.ok & (counts > 0), timings.output_tokens / counts, 0.0)
    inside = (timings.events >= begin) & (timings.events <= end)
    tokens = float(np.repeat(weights, counts)[inside].sum())
    return tokens / (end - begin) if tokens > 0 else None
