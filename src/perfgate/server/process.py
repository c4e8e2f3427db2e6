"""perfgate's end of the pipe to a warden: starts a server process, knows whether it lives, and ends it with everything below it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from perfgate.errors import BootError, StopError
from perfgate.server import warden

ORPHAN_GRACE_S = 2.0
"""Grace when perfgate itself was killed: everything must be gone within 10 s."""
_SURE_S = 30.0
"""How long after the grace the warden may take to kill, clean up and report."""


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """What to start, complete: nothing of the caller's environment is added."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    boot_id: str
    grace_s: float
    cleanup: Sequence[str] = ()
    """A command that removes what is no child process, such as a container."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One process below the server at a moment, pinned by its start time."""

    pid: int
    created: float
    title: str

    @property
    def label(self) -> str:
        """What it is, in a word or a few: the title that vLLM gave it, or the beginning of its command line."""
        titled = re.search(r"VLLM::[\w-]+", self.title)
        return titled[0] if titled else self.title[:60]

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            return bool(process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


class ServerProcess:
    """A running server process under its warden.

    Use as a context manager: on every way out the whole tree is ended and reaped.
    """

    def __init__(self, plan: LaunchPlan) -> None:
        self.plan = plan
        self.pid: int | None = None
        self.exit_status: int | None = None
        self.killed: tuple[str, ...] = ()
        """Processes that did not end by themselves when the server was stopped."""
        self._lock = threading.Lock()
        self._ending = False
        self._inbox = b""
        self._stopped: dict[str, Any] | None = None
        self._known: dict[int, Family] = {}
        self._warden: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        if self._stopped is not None:
            state = "stopped"
        elif self.exit_status is not None:
            state = f"ended with {describe_status(self.exit_status)}"
        else:
            state = "running" if self.pid else "not started"
        return f"<ServerProcess {self.plan.boot_id} pid {self.pid} {state}>"

    def __enter__(self) -> ServerProcess:
        try:
            self.start()
        except BaseException:
            self.stop(grace_s=0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts warden and server.

        Raises:
            BootError: the program could not be started at all.
        """
        plan = self.plan
        config = {
            "argv": list(plan.argv),
            "env": dict(plan.env),
            "cwd": str(plan.cwd),
            "log": str(plan.log),
            "boot_id": plan.boot_id,
            "grace_s": plan.grace_s,
            "orphan_grace_s": ORPHAN_GRACE_S,
            "cleanup": list(plan.cleanup),
        }
        # The configuration holds secrets: it goes through the pipe, where no process list shows it.
        self._warden = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(warden.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
            bufsize=0,
            env={},
        )
        assert self._warden.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            _write_all(self._warden.stdin.fileno(), json.dumps(config).encode() + b"\n")
        deadline = time.monotonic() + 30
        while self.pid is None and self._stopped is None and time.monotonic() < deadline:
            self._listen(1.0)
        if self.pid is None:
            reason = (self._stopped or {}).get("error", "the supervising process did not answer within 30 s")
            raise BootError(
                f"the server could not be started: {reason}",
                remedy="Check the launcher of the server entry: the interpreter or program must exist and be executable.",
            )

    def alive(self) -> bool:
        """Whether the server process itself still runs (the engine may not: see :meth:`tree`)."""
        self._listen(0)
        return self.pid is not None and self.exit_status is None and self._stopped is None

    @property
    def seen_pids(self) -> frozenset[int]:
        """Every process of this boot that was ever seen."""
        return frozenset(self._known)

    def wait(self, timeout_s: float) -> None:
        """Waits at most that long; returns at once when the server process ends."""
        if not self._listen(timeout_s):
            time.sleep(min(timeout_s, 0.05))  # the warden is gone: nothing is left to listen to

    def tree(self) -> tuple[Family, ...]:
        """Every living process of this boot: the server process and all below it, and orphans it left to the warden."""
        if self._warden is None or self._warden.poll() is not None:
            return ()
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._warden.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.status() != psutil.STATUS_ZOMBIE:
                        found.append(
                            Family(
                                pid=process.pid,
                                created=process.create_time(),
                                title=_title(process),
                            )
                        )
        self._known.update({member.pid: member for member in found})
        return tuple(found)

    def cpu_seconds(self) -> float:
        """CPU seconds, user and system, of every living process of this boot and of their children that ended."""
        total = 0.0
        for member in self.tree():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(member.pid).cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def stop(self, *, grace_s: float | None = None) -> None:
        """Ends the whole tree: interrupt, grace, terminate, kill, reap. Safe to call again.

        Raises:
            StopError: a process outlived even the kill.
        """
        if self._warden is None:
            return
        grace = self.plan.grace_s if grace_s is None else grace_s
        with self._lock:
            if self._ending:
                return
            self._ending = True
            try:
                self.tree()
                self._ask_and_wait(grace)
            finally:
                # Also when Ctrl-C cuts the waiting short: nobody calls this a second time.
                self._end_warden()
                event = self._stopped or {}
                self._stopped = event
                self.killed = tuple(event.get("killed", ()))
                survivors = self._sweep()
                self._warden = None
        if survivors:
            raise StopError(
                f"server {self.plan.boot_id}: still there after SIGKILL: {'; '.join(survivors)}",
                remedy="A process in uninterruptible sleep usually means a driver fault; see dmesg.",
            )

    def _ask_and_wait(self, grace: float) -> None:
        assert self._warden is not None
        assert self._warden.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            _write_all(self._warden.stdin.fileno(), f"stop {grace}\n".encode())
        deadline = time.monotonic() + grace + _SURE_S
        while self._stopped is None and time.monotonic() < deadline:
            if not self._listen(0.5, locked=True) and self._warden.poll() is not None:
                return

    def _end_warden(self) -> None:
        assert self._warden is not None
        if self._stopped is None and self._warden.poll() is None:
            self.tree()
            self._warden.kill()
        for pipe in (self._warden.stdin, self._warden.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._warden.wait(5)
        except subprocess.TimeoutExpired:
            self._warden.kill()
            self._warden.wait(5)

    def _sweep(self) -> list[str]:
        """Kills what outlived the warden: processes seen in the tree, and those that carry the tag of this boot."""
        left = self._remaining()
        deadline = time.monotonic() + 5
        while left and time.monotonic() < deadline:
            for member in left:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(member.pid)
                    if process.create_time() == member.created:
                        process.kill()
                        psutil.wait_procs([process], timeout=0.2)
            left = self._remaining()
        return [f"pid {member.pid} {member.title}" for member in left]

    def _remaining(self) -> list[Family]:
        left = {pid: member for pid, member in self._known.items() if member.alive()}
        left.update({member.pid: member for member in tagged_processes(self.plan.boot_id)})
        return list(left.values())

    def _listen(self, timeout_s: float, *, locked: bool = False) -> bool:
        """Takes in what the warden says; false at the end of its output."""
        with contextlib.nullcontext() if locked else self._lock:
            if self._warden is None or self._warden.stdout is None or self._warden.stdout.closed:
                return False
            descriptor = self._warden.stdout.fileno()
            while select.select([descriptor], [], [], timeout_s)[0]:
                data = os.read(descriptor, 65536)
                if not data:
                    if self.exit_status is None and self._warden.poll() is not None:
                        self.exit_status = -signal.SIGKILL  # it dies with its warden
                        self._stopped = self._stopped or {"error": "the supervising process ended"}
                    return False
                self._inbox += data
                *lines, self._inbox = self._inbox.split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
                timeout_s = 0
            return True

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "started":
                self.pid = int(event["pid"])
            case "exited":
                self.exit_status = int(event["status"])
            case "failed" | "stopped":
                self._stopped = event


def tagged_processes(boot_id: str) -> tuple[Family, ...]:
    """Living processes that carry the tag of this boot, wherever they went. Only our own tag: nothing else is ever matched."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(warden.TAG) == boot_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(
                    Family(
                        pid=process.pid,
                        created=process.create_time(),
                        title=_title(process),
                    )
                )
    return tuple(found)


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).strip()[:200] or str(process.name())


def describe_status(status: int) -> str:
    """An exit status in words: ``exit status 1``, ``signal SIGKILL (9)``."""
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-status).name} ({-status})"
    return f"signal {-status}"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
