"""Ports that no two suites of this machine pick, and who listens on one."""

from __future__ import annotations

import contextlib
import getpass
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from perfgate.errors import PortInUseError

LOOPBACK = "127.0.0.1"
_TRIES = 64


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A process that listens on a port; its pid is None when it belongs to somebody else."""

    pid: int | None
    what: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.what})" if self.pid else self.what


def lease_directory() -> Path:
    """Where leases are kept: one folder a user, shared by all suites of this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "user"
    directory = Path(tempfile.gettempdir()) / f"perfgate-{user}-ports"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


@contextlib.contextmanager
def leased_port(wanted: int | None = None) -> Iterator[int]:
    """A free loopback port, leased from other suites for as long as the context lasts.

    The kernel proposes a port; a file lock keeps every other suite from being proposed the same between the moment our probe socket
    closes and the moment the server listens. The lock dies with this process.

    Args:
        wanted: this port and no other.

    Raises:
        PortInUseError: ``wanted`` is taken; the message names the process.
    """
    for _ in range(_TRIES):
        port = wanted or _proposed()
        lock = FileLock(lease_directory() / f"{port}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wanted:
                raise PortInUseError(
                    f"port {wanted} is leased by another perfgate suite on this machine",
                    remedy="Leave `port` out of the server's args: a free one is found for each boot.",
                ) from None
            continue
        try:
            if wanted and (taken := listeners(wanted)):
                raise port_in_use(wanted, taken)
            yield port
        finally:
            lock.release()
        return
    raise PortInUseError(f"no free port on {LOOPBACK} after {_TRIES} tries", remedy="Close some servers.")


def port_in_use(port: int, taken: tuple[Listener, ...]) -> PortInUseError:
    """The error that names who has the port."""
    return PortInUseError(
        f"port {port} is taken by {', '.join(map(str, taken))}",
        remedy="End that process, or leave `port` out of the server's args: a free one is found for each boot.",
    )


def listeners(port: int) -> tuple[Listener, ...]:
    """Every process that listens on this TCP port, on any address.

    More than one is possible: vLLM sets SO_REUSEPORT, so that an old server of the same user shares the port with a new one, and the
    kernel deals the connections out between the two.
    """
    found: dict[int | None, Listener] = {}
    for connection in psutil.net_connections(kind="tcp"):
        if (
            connection.status == psutil.CONN_LISTEN
            and isinstance(connection.laddr, tuple)
            and connection.laddr
        ) and connection.laddr[1] == port:
            found[connection.pid] = Listener(pid=connection.pid, what=_what(connection.pid))
    return tuple(found.values())


def _what(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    try:
        return " ".join(psutil.Process(pid).cmdline())[:120] or psutil.Process(pid).name()
    except psutil.Error:
        return "ended meanwhile"


def _proposed() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
