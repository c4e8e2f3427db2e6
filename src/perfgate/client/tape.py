"""Keeps recordings until they are read: in memory up to a budget, beyond it in an unnamed temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import IO, Self

from perfgate.client.wire import Recording

BUDGET = 256 * 1024 * 1024
"""Bytes of responses kept in memory; a response of 512 tokens is about 150 kB."""


class Tape:
    """Recordings in the order in which they ended.

    Args:
        budget: bytes of responses to keep in memory.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._room = budget
        self._recordings: list[tuple[Recording, int, int]] = []
        self._file: IO[bytes] | None = None
        self._written = 0

    def __len__(self) -> int:
        return len(self._recordings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, recording: Recording) -> None:
        """Keeps one recording."""
        size = len(recording.raw)
        if size <= self._room:
            self._room -= size
            self._recordings.append((recording, -1, 0))
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="perfgate-tape-")  # noqa: SIM115 — closed by __exit__
        self._file.write(recording.raw)
        self._recordings.append((replace(recording, raw=b""), self._written, size))
        self._written += size

    def play(self) -> Iterator[Recording]:
        """The recordings, each once; memory is given back on the way."""
        while self._recordings:
            recording, offset, size = self._recordings.pop()
            if offset < 0:
                yield recording
            else:
                assert self._file is not None
                self._file.seek(offset)
                yield replace(recording, raw=self._file.read(size))
