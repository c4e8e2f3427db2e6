"""The table that ``perfgate load`` prints."""

from __future__ import annotations

from perfgate.plaintext import visible
from perfgate.records import RunRecord
from perfgate.timings import Timings
from perfgate.workload import WorkloadSpec


def table(timings: Timings, record: RunRecord, workload: WorkloadSpec) -> str:
    """The familiar table of a valid run; of an invalid one the reasons, and no numbers of the server."""
    title = "Serving Benchmark Result" if record.valid else "INVALID: nothing here can be believed"
    lines = [f" {title} ".center(66, "=")]

    def row(label: str, value: float | str, digits: int = 2) -> None:
        lines.append(f"{label + ':':<44}{value if isinstance(value, str) else f'{value:.{digits}f}':>22}")

    ok = timings.ok
    row("Successful requests", float(ok.sum()), 0)
    row("Failed requests", float(len(ok) - ok.sum()), 0)
    if workload.concurrency is not None:
        row("Concurrency", float(workload.concurrency), 0)
    else:
        row("Request rate configured (req/s)", workload.request_rate or 0.0)
        if workload.max_concurrency is not None:
            row("Maximum concurrency", float(workload.max_concurrency), 0)
    row("Benchmark duration (s)", timings.duration)
    if record.valid:
        found = record.metrics
        row("Total input tokens", float(timings.prompt_tokens[ok].clip(min=0).sum()), 0)
        row("Total generated tokens", float(timings.output_tokens[ok].sum()), 0)
        for name, label in (
            ("request_throughput", "Request throughput (req/s)"),
            ("request_goodput", "Request goodput (req/s)"),
            ("output_throughput", "Output token throughput (tok/s)"),
            ("steady_output_throughput", "  in the steady window (tok/s)"),
            ("total_token_throughput", "Total token throughput (tok/s)"),
            ("peak_concurrency", "Peak concurrent requests"),
        ):
            if name in found:
                row(label, found[name])
        for stem, label, words in (
            ("ttft", "TTFT", "Time to First Token"),
            ("scheduled_ttft", "TTFT from schedule", "TTFT from the scheduled time"),
            ("tpot", "TPOT", "Time per Output Token (excl. 1st token)"),
            ("itl", "ITL", "Inter-token Latency"),
            ("e2el", "E2EL", "End-to-end Latency"),
        ):
            if f"mean_{stem}_ms" in found:
                lines.append(words.center(66, "-"))
                for statistic, word in (
                    ("mean", "Mean"),
                    ("median", "Median"),
                    ("p90", "P90"),
                    ("p99", "P99"),
                ):
                    row(f"{word} {label} (ms)", found[f"{statistic}_{stem}_ms"])
    lines.append("The client itself".center(66, "-"))
    for name, label in (
        ("lag_mean_ms", "Mean lag (ms)"),
        ("lag_p99_ms", "P99 lag (ms)"),
        ("dispatch_mean_ms", "Mean delay of sending (ms)"),
        ("cpu_s", "CPU time while measuring (s)"),
        ("cpu_wait_s", "Waited for a processor (s)"),
    ):
        if name in timings.client:
            row(label, timings.client[name])
    lines.append("=" * 66)
    lines += [f"INVALID: {visible(reason)}" for reason in record.invalid]
    return "\n".join(lines) + "\n"
