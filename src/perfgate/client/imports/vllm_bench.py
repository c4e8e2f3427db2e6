"""``vllm bench serve --save-result``, in Python or Rust (vllm-rs): the definitions are its own, so its names carry over.

``--save-detailed`` adds the times of every request; the summary is then computed again from them and must agree, and percentiles
that were not asked for come out of them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfgate.client.imports.shape import Imported, ShapeError, mapping, needed, number, numbers
from perfgate.metrics import METRICS, summarise
from perfgate.records import RunRecord
from perfgate.timings import OK, Timings

TOOL = "vllm bench serve"
_NOTES = (
    "vllm bench serve may have sent its first prompt as a trial before the run (its ready check, which newer releases leave out):"
    " with prefix caching the first measured prompt was then cached",
)
_AGREEMENT = 1e-3


def recognises(data: Mapping[str, Any]) -> bool:
    """Whether the object looks like this tool's."""
    return "mean_ttft_ms" in data and "completed" in data and "duration" in data


def read(data: Mapping[str, Any]) -> Imported:
    """One run.

    Raises:
        ShapeError: not as the tool writes it.
    """
    completed = int(needed(data, "completed"))
    asked = number(data, "num_prompts")
    failed = int(number(data, "failed") or 0)
    invalid = []
    if completed == 0:
        invalid.append("no request succeeded (vllm bench serve then reports zeros)")
    elif failed or (asked is not None and completed != asked):
        invalid.append(f"{completed} of {asked or completed + failed:g} requests succeeded")
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
        requests=int(asked) if asked is not None else completed + failed,
        metrics={} if invalid else metrics,
        invalid=tuple(invalid),
    )
    model = data.get("model_id")
    return Imported(
        tool=TOOL,
        model=model if isinstance(model, str) else None,
        workload=_workload(data),
        runs=(run,),
        notes=_NOTES,
    )


def _from_times(data: Mapping[str, Any], summary: Mapping[str, float]) -> dict[str, float]:
    """The metrics that follow from the times of every request; the summary must agree with them."""
    count = int(needed(data, "completed"))
    sent = np.array(numbers(data, "start_times", count))
    sent = sent - sent.min()
    first = sent + np.array(numbers(data, "ttfts", count))
    itls = data.get("itls")
    if not isinstance(itls, list) or len(itls) != count:
        raise ShapeError(f"itls is no list of {count}")
    events = [
        np.concatenate([[begin], begin + np.cumsum(numbers({"itls": gaps}, "itls", len(gaps)))])
        for begin, gaps in zip(first, itls, strict=True)
    ]
    last = np.array([times[-1] for times in events])
    timings = Timings(
        scheduled=sent,
        ready=sent,
        sent=sent,
        first=first,
        last=last,
        ended=last,
        prompt_tokens=np.array(numbers(data, "input_lens", count), dtype=np.int64),
        output_tokens=np.array(numbers(data, "output_lens", count), dtype=np.int64),
        outcome=(OK,) * count,
        detail=("",) * count,
        events=np.concatenate(events),
        offsets=np.concatenate([[0], np.cumsum([len(times) for times in events])]).astype(np.int64),
        duration=needed(data, "duration"),
        target_concurrency=int(limit) if (limit := number(data, "max_concurrency")) is not None else None,
        closed_loop=number(data, "max_concurrency") is not None,
    )
    # When a request was due is not in the file: its queue times begin when the tool made the request, not when a slot was free.
    computed = {name: value for name, value in summarise(timings).items() if "scheduled" not in name}
    for name, value in summary.items():
        if name in computed and abs(computed[name] - value) > _AGREEMENT * max(abs(value), 1e-9):
            raise ShapeError(f"{name} is {value:g}, the file's own times give {computed[name]:g}")
    return computed


def _workload(data: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {"api": "chat" if "chat" in str(data.get("endpoint_type")) else "completions"}
    count = number(data, "num_prompts")
    if count is not None:
        known["num_prompts"] = int(count)
    rate = data.get("request_rate")
    concurrency = number(data, "max_concurrency")
    if rate == "inf" and concurrency is not None:
        known["concurrency"] = int(concurrency)
    elif isinstance(rate, int | float):
        known["request_rate"] = float(rate)
        known["burstiness"] = number(data, "burstiness") or 1.0
        if concurrency is not None:
            known["max_concurrency"] = int(concurrency)
    lengths = mapping({"lens": {name: data.get(name) for name in ("input_lens", "output_lens")}}, "lens")
    for name, values in lengths.items():
        if isinstance(values, list) and values and len(set(values)) == 1:
            known[name.removesuffix("s")] = values[0]
    return known
