"""``vllm bench serve --save-result``, in Python or Rust (vllm-rs): the definitions are its own, so its names carry over.

``--save-detailed`` adds the times of every request; the summary is then computed again from them and must agree, and percentiles
that were not asked for come out of them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from perfgate.client.imports.shape import (
    Imported,
    ShapeError,
    count,
    needed,
    needed_count,
    no_counterpart,
    number,
    numbers,
)
from perfgate.metrics import METRICS, summarise
from perfgate.records import RunRecord
from perfgate.timings import OK, Ints, Timings

TOOL = "vllm bench serve"
_NOTES = (
    "vllm bench serve may have sent its first prompt as a trial before the run (its ready check, which newer releases leave out):"
    " with prefix caching the first measured prompt was then cached",
)
_AGREEMENT = 1e-3
_GOODPUT = "request_goodput:"
"""What earlier releases called it, with the colon."""

_NO_METRICS = frozenset(
    {
        "burstiness",
        "completed",
        "duration",
        "failed",
        "max_concurrency",
        "max_model_len",
        "num_prompts",
        "request_rate",
        "total_input_tokens",
        "total_output_tokens",
    }
)
"""Numbers that describe the run."""


def recognises(data: Mapping[str, Any]) -> bool:
    """Whether the object looks like this tool's."""
    # SGLang's bench_serving has these fields too, and other definitions of some.
    sglang = "total_output_tokens_retokenized" in data
    return "mean_ttft_ms" in data and "completed" in data and "duration" in data and not sglang


def read(data: Mapping[str, Any]) -> Imported:
    """One run.

    Raises:
        ShapeError: not as the tool writes it.
    """
    if _GOODPUT in data:
        data = {"request_goodput": data[_GOODPUT]} | {
            name: value for name, value in data.items() if name != _GOODPUT
        }
    completed = needed_count(data, "completed")
    asked = count(data, "num_prompts")
    failed = count(data, "failed") or 0
    invalid = []
    if completed == 0:
        invalid.append("no request succeeded (vllm bench serve then reports zeros)")
    elif failed or (asked is not None and completed != asked):
        invalid.append(f"{completed} of {asked or completed + failed} requests succeeded")
    metrics = {
        name: value
        for name, entry in METRICS.items()
        if entry.of == "run" and name != "peak_concurrency" and (value := number(data, name)) is not None
    }
    if number(data, "mean_tpot_ms") == 0:  # single tokens: it writes zero where there is nothing
        metrics = {name: value for name, value in metrics.items() if "tpot" not in name and "itl" not in name}
    if "start_times" in data and completed and not failed:
        metrics |= _from_times(data, metrics)
    run = RunRecord(
        duration_s=needed(data, "duration"),
        requests=asked if asked is not None else completed + failed,
        metrics={} if invalid else metrics,
        invalid=tuple(invalid),
    )
    model = data.get("model_id")
    return Imported(
        tool=TOOL,
        model=model if isinstance(model, str) else None,
        workload=_workload(data),
        runs=(run,),
        refused=no_counterpart(_left(data)),
        notes=_NOTES,
    )


def _left(data: Mapping[str, Any]) -> list[str]:
    """Names of measurements in the file that are no metrics here."""
    return [
        name
        for name, value in data.items()
        if (name == "steady_state" and value)
        or (isinstance(value, int | float) and not isinstance(value, bool) and name not in _NO_METRICS)
        if name not in METRICS or name == "peak_concurrency"
    ]


def _from_times(data: Mapping[str, Any], summary: Mapping[str, float]) -> dict[str, float]:
    """The metrics that follow from the times of every request; the summary must agree with them."""
    rows = needed_count(data, "completed")
    sent = np.array(numbers(data, "start_times", rows))
    sent = sent - sent.min()
    first = sent + np.array(numbers(data, "ttfts", rows))
    itls = data.get("itls")
    if not isinstance(itls, list) or len(itls) != rows:
        raise ShapeError(f"itls is no list of {rows}")
    events = []
    for row, (begin, gaps) in enumerate(zip(first, itls, strict=True)):
        known = numbers({f"itls.{row}": gaps}, f"itls.{row}", len(gaps) if isinstance(gaps, list) else 0)
        events.append(np.concatenate([[begin], begin + np.cumsum(known)]))
    last = np.array([times[-1] for times in events])
    timings = Timings(
        scheduled=sent,
        ready=sent,
        sent=sent,
        first=first,
        last=last,
        ended=last,
        prompt_tokens=_counts(data, "input_lens", rows),
        output_tokens=_counts(data, "output_lens", rows),
        outcome=(OK,) * rows,
        detail=("",) * rows,
        events=np.concatenate(events),
        offsets=np.concatenate([[0], np.cumsum([len(times) for times in events])]).astype(np.int64),
        duration=needed(data, "duration"),
        target_concurrency=count(data, "max_concurrency"),
        closed_loop=count(data, "max_concurrency") is not None,
    )
    # When a request was due is not in the file: its queue times begin when the tool made the request, not when a slot was free.
    computed = {name: value for name, value in summarise(timings).items() if "scheduled" not in name}
    for name, value in summary.items():
        if name in computed and abs(computed[name] - value) > _AGREEMENT * max(abs(value), 1e-9):
            raise ShapeError(f"{name} is {value:g}, the file's own times give {computed[name]:g}")
    return computed


def _counts(data: Mapping[str, Any], key: str, rows: int) -> Ints:
    numbers(data, key, rows)
    return np.array([count({key: value}, key) for value in data[key]], dtype=np.int64)


def _workload(data: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {"api": "chat" if "chat" in str(data.get("endpoint_type")) else "completions"}
    prompts = count(data, "num_prompts")
    if prompts is not None:
        known["num_prompts"] = prompts
    concurrency = count(data, "max_concurrency")
    if data.get("request_rate") in ("inf", math.inf):
        if concurrency is not None:
            known["concurrency"] = concurrency
    elif (rate := number(data, "request_rate")) is not None:
        known["request_rate"] = rate
        known["burstiness"] = number(data, "burstiness") or 1.0
        if concurrency is not None:
            known["max_concurrency"] = concurrency
    for name in ("input_lens", "output_lens"):
        values = data.get(name)
        if isinstance(values, list) and values and all(value == values[0] for value in values):
            known[name.removesuffix("s")] = needed_count({name: values[0]}, name)
    return known
