"""``perfgate load``: one workload against any OpenAI-compatible server."""

from __future__ import annotations

import argparse
import re
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import perfgate
from perfgate.client import Endpoint, Progress, judge_server, judge_validity, run_load, run_record
from perfgate.commands.load.control import Control, metrics_page, served, settled
from perfgate.commands.load.options import (
    FIRST_ID,
    VOCABULARY,
    add_arguments,
    api_key_of,
    cell_of,
    workload_of,
)
from perfgate.commands.load.table import table
from perfgate.errors import InputError
from perfgate.records import BootRecord, Cell, Fingerprint, Measurement, RunRecord, SessionResults
from perfgate.results import refuse_unwritable, write_file
from perfgate.server.api import parse_cache_config, parse_counters
from perfgate.timings import Timings
from perfgate.workload import WorkloadSpec, as_plain, make_prompts

__all__ = ["HELP", "add_arguments", "run"]

HELP = "run one workload against any OpenAI-compatible server"

EXIT_INVALID = 2


def run(options: argparse.Namespace) -> int:
    """Loads the server and prints the table.

    Returns:
        0 for a valid run, 2 for an invalid one.
    """
    workload = workload_of(options)
    cell = cell_of(options.cell) if options.cell else None
    if options.json is not None:
        refuse_unwritable(options.json)
    elif options.arrays or cell is not None:
        raise InputError(
            f"{'--arrays' if options.arrays else '--cell'} without --json",
            remedy="Add --json FILE to keep the run.",
        )
    endpoint = Endpoint(
        url=options.url,
        model="",
        api=options.endpoint,
        api_key=api_key_of(options),
        verify=not options.insecure,
        ca_file=options.ca_file,
        prompt_form=options.prompt_form,
    )
    control = Control(endpoint)
    model, version = served(control, options.url, options.model)
    endpoint = replace(endpoint, model=model)
    timings, counted = _measure(options, workload, endpoint, control)
    invalid = [*judge_validity(timings, workload, exact_prompts=_exact(options)), *counted]
    record = run_record(timings, workload, seed=options.seed, invalid=invalid, arrays=options.arrays)
    sys.stdout.write(table(timings, record, workload))
    if options.json is not None:
        write_file(options.json, _results(record, workload, endpoint, cell, version))
    return 0 if record.valid else EXIT_INVALID


def _measure(
    options: argparse.Namespace, workload: WorkloadSpec, endpoint: Endpoint, control: Control
) -> tuple[Timings, Sequence[str]]:
    vocabulary = VOCABULARY if options.vocab_size is None else options.vocab_size
    first = options.first_token_id
    if first is None:
        first = FIRST_ID if vocabulary >= 4 * FIRST_ID else 10
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
            after_warmup=lambda: before.update(parse_counters(metrics_page(control))),
            processes=options.load_processes,
            count_events=options.count_events,
        )
    finally:
        if show is not None:
            sys.stderr.write("\r\x1b[K")
    if not before:
        return timings, ()
    page = settled(control, before, workload.num_prompts)
    size = parse_cache_config(page).get("block_size", "")
    return timings, judge_server(
        before, parse_counters(page), workload, block_size=int(size) if size.isdecimal() else None
    )


def _exact(options: argparse.Namespace) -> bool:
    return bool(options.endpoint == "completions" and options.prompt_form == "ids")


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
