"""Connections to one server, kept and used again as ``vllm bench serve`` (aiohttp) does it.

A fresh connection for each request would add a handshake to every TTFT, with TLS several round trips, and real front ends keep
connections too. Before a run the pool is filled, so that the first wave does not pay for its handshakes together; a connection
that has to be opened during a run is part of its request's TTFT. One that lay idle for longer than `MAX_IDLE_NS` is not used
again: servers close idle connections (vLLM's after 5 s), and a request written into the closing would look like a failure.
"""

from __future__ import annotations

import asyncio
import socket

from perfgate.client.clock import now_ns
from perfgate.client.endpoint import Endpoint
from perfgate.client.turns import Turns
from perfgate.client.wire import Connection
from perfgate.errors import LoadError

MAX_IDLE_NS = 3_000_000_000
_CONNECTING_AT_ONCE = 64


class Pool:
    """The connections of one load process.

    Args:
        loop: the loop they live in.
        endpoint: the server.

    Raises:
        InputError: its CA file cannot be read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._ssl = endpoint.ssl_context()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._addresses: list[str] = []
        self._ends = Turns(loop)
        self.opened = 0

    async def resolve(self) -> None:
        """Looks the host up, once for the whole run.

        Raises:
            LoadError: the host has no address.
        """
        host = self._endpoint.host
        try:
            found = await self._loop.getaddrinfo(host, self._endpoint.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise LoadError(
                f"{self._endpoint.url}: host {host!r} has no address: {error}",
                remedy="Check the URL's host name.",
            ) from None
        self._addresses = list(dict.fromkeys(str(info[4][0]) for info in found))

    async def fill(self, count: int) -> None:
        """Opens connections until ``count`` are idle; those that cannot be opened are left for their requests to report."""
        gate = asyncio.Semaphore(_CONNECTING_AT_ONCE)

        async def one() -> bool:
            async with gate:
                try:
                    async with asyncio.timeout(10):
                        self._idle.append(await self.connect())
                except (OSError, TimeoutError):
                    return False
                return True

        self._drop_stale()
        missing = count - len(self._idle)
        # One first: with no server there, one refusal is enough.
        if missing > 0 and await one():
            await asyncio.gather(*(one() for _ in range(missing - 1)))

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            OSError: none can be made; TLS errors are among them.
        """
        error: OSError = OSError(f"no address for {self._endpoint.host}")
        for address in tuple(self._addresses):
            try:
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._forget, self._ends.add),
                    address,
                    self._endpoint.port,
                    ssl=self._ssl,
                    server_hostname=self._endpoint.host if self._ssl is not None else None,
                )
            except OSError as failure:
                error = failure
                continue
            # What worked once is tried first from now on (localhost is often two addresses, and the server on one).
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            self._all.add(connection)
            self.opened += 1
            return connection
        raise error

    def take(self) -> Connection | None:
        """An idle connection, the one used last; None when there is none fit for use."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open and now_ns() - connection.idle_since_ns <= MAX_IDLE_NS:
                return connection
            connection.close()
        return None

    def give(self, connection: Connection) -> None:
        """Takes a connection back after its response."""
        if connection.open:
            self._idle.append(connection)

    async def close(self) -> None:
        """Closes every connection and waits until the loop has let go of them."""
        for connection in self._all:
            connection.close()
        self._idle.clear()
        for _ in range(100):
            if not any(connection.attached for connection in self._all):
                break
            await asyncio.sleep(0.005)
        self._all.clear()

    def _drop_stale(self) -> None:
        fresh = [c for c in self._idle if c.open and now_ns() - c.idle_since_ns <= MAX_IDLE_NS]
        for connection in set(self._idle) - set(fresh):
            connection.close()
        self._idle = fresh

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
