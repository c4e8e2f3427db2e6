"""Records as JSON files: read strictly, written whole or not at all.

Reading says which file, which field and what to do; it accepts nothing that the schema does not. Writing goes through a temporary
file beside the target, so that a reader sees the old content or the new and a full disk costs neither.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from perfgate.errors import PerfgateError
from perfgate.records import SCHEMA, Record

Document = TypeVar("Document", bound=Record)

TEMPORARY_SUFFIX = ".partial"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one kind of document is spoken of, and which errors it raises."""

    word: str
    """"baseline" or "results file"."""
    corrupt: type[PerfgateError]
    schema: type[PerfgateError]
    access: type[PerfgateError]
    remedy: str
    """What repairs a broken document of this kind."""
    marks: frozenset[str]
    """Top-level fields that only this kind has; they tell a document of another kind apart."""


def encode(record: Record) -> bytes:
    """The record as pretty JSON: sorted keys, two spaces, one final newline, so that a diff shows what changed.

    Fields at their default are left out, which keeps files short; what a default means is fixed by the schema number, always given.
    """
    data = {**record.model_dump(mode="json", exclude_defaults=True), "schema": SCHEMA}
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # A command line or a log may hold bytes that are no text (lone surrogates here); they become question marks, not a lost session.
    return (text + "\n").encode("utf-8", errors="replace")


def decode(content: bytes, document: type[Document], *, kind: Kind, source: str) -> Document:
    """The record that the bytes hold.

    Args:
        content: the file's bytes.
        document: the record's type.
        kind: how to speak of it.
        source: the file, for messages.

    Raises:
        PerfgateError: ``kind.corrupt`` or ``kind.schema``, naming the file, the field as a JSON path, what was given and a remedy.
    """
    data = _plain_data(content, kind=kind, source=source)
    _check_schema(data, kind=kind, source=source)
    try:
        return document.model_validate_json(content)
    except ValidationError as error:
        raise kind.corrupt(_describe(error, kind=kind, source=source), remedy=kind.remedy) from error


def read_bytes(path: Path, *, kind: Kind, follow_link: bool = False) -> bytes:
    """The content of a regular file.

    Folders, pipes and devices are refused, and symbolic links unless ``follow_link`` says otherwise: a stored document that is a link
    can change without anybody having written to it.

    Raises:
        FileNotFoundError: there is nothing at the path.
        PerfgateError: ``kind.corrupt`` for what is no regular file, ``kind.access`` where the system refuses.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait for ever.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_link else os.O_NOFOLLOW)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_link:
            raise kind.corrupt(
                f"{path}: is a symbolic link, not a {kind.word}",
                remedy=f"Put the file itself there: a {kind.word} is a regular file.",
            ) from error
        if error.errno == errno.ENOTDIR:
            raise FileNotFoundError(errno.ENOENT, "part of the path is not a folder", str(path)) from error
        raise access_error(error, path, kind=kind, doing="read") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise kind.corrupt(
            f"{path}: is {what}, not a {kind.word}",
            remedy=f"Move it away: a {kind.word} is a regular file.",
        )
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read()
        except OSError as error:
            raise access_error(error, path, kind=kind, doing="read") from error


def write_atomically(path: Path, content: bytes, *, kind: Kind) -> None:
    """Replaces the file whole or leaves it as it was; its folder is made where missing.

    The caller holds whatever lock keeps other writers away. The content is on the disk before the name points to it.

    Raises:
        PerfgateError: ``kind.access`` where the system refuses (no permission, disk full, the path is a folder); nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                temporary.chmod(stat.S_IMODE(path.stat(follow_symlinks=False).st_mode))
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise access_error(error, path, kind=kind, doing="written") from error


def sweep(path: Path) -> None:
    """Removes what writers of this file that were killed half-way left beside it; call it with the writers' lock held."""
    for left in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
        with suppress(OSError):
            left.unlink()


def access_error(error: OSError, path: Path, *, kind: Kind, doing: str) -> PerfgateError:
    """The system's refusal in the words of this project."""
    remedies = {
        errno.EACCES: "Give this user the right to it, or choose another folder.",
        errno.EPERM: "Give this user the right to it, or choose another folder.",
        errno.EROFS: "The file system is read-only; choose another folder.",
        errno.ENOSPC: "The disk is full: free some space and try again. What was stored before is untouched.",
        errno.EDQUOT: "The disk quota is used up: free some space and try again. What was stored before is untouched.",
        errno.EFBIG: "The file would be larger than allowed here (ulimit -f). What was stored before is untouched.",
        errno.EISDIR: "A folder has the file's name: move it away.",
        errno.ENOTDIR: "A file stands where a folder is needed: move it away.",
        errno.EEXIST: "A file stands where a folder is needed: move it away.",
        errno.ENAMETOOLONG: "Use shorter names.",
        errno.ELOOP: "Symbolic links lead in a circle: remove them.",
    }
    reason = error.strerror or str(error)
    return kind.access(
        f"{path}: the {kind.word} cannot be {doing}: {reason}",
        remedy=remedies.get(error.errno or 0, "Check the path and the disk."),
    )


def json_path(location: tuple[int | str, ...]) -> str:
    """A field's place as a JSON path: ``$.boots[0].runs[1].metrics.mean_ttft_ms``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "$" + "".join(parts)


def _plain_data(content: bytes, *, kind: Kind, source: str) -> dict[str, Any]:
    def corrupt(problem: str, remedy: str = kind.remedy) -> PerfgateError:
        return kind.corrupt(f"{source}: {problem}", remedy=remedy)

    if not content.strip():
        raise corrupt("the file is empty")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise corrupt(f"not UTF-8 text (byte {error.start}): {error.reason}") from error
    if text.startswith(("<<<<<<<", "=======", ">>>>>>>")) or "\n<<<<<<< " in text:
        raise corrupt("holds an unresolved merge conflict", "Resolve the conflict: keep one side whole.")
    if text.startswith("version https://git-lfs"):
        raise corrupt("is a Git LFS pointer, not the file itself", "Run git lfs pull.")
    try:
        data = json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        end = " (the file ends there: it is truncated)" if error.pos >= len(text.rstrip()) else ""
        raise corrupt(f"line {error.lineno} column {error.colno}: not JSON: {error.msg}{end}") from error
    except (ValueError, RecursionError) as error:
        raise corrupt(f"not acceptable JSON: {error}") from error
    if not isinstance(data, dict):
        raise corrupt(f"holds a {type(data).__name__}, not an object")
    for location, number in _not_finite((), data):
        raise corrupt(f"field {json_path(location)}: {number} is not a number that can be compared")
    return data


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} is given twice in one object")
    return found


def _not_finite(location: tuple[int | str, ...], value: Any) -> Iterator[tuple[tuple[int | str, ...], float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield location, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite((*location, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_finite((*location, index), item)


def _check_schema(data: dict[str, Any], *, kind: Kind, source: str) -> None:
    if "schema" not in data:
        raise kind.corrupt(
            f"{source}: field $.schema is missing, so this is no {kind.word} of this project",
            remedy=kind.remedy,
        )
    number = data["schema"]
    if type(number) is not int:
        raise kind.corrupt(
            f"{source}: field $.schema: {number!r} is not a schema number (this version writes {SCHEMA})",
            remedy=kind.remedy,
        )
    if number > SCHEMA:
        raise kind.schema(
            f"{source}: field $.schema: {number} was written by a newer perfgate; this version reads {SCHEMA}",
            remedy="Install the newer perfgate, or use a file written by this version.",
        )
    if number < SCHEMA:
        raise kind.schema(
            f"{source}: field $.schema: {number} is older than what this version reads ({SCHEMA})",
            remedy=kind.remedy,
        )
    if kind.marks and not kind.marks & data.keys():
        expected = " or ".join(sorted(kind.marks))
        raise kind.corrupt(
            f"{source}: is another kind of document: field {json_path((expected,))} is missing",
            remedy=f"Give the path of a {kind.word}.",
        )


def _describe(error: ValidationError, *, kind: Kind, source: str) -> str:
    problems = error.errors()
    first = problems[0]
    location = tuple(first["loc"])
    # A message of our own validators comes as "Value error, …".
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        problem = f"no {kind.word} of this schema has such a field"
    elif first["type"] == "missing":
        problem = "the field is missing"
    given = first.get("input")
    shown = (
        "" if isinstance(given, dict | list | tuple) or first["type"] == "missing" else f" (given: {given!r})"
    )
    more = f"; {len(problems) - 1} more problems follow" if len(problems) > 1 else ""
    return f"{source}: field {json_path(location)}: {problem}{shown[:200]}{more}"


def _sync_folder(folder: Path) -> None:
    # Some network file systems cannot sync a folder; the file itself is already on the disk.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
