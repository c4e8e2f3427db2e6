"""What ``perfgate load`` asks the server beside the load: its models, its version, its counters."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import httpx

from perfgate.client import Endpoint
from perfgate.errors import InputError, ServerError
from perfgate.server.api import parse_counters

PAGE_S = 30.0
"""Most seconds for one page, from connecting to its last byte."""

METRICS_S = 5.0
"""The same for the metrics page, for which the run waits."""

_MOST_BYTES = 16 * 1024 * 1024
_SETTLE_S = 2.0
_SHOWN = 8


class PageError(Exception):
    """A page could not be had; the reason is its text."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One answer.

    Args:
        status: HTTP status.
        text: the body.
        location: where a redirect leads; empty where it is none.
    """

    status: int
    text: str
    location: str

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        try:
            return json.loads(self.text)
        except RecursionError:
            raise ValueError("nested too deeply") from None


class Control:
    """The pages of a server, each within a deadline and a size, whatever the server does; asked for as the load is, past any proxy.

    Args:
        endpoint: its URL, key and trust.

    Raises:
        InputError: the authority's file cannot be read.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = endpoint.ssl_context()

    def page(self, path: str, *, within_s: float = PAGE_S) -> Page:
        """What ``GET path`` answers; also from within a running event loop.

        Raises:
            PageError: it did not answer, or not in time, or without end.
        """
        answer: Future[Page] = Future()

        def work() -> None:
            try:
                answer.set_result(asyncio.run(self._fetch(path, within_s)))
            except BaseException as error:
                answer.set_exception(error)

        # Only asyncio gives httpx a deadline over all of a request, a trickled head included; the load's own loop may be running here.
        threading.Thread(target=work, daemon=True).start()
        return answer.result()

    async def _fetch(self, path: str, within_s: float) -> Page:
        body = bytearray()
        try:
            async with (
                asyncio.timeout(within_s),
                httpx.AsyncClient(
                    verify=self._context if self._context is not None else True,
                    timeout=within_s,
                    trust_env=False,  # the load takes no proxy either
                ) as client,
                client.stream(
                    "GET", self._endpoint.address(path), headers=self._endpoint.control_headers()
                ) as answer,
            ):
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _MOST_BYTES:
                        raise PageError(f"an answer of more than {_MOST_BYTES >> 20} MiB")
        except TimeoutError:
            raise PageError(f"no whole answer within {within_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise PageError(_reason(error)) from None
        return Page(
            status=answer.status_code,
            text=body.decode("utf-8", "replace"),
            location=answer.headers.get("location", "") if answer.is_redirect else "",
        )


def served(control: Control, url: str, asked: str | None) -> tuple[str, str | None]:
    """The model to ask for, and the version of vLLM if it is one.

    Args:
        control: the server.
        url: as the person wrote it.
        asked: the model that the person wants; None for the only one that is served.

    Raises:
        ServerError: no answer, or none of an OpenAI-compatible server.
        InputError: that model is not served, or several are and none was named.
    """
    try:
        page = control.page("/v1/models")
    except PageError as error:
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
        raise ServerError(
            f"{url} does not answer: {error}",
            remedy="Trust its authority with --ca-file PEM, or anybody with --insecure."
            if untrusted
            else "Check the address (http or https too), and that the server is running.",
        ) from None
    names = _names(page)
    if names is None:
        if page.status in (401, 403):
            raise ServerError(
                f"{url}/v1/models answered {page.status}: {page.text[:200]}",
                remedy="Pass the key with --api-key-env NAME, the variable that holds it.",
            )
        if page.location and asked is None:
            raise ServerError(
                f"{url}/v1/models leads elsewhere (HTTP {page.status}): {page.location[:200]}",
                remedy="Give the URL that it leads to: what a redirect costs would be in every time.",
            )
        if asked is None:
            raise ServerError(
                f"{url}/v1/models is no list of models (HTTP {page.status}): {page.text[:200]!r}",
                remedy="Give --model, or the URL of an OpenAI-compatible server.",
            )
        return asked, None
    if not names:
        raise ServerError(f"{url} serves no model", remedy="Wait until it has loaded one, or check the URL.")
    if asked is None and len(names) != 1:
        raise InputError(
            f"{url} serves {len(names)} models: {_listed(names)}", remedy="Choose one with --model."
        )
    if asked is not None and asked not in names:
        near = get_close_matches(asked, names, n=3) or names
        raise InputError(f"{url} serves no model {asked!r}", remedy=f"It serves {_listed(near)}.")
    return asked if asked is not None else names[0], _version(control)


def settled(control: Control, before: Mapping[str, float], requests: int) -> str:
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


def metrics_page(control: Control) -> str:
    """The server's metrics page; empty where it has none."""
    try:
        page = control.page("/metrics", within_s=METRICS_S)
    except PageError:
        return ""
    return page.text if page.status == httpx.codes.OK else ""


def _reason(error: BaseException) -> str:
    """What an error says; where it says nothing, what the one below it does."""
    below: BaseException | None = error
    while below is not None and not str(below):
        below = below.__cause__ or below.__context__
    return str(below) if below is not None else type(error).__name__


def _names(page: Page) -> list[str] | None:
    """The models of a list of models; None where the page is none."""
    if page.status != httpx.codes.OK:
        return None
    try:
        return [str(entry["id"]) for entry in page.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def _version(control: Control) -> str | None:
    try:
        page = control.page("/version")
        version = page.json().get("version") if page.status == httpx.codes.OK else None
    except (PageError, ValueError, AttributeError):
        return None
    return version if isinstance(version, str) else None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
