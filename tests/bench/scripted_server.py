"""A real HTTP server, in its own process, that streams completions by script and knows exactly when it did.

It speaks enough of the OpenAI API for perfgate's client, ``vllm bench serve``, httpx and aiohttp alike: ``/v1/completions``,
``/v1/chat/completions``, ``/v1/models``, ``/health``. Every event is one ``send`` on a plain socket, stamped with the monotonic clock
that the client reads too, so ``/truth`` can be held against what a client measured. A request may carry a ``script`` object that
changes how it is answered, down to broken framing and resets; see `Script`.

    python tests/bench/scripted_server.py --ttft-ms 50 --itl-ms 20
"""

from __future__ import annotations

import argparse
import heapq
import json
import select
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

now_ns = time.perf_counter_ns

_SO_TIMESTAMPNS = 35


@dataclass(frozen=True, kw_only=True)
class Script:
    """How one request is answered.

    Args:
        ttft_ms: from the request's last byte to the first event.
        itl_ms: between events.
        tokens: tokens to claim in usage; ``max_tokens`` where not given.
        per_event: tokens that share an event.
        together: events that share one send.
        cut: send each piece in slices of so many bytes, each its own send.
        cut_gap_ms: time between these slices.
        status: HTTP status; other than 200 comes with ``body``.
        body: of an error.
        framing: ``chunked``, ``length`` or ``close``.
        eol: line end of the events.
        comments: a comment line before each event.
        usage: ``final``, ``continuous`` or ``none``.
        done: end with ``[DONE]``.
        finish: the last event has a finish_reason.
        role: of a chat stream: an event before the tokens that only names the role.
        bare_finish: of a chat stream: the finish_reason comes in an event of its own after the tokens.
        keep: keep the connection open.
        interim: send ``100 Continue`` first.
        fault: what goes wrong, see ``_fault``; empty for nothing.
        fault_at: at which event.
    """

    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    tokens: int | None = None
    per_event: int = 1
    together: int = 1
    cut: int = 0
    cut_gap_ms: float = 0.0
    status: int = 200
    body: str = '{"error": {"message": "as the script says"}}'
    framing: str = "chunked"
    eol: str = "\n"
    comments: bool = False
    usage: str = "final"
    done: bool = True
    finish: bool = True
    role: bool = False
    bare_finish: bool = False
    keep: bool = True
    interim: bool = False
    fault: str = ""
    fault_at: int = 0


class ScriptedServer:
    """The server's process, as a context manager.

    Args:
        arguments: of this file's command line, such as ``--ttft-ms=50``.
    """

    file = __file__

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, self.file, *self._arguments], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # ends at once if the process does
        if not line:
            self._process.wait()
            raise RuntimeError(f"the scripted server ended with {self._process.returncode}")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def truth(self) -> dict[str, Any]:
        """What the server did since it was last asked: see ``Server.truth``."""
        with urllib.request.urlopen(self.url + "/truth", timeout=30) as answer:
            truth: dict[str, Any] = json.load(answer)
        return truth


@dataclass(eq=False)
class _Peer:
    socket: socket.socket
    inbox: bytearray = field(default_factory=bytearray)
    stream: Stream | None = None
    outbox: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class Stream:
    peer: _Peer
    script: Script
    steps: list[tuple[int, bytes, int]]
    """(nanoseconds after receipt, bytes, events in them)"""
    received_ns: int
    writes: list[int]
    prompt: list[int] = field(default_factory=list)
    position: int = 0
    fault_step: int = -1

    @property
    def alive(self) -> bool:
        """Whether somebody still waits for it."""
        return self.peer.stream is self

    @property
    def finished(self) -> bool:
        """Whether all of it is written."""
        return self.position == len(self.steps)

    @property
    def next_is_event(self) -> bool:
        """Whether an event is what comes next."""
        return self.steps[self.position][2] > 0


class Server:
    def __init__(self, script: Script, model: str, port: int) -> None:
        self._script = script
        self._model = model
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._peers: dict[int, _Peer] = {}
        self._due: list[tuple[int, int, Stream]] = []
        self._serial = 0
        self._truth: list[Stream] = []
        self._connections = 0
        self._late_ns = 0
        self.port = self._listener.getsockname()[1]

    def serve(self) -> None:
        while True:
            timeout = max(0.0, (self._due[0][0] - now_ns()) / 1e9) if self._due else -1
            # Whole milliseconds is all that epoll knows: sleep short of the due time, and spin for the rest.
            for number, flags in self._epoll.poll(int(timeout * 1e3) / 1e3 if timeout > 0 else timeout):
                if number == self._listener.fileno():
                    self._accept()
                elif (peer := self._peers.get(number)) is not None:
                    self._readable(peer, flags)
            while self._due and self._due[0][0] <= now_ns():
                _, _, stream = heapq.heappop(self._due)
                self.step(stream)

    def truth(self) -> dict[str, Any]:
        """Per answered request, in the order in which they ended: when it was received, when each event was written, how its prompt began.

        ``late_ms`` is how late the server itself was at worst.
        """
        done, self._truth = self._truth, []
        late, self._late_ns = self._late_ns, 0
        opened, self._connections = self._connections, 0
        return {
            "received_ns": [stream.received_ns for stream in done],
            "writes_ns": [stream.writes for stream in done],
            "prompts": [stream.prompt for stream in done],
            "late_ms": late / 1e6,
            "connections": opened,
            "open": sum(1 for peer in self._peers.values()) - 1,
            "cpu_s": time.process_time(),
        }

    def _accept(self) -> None:
        for _ in range(64):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._peers[connection.fileno()] = _Peer(connection)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
            self._connections += 1

    def _readable(self, peer: _Peer, flags: int) -> None:
        if flags & select.EPOLLOUT and peer.outbox:
            self._send(peer, b"")
        if not flags & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            return
        try:
            data, extra, _, _ = peer.socket.recvmsg(1 << 18, 64)
        except BlockingIOError:
            return
        except OSError:
            data, extra = b"", []
        if not data:
            self._drop(peer)
            return
        peer.inbox += data
        head, gap, _ = peer.inbox.partition(b"\r\n\r\n")
        if not gap:
            return
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in bytes(head).split(b"\r\n")[1:])
        }
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            end = peer.inbox.find(b"0\r\n\r\n", len(head) + 4)
            total = end + 5 if end >= 0 else len(peer.inbox) + 1
        else:
            total = len(head) + 4 + int(fields.get(b"content-length", 0))
        if len(peer.inbox) < total:
            return
        received = _arrival(extra)
        body = bytes(peer.inbox[len(head) + 4 : total])
        if b"transfer-encoding" in fields:
            body = b"".join(
                body.split(b"\r\n")[1::2]
            )  # sizes and data take turns; JSON has no CRLF of its own
        del peer.inbox[:total]
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        self._request(peer, method, path, body, received)

    def _request(self, peer: _Peer, method: str, path: str, body: bytes, received: int) -> None:
        if method == "GET":
            answers = {
                "/health": b"",
                "/v1/models": json.dumps(
                    {"object": "list", "data": [{"id": self._model, "object": "model"}]}
                ).encode(),
            }
            answer = json.dumps(self.truth()).encode() if path == "/truth" else answers.get(path)
            status = b"404 Not Found" if answer is None else b"200 OK"
            answer = answer or b""
            head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
                status,
                len(answer),
            )
            self._send(peer, head + answer)
            return
        try:
            asked = json.loads(body)
        except ValueError:
            self._send(peer, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return
        script = replace(self._script, **asked.get("script", {}))
        chat = path.endswith("/chat/completions")
        tokens = script.tokens or asked.get("max_tokens") or asked.get("max_completion_tokens") or 16
        prompt = asked.get("prompt")
        counted = (
            len(prompt) if isinstance(prompt, list) else len(str(prompt or asked.get("messages")).split())
        )
        steps = _steps(script, tokens, counted, chat)
        stream = Stream(peer=peer, script=script, steps=steps, received_ns=received, writes=[])
        stream.prompt = prompt[:2] if isinstance(prompt, list) else []
        if script.fault:
            seen = 0
            for at, (_, _, events) in enumerate(steps):
                if seen >= script.fault_at:
                    stream.fault_step = at
                    break
                seen += events
        peer.stream = stream
        if script.interim:
            self._send(peer, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.begin(stream)

    def begin(self, stream: Stream) -> None:
        """A request has come."""
        self.schedule(stream, stream.received_ns + stream.steps[0][0])

    def schedule(self, stream: Stream, due: int) -> None:
        """Has ``step`` called with it at a monotonic time."""
        self._serial += 1
        heapq.heappush(self._due, (due, self._serial, stream))

    def step(self, stream: Stream) -> None:
        """Its time has come."""
        if not stream.alive:
            return  # the client went away
        self.write(stream)
        if stream.alive:
            self.schedule(stream, stream.received_ns + stream.steps[stream.position][0])

    def write(self, stream: Stream) -> None:
        """Writes its next piece, or does what goes wrong there."""
        peer = stream.peer
        if stream.position == stream.fault_step:
            self._fault(stream)
            return
        offset, data, events = stream.steps[stream.position]
        now = now_ns()
        self._late_ns = max(self._late_ns, now - stream.received_ns - offset)
        if events:
            stream.writes += [now] * events
        self._send(peer, data)
        stream.position += 1
        if not stream.finished:
            return
        self._truth.append(stream)
        peer.stream = None
        if not stream.script.keep or stream.script.framing == "close":
            self._drop(peer)

    def _fault(self, stream: Stream) -> None:
        peer, kind = stream.peer, stream.script.fault
        peer.stream = None
        if kind == "reset":
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._drop(peer)
        elif kind == "close":
            self._drop(peer)
        elif kind == "stall":
            pass
        elif kind == "flood":
            for _ in range(64):
                self._send(peer, _chunk(b"data: " + b"x" * 1_000_000))
        else:
            self._send(peer, _FAULTS[kind])
            if not _FAULTS[kind].endswith(b"0\r\n\r\n"):
                self._drop(peer)

    def _send(self, peer: _Peer, data: bytes) -> None:
        if peer.outbox:
            peer.outbox += data
            data = bytes(peer.outbox)
            peer.outbox.clear()
        try:
            sent = peer.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(peer)
            return
        if sent < len(data):
            peer.outbox += data[sent:]
        waiting = select.EPOLLIN | (select.EPOLLOUT if peer.outbox else 0)
        if peer.outbox or sent == 0:
            self._epoll.modify(peer.socket.fileno(), waiting)

    def _drop(self, peer: _Peer) -> None:
        number = peer.socket.fileno()
        if number < 0:
            return
        peer.stream = None
        self._peers.pop(number, None)
        self._epoll.unregister(number)
        peer.socket.close()


def _arrival(extra: list[tuple[int, int, bytes]]) -> int:
    """When the kernel had the bytes, in monotonic nanoseconds: a server that is busy itself must not look like a fast one."""
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, rest = struct.unpack("qq", data[:16])
            return now_ns() - max(0, time.time_ns() - seconds * 1_000_000_000 - rest)
    return now_ns()


@lru_cache(maxsize=256)
def _steps(script: Script, tokens: int, prompt_tokens: int, chat: bool) -> list[tuple[int, bytes, int]]:
    """What is sent when: (nanoseconds after receipt, bytes, events in them), one send each."""
    pieces = _pieces(script, tokens, prompt_tokens, chat)
    first, gap, cut_gap = (round(ms * 1e6) for ms in (script.ttft_ms, script.itl_ms, script.cut_gap_ms))
    last = max(0, sum(events for _, events in pieces) - 1)
    steps: list[tuple[int, bytes, int]] = []
    for number in range(0, len(pieces), script.together):
        group = pieces[number : number + script.together]
        offset = (
            first + min(number, last) * gap
        )  # usage, [DONE] and the last chunk follow the last event at once
        joined = b"".join(data for data, _ in group)
        events = sum(count for _, count in group)
        width = script.cut or len(joined)
        slices = [joined[at : at + width] for at in range(0, len(joined), width)]
        for at, data in enumerate(slices):
            steps.append((offset + at * cut_gap, data, events if at == len(slices) - 1 else 0))
    return steps


def _pieces(script: Script, tokens: int, prompt_tokens: int, chat: bool) -> list[tuple[bytes, int]]:
    """The response as (bytes, events in them), head included in the first piece."""
    eol = script.eol.encode()
    messages: list[tuple[bytes, int]] = []
    if script.status == 200:
        made = 0
        count = -(-tokens // script.per_event)
        text = {"delta": {"content": " token"}} if chat else {"text": " token", "stop_reason": None}
        if script.role:
            messages.append((_event(eol, {"delta": {"role": "assistant", "content": ""}}), 1))
        for number in range(count):
            made = min(tokens, made + script.per_event)
            last = number == count - 1 and script.finish and not script.bare_finish
            usage = _usage(prompt_tokens, made) if script.usage == "continuous" else None
            messages.append((_event(eol, text, last, usage, script.comments), 1))
        if script.bare_finish:
            messages.append((_event(eol, {"delta": {}}, True), 1))
        if script.usage == "final":
            data = json.dumps(
                {"id": "cmpl-0", "choices": [], "usage": _usage(prompt_tokens, tokens)}
            ).encode()
            messages.append((b"data: " + data + eol + eol, 0))
        if script.done:
            messages.append((b"data: [DONE]" + eol + eol, 0))
        reason, kind = b"OK", b"text/event-stream; charset=utf-8"
    else:
        messages.append((script.body.encode(), 0))
        reason, kind = b"Told So", b"application/json"
    head = (
        b"HTTP/1.1 %d %s\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: scripted\r\ncontent-type: %s\r\n"
        % (
            script.status,
            reason,
            kind,
        )
    )
    if not script.keep:
        head += b"connection: close\r\n"
    if script.framing == "chunked":
        framed = [(_chunk(data), events) for data, events in messages]
        framed.append((b"0\r\n\r\n", 0))
        head += b"transfer-encoding: chunked\r\n\r\n"
    else:
        framed = messages
        if script.framing == "length":
            head += b"content-length: %d\r\n" % sum(len(data) for data, _ in messages)
        head += b"\r\n"
    data, events = framed[0]
    framed[0] = (head + data, events)
    return framed


def _event(
    eol: bytes,
    text: dict[str, Any],
    last: bool = False,
    usage: dict[str, int] | None = None,
    comment: bool = False,
) -> bytes:
    choice = {"index": 0, "logprobs": None, "finish_reason": "length" if last else None, **text}
    message: dict[str, Any] = {
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "text_completion",
        "created": 1700000000,
        "model": "scripted",
        "choices": [choice],
    }
    if usage is not None:
        message["usage"] = usage
    data = b"data: " + json.dumps(message, separators=(",", ":")).encode() + eol + eol
    return (b": keep-alive" + eol + eol if comment else b"") + data


def _usage(prompt: int, output: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_FAULTS = {
    "error_event": _chunk(b'data: {"error": {"message": "engine died", "code": 500}}\n\n') + b"0\r\n\r\n",
    "bad_json": _chunk(b'data: {"choices": [\n\n') + b"0\r\n\r\n",
    "bad_utf8": _chunk(b'data: {"choices": [{"text": "\xff\xfe"}]}\n\n') + b"0\r\n\r\n",
    "bad_chunk": b"zz\r\nnothing\r\n",
    "not_http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no_object": _chunk(b"data: 17\n\n") + b"0\r\n\r\n",
    "bad_usage": _chunk(b'data: {"choices": [], "usage": {"completion_tokens": "many"}}\n\n') + b"0\r\n\r\n",
}


def main() -> None:
    """Serves until killed; prints its port first."""
    parser = argparse.ArgumentParser(description="Streams completions by script.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="scripted")
    parser.add_argument("--ttft-ms", type=float, default=0.0)
    parser.add_argument("--itl-ms", type=float, default=0.0)
    options = parser.parse_args()
    server = Server(Script(ttft_ms=options.ttft_ms, itl_ms=options.itl_ms), options.model, options.port)
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
