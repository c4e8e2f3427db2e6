"""Baselines under several real processes at once: writers, readers, killed writers, a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from perfgate.baseline import DirectoryStore
from perfgate.baseline.directory import LOCK_NAME
from perfgate.errors import BaselineAccessError
from perfgate.records import Baseline, BootRecord, Cell, Fingerprint, Provenance, RunRecord

CELL = Cell(gpu="gb10", model="m", server="s", workload="w")
DEADLINE = 60.0

WRITER = """
import sys
from pathlib import Path
from perfgate.baseline import DirectoryStore
from perfgate.errors import BaselineConflictError
from perfgate.records import Cell

store = DirectoryStore(Path(sys.argv[1]))
cell = Cell(gpu="gb10", model="m", server="s", workload="w")
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    while True:
        read = store.read(cell)
        old = read.baseline.provenance
        provenance = old.model_copy(update={"notes": (*old.notes, f"{sys.argv[2]}-{number}")})
        try:
            store.write(read.baseline.model_copy(update={"provenance": provenance}), replacing=read)
            break
        except BaselineConflictError:
            continue
"""

CREATOR = """
import sys
from pathlib import Path
from perfgate.baseline import DirectoryStore
from perfgate.errors import BaselineConflictError
from perfgate.records import Baseline

store = DirectoryStore(Path(sys.argv[1]))
baseline = Baseline.model_validate_json(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
try:
    store.write(baseline, replacing=None)
except BaselineConflictError:
    print("conflict")
else:
    print("created")
"""


def baseline(value: float = 100.0, notes: tuple[str, ...] = ()) -> Baseline:
    """A baseline of one boot and one run."""
    return Baseline(
        cell=CELL,
        provenance=Provenance(by="a test", source="measured", notes=notes),
        fingerprint=Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1),
        boots=(BootRecord(id="b", runs=(RunRecord(metrics={"mean_ttft_ms": value}),)),),
    )


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python child that waits for a line on its standard input."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(children: list[subprocess.Popen[str]]) -> None:
    """Lets all children begin at the same time."""
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()


def ended(child: subprocess.Popen[str]) -> str:
    """The rest of a child's output, once it ended well."""
    try:
        output, errors = child.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    assert child.returncode == 0, errors
    return output


def test_writers_lose_nothing_and_a_reader_sees_whole_baselines(tmp_path: Path) -> None:
    """Of two processes that replace one baseline again and again no update is lost, and a reader only ever sees whole files, in order."""
    store = DirectoryStore(tmp_path)
    store.write(baseline(), replacing=None)
    each = 25
    writers = [start(WRITER, tmp_path, name, each) for name in ("a", "b")]
    go(writers)
    seen = [store.read(CELL).baseline.provenance.notes]
    while any(writer.poll() is None for writer in writers):
        seen.append(store.read(CELL).baseline.provenance.notes)
    for writer in writers:
        ended(writer)
    final = store.read(CELL).baseline.provenance.notes
    assert sorted(final) == sorted(f"{name}-{number}" for name in ("a", "b") for number in range(each))
    assert all(final[: len(notes)] == notes for notes in seen)
    assert len(set(seen)) > 1, "the reader never ran beside a writer: the test showed nothing"


def test_one_creator_wins(tmp_path: Path) -> None:
    """Of several processes that create one baseline exactly one succeeds, and its content is what is stored."""
    values = (100.0, 200.0, 300.0)
    creators = [start(CREATOR, tmp_path, baseline(value).model_dump_json()) for value in values]
    go(creators)
    said = [ended(creator).strip() for creator in creators]
    assert sorted(said) == ["conflict", "conflict", "created"]
    assert DirectoryStore(tmp_path).read(CELL).baseline == baseline(values[said.index("created")])


def test_lock_held_for_too_long(tmp_path: Path) -> None:
    """A writer that never lets go costs an error after the deadline, with the lock's path, and changes nothing."""
    store = DirectoryStore(tmp_path, lock_seconds=0.05)
    store.write(baseline(), replacing=None)
    read = store.read(CELL)
    with (
        FileLock(tmp_path / LOCK_NAME),
        pytest.raises(BaselineAccessError, match=r"\.perfgate\.lock for 0\.05 s"),
    ):
        store.write(baseline(200.0), replacing=read)
    assert store.read(CELL) == read


KILLED = """
import os, signal, sys
from pathlib import Path
from perfgate.baseline import DirectoryStore
from perfgate.records import Baseline

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = die
store = DirectoryStore(Path(sys.argv[1]))
baseline = Baseline.model_validate_json(sys.argv[2])
store.write(baseline, replacing=store.read(baseline.cell))
"""


def test_writer_killed_half_way(tmp_path: Path) -> None:
    """A writer killed with SIGKILL between writing and replacing leaves the old baseline, and no lock for the next writer to wait on."""
    store = DirectoryStore(tmp_path, lock_seconds=5)
    store.write(baseline(), replacing=None)
    read = store.read(CELL)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), baseline(200.0).model_dump_json()],
        timeout=DEADLINE,
        check=False,
    )
    assert died.returncode == -9
    assert store.read(CELL) == read
    assert list(store.path(CELL).parent.glob(".*.partial")), (
        "the child died before it wrote: the test showed nothing"
    )
    store.write(baseline(300.0), replacing=read)
    assert store.read(CELL).baseline == baseline(300.0)
    assert not list(store.path(CELL).parent.glob(".*.partial"))


NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from perfgate.baseline import DirectoryStore
from perfgate.errors import BaselineAccessError
from perfgate.records import Baseline

baseline = Baseline.model_validate_json(sys.argv[2])
store = DirectoryStore(Path(sys.argv[1]))
read = store.read(baseline.cell)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    store.write(baseline, replacing=read)
except BaselineAccessError as error:
    print(error.message)
"""


def test_no_room_for_the_whole_file(tmp_path: Path) -> None:
    """When only the first bytes of a file can be written, the old baseline stays whole and nothing else is left."""
    store = DirectoryStore(tmp_path)
    store.write(baseline(), replacing=None)
    read = store.read(CELL)
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(tmp_path), baseline(200.0).model_dump_json()],
        timeout=DEADLINE,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "cannot be written: File too large" in done.stdout
    assert str(store.path(CELL)) in done.stdout
    assert store.read(CELL) == read
    assert not list(store.path(CELL).parent.glob(".*"))
