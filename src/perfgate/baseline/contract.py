"""What a store of baselines promises, whatever it stores them in."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches

from perfgate.baseline.document import decode_baseline, encode_baseline
from perfgate.errors import BaselineConflictError, BaselineCorruptError, BaselineMissingError
from perfgate.records import Baseline, Cell


@dataclass(frozen=True, kw_only=True)
class StoredBaseline:
    """A baseline as it was read: what to compare with, and what to hand back when replacing it."""

    baseline: Baseline
    location: str
    """Where it was read from, as a person would look it up."""
    token: str = field(repr=False)
    """Digest of the bytes as read. Two reads with one token read the same content; nothing else may be concluded from it."""


class BaselineStore(ABC):
    """At most one baseline a cell.

    Every store keeps this contract, and one suite of tests runs on all of them:

    * What was written is read back equal, field by field.
    * A write that raises has changed nothing.
    * A reader sees a whole baseline, the old one or the new one, whatever writers do meanwhile.
    * Nothing is ever skipped: a baseline that is there and cannot be used is an error, not a missing one.
    """

    @abstractmethod
    def read(self, cell: Cell) -> StoredBaseline:
        """The cell's baseline, validated.

        Raises:
            BaselineMissingError: none is stored; the remedy names the nearest cell that has one.
            BaselineCorruptError: one is there, but not as the schema says, or it names another cell.
            BaselineSchemaError: one is there, with a schema number this version does not read.
            BaselineAccessError: the system refuses to read it.
        """

    @abstractmethod
    def write(self, baseline: Baseline, *, replacing: StoredBaseline | None) -> str:
        """Stores the baseline for its cell, whole and durably; returns its location.

        Args:
            baseline: the new baseline.
            replacing: what ``read`` gave for the same cell, or None to create one where there is none. There is no way to
                overwrite what was not read.

        Raises:
            BaselineConflictError: ``replacing`` is None and the cell has a baseline (readable or not); or it is not None and the
                stored one changed or went away since it was read, or belongs to another cell.
            BaselineCorruptError: the baseline itself could not be read back (a zero where a time is expected, say).
            BaselineReadOnlyError: this store only reads.
            BaselineAccessError: the system refuses to write it.
        """

    @abstractmethod
    def cells(self) -> Iterator[Cell]:
        """The cells that have a baseline, sorted, by name alone: nothing is read, so a corrupt one is listed too.

        An empty store, or one that does not exist yet, has none. Writes during the iteration may or may not be seen.

        Raises:
            BaselineCorruptError: something lies where a baseline should, under a name that no cell can have.
        """

    @abstractmethod
    def location(self, cell: Cell) -> str:
        """Where the cell's baseline is or would be stored. Never fails, and says nothing about whether one is there."""


def token_of(content: bytes) -> str:
    """The token of a baseline's bytes."""
    return hashlib.sha256(content).hexdigest()


def stored_from(content: bytes, cell: Cell, location: str) -> StoredBaseline:
    """What ``read`` returns for these bytes, found where the cell's baseline belongs.

    Raises:
        BaselineCorruptError: not as the schema says, or for another cell.
        BaselineSchemaError: another schema number.
    """
    baseline = decode_baseline(content, source=location)
    if baseline.cell != cell:
        raise BaselineCorruptError(
            f"{location}: field $.cell: the file says {baseline.cell}, its place says {cell}",
            remedy="Move the file to where its cell belongs, or record the cell again with --update-baselines.",
        )
    return StoredBaseline(baseline=baseline, location=location, token=token_of(content))


def content_to_write(baseline: Baseline, location: str) -> bytes:
    """The bytes of a baseline, proved readable: what could not be read back is never written.

    Raises:
        BaselineCorruptError: naming the field.
    """
    content = encode_baseline(baseline)
    # Compared as bytes: a tuple within the plain data of a specification comes back as a list, which loses nothing.
    if encode_baseline(decode_baseline(content, source=f"{location} (not written)")) != content:
        raise BaselineCorruptError(
            f"{location}: the baseline does not survive being written and read back; nothing was written",
            remedy="Please report this with the results file of the session.",
        )
    return content


def check_replacing(
    baseline: Baseline, replacing: StoredBaseline | None, current: bytes | None, location: str
) -> None:
    """The rule of ``write``: create where there is nothing, replace only what was read.

    Args:
        baseline: what is to be written.
        replacing: what the caller read.
        current: the bytes that are stored now, None where there are none.
        location: where, for the message.

    Raises:
        BaselineConflictError: the rule is broken.
    """
    if replacing is None:
        if current is not None:
            raise BaselineConflictError(
                f"{location}: a baseline is already stored for {baseline.cell}; creating one never changes it",
                remedy="Use --update-baselines to replace it, or delete the file first.",
            )
        return
    if replacing.baseline.cell != baseline.cell:
        raise BaselineConflictError(
            f"{location}: a baseline of {replacing.baseline.cell} cannot be replaced by one of {baseline.cell}",
            remedy="Read the baseline of the same cell first.",
        )
    if current is None or token_of(current) != replacing.token:
        happened = "was deleted" if current is None else "changed"
        raise BaselineConflictError(
            f"{location}: the baseline {happened} after it was read, so it was not replaced",
            remedy="Look at what changed (git log, git diff), then measure and update again.",
        )


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """The cells sorted by GPU, model, server and workload."""
    return sorted(cells, key=lambda cell: (cell.gpu, cell.model, cell.server, cell.workload))


def missing(cell: Cell, location: str, known: Iterator[Cell]) -> BaselineMissingError:
    """The error for a cell without baseline, with the nearest cells that have one."""
    names = [str(other) for other in known]
    near = get_close_matches(str(cell), names, n=2, cutoff=0.7)
    hint = f" Nearest stored: {', '.join(near)}." if near else ""
    return BaselineMissingError(
        f"{location}: no baseline is stored for {cell}",
        remedy=f"Record one with --new-baselines (a first recording is not a pass).{hint}",
    )
