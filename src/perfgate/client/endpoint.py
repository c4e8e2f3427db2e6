"""Where the load goes: an OpenAI-compatible server, and the bytes of a request to it."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from perfgate.errors import InputError
from perfgate.workload import Tokens, WorkloadSpec, words

_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "accept"})


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server.

    Args:
        url: ``http://HOST:PORT`` or ``https://…``, with or without ``/v1``.
        model: the served model name, sent in every request.
        api: ``completions`` (prompts are token ids) or ``chat`` (prompts are words).
        api_key: sent as bearer token, never shown.
        headers: more request headers, never shown.
        verify: check the server's certificate.
        ca_file: PEM file with the authority to trust in place of the system's.
        prompt_form: ``ids`` or ``words``; a server other than vLLM may not take token ids.

    Raises:
        InputError: when made: a URL or header that no request could be sent with.
    """

    url: str
    model: str
    api: Literal["completions", "chat"] = "completions"
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify: bool = True
    ca_file: str | None = None
    prompt_form: Literal["ids", "words"] = "ids"

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise InputError(f"URL {self.url!r}: {error}", remedy=_URL_REMEDY) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"URL {self.url!r} is not one of an HTTP server", remedy=_URL_REMEDY)
        if parts.username or parts.password:
            raise InputError(
                "the URL carries a user name or password",
                remedy="A key is passed by itself (--api-key-env NAME; in a table api_key_env).",
            )
        if parts.query or parts.fragment:
            raise InputError(f"URL {self.url!r} has a query or fragment", remedy=_URL_REMEDY)
        if port == 0 or any(ord(char) <= 32 or ord(char) > 126 for char in self.url):
            raise InputError(
                f"URL {self.url!r} has a port or character that no server has", remedy=_URL_REMEDY
            )
        for name, value in self._all_headers().items():
            if not _TOKEN.match(name) or not (value.isascii() and value.isprintable()):
                raise InputError(
                    f"header {name!r} cannot be sent",
                    remedy="One line of ASCII, a name of letters and dashes.",
                )
            if name.lower() in _OURS:
                raise InputError(f"header {name!r} is set by perfgate", remedy="Leave it out.")

    @property
    def host(self) -> str:
        """Host name or address to connect to."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port to connect to."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "https"

    @property
    def root(self) -> str:
        """The URL without ``/v1`` and trailing slashes, where ``/health`` and ``/metrics`` live."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    def address(self, path: str) -> str:
        """The full URL of a path of the API, such as ``/v1/models``."""
        return self.root + path

    def control_headers(self) -> dict[str, str]:
        """Headers for requests of the control plane."""
        return self._all_headers()

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context; None for plain HTTP.

        Raises:
            InputError: the authority file cannot be read.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"CA file {self.ca_file!r}: {error}", remedy="Give a PEM file.") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def request(self, prompt: Tokens, workload: WorkloadSpec) -> bytes:
        """The whole request, head and body, for one prompt.

        Args:
            prompt: token ids, shape (input_len,).
            workload: the output length, and more fields of the body.
        """
        body: dict[str, Any] = {"model": self.model}
        if self.api == "chat":
            path = "/v1/chat/completions"
            body["messages"] = [{"role": "user", "content": words(prompt)}]
            body["max_completion_tokens"] = workload.output_len
        else:
            path = "/v1/completions"
            body["prompt"] = prompt.tolist() if self.prompt_form == "ids" else words(prompt)
            body["max_tokens"] = workload.output_len
        body |= {
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            **workload.extra_body,
        }
        data = json.dumps(body, separators=(",", ":")).encode()
        parts = urlsplit(self.address(path))
        head = [
            f"POST {parts.path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            "Accept: text/event-stream",
            *(f"{name}: {value}" for name, value in self._all_headers().items()),
        ]
        return "\r\n".join(head).encode("latin-1", "replace") + b"\r\n\r\n" + data

    def _all_headers(self) -> dict[str, str]:
        headers = {"User-Agent": "perfgate", **self.headers}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers


_URL_REMEDY = "Write it as http://HOST:PORT or https://HOST:PORT, optionally with a path."
