"""A run's timings as the record that results and baselines keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from perfgate.metrics import summarise
from perfgate.records import RequestArrays, RunRecord
from perfgate.timings import Floats, Ints, Timings
from perfgate.workload import WorkloadSpec


def run_record(
    timings: Timings,
    workload: WorkloadSpec,
    *,
    seed: int | None = None,
    invalid: Sequence[str] = (),
    server: Mapping[str, float] | None = None,
    arrays: bool = False,
) -> RunRecord:
    """The record of one run; with a reason why it is invalid it has no metrics.

    Args:
        timings: what was seen.
        workload: for its service levels and steady window.
        seed: the run's seed.
        invalid: reasons of `perfgate.client.judge_validity`, `perfgate.client.judge_server` and the caller's own.
        server: differences of the server's counters.
        arrays: keep the per-request times.
    """
    reasons = tuple(invalid)
    values = (
        {}
        if reasons
        else summarise(
            timings,
            slo={str(name): limit for name, limit in workload.slo.items()},
            steady_share=workload.steady_share,
        )
    )
    if not values and not reasons:
        reasons = ("no request succeeded: there is nothing to measure",)
    return RunRecord(
        seed=seed,
        started=timings.started,
        duration_s=timings.duration,
        requests=len(timings),
        metrics=values,
        invalid=reasons,
        client=dict(timings.client),
        server=dict(server or {}),
        arrays=_arrays(timings) if arrays else None,
    )


def _arrays(timings: Timings) -> RequestArrays:
    def times(values: Floats) -> tuple[float | None, ...]:
        return tuple(None if math.isnan(value) else value for value in values.tolist())

    def counts(values: Ints) -> tuple[int | None, ...]:
        return tuple(None if value < 0 else value for value in values.tolist())

    return RequestArrays(
        scheduled=tuple(0.0 if math.isnan(value) else value for value in timings.scheduled.tolist()),
        sent=times(timings.sent),
        first=times(timings.first),
        last=times(timings.last),
        prompt_tokens=counts(timings.prompt_tokens),
        output_tokens=counts(timings.output_tokens),
        outcome=timings.outcome,
    )
