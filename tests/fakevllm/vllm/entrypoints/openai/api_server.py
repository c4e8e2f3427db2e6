"""``python -m vllm.entrypoints.openai.api_server`` with scripted times.

``--max-num-seqs`` limits the requests in progress, as it does in vLLM. ``--fake-ttft-ms`` and ``--fake-tpot-ms`` are the truth; each
boot is off by a factor of its own, log-normal with ``--fake-noise`` (default 1%). With ``FAKE_RELEASE`` set it plays a release, "old" or
"new", whose defaults moved, and tells its resolved configuration: the new one schedules asynchronously, which doubles its TPOT. No
release runs with blocks of less than 16. ``FAKE_LOG`` is one more line of its log.
"""

import argparse
import json
import math
import os
import random
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RELEASE = os.environ.get("FAKE_RELEASE", "")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--async-scheduling", action=argparse.BooleanOptionalAction, default=RELEASE == "new")
    parser.add_argument("--block-size", type=int, default=32 if RELEASE == "new" else 16)
    parser.add_argument("--fake-ttft-ms", type=float, default=10.0)
    parser.add_argument("--fake-tpot-ms", type=float, default=2.0)
    parser.add_argument("--fake-config", type=json.loads, default={}, help="a table; its tpot_ms wins")
    parser.add_argument("--fake-noise", type=float, default=0.01)
    parser.add_argument("--fake-short-output", type=int, default=0, help="leave so many tokens away")
    parser.add_argument("--fake-no-steps", action="store_true", help="no histogram of engine steps")
    parser.add_argument("--fake-die-after", type=int, default=0, help="exit in the middle of this request")
    parser.add_argument("--hf-overrides", type=json.loads)
    parser.add_argument("--otlp-traces-endpoint")
    return parser.parse_args()


class State:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        factor = math.exp(random.gauss(0.0, options.fake_noise))
        self.ttft_s = options.fake_ttft_ms / 1000 * factor
        tpot_ms = options.fake_config.get("tpot_ms", options.fake_tpot_ms)
        self.tpot_s = tpot_ms / 1000 * factor * (2 if options.async_scheduling else 1)
        self.slots = threading.BoundedSemaphore(options.max_num_seqs)
        self.lock = threading.Lock()
        self.requests = 0
        self.generated = 0
        self.prompt = 0
        self.started = time.time()

    def metrics(self) -> str:
        with self.lock:
            return (
                "# TYPE vllm:generation_tokens_total counter\n"
                f'vllm:generation_tokens_total{{engine="0"}} {self.generated}\n'
                "# TYPE vllm:prompt_tokens_total counter\n"
                f'vllm:prompt_tokens_total{{engine="0"}} {self.prompt}\n'
                "# TYPE vllm:num_preemptions_total counter\n"
                'vllm:num_preemptions_total{engine="0"} 0.0\n'
                "# TYPE vllm:prefix_cache_hits_total counter\n"
                'vllm:prefix_cache_hits_total{engine="0"} 0.0\n'
                "# TYPE vllm:prefix_cache_queries_total counter\n"
                f'vllm:prefix_cache_queries_total{{engine="0"}} {self.prompt}\n'
                "# TYPE vllm:request_success_total counter\n"
                f'vllm:request_success_total{{engine="0",finished_reason="length"}} {self.requests}\n'
                f"{self.iterations()}"
                "# TYPE process_start_time_seconds gauge\n"
                f"process_start_time_seconds {self.started}\n"
            )

    def iterations(self) -> str:
        """Steps by their tokens: each request is a prefill of its prompt, each token but its first a decode step of its own."""
        if self.options.fake_no_steps:
            return ""
        decode, name = self.generated - self.requests, "vllm:iteration_tokens_total"
        lines = [f"# TYPE {name} histogram"]
        for edge, below in (("1.0", decode), ("8.0", decode), ("16.0", decode + self.requests)):
            lines.append(f'{name}_bucket{{engine="0",le="{edge}"}} {below}')
        lines.append(f'{name}_bucket{{engine="0",le="+Inf"}} {decode + self.requests}')
        lines.append(f'{name}_count{{engine="0"}} {decode + self.requests}')
        lines.append(f'{name}_sum{{engine="0"}} {decode + self.prompt}')
        return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: State

    def log_message(self, format: str, *args: object) -> None:
        print(f"INFO:     {self.client_address[0]} - {format % args}", flush=True)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in ("/health", "/ping"):
            self.answer(b"")
        elif path == "/v1/models":
            name = self.state.options.served_model_name
            self.answer(json.dumps({"object": "list", "data": [{"id": name, "object": "model"}]}).encode())
        elif path == "/metrics":
            self.answer(self.state.metrics().encode(), "text/plain; version=0.0.4")
        elif path == "/server_info" and RELEASE:
            options = self.state.options
            config = {
                "scheduler_config": {"async_scheduling": options.async_scheduling},
                "cache_config": {"block_size": options.block_size},
                "kernel_config": {"of_the_release": RELEASE},
            }
            self.answer(json.dumps({"vllm_config": config}).encode())
        elif path == "/version":
            self.answer(b'{"version":"0.0.1"}')
        else:
            self.answer(b'{"detail":"Not Found"}', status=404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.path == "/reset_prefix_cache":
            self.answer(b"")
        elif self.path == "/v1/completions":
            self.complete(json.loads(body))
        else:
            self.answer(b'{"detail":"Not Found"}', status=404)

    def complete(self, request: dict) -> None:
        state, options = self.state, self.state.options
        if request.get("model") != options.served_model_name:
            self.answer(b'{"error":{"message":"The model does not exist.","code":404}}', status=404)
            return
        tokens = max(0, int(request["max_tokens"]) - options.fake_short_output)
        prompt = len(request["prompt"])
        with state.lock:
            state.requests += 1
            number = state.requests
            state.prompt += prompt
        with state.slots:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            begun = time.perf_counter()
            for index in range(tokens):
                due = begun + state.ttft_s + index * state.tpot_s
                time.sleep(max(0.0, due - time.perf_counter()))
                if options.fake_die_after and number >= options.fake_die_after:
                    print("(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] RuntimeError: end", flush=True)
                    os._exit(9)
                finish = "length" if index == tokens - 1 else None
                choice = {"index": 0, "text": f" t{index}", "logprobs": None, "finish_reason": finish}
                self.event({"id": f"cmpl-{number}", "object": "text_completion", "choices": [choice]})
            usage = {"prompt_tokens": prompt, "total_tokens": prompt + tokens, "completion_tokens": tokens}
            self.event({"id": f"cmpl-{number}", "object": "text_completion", "choices": [], "usage": usage})
            self.chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
            with state.lock:
                state.generated += tokens

    def event(self, message: dict) -> None:
        self.chunk(b"data: " + json.dumps(message).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def answer(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def main() -> None:
    options = arguments()
    if RELEASE and options.block_size < 16:
        print(
            f"WARNING 01-01 00:00:00 [x.py:1] Setting kv cache block size to 16 instead of {options.block_size}.",
            flush=True,
        )
        options.block_size = 16
    Handler.state = State(options)
    server = Server((options.host, options.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    given = {name: value for name, value in vars(options).items() if value is not None}
    secret = {name: os.environ[name] for name in ("VLLM_API_KEY", "HF_TOKEN") if name in os.environ}
    print(
        f"INFO 01-01 00:00:00 [utils.py:1] non-default args: {given | secret}", flush=True
    )  # as vLLM does, secrets and all
    print(f"Starting vLLM server on http://{options.host}:{options.port}", flush=True)
    if "FAKE_LOG" in os.environ:
        print(os.environ["FAKE_LOG"], flush=True)
    print("Application startup complete.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
