"""The log file of a boot: its last lines for errors, its new lines for progress. Everything that leaves is masked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from perfgate.server.secrets import Secrets

TAIL_LINES = 30
_TAIL_BYTES = 64 * 1024


class ServerLog:
    """A log that a server is still writing, or has written."""

    def __init__(self, path: Path, secrets: Secrets) -> None:
        self.path = path
        self._secrets = secrets
        self._offset = 0
        self._partial = b""

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines, masked; says so when there are none."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - _TAIL_BYTES))
                text = stream.read().decode("utf-8", "replace")
        except OSError as error:
            return f"(no log: {error.strerror})"
        last = [line for line in text.splitlines() if line.strip()][-lines:]
        return self._secrets.mask("\n".join(last)) if last else "(the log is empty)"

    def excerpt(self, lines: int = TAIL_LINES) -> str:
        """The tail with its heading, as errors show it."""
        body = "\n".join(f"  | {line}" for line in self.tail(lines).splitlines())
        return f"last lines of {self.path}:\n{body}"

    def new_lines(self) -> list[str]:
        """The complete lines written since the last call, masked."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [self._secrets.mask(line.decode("utf-8", "replace")) for line in lines]

    def lines_since(self, offset: int) -> list[str]:
        """The lines written after the byte offset, masked."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                return self._secrets.mask(stream.read().decode("utf-8", "replace")).splitlines()
        except OSError:
            return []

    def text(self) -> str:
        """The whole log, masked; empty where there is none."""
        try:
            return self._secrets.mask(self.path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return ""

    def mask_file(self) -> None:
        """Takes the secrets out of the file itself, once nobody writes to it any more."""
        with contextlib.suppress(OSError):
            data = self.path.read_bytes()
            clean = self._secrets.mask_bytes(data)
            if clean != data:
                self.path.write_bytes(clean)
