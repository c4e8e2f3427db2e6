"""One server at a time on a device: a file lock per GPU, held while a server of ours uses it.

Two suites on one machine, or several xdist workers, share the GPUs by these locks. A machine without a GPU counts as one device,
because two servers on the same cores would measure each other.
"""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from perfgate.errors import InputError

POLL_S = 0.2


def lease_directory() -> Path:
    """Where the lock files live: one folder a user, the same for every checkout on the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return Path(tempfile.gettempdir()) / f"perfgate-leases-{user}"


@contextmanager
def lease_devices(
    devices: Sequence[str],
    count: int,
    *,
    directory: Path | None = None,
    timeout_s: float = 3600,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, ...]]:
    """Holds ``count`` of the ``devices`` for as long as the context is open.

    Args:
        devices: names of the devices that may be used, such as ``("0", "1")`` or ``("cpu",)``.
        count: how many are needed at once; all or none are taken, so that two waiting suites cannot block each other.
        directory: folder of the lock files; the user's own where not given.
        timeout_s: how long to wait for devices that others hold.
        on_wait: told once, in words, when the wait begins.

    Yields:
        the names of the leased devices, in the order of ``devices``.

    Raises:
        InputError: more devices asked for than there are, or none became free in time.
    """
    if count > len(devices):
        raise InputError(
            f"the server needs {count} GPUs, this machine offers {len(devices)}",
            remedy="Lower --tensor-parallel-size, or run on a machine with more GPUs.",
        )
    folder = directory or lease_directory()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    told = False
    while True:
        with ExitStack() as stack:
            held = _try_all(devices, count, folder, stack)
            if held is not None:
                yield held
                return
        if time.monotonic() > deadline:
            raise InputError(
                f"no {count} of the devices {', '.join(devices)} became free within {timeout_s:.0f} s",
                remedy=f"Another suite holds them (locks in {folder}); wait for it or stop it.",
            )
        if on_wait and not told:
            on_wait(f"waiting for a device: {', '.join(devices)} in use by another suite")
            told = True
        time.sleep(POLL_S)


def _try_all(devices: Sequence[str], count: int, folder: Path, stack: ExitStack) -> tuple[str, ...] | None:
    held: list[str] = []
    for device in devices:
        if len(held) == count:
            break
        lock = FileLock(folder / f"device-{device}.lock", timeout=0)
        try:
            stack.enter_context(lock)
        except Timeout:
            continue
        held.append(device)
    return tuple(held) if len(held) == count else None
