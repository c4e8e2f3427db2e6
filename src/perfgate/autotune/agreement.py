"""Does the dry run say what a GPU does: autotune keys one by one, late compiles kernel by kernel.

The dry run derives keys on an emulated GPU; the recorder in a process on a real one writes the keys that were benchmarked. Both come from
Triton's own rule, so they are equal or one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perfgate.autotune.events import Event, late_events
from perfgate.records import Record

Key = tuple[str, tuple[str, ...]]
"""A kernel's name and the elements of one of its autotune keys, as text."""


class Agreement(Record):
    """What one side has and the other has not."""

    keys: int
    """Keys that both have."""
    only_predicted: tuple[str, ...]
    """Autotune keys of the dry run's warm-up that the GPU did not benchmark."""
    only_seen: tuple[str, ...]
    """Autotune keys that the GPU benchmarked in warm-up and the dry run does not have."""
    compiles: tuple[str, ...]
    """Kernels that both say are compiled while serving."""
    compiles_only_predicted: tuple[str, ...]
    compiles_only_seen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether there was something to agree on, and nothing is on one side only."""
        return self.keys > 0 and not (
            self.only_predicted or self.only_seen or self.compiles_only_predicted or self.compiles_only_seen
        )

    def text(self) -> str:
        """The differences for people, a line each."""
        said = [
            ("benchmarked by the GPU, not predicted", self.only_seen),
            ("predicted, not benchmarked by the GPU", self.only_predicted),
            ("compiled while serving, not predicted", self.compiles_only_seen),
            ("predicted to be compiled while serving, was not", self.compiles_only_predicted),
        ]
        lines = [f"{what}: {one}" for what, ones in said for one in ones]
        return "\n".join(lines) or f"{self.keys} keys and {len(self.compiles)} late compiles agree"


def agreement(replayed: Mapping[str, Any], events: Iterable[Event]) -> Agreement:
    """Compare a dry run with what a process on a GPU recorded for the same layer and batches.

    Args:
        replayed: one cell of the answer of the process that emulates the GPU (`replay.Replayed` as a mapping).
        events: of the process on the GPU, from an empty cache to the end of serving.
    """
    seen_events = tuple(events)
    predicted = {_key(launch) for launch in replayed["warmed"]}
    seen = {
        (event.kernel, event.key)
        for event in seen_events
        if event.kind == "autotune" and not event.after_ready
    }
    warm = {_identity(launch) for launch in replayed["compiled_warm"]}
    late_predicted = {
        launch["kernel"] for launch in replayed["compiled_serving"] if _identity(launch) not in warm
    }
    late_seen = {event.kernel for event in late_events(seen_events) if event.kind == "jit"}
    return Agreement(
        keys=len(predicted & seen),
        only_predicted=_texts(predicted - seen),
        only_seen=_texts(seen - predicted),
        compiles=tuple(sorted(late_predicted & late_seen)),
        compiles_only_predicted=tuple(sorted(late_predicted - late_seen)),
        compiles_only_seen=tuple(sorted(late_seen - late_predicted)),
    )


def _key(launch: Mapping[str, Any]) -> Key:
    return str(launch["kernel"]), tuple(str(value) for _name, value in launch["fields"])


def _identity(launch: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        launch["module"],
        launch["kernel"],
        tuple((name, value) for name, value in launch["fields"]),
        launch.get("key", ""),
    )


def _texts(keys: set[Key]) -> tuple[str, ...]:
    return tuple(sorted(f"{kernel} [{', '.join(key)}]" for kernel, key in keys))
