from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from perfgate.client import Endpoint, run_load
from perfgate.timings import Timings
from perfgate.workload import WorkloadSpec, make_prompts
from tests.bench.scripted_server import ScriptedServer


@pytest.fixture(scope="session")
def scripted() -> Iterator[ScriptedServer]:
    """A scripted server in its own process, without delays of its own."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def load(scripted: ScriptedServer) -> Callable[..., Timings]:
    """Runs a small workload against the scripted server; ``script`` says how it answers, the rest changes the workload."""

    def run(
        *,
        script: dict[str, Any] | None = None,
        url: str = "",
        options: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Timings:
        workload = make_workload(script=script, **changes)
        prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000)
        scripted.truth()  # forgets what went before
        return run_load(
            Endpoint(url=url or scripted.url, model="scripted", api=workload.api),
            workload,
            prompts=prompts.measured,
            warmup_prompts=prompts.warmup,
            seed=1,
            **(options or {}),
        )

    return run


class _Completions(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        known = self.path == "/v1/models" and self.headers["Authorization"] in (None, "Bearer hunter2")
        body = json.dumps({"data": [{"id": "secure"}]} if known else {"error": "who are you?"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        events = [{"choices": [{"text": "x", "finish_reason": None}]}] * 5
        events += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}]
        pieces = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
        pieces.append(b"data: [DONE]\n\n")
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, pieces))))
        self.end_headers()
        for piece in pieces:
            time.sleep(0.005)  # its pace: what comes in one piece is no stream
            self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[str]:
    """The URL of a server with a certificate of an authority that nobody else trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Completions)
    server.handle_error = lambda *_: None  # a refused handshake is what some of these tests are about
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def make_workload(*, script: dict[str, Any] | None = None, **changes: Any) -> WorkloadSpec:
    """A workload of 6 requests of 5 tokens, two at a time."""
    given = {
        "name": "test",
        "input_len": 7,
        "output_len": 5,
        "concurrency": 2,
        "num_prompts": 6,
        "request_timeout_s": 20.0,
        "run_timeout_s": 30.0,
        "extra_body": {"script": script} if script else {},
    }
    return WorkloadSpec.model_validate(given | changes)
