"""Baseline files as they are found: edited, cut short, replaced by other things, or out of reach."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perfgate.baseline import DirectoryStore
from perfgate.baseline.directory import LOCK_NAME
from perfgate.errors import (
    BaselineAccessError,
    BaselineConflictError,
    BaselineCorruptError,
    BaselineError,
    BaselineMissingError,
    BaselineSchemaError,
)
from perfgate.records import SCHEMA, Baseline, BootRecord, Cell, Fingerprint, Provenance, RunRecord

CELL = Cell(gpu="gb10", model="m", server="s", workload="w")


def baseline(value: float = 100.0, *, cell: Cell = CELL) -> Baseline:
    """A baseline of one boot and one run."""
    run = RunRecord(seed=42, metrics={"mean_ttft_ms": value, "output_throughput": 75.88})
    return Baseline(
        cell=cell,
        provenance=Provenance(by="a test", source="measured"),
        fingerprint=Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1),
        boots=(BootRecord(id="boot-1", runs=(run,)),),
    )


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """A store with one baseline."""
    store = DirectoryStore(tmp_path / "baselines")
    store.write(baseline(), replacing=None)
    return store


def edit(store: DirectoryStore, change: Callable[[dict[str, Any]], object]) -> Path:
    """Changes the stored JSON in place, as a person with an editor would."""
    path = store.path(CELL)
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def run_of(data: dict[str, Any]) -> dict[str, Any]:
    """The first run of a baseline's JSON."""
    run: dict[str, Any] = data["boots"][0]["runs"][0]
    return run


METRIC = "$.boots[0].runs[0].metrics.mean_ttft_ms"

EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "NaN": (lambda data: run_of(data)["metrics"].update(mean_ttft_ms=float("nan")), METRIC),
    "infinity": (lambda data: run_of(data)["metrics"].update(mean_ttft_ms=float("inf")), METRIC),
    "negative": (lambda data: run_of(data)["metrics"].update(mean_ttft_ms=-1.0), METRIC),
    "zero": (lambda data: run_of(data)["metrics"].update(mean_ttft_ms=0), METRIC),
    "text for a number": (lambda data: run_of(data)["metrics"].update(mean_ttft_ms="100"), METRIC),
    "null for a number": (lambda data: run_of(data)["metrics"].update(mean_ttft_ms=None), METRIC),
    "true for a number": (lambda data: run_of(data)["metrics"].update(mean_ttft_ms=True), METRIC),
    "no metrics": (lambda data: run_of(data).update(metrics={}), "run 0 has no metrics"),
    "metrics missing": (
        lambda data: run_of(data).pop("metrics"),
        "$.boots[0].runs[0].metrics: the field is missing",
    ),
    "no runs": (lambda data: data["boots"][0].update(runs=[]), "'boot-1' has no runs"),
    "no boots": (lambda data: data.update(boots=[]), "$.boots"),
    "boots missing": (lambda data: data.pop("boots"), "$.boots: the field is missing"),
    "invalid run": (lambda data: run_of(data).update(invalid=["2 requests failed"]), "2 requests failed"),
    "void boot": (lambda data: data["boots"][0].update(void=["throttled"]), "throttled"),
    "misspelt field": (lambda data: run_of(data).update(sed=42), "$.boots[0].runs[0].sed"),
    "unknown top-level field": (lambda data: data.update(comment="faster"), "$.comment"),
    "time without zone": (
        lambda data: data["provenance"].update(recorded="2026-04-13T10:00:00"),
        "$.provenance.recorded",
    ),
    "averaged over nothing": (
        lambda data: run_of(data).update(averaged_over=0),
        "$.boots[0].runs[0].averaged_over",
    ),
    "path in a name": (lambda data: data["cell"].update(server="../../etc"), "$.cell.server"),
    "schema missing": (lambda data: data.pop("schema"), "$.schema is missing"),
    "schema as text": (lambda data: data.update(schema="1"), "$.schema: '1'"),
    "schema as truth": (lambda data: data.update(schema=True), "$.schema: True"),
    "another cell": (lambda data: data["cell"].update(workload="other"), "the file says gb10/m/s/other"),
    "NaN in settings": (
        lambda data: data["boots"][0].update(settings={"a": [{"b": float("nan")}]}),
        "$.boots[0].settings.a[0].b",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_file(store: DirectoryStore, name: str) -> None:
    """A file that the schema does not allow is refused by file, field and remedy, and stays as it was."""
    change, expected = EDITS[name]
    path = edit(store, change)
    content = path.read_bytes()
    with pytest.raises(BaselineCorruptError) as caught:
        store.read(CELL)
    assert str(path) in caught.value.message
    assert expected in caught.value.message
    assert caught.value.remedy
    assert path.read_bytes() == content


@pytest.mark.parametrize(("number", "words"), [(SCHEMA + 1, "newer perfgate"), (0, "older"), (-3, "older")])
def test_other_schema_number(store: DirectoryStore, number: int, words: str) -> None:
    """A schema number of another version is its own error, which says which one, and is never read as this version's."""
    path = edit(store, lambda data: data.update(schema=number))
    with pytest.raises(BaselineSchemaError, match=words) as caught:
        store.read(CELL)
    assert str(path) in caught.value.message
    assert f"$.schema: {number}" in caught.value.message
    assert caught.value.remedy


CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n\n", "the file is empty"),
    "not JSON": (b"mean_ttft_ms = 100\n", "line 1 column 1: not JSON"),
    "NUL bytes": (b"\0" * 4096, "not JSON"),
    "a list": (b"[1, 2]", "holds a list, not an object"),
    "a number": (b"12", "holds a int, not an object"),
    "not UTF-8": (b'{"schema": 1, "x": "\xff"}', "not UTF-8 text (byte 20)"),
    "duplicate field": (b'{"schema": 1, "schema": 1}', "'schema' is given twice"),
    "nested too deep": (b'{"a":' * 100_000, "not acceptable JSON"),
    "digits without end": (b'{"schema": ' + b"9" * 5000 + b"}", "not acceptable JSON"),
    "overflowing number": (b'{"schema": 1, "x": 1e999}', "$.x: inf"),
    "merge conflict": (b'{\n<<<<<<< HEAD\n"schema": 1\n=======\n', "unresolved merge conflict"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "results file": (b'{"schema": 1, "session": "x", "measurements": []}', "another kind of document"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_foreign_content(store: DirectoryStore, name: str) -> None:
    """Content that is no baseline at all is refused by file, reason and remedy."""
    content, expected = CONTENTS[name]
    path = store.path(CELL)
    path.write_bytes(content)
    with pytest.raises(BaselineCorruptError) as caught:
        store.read(CELL)
    assert str(path) in caught.value.message
    assert expected in caught.value.message
    assert caught.value.remedy


def test_every_truncation(store: DirectoryStore) -> None:
    """Wherever a file is cut short before its closing brace, it is refused."""
    path = store.path(CELL)
    content = path.read_bytes().rstrip()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(BaselineCorruptError):
            store.read(CELL)


def test_corrupt_is_listed_and_not_overwritten(store: DirectoryStore) -> None:
    """A corrupt baseline is still listed, and neither creating nor replacing overwrites it."""
    read = store.read(CELL)
    store.path(CELL).write_text("{", encoding="utf-8")
    assert list(store.cells()) == [CELL]
    for replacing in (None, read):
        with pytest.raises(BaselineConflictError):
            store.write(baseline(), replacing=replacing)
    assert store.path(CELL).read_text(encoding="utf-8") == "{"


def _folder(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    real = path.with_name("real.txt")
    real.write_text("{}", encoding="utf-8")
    path.symlink_to(real)


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_folder, "is a folder"),
        (_link, "symbolic link"),
        (_dangling_link, "symbolic link"),
        (_pipe, "is a pipe"),
    ],
)
def test_something_else_in_its_place(store: DirectoryStore, make: Callable[[Path], None], words: str) -> None:
    """A folder, link or pipe in a baseline's place is refused for reading and for writing, at once, and left there."""
    read = store.read(CELL)
    path = store.path(CELL)
    path.unlink()
    make(path)
    with pytest.raises(BaselineCorruptError, match=words) as caught:
        store.read(CELL)
    assert str(path) in caught.value.message
    for replacing in (None, read):
        with pytest.raises(BaselineError, match=words):
            store.write(baseline(), replacing=replacing)
    assert not path.is_file() or path.is_symlink()


def test_linked_folder(store: DirectoryStore) -> None:
    """A symbolic link in place of a folder below the root is refused: two cells would share a file."""
    (store.root / "h100").symlink_to(store.root / "gb10")
    with pytest.raises(BaselineCorruptError, match="symbolic link"):
        store.read(CELL.model_copy(update={"gpu": "h100"}))


def test_linked_root(store: DirectoryStore, tmp_path: Path) -> None:
    """The root itself may be a symbolic link."""
    link = tmp_path / "link"
    link.symlink_to(store.root)
    assert list(DirectoryStore(link).cells()) == [CELL]
    assert DirectoryStore(link).read(CELL).baseline == baseline()


@pytest.mark.parametrize("place", ["gb10", "gb10/m", "gb10/m/s"])
def test_file_where_a_folder_is_needed(tmp_path: Path, place: str) -> None:
    """A file in the place of a folder means a missing baseline when reading and a clear refusal when writing."""
    store = DirectoryStore(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("", encoding="utf-8")
    with pytest.raises(BaselineMissingError):
        store.read(CELL)
    with pytest.raises(BaselineAccessError, match="A file stands where a folder is needed"):
        store.write(baseline(), replacing=None)


def test_name_that_no_cell_has(store: DirectoryStore) -> None:
    """A file under a name that no cell can have is an error when listing, not left out."""
    store.path(CELL).with_name("chat (copy).json").write_text("{}", encoding="utf-8")
    with pytest.raises(BaselineCorruptError, match=r"chat \(copy\)\.json: no cell can have this name"):
        list(store.cells())


def test_other_files_are_no_baselines(store: DirectoryStore) -> None:
    """Files at other depths, of other kinds and hidden ones are not listed as baselines."""
    for name in (
        "noise.json",
        "gb10/noise.json",
        "gb10/m/s/README.md",
        "gb10/m/s/.w.json.abc.partial",
        "gb10/m/s/deep/x.json",
    ):
        path = store.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    assert list(store.cells()) == [CELL]


def test_file_is_made_for_diffs(store: DirectoryStore) -> None:
    """Keys are sorted, indented and ended by one newline, and writing the same baseline gives the same bytes."""
    path = store.path(CELL)
    content = path.read_text(encoding="utf-8")
    assert content == json.dumps(json.loads(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    store.write(baseline(), replacing=store.read(CELL))
    assert path.read_text(encoding="utf-8") == content


def test_path_is_the_cell(store: DirectoryStore) -> None:
    """The file of a cell is <root>/<gpu>/<model>/<server>/<workload>.json, readable by others as the umask allows."""
    path = store.root / "gb10" / "m" / "s" / "w.json"
    assert store.location(CELL) == str(path)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_replacing_keeps_the_mode(store: DirectoryStore) -> None:
    """Replacing a baseline keeps the permissions of its file."""
    store.path(CELL).chmod(0o640)
    store.write(baseline(120.0), replacing=store.read(CELL))
    assert store.path(CELL).stat().st_mode & 0o777 == 0o640


def test_deleted_meanwhile(store: DirectoryStore) -> None:
    """A baseline that was deleted after it was read is not brought back by replacing it."""
    read = store.read(CELL)
    store.path(CELL).unlink()
    with pytest.raises(BaselineConflictError, match="was deleted after it was read"):
        store.write(baseline(), replacing=read)
    assert not store.path(CELL).exists()


def test_changed_by_hand_meanwhile(store: DirectoryStore) -> None:
    """A single changed byte, even white space, is a change since it was read."""
    read = store.read(CELL)
    with store.path(CELL).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(BaselineConflictError, match="changed after it was read"):
        store.write(baseline(200.0), replacing=read)


def leftovers(store: DirectoryStore) -> list[str]:
    """The files below the root other than baselines and the lock."""
    return sorted(
        path.name
        for path in store.root.rglob("*")
        if path.is_file() and path.suffix != ".json" and path.name != LOCK_NAME
    )


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_system_refuses_half_way(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """When the disk fails half-way through a write, the old baseline is whole, nothing else is left, and the error names the file."""
    read = store.read(CELL)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail) if call == "fsync" else monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(BaselineAccessError, match=os.strerror(number)) as caught:
        store.write(baseline(200.0), replacing=read)
    monkeypatch.undo()
    assert str(store.path(CELL)) in caught.value.message
    assert caught.value.remedy
    assert store.read(CELL) == read
    assert leftovers(store) == []


def test_killed_writers_leave_nothing_for_good(store: DirectoryStore) -> None:
    """What a killed writer left half-written is not read, and the next write of the same file removes it."""
    left = store.path(CELL).with_name(".w.json.0123456789ab.partial")
    left.write_text('{"schema"', encoding="utf-8")
    assert store.read(CELL).baseline == baseline()
    store.write(baseline(200.0), replacing=store.read(CELL))
    assert leftovers(store) == []


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, for whom permissions do not count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user reaches (pytest's own belongs to the user who runs it)."""
    with tempfile.TemporaryDirectory(prefix="perfgate-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_no_right_to_read(reachable: Path) -> None:
    """A baseline that may not be read is an access error by file, not a missing baseline."""
    store = DirectoryStore(reachable / "baselines")
    store.write(baseline(), replacing=None)
    path = store.path(CELL)
    path.chmod(0)
    with as_nobody(), pytest.raises(BaselineAccessError, match="Permission denied") as caught:
        store.read(CELL)
    assert str(path) in caught.value.message
    assert caught.value.remedy


def test_no_right_to_list(reachable: Path) -> None:
    """A folder that may not be listed is an error, not an empty store."""
    store = DirectoryStore(reachable / "baselines")
    store.write(baseline(), replacing=None)
    (store.root / "gb10").chmod(0)
    with as_nobody(), pytest.raises(BaselineAccessError, match="cannot be listed: Permission denied"):
        list(store.cells())
    (store.root / "gb10").chmod(0o755)


@pytest.mark.parametrize("folder", ["", "gb10", "gb10/m", "gb10/m/s"])
def test_no_right_to_enter(reachable: Path, folder: str) -> None:
    """A folder that may not be entered is an access error for what lies within, not a missing baseline."""
    store = DirectoryStore(reachable / "baselines")
    store.write(baseline(), replacing=None)
    (store.root / folder).chmod(0)
    with as_nobody(), pytest.raises(BaselineAccessError, match="cannot be read: Permission denied"):
        store.read(CELL)
    (store.root / folder).chmod(0o755)


def test_no_right_to_write(reachable: Path) -> None:
    """Where writing is forbidden, reading still works, and a write is an access error that changes nothing."""
    store = DirectoryStore(reachable / "baselines")
    store.write(baseline(), replacing=None)
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with as_nobody():
        read = store.read(CELL)
        with pytest.raises(BaselineAccessError, match="Permission denied") as caught:
            store.write(baseline(200.0), replacing=read)
    assert str(store.path(CELL)) in caught.value.message
    assert store.read(CELL) == read
    assert leftovers(store) == []
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
