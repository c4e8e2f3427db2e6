"""The contract of a baseline store, held against every store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfgate.baseline import BaselineStore, DirectoryStore, LayeredStore, MemoryStore, ReadOnlyStore
from perfgate.errors import (
    BaselineConflictError,
    BaselineCorruptError,
    BaselineMissingError,
    BaselineReadOnlyError,
)
from perfgate.records import Baseline, BootRecord, Cell, Fingerprint, Provenance, RunRecord

CELL = Cell(gpu="gb10", model="m-1.0", server="study-2.5a", workload="prefill")
OTHER = Cell(gpu="gb10", model="m-1.0", server="study-2.5a", workload="decode")

StoreOf = Callable[[Path, Iterable[Baseline]], BaselineStore]


def baseline_of(cell: Cell = CELL, *values: float, note: str = "") -> Baseline:
    """A baseline of one boot with a run a value."""
    return Baseline(
        cell=cell,
        provenance=Provenance(by="a test", source="measured", notes=(note,) if note else ()),
        fingerprint=Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1),
        boots=(
            BootRecord(
                id="boot-1",
                runs=tuple(
                    RunRecord(seed=42, metrics={"mean_ttft_ms": value}) for value in values or (100.0,)
                ),
            ),
        ),
    )


def directory(root: Path, baselines: Iterable[Baseline]) -> BaselineStore:
    """Files below a folder."""
    store = DirectoryStore(root / "baselines")
    for baseline in baselines:
        store.write(baseline, replacing=None)
    return store


def memory(root: Path, baselines: Iterable[Baseline]) -> BaselineStore:
    """In memory."""
    return MemoryStore(baselines)


def layered_upper(root: Path, baselines: Iterable[Baseline]) -> BaselineStore:
    """Two layers, the baselines in the first."""
    return LayeredStore(directory(root, baselines), MemoryStore())


def layered_lower(root: Path, baselines: Iterable[Baseline]) -> BaselineStore:
    """Two layers, the baselines in the second, which only reads."""
    return LayeredStore(DirectoryStore(root / "own"), ReadOnlyStore(MemoryStore(baselines)))


def read_only(root: Path, baselines: Iterable[Baseline]) -> BaselineStore:
    """Files that may only be read."""
    return ReadOnlyStore(directory(root, baselines))


WRITABLE = [directory, memory, layered_upper, layered_lower]
ALL = [*WRITABLE, read_only]
every_store = pytest.mark.parametrize("store_of", ALL)
every_writable_store = pytest.mark.parametrize("store_of", WRITABLE)


@every_store
def test_reads_back_what_was_written(store_of: StoreOf, tmp_path: Path) -> None:
    """A stored baseline is read back equal, field by field."""
    baseline = baseline_of(CELL, 100.0, 101.5, 1e-9)
    assert store_of(tmp_path, [baseline]).read(CELL).baseline == baseline


@every_store
def test_missing(store_of: StoreOf, tmp_path: Path) -> None:
    """A cell without baseline is an error that names the cell, the place, the option that records one and the nearest cell."""
    store = store_of(tmp_path, [baseline_of(OTHER)])
    with pytest.raises(BaselineMissingError) as caught:
        store.read(CELL)
    assert str(CELL) in caught.value.message
    assert store.location(CELL) in caught.value.message
    assert "--new-baselines" in caught.value.remedy
    assert str(OTHER) in caught.value.remedy


@every_store
def test_empty_store(store_of: StoreOf, tmp_path: Path) -> None:
    """An empty store lists no cells and has none."""
    store = store_of(tmp_path, [])
    assert list(store.cells()) == []
    with pytest.raises(BaselineMissingError):
        store.read(CELL)


@every_store
def test_lists_cells_sorted(store_of: StoreOf, tmp_path: Path) -> None:
    """The cells come sorted by GPU, model, server and workload, each once."""
    names = ["b", "a-b", "a", "a.b", "B"]
    cells = [Cell(gpu="g", model="m", server=server, workload=work) for server in names for work in names]
    listed = list(store_of(tmp_path, map(baseline_of, cells)).cells())
    assert listed == sorted(cells, key=lambda cell: (cell.gpu, cell.model, cell.server, cell.workload))


@every_store
def test_location_needs_no_baseline(store_of: StoreOf, tmp_path: Path) -> None:
    """A location is given for cells with and without baseline, and differs between cells."""
    store = store_of(tmp_path, [baseline_of(CELL)])
    assert store.location(CELL) != store.location(OTHER)


@every_store
def test_repr_says_what_it_is(store_of: StoreOf, tmp_path: Path) -> None:
    """A store's repr begins with its class."""
    store = store_of(tmp_path, [])
    assert repr(store).startswith(type(store).__name__)


@every_writable_store
def test_create_only(store_of: StoreOf, tmp_path: Path) -> None:
    """Without a baseline to replace, a write only creates: a stored one is a conflict and stays as it was."""
    store = store_of(tmp_path, [baseline_of(CELL, 100.0)])
    before = store.read(CELL)
    with pytest.raises(BaselineConflictError, match="already stored"):
        store.write(baseline_of(CELL, 200.0), replacing=None)
    assert store.read(CELL) == before


@every_writable_store
def test_replaces_what_was_read(store_of: StoreOf, tmp_path: Path) -> None:
    """A write that hands back what was read replaces it, and the token changes with the content."""
    store = store_of(tmp_path, [baseline_of(CELL, 100.0)])
    before = store.read(CELL)
    where = store.write(baseline_of(CELL, 200.0), replacing=before)
    after = store.read(CELL)
    assert after.baseline == baseline_of(CELL, 200.0)
    assert after.token != before.token
    assert after.location == where == store.location(CELL)


@every_writable_store
def test_stale_replacement(store_of: StoreOf, tmp_path: Path) -> None:
    """A baseline that changed since it was read is not replaced, and the newer one is kept."""
    store = store_of(tmp_path, [baseline_of(CELL, 100.0)])
    stale = store.read(CELL)
    store.write(baseline_of(CELL, 150.0), replacing=stale)
    with pytest.raises(BaselineConflictError, match="changed after it was read"):
        store.write(baseline_of(CELL, 200.0), replacing=stale)
    assert store.read(CELL).baseline == baseline_of(CELL, 150.0)


@every_writable_store
def test_replacement_of_another_cell(store_of: StoreOf, tmp_path: Path) -> None:
    """What was read for one cell does not permit a write to another."""
    store = store_of(tmp_path, [baseline_of(CELL), baseline_of(OTHER)])
    with pytest.raises(BaselineConflictError):
        store.write(baseline_of(OTHER, 5.0), replacing=store.read(CELL))
    assert store.read(OTHER).baseline == baseline_of(OTHER)


@every_writable_store
def test_replacement_from_nowhere(store_of: StoreOf, tmp_path: Path) -> None:
    """What was read in another store does not permit a write where there is nothing."""
    elsewhere = MemoryStore([baseline_of(CELL)]).read(CELL)
    store = store_of(tmp_path, [])
    with pytest.raises(BaselineConflictError):
        store.write(baseline_of(CELL, 5.0), replacing=elsewhere)
    assert list(store.cells()) == []


@every_writable_store
def test_refuses_what_could_not_be_read(store_of: StoreOf, tmp_path: Path) -> None:
    """A baseline that a later read would refuse is refused when written, by field, and nothing is stored."""
    store = store_of(tmp_path, [])
    with pytest.raises(BaselineCorruptError, match=r"\$\.boots\[0\]\.runs\[0\]\.metrics\.mean_ttft_ms"):
        store.write(baseline_of(CELL, 0.0), replacing=None)
    assert list(store.cells()) == []


@every_writable_store
def test_plain_data_of_any_shape(store_of: StoreOf, tmp_path: Path) -> None:
    """Tuples and None within the plain data of a specification are stored, as JSON has them."""
    baseline = baseline_of(CELL).model_copy(update={"server": {"mounts": ("a", "b"), "image": None}})
    read = store_of(tmp_path, [baseline]).read(CELL).baseline
    assert read.server == {"mounts": ["a", "b"], "image": None}


def test_read_only_never_writes(tmp_path: Path) -> None:
    """A read-only store refuses every write, names the options that allow one, and changes nothing."""
    store = read_only(tmp_path, [baseline_of(CELL)])
    for replacing in (None, store.read(CELL)):
        with pytest.raises(BaselineReadOnlyError, match="--update-baselines"):
            store.write(baseline_of(CELL, 7.0), replacing=replacing)
    assert store.read(CELL).baseline == baseline_of(CELL)


def test_layers_hide_lower_ones(tmp_path: Path) -> None:
    """Updating a cell that only a lower layer has leaves that layer as it was and hides it."""
    lower = MemoryStore([baseline_of(CELL, 100.0), baseline_of(OTHER, 50.0)])
    store = LayeredStore(MemoryStore(), lower)
    store.write(baseline_of(CELL, 200.0), replacing=store.read(CELL))
    assert store.read(CELL).baseline == baseline_of(CELL, 200.0)
    assert store.read(OTHER).baseline == baseline_of(OTHER, 50.0)
    assert lower.read(CELL).baseline == baseline_of(CELL, 100.0)


def test_corrupt_layer_hides_nothing(tmp_path: Path) -> None:
    """A corrupt baseline in the first layer is an error: the layer below does not stand in for it."""
    first = DirectoryStore(tmp_path)
    store = LayeredStore(first, MemoryStore([baseline_of(CELL)]))
    path = first.path(CELL)
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BaselineCorruptError, match="truncated"):
        store.read(CELL)


def test_layers_create_only_over_an_unreadable_one(tmp_path: Path) -> None:
    """Creating a cell whose lower layer holds an unreadable baseline is a conflict, not a way around it."""
    lower = DirectoryStore(tmp_path)
    path = lower.path(CELL)
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BaselineConflictError):
        LayeredStore(MemoryStore(), lower).write(baseline_of(CELL), replacing=None)


NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,30}\Z")
VALUES = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cell=st.builds(Cell, gpu=NAMES, model=NAMES, server=NAMES, workload=NAMES),
    values=st.lists(VALUES, min_size=1, max_size=5),
    note=st.text(min_size=1),
)
@every_writable_store
def test_any_baseline_survives(
    store_of: StoreOf, tmp_path_factory: pytest.TempPathFactory, cell: Cell, values: list[float], note: str
) -> None:
    """Whatever the names, numbers and text, what was written is read back equal and listed under its cell."""
    baseline = baseline_of(cell, *values, note=note)
    store = store_of(tmp_path_factory.mktemp("store"), [baseline])
    assert store.read(cell).baseline == baseline
    assert list(store.cells()) == [cell]
