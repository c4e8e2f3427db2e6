"""Baselines as files: ``<root>/<gpu>/<model>/<server>/<workload>.json``, made to be read and reviewed as diffs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from perfgate.baseline.contract import (
    BaselineStore,
    StoredBaseline,
    check_replacing,
    content_to_write,
    in_order,
    missing,
    stored_from,
)
from perfgate.baseline.document import BASELINE
from perfgate.documents import access_error, read_bytes, sweep, write_atomically
from perfgate.errors import BaselineAccessError, BaselineCorruptError
from perfgate.records import Baseline, Cell

LOCK_NAME = ".perfgate.lock"
LOCK_SECONDS = 30.0
DEPTH = 3  # folders between the root and a file: GPU, model, server


class DirectoryStore(BaselineStore):
    """One file a cell below a root folder.

    Files are replaced atomically, under one lock for the root, which every writer of every process takes. The system releases the
    lock of a killed process, and what it left half-written is swept up by the next writer of the same file. Symbolic links below the
    root are refused; the root itself may be one.

    Args:
        root: the folder; it need not exist before the first write.
        lock_seconds: how long a write waits for another writer.
    """

    def __init__(self, root: Path, *, lock_seconds: float = LOCK_SECONDS) -> None:
        self.root = root
        self._lock_seconds = lock_seconds

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self.root)!r})"

    def path(self, cell: Cell) -> Path:
        """The cell's file."""
        return self.root / cell.gpu / cell.model / cell.server / f"{cell.workload}.json"

    def read(self, cell: Cell) -> StoredBaseline:
        """See the contract; no lock is taken, so reading works where writing is forbidden."""
        content = self._content(cell)
        if content is None:
            raise missing(cell, self.location(cell), self._cells_or_none())
        return stored_from(content, cell, self.location(cell))

    def write(self, baseline: Baseline, *, replacing: StoredBaseline | None) -> str:
        """See the contract."""
        path = self.path(baseline.cell)
        content = content_to_write(baseline, str(path))
        with self._locked(path):
            check_replacing(baseline, replacing, self._content(baseline.cell), str(path))
            sweep(path)
            write_atomically(path, content, kind=BASELINE)
        return str(path)

    def cells(self) -> Iterator[Cell]:
        """See the contract; hidden files and files at other depths are not baselines."""
        found = []
        for path in self._files():
            gpu, model, server, name = path.relative_to(self.root).parts
            try:
                found.append(Cell(gpu=gpu, model=model, server=server, workload=name.removesuffix(".json")))
            except ValidationError as error:
                raise BaselineCorruptError(
                    f"{path}: no cell can have this name",
                    remedy="Names are letters, digits and . _ + - and begin with a letter or digit: rename or remove it.",
                ) from error
        return iter(in_order(found))

    def location(self, cell: Cell) -> str:
        """The path of the file."""
        return str(self.path(cell))

    def _files(self) -> list[Path]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise access_error(error, Path(error.filename or self.root), kind=BASELINE, doing="listed")

        found = []
        for folder, subfolders, names in os.walk(self.root, onerror=refuse, followlinks=True):
            depth = len(Path(folder).relative_to(self.root).parts)
            subfolders[:] = [name for name in subfolders if depth < DEPTH and not name.startswith(".")]
            if depth == DEPTH:
                found += [
                    Path(folder, name)
                    for name in names
                    if name.endswith(".json") and not name.startswith(".")
                ]
        return found

    def _cells_or_none(self) -> Iterator[Cell]:
        # Only for the hint in a message: a folder that cannot be listed must not hide what the message is about.
        try:
            yield from self.cells()
        except (BaselineCorruptError, BaselineAccessError):
            return

    def _content(self, cell: Cell) -> bytes | None:
        path = self.path(cell)
        try:
            linked = [folder for folder in path.parents[:DEPTH] if folder.is_symlink()]
        except OSError as error:
            raise access_error(error, path, kind=BASELINE, doing="read") from error
        if linked:
            raise BaselineCorruptError(
                f"{linked[-1]}: is a symbolic link; below the root of the baselines there are none",
                remedy="Put the folder itself there.",
            )
        try:
            return read_bytes(path, kind=BASELINE)
        except FileNotFoundError:
            return None

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        lock_path = self.root / LOCK_NAME
        lock = FileLock(lock_path, timeout=self._lock_seconds)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise BaselineAccessError(
                f"{path}: another process has held {lock_path} for {self._lock_seconds:g} s; nothing was written",
                remedy="Wait for the other session to end, then try again.",
            ) from error
        except OSError as error:
            raise access_error(error, path, kind=BASELINE, doing="written") from error
        try:
            yield
        finally:
            lock.release()
