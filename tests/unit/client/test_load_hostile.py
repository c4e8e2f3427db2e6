"""``perfgate load`` against servers that misbehave outside the script of the scripted one: written here, byte by byte."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from perfgate.cli import main
from perfgate.client import Endpoint
from perfgate.commands.load.control import Control, PageError
from tests.unit.client.test_load_command import CLOSED, is_sound

MODELS = b'{"data": [{"id": "m"}]}'
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Answer = Callable[[socket.socket, bytes], None]


def page(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), more, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(message: object) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"


def stream(connection: socket.socket, *, tokens: int = 5, counted: int = 5, behind: bytes = b"") -> None:
    """A stream with its tokens 8 ms apart; ``behind`` follows the response's end in the same write."""
    connection.sendall(HEAD)
    for index in range(tokens):
        time.sleep(0.008)  # its pace
        last = "length" if index == tokens - 1 else None
        connection.sendall(chunk(event({"choices": [{"text": "x", "finish_reason": last}]})))
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": counted}}
    connection.sendall(chunk(event(usage)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n" + behind)


def lists_models(connection: socket.socket, path: bytes) -> None:
    connection.sendall(page(MODELS) if path.endswith(b"/models") else page(b"", b"404 Not Found"))


@contextmanager
def serving(*, post: Answer, get: Answer = lists_models) -> Iterator[str]:
    """The URL of a server that answers with these two functions, one thread a connection; all have ended when it leaves."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        inbox = b""
        with suppress(OSError), connection:
            while True:
                head, gap, rest = inbox.partition(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                if gap and len(rest) >= int(length or 0):
                    inbox = rest[int(length or 0) :]
                    method, path, _ = head.split(b" ", 2)
                    (post if method == b"POST" else get)(connection, path)
                elif not (data := connection.recv(1 << 16)):
                    return
                else:
                    inbox += data

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_ones.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in open_ones:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def load(capsys, url: str, *more: str) -> tuple[int, str, str]:
    status = main(["load", f"--url={url}", *CLOSED, "--request-timeout=5", *more])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def reasons(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("INVALID:") and " late " not in line]


@pytest.mark.parametrize("behind", [b"garbage!", b"HTTP/1.1 200 OK\r\n\r\nagain"])
def test_bytes_behind_a_response_hold_no_slot(capsys, behind):
    """What follows the end of a response in the same read neither delays the next request nor spoils this one."""
    with serving(post=lambda connection, _: stream(connection, behind=behind)) as url:
        before = time.monotonic()
        status, out, _ = load(capsys, url)
        assert time.monotonic() - before < 5
    assert reasons(out) == []
    assert is_sound(status, out)


def test_a_server_that_counts_fewer_tokens_than_it_streams_is_not_believed(capsys):
    """Twenty events where usage says five: TPOT from usage would be four times what came."""
    with serving(post=lambda connection, _: stream(connection, tokens=20)) as url:
        status, out, _ = load(capsys, url)
    assert status == 2
    assert reasons(out) == [
        "INVALID: 6 of 6 requests streamed more events than the tokens that the server counted (at most 20 where it counted 5)"
    ]


def test_a_kept_connection_that_the_server_drops_is_said_to_be_one(capsys):
    """A server that closes on the next request of a connection it kept: a reset, with what was peculiar about it, and no second sending."""
    served: dict[int, int] = {}

    def post(connection: socket.socket, _: bytes) -> None:
        number = served[connection.fileno()] = served.get(connection.fileno(), 0) + 1
        if number == 1:
            stream(connection)
        else:
            connection.shutdown(socket.SHUT_RDWR)

    with serving(post=post) as url:
        status, out, _ = load(capsys, url, "--concurrency=1", "--num-prompts=2")
    assert status == 2
    assert "closed the connection without an answer (kept open after an earlier one)" in reasons(out)[0]


def test_what_a_server_says_does_not_drive_the_terminal(capsys):
    """An escape sequence in an error's body is shown, not obeyed."""
    with serving(post=lambda connection, _: connection.sendall(page(b"\x1b[2Jgone", b"503 Busy"))) as url:
        status, out, _ = load(capsys, url)
    assert status == 2
    assert "\\x1b[2Jgone" in out
    assert "\x1b" not in out


def test_a_redirect_is_named_with_where_it_leads(capsys):
    """Of the load and of the list of models alike."""
    there = page(b"", b"307 Elsewhere", b"Location: https://host.example/v1\r\n")
    with serving(post=lambda connection, _: connection.sendall(there)) as url:
        status, out, _ = load(capsys, url)
    assert status == 2
    assert "HTTP 307, to https://host.example/v1" in reasons(out)[0]
    with serving(
        post=lambda connection, _: stream(connection), get=lambda connection, _: connection.sendall(there)
    ) as url:
        status, out, err = load(capsys, url)
    assert (status, out) == (2, "")
    assert "leads elsewhere (HTTP 307): https://host.example/v1" in err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 100_000, "is no list of models"),
        (b"null", "is no list of models"),
        (b"\xff\x1b[31m", "is no list of models"),
        (b'{"data": []}', "serves no model"),
        (json.dumps({"data": [{"id": f"m{n}"} for n in range(300)]}).encode(), "m7 and 292 more"),
    ],
)
def test_a_strange_list_of_models_is_a_short_message(capsys, body, words):
    """Whatever /v1/models answers, the message quotes a little of it, and no traceback."""
    with serving(
        post=lambda connection, _: stream(connection),
        get=lambda connection, _: connection.sendall(page(body)),
    ) as url:
        status, out, err = load(capsys, url)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err) < 600
    assert "Traceback" not in err
    assert "\x1b" not in err


def trickle(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X: y\r\n")
        time.sleep(0.02)  # its pace


def flood(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


@pytest.mark.parametrize(
    ("get", "within_s", "words"),
    [(trickle, 0.3, "no whole answer within 0.3 s"), (flood, 30.0, "more than 16 MiB")],
)
def test_a_page_without_end_is_given_up(get, within_s, words):
    """A head in crumbs and a body without end have a deadline and a size, which httpx alone does not give them."""
    with (
        serving(post=stream, get=get) as url,
        pytest.raises(PageError, match=words),
    ):
        Control(Endpoint(url=url, model="m")).page("/v1/models", within_s=within_s)


def test_a_proxy_of_the_environment_is_asked_for_nothing(capsys, monkeypatch):
    """The load goes past it, so the list of models does too, on this machine and elsewhere."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(post=lambda connection, _: stream(connection)) as url:
        status, out, err = load(capsys, url.replace("127.0.0.1", "127.1"))
    assert is_sound(status, out), out + err
    assert err == ""
    assert "http_proxy" in os.environ
