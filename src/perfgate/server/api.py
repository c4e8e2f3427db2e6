"""What a vLLM server says about itself over HTTP."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from perfgate.errors import ServerError
from perfgate.iterations import HISTOGRAM, bucket_name, engine_name
from perfgate.server.secrets import Secrets

_NOT_COUNTED = ("_bucket", "_created")
"""Samples whose sum over labels says nothing."""


class ServerApi:
    """The pages of one server that are not inference; every failure is a :class:`ServerError` that names the page."""

    def __init__(self, url: str, *, api_key: str | None = None, secrets: Secrets | None = None) -> None:
        self.url = url.rstrip("/")
        self.api_key = api_key
        self.headers: Mapping[str, str] = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._secrets = secrets or Secrets()
        host = urlsplit(self.url).hostname or ""
        # A proxy of the environment must not answer for a server on this machine.
        local = host in {"127.0.0.1", "localhost", "::1"}
        self._client = httpx.Client(base_url=self.url, headers=dict(self.headers), trust_env=not local)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def get(self, path: str, *, timeout_s: float = 10.0) -> httpx.Response:
        """A page that must answer with success."""
        return self._request("GET", path, timeout_s)

    def post(self, path: str, *, timeout_s: float = 30.0) -> httpx.Response:
        """A request without a body that must succeed."""
        return self._request("POST", path, timeout_s)

    def healthy(self, *, timeout_s: float = 2.0) -> bool:
        """Whether ``/health`` answers 200; never raises."""
        try:
            return self._client.get("/health", timeout=timeout_s).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def models(self, *, timeout_s: float = 5.0) -> tuple[str, ...]:
        """The names that ``/v1/models`` serves."""
        return self._names(self.get("/v1/models", timeout_s=timeout_s))

    def models_if_ready(self, *, timeout_s: float = 5.0) -> tuple[str, ...] | None:
        """The same of a server that boots; None while it has no answer, or only an error of its own (5xx)."""
        try:
            response = self._client.get("/v1/models", timeout=timeout_s)
        except httpx.HTTPError:
            return None
        return None if response.is_server_error else self._names(self._succeeded(response))

    def _names(self, response: httpx.Response) -> tuple[str, ...]:
        try:
            return tuple(str(entry["id"]) for entry in response.json()["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                f"{self.url}/v1/models is not what an OpenAI-compatible server answers: {response.text[:200]!r}",
                remedy="Check that a vLLM server listens there.",
            ) from error

    def metrics_text(self, *, timeout_s: float = 10.0) -> str:
        """The metrics page as it is."""
        return self.get("/metrics", timeout_s=timeout_s).text

    def server_info(self, *, timeout_s: float = 60.0) -> dict[str, Any] | None:
        """The resolved configuration as JSON, or None where the release or its mode does not offer it.

        The first call may take seconds: vLLM collects the description of its environment for it.
        """
        try:
            response = self._client.get("/server_info", params={"config_format": "json"}, timeout=timeout_s)
            data = response.json() if response.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def _request(self, method: str, path: str, timeout_s: float) -> httpx.Response:
        try:
            response = self._client.request(method, path, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise ServerError(
                f"{self.url}{path} does not answer: {error or type(error).__name__}",
                remedy="Check the address, and that the server is running.",
            ) from error
        return self._succeeded(response)

    def _succeeded(self, response: httpx.Response) -> httpx.Response:
        if not response.is_success:
            raise ServerError(
                self._secrets.mask(
                    f"{self.url}{response.url.path} answered {response.status_code}: {response.text[:300]}"
                ),
                remedy="An API key may be needed (attach: `api_key_env`)."
                if response.status_code in (401, 403)
                else "",
            )
        return response


def parse_counters(page: str) -> dict[str, float]:
    """Samples of a metrics page by name, summed over their labels; for ``_perc`` gauges the largest.

    Histogram buckets, creation times and ``_info`` samples are left out, as is everything that is no number. The one histogram whose
    buckets are kept is that of tokens per engine step, see `perfgate.iterations`; its steps are kept by engine as well.
    """
    wanted = "\n".join(
        line
        for line in page.splitlines()
        if line.startswith(("vllm:", "process_"))
        and ("_bucket{" not in line or line.startswith(f"{HISTOGRAM}_bucket{{"))
    )
    counters: dict[str, float] = {}
    for sample in _samples(wanted):
        name, value = sample.name, float(sample.value)
        if name == f"{HISTOGRAM}_bucket" and "le" in sample.labels:
            name = bucket_name(sample.labels["le"])
        elif name.endswith((*_NOT_COUNTED, "_info")):
            continue
        if not math.isfinite(value):
            continue
        if name.endswith("_perc"):
            counters[name] = max(counters.get(name, 0.0), value)
        else:
            counters[name] = counters.get(name, 0.0) + value
            if name == f"{HISTOGRAM}_count" and "engine" in sample.labels:
                own = engine_name(sample.labels["engine"])
                counters[own] = counters.get(own, 0.0) + value
    return counters


def parse_cache_config(page: str) -> dict[str, str]:
    """The labels of ``vllm:cache_config_info``: resolved cache settings as text; empty where the page has none."""
    lines = [line for line in page.splitlines() if line.startswith("vllm:cache_config_info{")]
    for sample in _samples("\n".join(lines)):
        return {key: value for key, value in sample.labels.items() if key != "engine"}
    return {}


def _samples(lines: str) -> list[Sample]:
    """The samples on these lines; a line that is no sample is left out."""
    try:
        return [
            sample for family in text_string_to_metric_families(lines + "\n") for sample in family.samples
        ]
    except ValueError:
        pass
    found: list[Sample] = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            found += [
                sample for family in text_string_to_metric_families(line + "\n") for sample in family.samples
            ]
    return found
