"""A session's results as one JSON file: written whole, read strictly."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from datetime import UTC
from pathlib import Path

from perfgate.documents import Kind, access_error, decode, encode, read_bytes, sweep, write_atomically
from perfgate.errors import (
    ResultsAccessError,
    ResultsConflictError,
    ResultsCorruptError,
    ResultsError,
    ResultsMissingError,
    ResultsSchemaError,
)
from perfgate.records import SessionResults

RESULTS = Kind(
    word="results file",
    corrupt=ResultsCorruptError,
    schema=ResultsSchemaError,
    access=ResultsAccessError,
    remedy="Results are not edited: take the file from its source again, or measure again.",
    marks=frozenset({"session"}),
)

_OWN_NAME = re.compile(r"\d{8}T\d{6}Z-.+\.json")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._+-]+")


def write_results(directory: Path, results: SessionResults) -> Path:
    """Writes the session's file, named by start time and session so that names sort by time; returns its path.

    A session may write itself again as it grows: the file is replaced whole. Another session's file is never replaced.

    Raises:
        ResultsConflictError: a file of that name holds something else.
        ResultsCorruptError: the results could not be read back, so nothing was written.
        ResultsAccessError: the system refuses to write.
    """
    path = directory / file_name(results)
    try:
        there = read_results(path)
    except ResultsMissingError:
        pass
    except ResultsError as error:
        raise ResultsConflictError(
            f"{path}: cannot be replaced, it is no readable results file: {error.message}",
            remedy="Move it away, or choose another folder (--perfgate-results).",
        ) from error
    else:
        if there.session != results.session:
            raise ResultsConflictError(
                f"{path}: holds session {there.session!r}, not {results.session!r}; it was not replaced",
                remedy="Choose another folder (--perfgate-results).",
            )
        sweep(path)
    write_file(path, results)
    return path


def write_file(path: Path, results: SessionResults) -> None:
    """Writes results to exactly this path, whatever was there.

    Raises:
        ResultsCorruptError: the results could not be read back, so nothing was written.
        ResultsAccessError: the system refuses to write.
    """
    content = encode(results)
    decode(content, SessionResults, kind=RESULTS, source=f"{path} (not written)")
    write_atomically(path, content, kind=RESULTS)


def refuse_unwritable(path: Path) -> None:
    """Says before the work what `write_file` would say after it.

    Raises:
        ResultsAccessError: a folder has the file's name, or no file can be made there.
    """
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    problem = 0
    if there == path:
        problem = errno.EISDIR if path.is_dir() else 0
        there = path.absolute().parent
    if not there.is_dir():
        problem = problem or errno.ENOTDIR
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = problem or errno.EACCES
    if problem:
        raise access_error(OSError(problem, os.strerror(problem)), path, kind=RESULTS, doing="written")


def read_results(path: Path) -> SessionResults:
    """The session in a file, or the newest session in a folder.

    Raises:
        ResultsMissingError: nothing there, or a folder without results.
        ResultsCorruptError: not as the schema says; file, field and remedy are named.
        ResultsSchemaError: another schema number.
        ResultsAccessError: the system refuses to read.
    """
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises; what cannot be looked at is refused below
        path = newest(path)
    try:
        content = read_bytes(path, kind=RESULTS, follow_link=True)
    except FileNotFoundError as error:
        raise ResultsMissingError(
            f"{path}: no such results file",
            remedy="Give a results file, or a folder of them (default .perfgate/results).",
        ) from error
    return decode(content, SessionResults, kind=RESULTS, source=str(path))


def newest(directory: Path) -> Path:
    """The newest results file of a folder.

    Files named by ``write_results`` are ordered by the time in their name (a checkout or a download changes modification times);
    they come before files that a person named, which are ordered by modification time.

    Raises:
        ResultsMissingError: the folder has none.
        ResultsAccessError: the folder cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            found = [
                (bool(_OWN_NAME.fullmatch(entry.name)), entry.name, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(".") and entry.is_file()
            ]
    except OSError as error:
        raise access_error(error, directory, kind=RESULTS, doing="listed") from error
    if not found:
        raise ResultsMissingError(
            f"{directory}: no results file (*.json) in this folder",
            remedy="Run pytest -m serving first, or give the path of a results file.",
        )
    own = [name for is_own, name, _ in found if is_own]
    return directory / (max(own) if own else max(found, key=lambda item: (item[2], item[1]))[1])


def file_name(results: SessionResults) -> str:
    """``<start in UTC>-<session>.json``, the start once; a session name that is no file name is replaced by what is left and its digest."""
    session = _NOT_IN_A_NAME.sub("-", results.session).strip("-.")[:80]
    if session != results.session:
        session += "-" + hashlib.sha256(results.session.encode()).hexdigest()[:8]
    start = f"{results.started.astimezone(UTC):%Y%m%dT%H%M%SZ}-"
    return f"{start}{session.removeprefix(start)}.json"
