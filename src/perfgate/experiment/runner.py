"""One run of a workload on a running server, from its prompts to its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from perfgate.autotune.events import late_events, witnessed
from perfgate.client import Endpoint, judge_server, judge_validity, run_load, run_record
from perfgate.errors import CoverageError, ServerError
from perfgate.experiment.models import vocabulary
from perfgate.experiment.sampling import Sampler
from perfgate.experiment.seeds import run_seed
from perfgate.records import RunRecord
from perfgate.selection import Target
from perfgate.server import ModelRef, RunningServer, usage_per_token
from perfgate.workload import make_prompts


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes the runs of one boot."""

    running: RunningServer
    model: ModelRef
    token: str
    """Of the boot: part of the prompts' seed."""
    progress: Callable[[str], None]
    processes: int = 1
    """Load processes."""
    keep_arrays: bool = True

    def run(self, target: Target, *, attempt: int, words: str) -> tuple[RunRecord, float]:
        """Sends the workload's requests once.

        Args:
            target: which workload, and what its machine may be put through.
            attempt: the how-manieth run on this boot, from 0; no two have the same prompts.
            words: what progress is told under.

        Returns:
            the record, with the reasons if it cannot be believed, and the seconds the load took.

        Raises:
            ServerError: the server was not there any more when the run was to begin.
        """
        running, workload, seed = self.running, target.workload, run_seed(attempt)
        drawn = make_prompts(workload, seed=seed, boot=self.token, run=attempt, **vocabulary(self.model))
        before: dict[str, float] = {}
        used: dict[str, float] = {}
        mark, begun = 0, time.time()

        def begin() -> None:
            nonlocal mark, begun
            begun = time.time()
            mark = running.log_mark()
            before.update(running.counters())
            used.update(running.usage())

        running.assert_alive()
        running.reset_prefix_cache()
        with Sampler(running.api.metrics_text) as sampler:
            timings = run_load(
                Endpoint(url=running.url, model=running.model, api=workload.api, headers=running.headers),
                workload,
                prompts=drawn.measured,
                warmup_prompts=drawn.warmup,
                seed=seed,
                progress=lambda seen: self.progress(
                    f"{words}: {seen.completed}/{seen.total} requests, {seen.elapsed_s:.0f} s"
                ),
                after_warmup=begin,
                processes=self.processes,
            )
        usage = usage_per_token(used, running.usage(), int(timings.output_tokens[timings.ok].sum()))
        reasons = list(judge_validity(timings, workload, lag_ms=target.gpu.client_lag_ms))
        server_side: dict[str, float] = {}
        try:
            running.assert_alive()
            after = running.counters()
            reasons += judge_server(before, after, workload, block_size=_block_size(running))
            server_side = {**differences(before, after), **sampler.peaks}
            compiled = [*running.compile_events(mark), *_late_kernels(running, begun)]
            if compiled:
                reasons.append(f"compiled or autotuned while measuring: {', '.join(compiled)}")
        except ServerError as error:
            reasons.insert(0, error.message)  # that requests failed follows from it
        record = run_record(
            timings,
            workload,
            seed=seed,
            invalid=tuple(reasons),
            server=server_side,
            arrays=self.keep_arrays,
        )
        if record.valid:
            record = record.model_copy(update={"metrics": {**record.metrics, **usage}})
        return record, timings.duration


def _late_kernels(running: RunningServer, since: float) -> list[str]:
    """Kernels that a process of the server tuned or compiled after ``since``, where a recorder was in it."""
    if running.events_path is None or not running.events_path.is_file():
        return []
    try:
        events = witnessed(running.events_path)
    except CoverageError:
        # A file that cannot be read tells nothing, and the server's own monitor is the only witness.
        return []
    # By the clock of the run, not by what each process says of its readiness: a worker of another name never says it.
    late = late_events(events, ready_at=since)
    return list(dict.fromkeys(event.kernel for event in late if event.time >= since))


def _block_size(running: RunningServer) -> int | None:
    size = running.cache_config().get("block_size", "")
    return int(size) if size.isdigit() else None


def differences(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How far each of the server's counters moved, for those that both readings have; of a histogram also the buckets that did not."""
    return {
        name: after[name] - before[name]
        for name in after
        if name in before and (after[name] != before[name] or " le=" in name)
    }
