"""One load process: takes a job on standard input, and answers on standard output, as `perfgate.client.processes` asks it.

It ends when its standard input does, so that nothing is left when the parent is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import IO

import uvloop

from perfgate.client.load import Job, Session, descriptors
from perfgate.client.part import Part
from perfgate.client.processes import read_frame, write_frame
from perfgate.errors import PerfgateError


async def _work(job: Job, orders: IO[bytes], answers: IO[bytes]) -> Part:
    session = Session(job)
    try:
        await session.warm_up()
        write_frame(answers, "ready")
        begin = read_frame(orders)
        threading.Thread(target=_end_with, args=(orders,), daemon=True).start()
        return await session.measure(begin, lambda progress: write_frame(answers, progress))
    finally:
        await session.close()


def _end_with(orders: IO[bytes]) -> None:
    """Nothing more comes on standard input; its end means that the parent is gone."""
    os.read(orders.fileno(), 1)
    os._exit(1)


def main() -> int:
    """Runs one job; returns the exit status."""
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the messages
    try:
        job = read_frame(orders)
        with descriptors(job.connections), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            part = runner.run(_work(job, orders, answers))
    except EOFError:
        return 1
    except PerfgateError as error:
        write_frame(answers, error)
        return 1
    write_frame(answers, part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
