"""What ``perfgate load`` asks the server beside the load: its models, its version, its counters."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from difflib import get_close_matches

import httpx

from perfgate.client import Endpoint
from perfgate.commands.load.options import api_key_of
from perfgate.errors import InputError, ServerError
from perfgate.server.api import parse_counters

_SETTLE_S = 2.0


def client_of(options: argparse.Namespace) -> httpx.Client:
    """The control plane, with the load's own URL, key and trust."""
    endpoint = Endpoint(
        url=options.url,
        model="",
        api_key=api_key_of(options),
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


def served(control: httpx.Client, options: argparse.Namespace) -> tuple[str, str | None]:
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


def settled(control: httpx.Client, before: Mapping[str, float], requests: int) -> str:
    """The metrics page once it has counted every request; vLLM counts a response a moment after sending it."""
    name = "vllm:request_success_total"
    deadline = time.monotonic() + _SETTLE_S
    while True:
        page = metrics_page(control)
        if (
            parse_counters(page).get(name, 0.0) - before.get(name, 0.0) >= requests
            or time.monotonic() > deadline
        ):
            return page
        time.sleep(0.05)


def metrics_page(control: httpx.Client) -> str:
    """The server's metrics page; empty where it has none."""
    try:
        answer = control.get("/metrics")
    except httpx.HTTPError:
        return ""
    return answer.text if answer.status_code == httpx.codes.OK else ""
