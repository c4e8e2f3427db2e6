"""Starts one server and answers for every process of it; runs on its own, with the standard library alone.

perfgate starts this file as a process of its own for each boot and keeps a pipe to it. When that pipe closes – perfgate was killed, even
with SIGKILL – or ``stop`` arrives on it, the warden ends the whole tree: interrupt, grace, terminate, kill, reap. It is a *child
subreaper*: a process that loses its parent becomes the warden's child, so that nothing leaves the tree; and every process carries the
variable ``PERFGATE_BOOT``, by which one that left it nevertheless is found. Nothing else is ever signalled.

Standard input: one line of JSON (``argv``, ``env``, ``cwd``, ``log``, ``boot_id``, ``grace_s``, ``orphan_grace_s``, ``cleanup``), later
``stop``. Standard output: one JSON object a line with ``event`` = ``started`` | ``failed`` | ``exited`` | ``stopped``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TAG = "PERFGATE_BOOT"
"""The variable that every process of a boot carries."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TERMINATE_S = 2.0
_KILL_S = 10.0
_TICK_S = 0.1


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    state: str
    born: str
    """Start time in clock ticks since boot: with the pid it names one process for ever."""
    name: str


class Warden:
    """One server process, everything below it, and the pipe to perfgate."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.parent = os.getppid()
        self.child: int | None = None
        self.status: int | None = None
        self.asked: float | None = None
        """Grace of the stop that was asked for, in seconds."""
        self.orphaned = False
        self.inbox = b""
        self.wakeup, notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.ask(config["orphan_grace_s"]))

    def ask(self, grace_s: float) -> None:
        """Notes that the server is to end; the shortest grace asked for counts."""
        self.asked = grace_s if self.asked is None else min(self.asked, grace_s)

    def run(self) -> int:
        """Starts the server, watches over it until the end is asked for, and ends it."""
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            self.start()
        except OSError as error:
            self.say(event="failed", error=f"{self.config['argv'][0]}: {error.strerror or error}")
            return 1
        while self.asked is None:
            self.listen(1.0)
        killed = self.stop()
        self.say(event="stopped", killed=killed, survivors=[_label(member) for member in self.family()])
        return 0

    def start(self) -> None:
        """Starts the server in a process group of its own: a Ctrl-C in the terminal is perfgate's to handle.

        Not in a session of its own. Linux shares the processor between sessions before it shares it between processes (autogroup, see
        sched(7)), and an engine that waits in ``sched_yield`` then keeps the load client, in another session on the same core, from
        running for 200 ms and more at a time: measured on two cores with Linux 6.18, where the client waited 1.7 of 1.9 seconds.
        """
        config = self.config
        with Path(config["log"]).open("ab", buffering=0) as log:
            process = subprocess.Popen(
                config["argv"],
                env={**config["env"], TAG: config["boot_id"]},
                cwd=config["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        process.returncode = 0  # reaped here, not by subprocess
        self.child = process.pid
        self.say(event="started", pid=process.pid)

    def listen(self, timeout_s: float) -> None:
        """Waits for a word from perfgate or from a child, at most ``timeout_s``."""
        sources = [self.wakeup] if self.orphaned else [0, self.wakeup]
        ready, _, _ = select.select(sources, [], [], timeout_s)
        if self.wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wakeup, 4096)
        if 0 in ready:
            data = os.read(0, 4096)
            self.inbox += data
            *lines, self.inbox = self.inbox.split(b"\n")
            for line in lines:
                word, _, grace = line.decode().partition(" ")
                if word == "stop":
                    self.ask(float(grace or self.config["grace_s"]))
            if not data:
                self.orphaned = True
        if os.getppid() != self.parent:
            self.orphaned = True
        if self.orphaned:
            self.ask(self.config["orphan_grace_s"])
        self.reap()

    def reap(self) -> None:
        """Collects every child that ended; orphans of the tree are ours too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                self.status = os.waitstatus_to_exitcode(status)
                self.say(event="exited", status=self.status)

    def stop(self) -> list[str]:
        """Ends the tree; returns the names of the processes that had to be killed."""
        if self.status is None and self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGINT)
            begun = time.monotonic()
            while self.family() and time.monotonic() - begun < (self.asked or 0.0):
                if self._ended() and time.monotonic() - begun > _TERMINATE_S:
                    break  # the server is gone, what it left behind gets no further grace
                self.listen(_TICK_S)
        self.clean()
        for member in self.family(tagged=True):
            _send(member, signal.SIGTERM)
        self.wait_gone(_TERMINATE_S)
        killed: list[str] = []
        end = time.monotonic() + _KILL_S
        while (left := self.family(tagged=True)) and time.monotonic() < end:
            for member in left:
                if _send(member, signal.SIGKILL) and _label(member) not in killed:
                    killed.append(_label(member))
            self.wait_gone(_TICK_S)
        self.reap()
        return killed

    def _ended(self) -> bool:
        return self.status is not None

    def clean(self) -> None:
        """Removes what is no process of ours: the container that a docker client started."""
        if self.config.get("cleanup"):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    self.config["cleanup"],
                    env=self.config["env"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=20,
                    check=False,
                )

    def wait_gone(self, timeout_s: float) -> None:
        """Waits until the tree is empty, at most ``timeout_s``."""
        end = time.monotonic() + timeout_s
        while self.family() and (left := end - time.monotonic()) > 0:
            self.listen(min(_TICK_S, left))

    def family(self, *, tagged: bool = False) -> list[Process]:
        """Living processes below this one; ``tagged`` adds those that only carry the variable."""
        self.reap()
        processes = {process.pid: process for process in _processes()}
        below = {os.getpid()}
        grown = True
        while grown:
            more = {process.pid for process in processes.values() if process.parent in below} - below
            below |= more
            grown = bool(more)
        below.discard(os.getpid())
        if tagged:
            mark = f"{TAG}={self.config['boot_id']}".encode()
            below |= {pid for pid in processes if pid != os.getpid() and mark in _environment(pid)}
        return [processes[pid] for pid in sorted(below) if processes[pid].state not in "ZX"]

    def say(self, **event: Any) -> None:
        """Tells perfgate, if it still listens."""
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps(event).encode() + b"\n")


def _processes() -> Iterator[Process]:
    """Every process that /proc shows."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - Path.iterdir costs an object for each process
        if entry.isdigit():
            process = _stat(int(entry))
            if process is not None:
                yield process


def _stat(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in parentheses and may hold any character, so that the last parenthesis ends it.
    name = text[text.index("(") + 1 : text.rindex(")")]
    rest = text[text.rindex(")") + 2 :].split()
    return Process(pid=pid, parent=int(rest[1]), state=rest[0], born=rest[19], name=name)


def _label(process: Process) -> str:
    return f"{process.pid} {process.name}"


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _send(process: Process, number: int) -> bool:
    """Signals exactly the process that was seen: a descriptor pins it, its start time proves that the number was not reused."""
    descriptor: int | None
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:
        descriptor = None
    try:
        seen = _stat(process.pid)
        if seen is None or seen.born != process.born:
            return False
        if descriptor is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    # Should the warden itself be killed, the API server goes with it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


if __name__ == "__main__":
    first = _read_line()
    sys.exit(Warden(json.loads(first)).run() if first else 0)
