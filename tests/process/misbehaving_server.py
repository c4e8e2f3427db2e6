"""Stands in for ``python -m vllm.entrypoints.openai.api_server`` and misbehaves on demand.

``MISBEHAVE`` holds words: ``fail`` ends with a traceback, ``leave`` with status 0, ``hang`` never listens, ``stubborn`` ignores SIGINT and
SIGTERM, ``daemon`` starts a process that leaves session and parent and ignores SIGTERM, ``taken`` says that the port is in use,
``shutdown-slowly`` needs a moment after SIGINT, ``late-models`` first answers ``/v1/models`` with an error. Without a word it serves like
vLLM, with one engine process below it.
"""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import time

ENGINE = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(60)"
DAEMON = (
    "import os, signal, time\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "while True: time.sleep(60)"
)


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


LATE = ["late-models"] * 3


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        key = os.environ.get("VLLM_API_KEY")
        if path.startswith("/v1") and key and self.headers.get("authorization") != f"Bearer {key}":
            self.answer(401, b'{"error":"Unauthorized"}')
        elif path == "/health":
            self.answer(200, b"")
        elif path == "/v1/models" and LATE and LATE.pop() in os.environ.get("MISBEHAVE", "").split():
            self.answer(503, b'{"error":"not yet"}')
        elif path == "/v1/models":
            self.answer(200, json.dumps({"data": [{"id": option("--served-model-name")}]}).encode())
        elif path == "/metrics":
            born = os.environ.get("BORN", "1.0")
            self.answer(200, f"process_start_time_seconds {born}\nvllm:num_preemptions_total 2.0\n".encode())
        else:
            self.answer(404, b'{"detail":"Not Found"}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def main() -> None:
    words = os.environ.get("MISBEHAVE", "").split()
    print(
        f"non-default args: {{'model': {option('--model')!r}, 'api_key': {os.environ.get('VLLM_API_KEY')!r}}}",
        flush=True,
    )
    if "stubborn" in words:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "daemon" in words:
        subprocess.run([sys.executable, "-c", DAEMON], check=True)
    if "fail" in words:
        print("(EngineCore pid=1) ValueError: the engine cannot start", flush=True)
        print(
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
            flush=True,
        )
        sys.exit(1)
    if "leave" in words:
        sys.exit(0)
    if "taken" in words:
        print("OSError: [Errno 98] Address already in use", flush=True)
        sys.exit(1)
    subprocess.Popen([sys.executable, "-c", ENGINE, "VLLM::EngineCore"])
    print("(EngineCore pid=2) Initializing a V1 LLM engine", flush=True)
    if "hang" in words:
        while True:
            time.sleep(60)
    server = Server((option("--host"), int(option("--port"))), Handler)
    print("Application startup complete.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if "shutdown-slowly" in words:
            time.sleep(0.5)
        print("Shutting down", flush=True)


if __name__ == "__main__":
    main()
