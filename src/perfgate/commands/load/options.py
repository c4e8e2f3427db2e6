"""The options of ``perfgate load``, and what they say."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from perfgate.errors import InputError
from perfgate.records import Cell
from perfgate.workload import WorkloadSpec

FIRST_ID, VOCABULARY = 1000, 30_000

_OPTIONS = {
    "warmups": "--num-warmups",
    "slo": "--goodput",
    "request_timeout_s": "--request-timeout",
    "run_timeout_s": "--run-timeout",
}
"""Those that are not called as their field is."""


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
        "--vocab-size", type=int, metavar="N", help=f"token ids are drawn below it (default: {VOCABULARY})"
    )
    prompt.add_argument(
        "--first-token-id",
        type=int,
        metavar="N",
        help=f"token ids are drawn from it on (default: {FIRST_ID}, or 10 with a --vocab-size below {4 * FIRST_ID})",
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


def workload_of(options: argparse.Namespace) -> WorkloadSpec:
    """The workload that the options describe.

    Raises:
        InputError: they describe none; the option is named.
    """
    if options.request_rate is not None and math.isinf(options.request_rate):
        raise InputError(
            f"--request-rate {options.request_rate:g}",
            remedy="To send as fast as answers come, use a closed loop: --concurrency N.",
        )
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
        "extra_body": _extra_body(options.extra_body),
    }
    try:
        return WorkloadSpec.model_validate(given)
    except ValidationError as error:
        raise InputError(_as_options(error.errors()[0], given), remedy="See perfgate load --help.") from None


def _as_options(problem: ErrorDetails, given: Mapping[str, object]) -> str:
    """A problem of the specification in the words of the command line."""
    said = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return re.sub("|".join(rf"\b{field}\b" for field in given), lambda field: _option(field[0]), said)
    field, *rest = (str(part) for part in problem["loc"])
    value = problem["input"]
    where = f"{_option(field)} {':'.join([*rest, str(value)]) if isinstance(value, int | float) else repr(value)[:80]}"
    return f"{where}: {said}"


def _option(field: str) -> str:
    return _OPTIONS.get(field, "--" + field.replace("_", "-"))


def _extra_body(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--extra-body {text[:80]!r} is no JSON: {error}", remedy="Quote it: '{\"temperature\": 0}'."
        ) from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is none of its values")


def _service_levels(pairs: Sequence[str]) -> dict[str, float]:
    levels: dict[str, float] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if name in levels:
            raise InputError(f"--goodput {pair!r}: {name} was given before", remedy="Give each level once.")
        try:
            levels[name] = float(value)
        except ValueError:
            colon = ""
        if not colon or name not in ("ttft", "tpot", "e2el"):
            raise InputError(
                f"--goodput {pair!r}", remedy="Write ttft:MS, tpot:MS or e2el:MS, as in ttft:500 tpot:50."
            )
    return levels


def api_key_of(options: argparse.Namespace) -> str | None:
    """The API key from the environment; None where none was asked for.

    Raises:
        InputError: the variable is not set.
    """
    if options.api_key_env is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", options.api_key_env):
        # Most likely the key itself, which no log should have.
        raise InputError(
            "--api-key-env: what was given is no name of a variable",
            remedy="Export the key (export KEY=…), and give the variable's name: --api-key-env KEY.",
        )
    key = os.environ.get(options.api_key_env)
    if not key:
        raise InputError(
            f"--api-key-env {options.api_key_env}: the variable is not set", remedy="Export it first."
        )
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"--api-key-env {options.api_key_env}: its value has a line end or a character that no header carries",
            remedy="Export the key alone, without a line end.",
        )
    return key


def cell_of(text: str) -> Cell:
    """The cell that ``--cell`` names.

    Raises:
        InputError: not four names.
    """
    parts = text.split("/")
    try:
        return Cell(**dict(zip(("gpu", "model", "server", "workload"), parts, strict=True)))
    except (ValueError, ValidationError):
        raise InputError(f"--cell {text!r}", remedy="Write four names: GPU/MODEL/SERVER/WORKLOAD.") from None
