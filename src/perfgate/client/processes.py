"""Several load processes for one run: their connections open and their warm-ups done, they begin at the same instant.

All read one clock (see `perfgate.client.clock`), so their times are put together as they are.
"""

from __future__ import annotations

import pickle
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from perfgate.client.clock import now_ns
from perfgate.client.drive import Progress
from perfgate.client.load import HEAD_START_NS, Job
from perfgate.client.part import Part
from perfgate.errors import LoadError, PerfgateError

_SPARE_S = 60.0
"""For starting, opening connections and reading recordings, beyond the deadlines of the run itself."""

_LENGTH = struct.Struct("!Q")


def run_in_processes(
    jobs: Sequence[Job],
    progress: Callable[[Progress], None] | None,
    after_warmup: Callable[[], None] | None,
) -> tuple[int, list[Part]]:
    """Runs one job in each of several processes; every one of them has ended when this returns or raises.

    Returns:
        t0 in monotonic nanoseconds, and what each process measured.

    Raises:
        LoadError: a process broke or did not answer in time.
    """
    with _workers(len(jobs)) as workers:
        for worker, job in zip(workers, jobs, strict=True):
            worker.write(job)
        allowed = 2 * jobs[0].workload.run_timeout_s + _SPARE_S
        _until(workers, lambda worker: worker.ready, time.monotonic() + allowed, None)
        if after_warmup is not None:
            after_warmup()
        begin = now_ns() + HEAD_START_NS + 10_000_000 * len(jobs)
        for worker in workers:
            worker.write(begin)
        _until(workers, lambda worker: worker.part is not None, time.monotonic() + allowed, progress)
        return begin, [worker.part for worker in workers if worker.part is not None]


def write_frame(stream: IO[bytes], value: object) -> None:
    """Writes one pickled value with its length."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Any:
    """Reads one value.

    Raises:
        EOFError: the other side is gone.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the other side closed its end")
    (size,) = _LENGTH.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("the other side closed its end in the middle of a message")
    return pickle.loads(data)


@dataclass(eq=False)
class _Worker:
    """The parent's side of one load process."""

    process: subprocess.Popen[bytes]
    inbox: bytearray = field(default_factory=bytearray)
    ready: bool = False
    part: Part | None = None
    progress: Progress | None = None

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def write(self, value: object) -> None:
        assert self.process.stdin is not None
        try:
            write_frame(self.process.stdin, value)
        except BrokenPipeError:
            raise self.gone() from None

    def take(self, data: bytes) -> None:
        """Takes bytes of its output, and notes whatever messages they complete."""
        self.inbox += data
        while len(self.inbox) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self.inbox)
            end = _LENGTH.size + size
            if len(self.inbox) < end:
                return
            value = pickle.loads(bytes(self.inbox[_LENGTH.size : end]))
            del self.inbox[:end]
            if isinstance(value, PerfgateError):
                raise value
            if isinstance(value, Part):
                self.part = value
            elif isinstance(value, Progress):
                self.progress = value
            else:
                self.ready = True

    def gone(self) -> LoadError:
        status = self.process.wait(timeout=10)
        return LoadError(
            f"load process {self.process.pid} ended with status {status} before its work was done"
        )


def _until(
    workers: Sequence[_Worker],
    reached: Callable[[_Worker], bool],
    deadline: float,
    progress: Callable[[Progress], None] | None,
) -> None:
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            if not reached(worker):
                selector.register(worker.output.fileno(), selectors.EVENT_READ, worker)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                waiting = [key.data.process.pid for key in selector.get_map().values()]
                raise LoadError(f"load processes {waiting} did not answer in time")
            for key, _ in selector.select(min(left, 1.0)):
                worker = key.data
                data = worker.output.read1(1 << 20)
                if not data:
                    raise worker.gone()
                worker.take(data)
                if reached(worker):
                    selector.unregister(key.fd)
            if progress is not None and all(worker.progress for worker in workers):
                progress(_sum([worker.progress for worker in workers if worker.progress]))


def _sum(parts: Sequence[Progress]) -> Progress:
    return Progress(
        elapsed_s=max(part.elapsed_s for part in parts),
        total=sum(part.total for part in parts),
        completed=sum(part.completed for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        reads=sum(part.reads for part in parts),
    )


@contextmanager
def _workers(count: int) -> Iterator[list[_Worker]]:
    """Starts the processes; kills and reaps whatever is left of them at the end, whatever happens."""
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            # -P: a module of the caller's working directory must not stand in for one of ours.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "perfgate.client.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,  # Ctrl-C is for the parent, which ends them; a session would share the processor apart
            )
            workers.append(_Worker(process))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # something unsent may still be buffered for it
                        pipe.close()
