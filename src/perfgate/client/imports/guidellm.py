"""GuideLLM's ``benchmarks.json``.

Its ``inter_token_latency_ms`` is one number a request, (last token − first token)/(n − 1): that is TPOT here. Its
``time_per_output_token_ms`` is divided by n (up to 0.3 from the first token on, later from the start), which is nothing here. Its
summaries weigh these by tokens, its percentiles are nearest ranks, and its tok/s is a distribution over time; so where the file has
the times of every request the metrics are computed from those, and otherwise only means that cannot differ are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from perfgate.client.imports.shape import (
    Imported,
    ShapeError,
    count,
    mapping,
    needed,
    needed_count,
    number,
)
from perfgate.metrics import summarise
from perfgate.records import RunRecord
from perfgate.timings import OK, Timings

TOOL = "GuideLLM"
_REFUSED = (
    "time_per_output_token_ms: GuideLLM's is divided by n; TPOT here is (E2EL − TTFT)/(n − 1)",
    "ITL: GuideLLM keeps the first and the last token of a request, not those between",
)
_SUMMARY = (
    "percentiles: GuideLLM's are nearest ranks, and the file lacks the times of every request",
    "throughput: GuideLLM's is a distribution over time, and the file lacks the times of every request",
)
_NOTES = ("GuideLLM's times are of the wall clock, and TTFT ends at the first text, not at the first event",)
_TIMES = ("request_start", "first_token_iteration", "last_token_iteration", "request_end")
_EARLIER_TIMES = ("start_time", "first_token_time", "last_token_time", "end_time")
_WARMED = "requests: warm-up or cool-down was cut off, what was in flight then is not in the file"


def recognises(data: Mapping[str, Any]) -> bool:
    """Whether the object looks like this tool's."""
    benchmarks = data.get("benchmarks")
    if not isinstance(benchmarks, list):
        return False
    return "metadata" in data or any(
        isinstance(one, Mapping) and one.get("type_") == "generative_benchmark" for one in benchmarks
    )


def read(data: Mapping[str, Any]) -> Imported:
    """One run a benchmark, all of one strategy.

    Raises:
        ShapeError: not as the tool writes it, or of several strategies.
    """
    version = mapping(data, "metadata").get("guidellm_version")
    found: Imported | None = None
    for index, benchmark in enumerate(data["benchmarks"]):
        if not isinstance(benchmark, Mapping):
            raise ShapeError(f"benchmarks.{index} is no object")
        one = _benchmark(benchmark, f"{TOOL} {version}" if isinstance(version, str) else TOOL)
        if found is not None and found.workload != one.workload:
            raise ShapeError("the benchmarks are of several workloads; export one strategy and rate a file")
        found = one if found is None else found.joined(one)
    if found is None:
        raise ShapeError("benchmarks is empty")
    return found


def _benchmark(data: Mapping[str, Any], tool: str) -> Imported:
    metrics = mapping(data, "metrics")
    # Up to 0.3 totals, strategy and model stood elsewhere.
    earlier, config = mapping(data, "args"), mapping(data, "config")
    totals = mapping(metrics, "request_totals") or mapping(data, "request_totals")
    ok = needed_count(totals, "successful")
    bad = needed_count(totals, "errored") + needed_count(totals, "incomplete")
    invalid = [f"{ok} of {ok + bad} requests succeeded"] if bad or not ok else []
    requests = mapping(data, "requests").get("successful")
    whole = isinstance(requests, list) and len(requests) == ok
    cut = any(
        number(where, f"{end}_{unit}")
        for where in (data, earlier)
        for end in ("warmup", "cooldown")
        for unit in ("duration", "number")
    )
    refused, values = list(_REFUSED), dict[str, float]()
    if ok and whole and isinstance(requests, list):
        values = summarise(_timings(requests))
        values = {
            name: value for name, value in values.items() if "scheduled" not in name and "itl" not in name
        }
        if cut:
            values = {name: value for name, value in values.items() if name.endswith("_ms")}
            refused.append(_WARMED)
    elif ok:
        values, more = _means(metrics)
        refused += [*_SUMMARY, *more]
    run = RunRecord(
        started=_started(data),
        duration_s=number(data, "duration"),
        requests=ok + bad,
        metrics={} if invalid else values,
        invalid=tuple(invalid),
    )
    backend = mapping(config, "backend").get("model") or mapping(data, "worker").get("backend_model")
    return Imported(
        tool=tool,
        model=backend if isinstance(backend, str) else None,
        workload=_workload(mapping(config or earlier, "strategy"), metrics, ok + bad),
        runs=(run,),
        refused=tuple(refused),
        notes=_NOTES,
    )


def _started(data: Mapping[str, Any]) -> datetime | None:
    seconds = number(data, "start_time")
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
    except (ValueError, OverflowError, OSError):
        raise ShapeError(f"start_time: {seconds:g} is no time") from None


def _timings(requests: Sequence[Any]) -> Timings:
    rows: list[list[float]] = []
    for index, request in enumerate(requests):
        if not isinstance(request, Mapping):
            raise ShapeError(f"requests.successful.{index} is a {type(request).__name__}, not an object")
        earlier = "first_token_time" in request
        times = request if earlier else mapping(mapping(request, "info"), "timings")
        try:
            rows.append(
                [needed(times, key) for key in (_EARLIER_TIMES if earlier else _TIMES)]
                + [needed_count(request, "output_tokens"), count(request, "prompt_tokens") or -1]
            )
            if rows[-1][:4] != sorted(rows[-1][:4]):
                raise ShapeError("its times are out of order")
        except ShapeError as error:
            raise ShapeError(f"requests.successful.{index}: {error}") from None
    table = np.array(rows)
    sent, first, last, ended = (table[:, :4] - table[:, 0].min()).T
    return Timings(
        scheduled=sent,
        ready=sent,
        sent=sent,
        first=first,
        last=last,
        ended=ended,
        prompt_tokens=table[:, 5].astype(np.int64),
        output_tokens=table[:, 4].astype(np.int64),
        outcome=(OK,) * len(rows),
        detail=("",) * len(rows),
        events=np.column_stack([first, last]).ravel(),
        offsets=np.arange(len(rows) + 1) * 2,
        duration=float(ended.max()),
        target_concurrency=None,
        closed_loop=True,
    )


def _means(metrics: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Means of the summary; that of TPOT only where all requests have as many tokens, since it is weighed by them."""
    found: dict[str, float] = {}
    refused: list[str] = []
    ttft = number(metrics, "time_to_first_token_ms", "successful", "mean")
    if ttft is not None:
        found["mean_ttft_ms"] = ttft
    least = number(metrics, "output_token_count", "successful", "min")
    most = number(metrics, "output_token_count", "successful", "max")
    tpot = number(metrics, "inter_token_latency_ms", "successful", "mean")
    if tpot is not None and least is not None and least == most and least > 1:
        found["mean_tpot_ms"] = tpot
    else:
        refused.append(
            "mean TPOT: GuideLLM weighs it by tokens, and the requests have different numbers of them"
        )
    return found, refused


def _workload(strategy: Mapping[str, Any], metrics: Mapping[str, Any], requests: int) -> dict[str, Any]:
    known: dict[str, Any] = {"num_prompts": requests}
    streams, rate = count(strategy, "streams"), number(strategy, "rate")
    if streams is not None:
        known["concurrency"] = streams
    elif rate is not None:
        known["request_rate"] = rate
    for field, name in (("prompt_token_count", "input_len"), ("output_token_count", "output_len")):
        least, most = (count(metrics, field, "successful", end) for end in ("min", "max"))
        if least is not None and least == most:
            known[name] = least
    return known
