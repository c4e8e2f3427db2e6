"""A proxy between client and server, worn as the server's Python: everything that the server answers arrives later.

``python_with_delay`` writes an interpreter for a server entry. Asked for vLLM it starts the real one on a port of its own and forwards the
port that was asked for; asked for anything else it is the real Python. So the boot is whole: same process tree, same served name, same
log. What the server sends is held back by ``PROXY_DELAY_MS`` of the server's environment, nothing where that is not set; what it sends
close together stays close together.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

VARIABLE = "PROXY_DELAY_MS"
CHUNK = 65536


def python_with_delay(folder: Path) -> Path:
    """An interpreter that puts the proxy before vLLM."""
    program = folder / "python-with-delay"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *vllm.entrypoints*) exec {sys.executable} -I {Path(__file__).resolve()} "$@";; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return program


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Hands on what comes, each piece as long after its arrival."""
    clock = asyncio.get_running_loop().time
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def take() -> None:
        while data := await reader.read(CHUNK):
            pieces.put_nowait((clock() + delay_s, data))
        pieces.put_nowait((clock() + delay_s, b""))

    taking = asyncio.create_task(take())
    try:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - clock()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
    finally:
        taking.cancel()
        writer.close()


async def serve(port: int, hidden: int, delay_s: float, server: subprocess.Popen[bytes]) -> int:
    """Forwards connections until the server ends; returns its status."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind = await asyncio.open_connection("127.0.0.1", hidden)
        except OSError:
            writer.close()  # not ready yet
            return
        await asyncio.gather(
            forward(reader, behind[1], 0.0), forward(behind[0], writer, delay_s), return_exceptions=True
        )

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.send_signal, number)
    listening = await asyncio.start_server(connected, "127.0.0.1", port)
    status = await asyncio.to_thread(server.wait)
    listening.close()
    return status


def main(words: list[str]) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        hidden = probe.getsockname()[1]
    place = words.index("--port") + 1
    port = int(words[place])
    server = subprocess.Popen([sys.executable, *words[:place], str(hidden), *words[place + 1 :]])
    status = asyncio.run(serve(port, hidden, float(os.environ.get(VARIABLE, "0")) / 1000, server))
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
