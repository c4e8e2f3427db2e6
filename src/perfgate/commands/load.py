"""``perfgate load``: one workload against any OpenAI-compatible server."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

import perfgate
from perfgate.client import Endpoint, Progress, judge_server, judge_validity, run_load, run_record
from perfgate.errors import InputError, ServerError
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, RunRecord, SessionResults
from perfgate.results import refuse_unwritable, write_file
from perfgate.server.api import parse_cache_config, parse_counters
from perfgate.timings import Timings
from perfgate.workload import WorkloadSpec, as_plain, make_prompts

HELP = "run one workload against any OpenAI-compatible server"

EXIT_INVALID = 2
_SETTLE_S = 2.0
_FIRST_ID, _VOCABULARY = 1000, 30_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, what, and how much; the names are those of ``vllm bench serve`` where it has them."""
    where = parser.add_argument_group("server")
    where.add_argument("--url", required=True, help="http://HOST:PORT or https://HOST:PORT")
    where.add_argument("--model", metavar="NAME", help="served model name (default: the one it serves)")
    where.add_argument("--endpoint", choices=("completions", "chat"), default="completions")
    where.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the API key")
    where.add_argument("--ca-file", metavar="PEM", help="authority to trust in place of the system's")
    where.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    what = parser.add_argument_group("workload")
    what.add_argument("--input-len", type=int, required=True, metavar="N", help="prompt tokens")
    what.add_argument("--output-len", type=int, required=True, metavar="N", help="tokens to generate")
    what.add_argument(
        "--shared-prefix-len", type=int, default=0, metavar="N", help="leading tokens all prompts share"
    )
    what.add_argument("--num-prompts", type=int, required=True, metavar="N", help="measured requests")
    what.add_argument(
        "--num-warmups", type=int, default=0, metavar="N", help="requests sent before and not measured"
    )
    what.add_argument("--concurrency", type=int, metavar="N", help="closed loop: requests in flight")
    what.add_argument("--request-rate", type=float, metavar="R", help="open loop: requests a second")
    what.add_argument(
        "--burstiness", type=float, default=1.0, metavar="B", help="1 is Poisson, below it burstier"
    )
    what.add_argument("--max-concurrency", type=int, metavar="N", help="cap of an open loop")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts and arrivals")
    what.add_argument(
        "--goodput", nargs="+", default=[], metavar="NAME:MS", help="service levels, e.g. ttft:500 tpot:50"
    )
    what.add_argument(
        "--request-timeout", type=float, default=600.0, metavar="S", help="seconds for one request"
    )
    what.add_argument(
        "--run-timeout", type=float, default=3600.0, metavar="S", help="seconds for the whole run"
    )
    what.add_argument(
        "--extra-body", default='{"temperature": 0}', metavar="JSON", help="more fields of each request"
    )
    prompt = parser.add_argument_group("prompts")
    prompt.add_argument(
        "--prompt-form",
        choices=("ids", "words"),
        default="ids",
        help="a server other than vLLM may not take token ids",
    )
    prompt.add_argument(
        "--vocab-size", type=int, metavar="N", help=f"token ids are drawn below it (default: {_VOCABULARY})"
    )
    prompt.add_argument(
        "--first-token-id",
        type=int,
        metavar="N",
        help=f"token ids are drawn from it on (default: {_FIRST_ID}, or 10 with a --vocab-size below {4 * _FIRST_ID})",
    )
    prompt.add_argument(
        "--prompt-token",
        metavar="TEXT",
        help="with the same seed, the same prompts again (default: never the same, a prefix cache would answer them)",
    )
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument(
        "--load-processes", type=int, default=1, metavar="N", help="processes that make the load"
    )
    measuring.add_argument(
        "--count-events", action="store_true", help="take an event for a token where the stream has no usage"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the run as a results file")
    output.add_argument("--arrays", action="store_true", help="with --json: keep the times of every request")
    output.add_argument("--cell", metavar="GPU/MODEL/SERVER/WORKLOAD", help="with --json: the cell's names")


def run(options: argparse.Namespace) -> int:
    """Loads the server and prints the table.

    Returns:
        0 for a valid run, 2 for an invalid one.
    """
    workload = _workload(options)
    cell = _cell(options.cell) if options.cell else None
    if options.json is not None:
        refuse_unwritable(options.json)
    elif options.arrays or cell is not None:
        raise InputError(
            f"{'--arrays' if options.arrays else '--cell'} without --json",
            remedy="Add --json FILE to keep the run.",
        )
    with _client(options) as control:
        model, version = _served(control, options)
        endpoint = Endpoint(
            url=options.url,
            model=model,
            api=options.endpoint,
            api_key=_api_key(options),
            verify=not options.insecure,
            ca_file=options.ca_file,
            prompt_form=options.prompt_form,
        )
        timings, counted = _measure(options, workload, endpoint, control)
    invalid = [*judge_validity(timings, workload, exact_prompts=_exact(options)), *counted]
    record = run_record(timings, workload, seed=options.seed, invalid=invalid, arrays=options.arrays)
    sys.stdout.write(table(timings, record, workload))
    if options.json is not None:
        write_file(options.json, _results(record, workload, endpoint, cell, version))
    return 0 if record.valid else EXIT_INVALID


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
    lines += [f"INVALID: {reason}" for reason in record.invalid]
    return "\n".join(lines) + "\n"


def _measure(
    options: argparse.Namespace, workload: WorkloadSpec, endpoint: Endpoint, control: httpx.Client
) -> tuple[Timings, Sequence[str]]:
    vocabulary = options.vocab_size or _VOCABULARY
    first = options.first_token_id
    if first is None:
        first = _FIRST_ID if vocabulary >= 4 * _FIRST_ID else 10
    prompts = make_prompts(
        workload,
        seed=options.seed,
        boot=options.prompt_token or secrets.token_hex(8),
        run=0,
        vocab_size=vocabulary,
        first_id=first,
    )
    before: dict[str, float] = {}
    show = _show if sys.stderr.isatty() else None
    try:
        timings = run_load(
            endpoint,
            workload,
            prompts=prompts.measured,
            warmup_prompts=prompts.warmup,
            seed=options.seed,
            progress=show,
            after_warmup=lambda: before.update(parse_counters(_metrics_page(control))),
            processes=options.load_processes,
            count_events=options.count_events,
        )
    finally:
        if show is not None:
            sys.stderr.write("\r\x1b[K")
    if not before:
        return timings, ()
    page = _settled(control, before, workload.num_prompts)
    size = parse_cache_config(page).get("block_size", "")
    return timings, judge_server(
        before, parse_counters(page), workload, block_size=int(size) if size.isdigit() else None
    )


def _settled(control: httpx.Client, before: Mapping[str, float], requests: int) -> str:
    """The metrics page once it has counted every request; vLLM counts a response a moment after sending it."""
    name = "vllm:request_success_total"
    deadline = time.monotonic() + _SETTLE_S
    while True:
        page = _metrics_page(control)
        if (
            parse_counters(page).get(name, 0.0) - before.get(name, 0.0) >= requests
            or time.monotonic() > deadline
        ):
            return page
        time.sleep(0.05)


def _metrics_page(control: httpx.Client) -> str:
    try:
        answer = control.get("/metrics")
    except httpx.HTTPError:
        return ""
    return answer.text if answer.status_code == httpx.codes.OK else ""


def _client(options: argparse.Namespace) -> httpx.Client:
    """The control plane, with the load's own URL, key and trust."""
    endpoint = Endpoint(
        url=options.url,
        model="",
        api_key=_api_key(options),
        verify=not options.insecure,
        ca_file=options.ca_file,
    )
    context = endpoint.ssl_context()
    local = endpoint.host in ("127.0.0.1", "localhost", "::1")
    return httpx.Client(
        base_url=endpoint.root,
        headers=endpoint.control_headers(),
        verify=context if context is not None else True,
        timeout=30.0,
        trust_env=not local,  # a proxy of the environment must not answer for this machine
    )


def _served(control: httpx.Client, options: argparse.Namespace) -> tuple[str, str | None]:
    """The model to ask for, and the version of vLLM if it is one."""
    try:
        answer = control.get("/v1/models")
    except httpx.HTTPError as error:
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
        raise ServerError(
            f"{options.url} does not answer: {str(error) or type(error).__name__}",
            remedy="Trust its authority with --ca-file PEM, or anybody with --insecure."
            if untrusted
            else "Check the address, and that the server is running.",
        ) from None
    try:
        names = [str(entry["id"]) for entry in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        if answer.status_code in (401, 403):
            raise ServerError(
                f"{options.url}/v1/models answered {answer.status_code}: {answer.text[:200]}",
                remedy="Pass --api-key-env NAME.",
            ) from None
        if options.model is None:
            raise ServerError(
                f"{options.url}/v1/models is no list of models (HTTP {answer.status_code}): {answer.text[:200]!r}",
                remedy="Give --model, or the URL of an OpenAI-compatible server.",
            ) from None
        return str(options.model), None
    if options.model is None and len(names) != 1:
        raise InputError(
            f"{options.url} serves {len(names)} models: {', '.join(names)}", remedy="Choose one with --model."
        )
    if options.model is not None and options.model not in names:
        near = get_close_matches(options.model, names, n=3) or names
        raise InputError(
            f"{options.url} serves no model {options.model!r}", remedy=f"It serves {', '.join(near)}."
        )
    try:
        version = control.get("/version").raise_for_status().json().get("version")
    except (httpx.HTTPError, ValueError, AttributeError):
        version = None
    return options.model or names[0], version if isinstance(version, str) else None


def _api_key(options: argparse.Namespace) -> str | None:
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env)
    if not key:
        raise InputError(
            f"--api-key-env {options.api_key_env}: the variable is not set", remedy="Export it first."
        )
    return key


def _exact(options: argparse.Namespace) -> bool:
    return bool(options.endpoint == "completions" and options.prompt_form == "ids")


def _workload(options: argparse.Namespace) -> WorkloadSpec:
    try:
        body = json.loads(options.extra_body)
    except ValueError as error:
        raise InputError(f"--extra-body {options.extra_body!r} is no JSON: {error}") from None
    given = {
        "name": "load",
        "input_len": options.input_len,
        "output_len": options.output_len,
        "shared_prefix_len": options.shared_prefix_len,
        "concurrency": options.concurrency,
        "request_rate": options.request_rate,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        "num_prompts": options.num_prompts,
        "warmups": options.num_warmups,
        "slo": _service_levels(options.goodput),
        "api": options.endpoint,
        "request_timeout_s": options.request_timeout,
        "run_timeout_s": options.run_timeout,
        "extra_body": body,
    }
    try:
        return WorkloadSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = (
            "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-") + ": "
            if first["loc"]
            else ""
        )
        raise InputError(
            f"{where}{first['msg'].removeprefix('Value error, ')}", remedy="See perfgate load --help."
        ) from None


def _service_levels(pairs: Sequence[str]) -> dict[str, float]:
    levels: dict[str, float] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        try:
            levels[name] = float(value)
        except ValueError:
            colon = ""
        if not colon or name not in ("ttft", "tpot", "e2el"):
            raise InputError(
                f"--goodput {pair!r}", remedy="Write ttft:MS, tpot:MS or e2el:MS, as in ttft:500 tpot:50."
            )
    return levels


def _cell(text: str) -> Cell:
    parts = text.split("/")
    try:
        return Cell(**dict(zip(("gpu", "model", "server", "workload"), parts, strict=True)))
    except (ValueError, ValidationError):
        raise InputError(f"--cell {text!r}", remedy="Write four names: GPU/MODEL/SERVER/WORKLOAD.") from None


def _results(
    record: RunRecord, workload: WorkloadSpec, endpoint: Endpoint, cell: Cell | None, version: str | None
) -> SessionResults:
    def name(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")[:120] or "unknown"

    named = cell or Cell(
        gpu="unknown", model=name(endpoint.model), server=name(endpoint.host), workload="load"
    )
    server: dict[str, Any] = {"url": endpoint.root, "model": endpoint.model, "api": endpoint.api}
    now = datetime.now(UTC)
    boot = BootRecord(id=f"{endpoint.host}:{endpoint.port}", runs=(record,))
    return SessionResults(
        session=f"load-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
        started=record.started or now,
        command=shlex.join(["perfgate", *sys.argv[1:]]),
        perfgate=perfgate.__version__,
        measurements=(
            Measurement(
                cell=named,
                fingerprint=Fingerprint(vllm=version),
                server=server,
                workload=dict(as_plain(workload)),
                boots=(boot,),
            ),
        ),
    )


def _show(progress: Progress) -> None:
    rate = progress.reads / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
    sys.stderr.write(
        f"\r\x1b[K{progress.completed}/{progress.total} requests, {progress.in_flight} in flight,"
        f" {progress.elapsed_s:.0f} s, about {rate:.0f} tok/s"
    )
    sys.stderr.flush()
