"""Sessions made up for the tests of the reports: plausible, large, hostile or nearly empty; the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from perfgate.metrics import METRICS
from perfgate.records import (
    Baseline,
    BootRecord,
    Cell,
    CellVerdict,
    Fingerprint,
    Measurement,
    MetricVerdict,
    Outcome,
    Provenance,
    RequestArrays,
    RunRecord,
    SessionResults,
    replicates,
)

Floats = npt.NDArray[np.float64]
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PRIMARY = ("output_throughput", "mean_ttft_ms", "mean_tpot_ms")

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    '<img src=x onerror="window.pwned=2">',
    "\x1b[2J\x1b]0;owned\x07 cleared",
    "\n::error file=x::owned\n##[error]owned",
    "| a | `b` **c** [d](javascript:alert(1)) @octocat #1 https://evil.example <!-- e -->",
    "\u202egnirts desrever\u200b\ud800",
    "{{ 7*7 }} {% raw %} ${{ secrets.TOKEN }}",
    "]]></x>&amp;&#60;b&#62;",
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A session with the baselines it was judged against."""

    results: SessionResults
    baselines: dict[Cell, Baseline]


def verdict(
    outcome: Outcome = Outcome.PASS,
    *,
    cell: Cell | None = None,
    change: float = 0.0,
    text: str = "",
    baseline_file: str | None = None,
    measured: Mapping[str, tuple[float, float]] | None = None,
) -> CellVerdict:
    """One cell's verdict: mean TTFT slower by ``change``, the rest by a third of it; or the means measured before and now."""
    cell = cell or Cell(gpu="gb10", model="qwen3.5-35b-a3b-fp8", server="production-v2", workload="chat")
    if outcome in {Outcome.NO_BASELINE, Outcome.RECORDED, Outcome.INVALID, Outcome.INCOMPARABLE}:
        return CellVerdict(
            cell=cell,
            outcome=outcome,
            reason=text or REASONS[outcome],
            next_step=NEXT[outcome],
            baseline_file=baseline_file,
        )
    metrics = []
    values = {
        "output_throughput": 208.04,
        "mean_ttft_ms": 4828.0,
        "mean_tpot_ms": 67.61,
        "p99_ttft_ms": 5917.0,
    }
    for name, stated in values.items():
        known = METRICS[name]
        slowdown = (change if name in {"mean_ttft_ms", "p99_ttft_ms"} else change / 3) * known.sign
        base, then = (measured or {}).get(name, (stated, stated * (1 + slowdown)))
        slowdown = then / base - 1
        half = 0.03 if name != "p99_ttft_ms" else 0.3
        said = outcome if name == "mean_ttft_ms" else Outcome.PASS
        if name == "p99_ttft_ms":
            said = Outcome.INCONCLUSIVE
        metrics.append(
            MetricVerdict(
                metric=name,
                outcome=said,
                baseline=base,
                now=then,
                change=slowdown,
                lower=slowdown - half,
                upper=slowdown + half,
                margin=known.margin,
                tolerance=known.tolerance,
                smallest_detectable=half * 2,
                baseline_boots=5,
                now_boots=5,
                primary=known.primary,
                reason=(text or REASONS[outcome]) if said is not Outcome.PASS else "",
                next_step=NEXT[outcome] if said is not Outcome.PASS else "",
            )
        )
    return CellVerdict(
        cell=cell,
        outcome=outcome,
        reason=text or REASONS[outcome],
        next_step=NEXT[outcome],
        metrics=tuple(metrics),
        command=text,
        notes=(text,) if text else (),
        baseline_file=baseline_file,
    )


REASONS = {
    Outcome.REGRESSION: "the slowdown of mean TTFT exceeds 3.0% and the interval excludes it",
    Outcome.INVALID: "3 of 64 requests failed: HTTP 500 (engine dead), see the log of boot 2",
    Outcome.INCOMPARABLE: "the baseline is of NVIDIA GB10, 1 GPU; this machine is NVIDIA H100, 1 GPU",
    Outcome.NO_BASELINE: "no baseline is stored for this cell",
    Outcome.RECORDED: "baseline recorded (3 boots); nothing was judged",
    Outcome.SUSPECT: "slower than the screen allows, on one baseline replicate",
    Outcome.INCONCLUSIVE: "the interval includes both no change and the margin of 10%",
    Outcome.IMPROVEMENT: "",
    Outcome.PASS: "",
}
NEXT = {
    Outcome.REGRESSION: "pytest -m serving --server production-v2 --workload chat --attribute",
    Outcome.INVALID: "read .perfgate/logs/boot-2.log",
    Outcome.INCOMPARABLE: "pytest -m serving --new-baselines",
    Outcome.NO_BASELINE: "pytest -m serving --new-baselines",
    Outcome.RECORDED: "Measure again: the next session is judged against it.",
    Outcome.SUSPECT: "pytest -m serving --server production-v2 --workload chat --against python3",
    Outcome.INCONCLUSIVE: "pytest -m serving --workload chat --replicates 9",
    Outcome.IMPROVEMENT: "pytest -m serving --update-baselines",
    Outcome.PASS: "",
}


def mixed() -> tuple[CellVerdict, ...]:
    """One verdict of every outcome, best first, on one GPU and model."""
    workloads = ["decode", "document", "contention", "chat", "short", "long", "burst", "shared-prefix", "rag"]
    changes = {
        Outcome.REGRESSION: 0.155,
        Outcome.SUSPECT: 0.1,
        Outcome.INCONCLUSIVE: 0.04,
        Outcome.IMPROVEMENT: -0.2,
    }
    return tuple(
        verdict(
            outcome,
            cell=Cell(gpu="gb10", model="qwen3.5-35b-a3b-fp8", server="production-v2", workload=workload),
            change=changes.get(outcome, 0.004),
            baseline_file=f"baselines/gb10/qwen3.5-35b-a3b-fp8/production-v2/{workload}.json",
        )
        for outcome, workload in zip(reversed(Outcome), workloads, strict=True)
    )


def session(
    *,
    cells: int = len(Outcome),
    boots: int = 5,
    runs: int = 4,
    requests: int = 64,
    hostile: bool = False,
    seed: int = 1,
) -> Example:
    """A session of so many cells with boots × runs replicates on either side, outcomes taking turns.

    Args:
        cells: how many.
        boots: boots a side.
        runs: runs a boot.
        requests: requests a run; their times are kept.
        hostile: put strings into every free text field that try to escape from the report.
        seed: of all noise.
    """
    rng = np.random.default_rng(seed)
    measurements, verdicts, baselines = [], [], {}
    for number in range(cells):
        outcome = list(Outcome)[number % len(Outcome)]
        cell = Cell(
            gpu="gb10",
            model="qwen3.5-35b-a3b-fp8",
            server=f"production-v{number // len(Outcome)}",
            workload=f"workload-{number % len(Outcome)}",
        )
        change = {
            Outcome.REGRESSION: 0.155,
            Outcome.SUSPECT: 0.09,
            Outcome.INCONCLUSIVE: 0.05,
            Outcome.IMPROVEMENT: -0.2,
        }.get(outcome, 0.01)
        text = " ".join(HOSTILE) if hostile else ""
        now = _boots(rng, boots, runs, requests, slower=change, prefix="now", text=text)
        before = _boots(rng, boots, runs, requests, slower=0.0, prefix="base", text=text)
        made = verdict(
            outcome,
            cell=cell,
            text=text,
            baseline_file=f"baselines/{cell}.json",
            measured={name: (_mean(before, name), _mean(now, name)) for name in (*PRIMARY, "p99_ttft_ms")},
        )
        notes = (
            "KV peak 9%, 0 preemptions: more KV memory cannot help",
            "async_scheduling: false -> true, new default of 0.19; not set by you",
        )
        verdicts.append(made.model_copy(update={"notes": (*made.notes, *notes)}))
        if outcome is Outcome.INVALID:
            broken = (
                now[0]
                .runs[0]
                .model_copy(update={"metrics": {}, "invalid": (text or "3 of 64 requests failed: HTTP 500",)})
            )
            now = (now[0].model_copy(update={"runs": (broken, *now[0].runs[1:])}), *now[1:])
        measurements.append(
            Measurement(
                cell=cell,
                fingerprint=_fingerprint(driver="580.95.05", vllm="0.25.1", text=text),
                server={"args": {"max-num-batched-tokens": 16384, "served-model-name": text or "qwen"}},
                workload={"input_tokens": 2048, "output_tokens": 256, "concurrency": 4},
                boots=now,
            )
        )
        if outcome is not Outcome.NO_BASELINE:
            baselines[cell] = Baseline(
                cell=cell,
                provenance=Provenance(
                    recorded=START - timedelta(days=30), by=text or "a person", source="measured"
                ),
                fingerprint=_fingerprint(driver="575.51.03", vllm="0.19.1", text=text),
                boots=before,
            )
    return Example(
        results=SessionResults(
            session="20260301-120000-example",
            started=START,
            command=HOSTILE[0] if hostile else "pytest -m serving --gpu gb10",
            perfgate="0.1.0",
            measurements=tuple(measurements),
            verdicts=tuple(verdicts),
        ),
        baselines=baselines,
    )


def bare() -> SessionResults:
    """A session with verdicts and nothing measured."""
    return SessionResults(
        session="bare", started=START, command="perfgate compare", perfgate="0.1.0", verdicts=mixed()
    )


def _mean(boots: tuple[BootRecord, ...], metric: str) -> float:
    return float(np.mean(list(chain.from_iterable(replicates(boots, metric)))))


def _fingerprint(*, driver: str, vllm: str, text: str) -> Fingerprint:
    return Fingerprint(
        gpu_name=text or "NVIDIA GB10",
        gpu_count=1,
        gpu_memory_gib=121.69,
        driver=driver,
        cuda="13.0",
        cpu_model="Cortex-X925",
        cpu_count=20,
        python="3.12.3",
        vllm=vllm,
        torch="2.9.0",
        triton="3.5.0",
    )


def _boots(
    rng: np.random.Generator, boots: int, runs: int, requests: int, *, slower: float, prefix: str, text: str
) -> tuple[BootRecord, ...]:
    made = []
    for number in range(boots):
        boot_effect = rng.normal(0, 0.01)
        records = tuple(
            _run(rng, requests, slower=slower, effect=boot_effect, seed=42 + run) for run in range(runs)
        )
        settings: dict[str, Any] = {
            "cache_config": {"mamba_cache_mode": "align", "gpu_memory_utilization": 0.45},
            "scheduler_config": {"async_scheduling": prefix == "now", "max_num_batched_tokens": 16384},
        }
        if text:
            settings[text] = text
        made.append(
            BootRecord(
                id=f"{prefix}-{number}",
                started=START + timedelta(minutes=10 * number),
                metrics={
                    "ready_s": 95.0 + rng.normal(0, 3),
                    "boot_imports_s": 14.0,
                    "boot_weights_s": 41.0 + rng.normal(0, 1),
                    "boot_compile_s": 22.0,
                    "boot_warmup_s": 11.0,
                    "boot_graphs_s": 7.0,
                    "kv_cache_tokens": 174_000.0,
                },
                settings=settings,
                log=f"/var/log/{text or prefix}-{number}.log",
                runs=records,
            )
        )
    return tuple(made)


def _run(rng: np.random.Generator, requests: int, *, slower: float, effect: float, seed: int) -> RunRecord:
    factor = float(np.exp(effect + rng.normal(0, 0.012)))
    ttft = rng.lognormal(np.log(0.7), 0.25, requests) * (1 + slower) * factor
    tpot = rng.lognormal(np.log(0.025), 0.05, requests) * (1 + slower / 3) * factor
    sent = np.repeat(np.arange((requests + 3) // 4), 4)[:requests] * 7.0
    first = sent + ttft
    last = first + tpot * 255
    return RunRecord(
        seed=seed,
        started=START,
        duration_s=float(last.max()),
        requests=requests,
        metrics={
            "output_throughput": 208.0 / factor / (1 + slower / 3),
            "mean_ttft_ms": float(ttft.mean() * 1e3),
            "median_ttft_ms": float(np.median(ttft) * 1e3),
            "p99_ttft_ms": float(np.percentile(ttft, 99) * 1e3),
            "mean_tpot_ms": float(tpot.mean() * 1e3),
            "p99_tpot_ms": float(np.percentile(tpot, 99) * 1e3),
        },
        client={"loop_lag_ms": 0.2},
        server={**_counted(sent, first, last), "vllm:num_preemptions_total": 0.0, "kv_peak": 0.09},
        arrays=RequestArrays(
            scheduled=tuple(sent.tolist()),
            sent=tuple((sent + 0.0002).tolist()),
            first=tuple(first.tolist()),
            last=tuple(last.tolist()),
            prompt_tokens=(2048,) * requests,
            output_tokens=(256,) * requests,
            outcome=("ok",) * requests,
        ),
    )


def _counted(sent: Floats, first: Floats, last: Floats) -> dict[str, float]:
    """The server's histograms of stages as they move during a run: a tenth of the time to the first token is queue."""
    stages = {
        "queue": (first - sent) * 0.1,
        "prefill": (first - sent) * 0.9,
        "decode": last - first,
    }
    return {
        f"vllm:request_{name}_time_seconds_{part}": value
        for name, times in stages.items()
        for part, value in (("sum", float(times.sum())), ("count", float(len(times))))
    }
