"""Stores that need no disk of their own: in memory, read-only, layered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Lock

from perfgate.baseline.contract import (
    BaselineStore,
    StoredBaseline,
    check_replacing,
    content_to_write,
    in_order,
    missing,
    stored_from,
)
from perfgate.errors import (
    BaselineConflictError,
    BaselineCorruptError,
    BaselineMissingError,
    BaselineReadOnlyError,
    BaselineSchemaError,
)
from perfgate.records import Baseline, Cell


class MemoryStore(BaselineStore):
    """Baselines in this process alone, as bytes, so that they pass the same validation as a file."""

    def __init__(self, baselines: Iterable[Baseline] = ()) -> None:
        self._contents: dict[Cell, bytes] = {}
        self._lock = Lock()
        for baseline in baselines:
            self.write(baseline, replacing=None)

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._contents)} baselines)"

    def read(self, cell: Cell) -> StoredBaseline:
        """See the contract."""
        content = self._contents.get(cell)
        if content is None:
            raise missing(cell, self.location(cell), self.cells())
        return stored_from(content, cell, self.location(cell))

    def write(self, baseline: Baseline, *, replacing: StoredBaseline | None) -> str:
        """See the contract."""
        location = self.location(baseline.cell)
        content = content_to_write(baseline, location)
        with self._lock:
            check_replacing(baseline, replacing, self._contents.get(baseline.cell), location)
            self._contents[baseline.cell] = content
        return location

    def cells(self) -> Iterator[Cell]:
        """See the contract."""
        return iter(in_order(self._contents))

    def location(self, cell: Cell) -> str:
        """``memory:`` and the cell."""
        return f"memory:{cell}"


class ReadOnlyStore(BaselineStore):
    """Another store, without its writes: what a gating run gets."""

    def __init__(self, store: BaselineStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"ReadOnlyStore({self._store!r})"

    def read(self, cell: Cell) -> StoredBaseline:
        """See the contract."""
        return self._store.read(cell)

    def write(self, baseline: Baseline, *, replacing: StoredBaseline | None) -> str:  # noqa: ARG002 - the contract names it
        """Always refused.

        Raises:
            BaselineReadOnlyError: every time.
        """
        raise BaselineReadOnlyError(
            f"{self.location(baseline.cell)}: these baselines are only read here; nothing was written",
            remedy="Run with --update-baselines or --new-baselines to write them.",
        )

    def cells(self) -> Iterator[Cell]:
        """See the contract."""
        return self._store.cells()

    def location(self, cell: Cell) -> str:
        """As the store within."""
        return self._store.location(cell)


class LayeredStore(BaselineStore):
    """Several stores as one: reads take the first that has the cell, writes go to the first.

    This machine's own baselines lie over those of the repository this way. A baseline in a lower layer is never changed: replacing
    it creates one in the first layer, which hides it from then on. A corrupt baseline hides lower layers too: it is an error.
    """

    def __init__(self, first: BaselineStore, *others: BaselineStore) -> None:
        self._layers = (first, *others)

    def __repr__(self) -> str:
        return f"LayeredStore({', '.join(map(repr, self._layers))})"

    def read(self, cell: Cell) -> StoredBaseline:
        """See the contract."""
        for layer in self._layers:
            try:
                return layer.read(cell)
            except BaselineMissingError:
                continue
        places = " and ".join(layer.location(cell) for layer in self._layers)
        raise missing(cell, places, self.cells())

    def write(self, baseline: Baseline, *, replacing: StoredBaseline | None) -> str:
        """See the contract; the lower layers are looked at before the first layer is written, and only that write is atomic."""
        first = self._layers[0]
        if replacing is None:
            for layer in self._layers[1:]:
                if _has(layer, baseline.cell):
                    raise BaselineConflictError(
                        f"{layer.location(baseline.cell)}: a baseline is already stored for {baseline.cell}; "
                        f"creating one never changes it",
                        remedy="Use --update-baselines to replace it, or delete the file first.",
                    )
            return first.write(baseline, replacing=None)
        if _has(first, baseline.cell):
            return first.write(baseline, replacing=replacing)
        # It was read from a lower layer, which must still say the same; the first layer's create-only rule guards the rest.
        try:
            now = self.read(baseline.cell)
        except BaselineMissingError:
            now = None
        if now is None or now.token != replacing.token or replacing.baseline.cell != baseline.cell:
            raise BaselineConflictError(
                f"{replacing.location}: the baseline changed after it was read, so it was not replaced",
                remedy="Look at what changed (git log, git diff), then measure and update again.",
            )
        return first.write(baseline, replacing=None)

    def cells(self) -> Iterator[Cell]:
        """See the contract; a cell in several layers comes once."""
        return iter(in_order({cell for layer in self._layers for cell in layer.cells()}))

    def location(self, cell: Cell) -> str:
        """Where a write would put it; what was read says itself where it was."""
        return self._layers[0].location(cell)


def _has(store: BaselineStore, cell: Cell) -> bool:
    try:
        store.read(cell)
    except BaselineMissingError:
        return False
    except (BaselineCorruptError, BaselineSchemaError):
        return True
    return True
