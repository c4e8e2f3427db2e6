"""AIPerf's ``profile_export_aiperf.json``.

Its ``inter_token_latency`` is (request latency − TTFT)/(tokens − 1), one number a request: TPOT here. Its ``inter_chunk_latency`` is the
gap between chunks: ITL here. By default it counts tokens with a tokenizer of its own; where the server's usage says otherwise, or says
nothing, whatever is divided by tokens is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfgate.client.imports.shape import (
    Imported,
    ShapeError,
    count,
    mapping,
    needed,
    no_counterpart,
    number,
)
from perfgate.records import RunRecord

TOOL = "AIPerf"
_LATENCIES = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "inter_chunk_latency": "itl",
    "request_latency": "e2el",
}
_STATISTICS = {"avg": "mean", "p50": "median", "p90": "p90", "p99": "p99"}
_TO_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "sec": 1e3, "s": 1e3}
_RATES = {
    "request_throughput": "request_throughput",
    "output_token_throughput": "output_throughput",
    "total_token_throughput": "total_token_throughput",
    "goodput": "request_goodput",
}
_NO_METRICS = frozenset(
    {
        "benchmark_duration",
        "error_request_count",
        "request_count",
        "total_osl",
        "total_usage_completion_tokens",
        "usage_completion_tokens",
        "usage_prompt_tokens",
    }
)
"""Tables that describe the run."""
_BY_TOKENS = ("tpot", "output_throughput", "total_token_throughput")
_NOTES = (
    "AIPerf's TTFT ends at the first text, not at the first event; its duration begins when the first request is sent",
)


def recognises(data: Mapping[str, Any]) -> bool:
    """Whether the object looks like this tool's."""
    return "aiperf_version" in data or ("inter_token_latency" in data and "request_latency" in data)


def read(data: Mapping[str, Any]) -> Imported:
    """One run.

    Raises:
        ShapeError: not as the tool writes it.
    """
    ok = count(data, "request_count", "avg") or 0
    errors = count(data, "error_request_count", "avg") or 0
    invalid = []
    if errors or not ok:
        invalid.append(f"{ok} of {ok + errors} requests succeeded")
    if data.get("was_cancelled"):
        invalid.append("AIPerf says that the run was cancelled")
    if data.get("is_complete") is False:
        invalid.append(
            f"AIPerf says that the run is not complete: {data.get('incomplete_reason') or 'no reason given'}"
        )
    metrics: dict[str, float] = {}
    for field, stem in _LATENCIES.items():
        table = mapping(data, field)
        if not table:
            continue
        scale = _scale(table, field)
        for statistic, word in _STATISTICS.items():
            value = number(table, statistic)
            if value is not None:
                metrics[f"{word}_{stem}_ms"] = value * scale
    for field, name in _RATES.items():
        value = number(data, field, "avg")
        if value is not None:
            unit = mapping(data, field).get("unit")
            if unit is not None and not str(unit).endswith(("/sec", "/s")):
                raise ShapeError(f"{field}.unit is {unit!r}, not a second")
            metrics[name] = value
    refused = _refused(data)
    if refused:
        metrics = {
            name: value for name, value in metrics.items() if not any(part in name for part in _BY_TOKENS)
        }
    version = data.get("aiperf_version")
    run = RunRecord(
        duration_s=_duration(data),
        requests=ok + errors,
        metrics={} if invalid else metrics,
        invalid=tuple(invalid),
    )
    return Imported(
        tool=f"{TOOL} {version}" if isinstance(version, str) else TOOL,
        model=_model(data),
        workload=_workload(data, ok + errors),
        runs=(run,),
        refused=refused + no_counterpart(_left(data)),
        notes=_NOTES,
    )


def _scale(table: Mapping[str, Any], field: str) -> float:
    """What a value of the table's unit is in milliseconds."""
    unit = table.get("unit")
    if not isinstance(unit, str) or unit not in _TO_MS:
        raise ShapeError(f"{field}.unit is {unit!r}, no unit of time")
    return _TO_MS[unit]


def _duration(data: Mapping[str, Any]) -> float | None:
    value = number(data, "benchmark_duration", "avg")
    if value is None:
        return None
    return value * _scale(mapping(data, "benchmark_duration"), "benchmark_duration") / 1e3


def _left(data: Mapping[str, Any]) -> list[str]:
    """Names of measurements in the file that are no metrics here."""
    return [
        name
        for name, table in data.items()
        if isinstance(table, Mapping)
        and {"unit", "avg"} <= table.keys()
        and name not in {*_LATENCIES, *_RATES, *_NO_METRICS}
    ]


def _refused(data: Mapping[str, Any]) -> tuple[str, ...]:
    what = "TPOT and tok/s"
    if mapping(mapping(data, "input_config"), "endpoint").get("use_server_token_count") is True:
        return ()
    counted, said = number(data, "total_osl", "avg"), number(data, "total_usage_completion_tokens", "avg")
    if counted is None:
        return (f"{what}: the file has no count of output tokens",)
    if said is None:
        return (
            f"{what}: AIPerf counted {counted:g} output tokens with its own tokenizer, the server's count is not in the file",
        )
    if counted != said:
        return (
            f"{what}: AIPerf counted {counted:g} output tokens with its own tokenizer, the server says {said:g}",
        )
    return ()


def _model(data: Mapping[str, Any]) -> str | None:
    config = mapping(data, "input_config")
    # Up to 0.8 the names were the endpoint's.
    items = mapping(config, "models").get("items") or mapping(config, "endpoint").get("model_names")
    if not isinstance(items, list) or not items:
        return None
    name = items[0].get("name") if isinstance(items[0], Mapping) else items[0]
    return name if isinstance(name, str) else None


def _workload(data: Mapping[str, Any], requests: int) -> dict[str, Any]:
    config = mapping(data, "input_config")
    known: dict[str, Any] = {"num_prompts": requests}
    kind = str(mapping(config, "endpoint").get("type"))
    if kind in ("completions", "chat"):
        known["api"] = kind
    for field, name in (("usage_prompt_tokens", "input_len"), ("usage_completion_tokens", "output_len")):
        least, most = count(data, field, "min"), count(data, field, "max")
        if least is not None and least == most and needed(data, field, "avg") == least:
            known[name] = least
    for phase in _phases(config):
        concurrency = count(phase, "concurrency")
        rate = number(phase, "rate") or number(phase, "request_rate")
        if rate is not None:
            known["request_rate"] = rate
            if concurrency is not None:
                known["max_concurrency"] = concurrency
        elif concurrency is not None:
            known["concurrency"] = concurrency
    return known


def _phases(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tables that say how requests arrived: ``phases``, or ``loadgen`` up to 0.8."""
    phases = config.get("phases")
    if not isinstance(phases, list):
        return [mapping(config, "loadgen")]
    return [phase for phase in phases if isinstance(phase, Mapping) and phase.get("name") == "profiling"]
