"""A change to a kernel as data: two sides that serve, and how the kernel between them is timed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from perfgate.claims import Side
from perfgate.records import Name, Record


class ChangeSpec(Record):
    """One entry of ``changes.toml``."""

    name: Name
    text: str = Field(min_length=1)
    gpus: tuple[str, ...] = ()
    """The GPU entries that it is for; empty for any."""
    model: Name | None = None
    """Model entry; the server's or the GPU's own where not given."""
    old: Side
    new: Side
    workloads: tuple[Name, ...] = Field(min_length=1)
    kernel: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """What is timed: ``package.module:function`` in the server's Python, see `perfgate.autotune.kernelbench`."""
    old_options: dict[str, Any] = {}
    """Arguments of that function on the old side."""
    new_options: dict[str, Any] = {}
    calls: int = Field(default=1, ge=1)
    """Of the kernel in one step: the layers that have it."""
    steps: Literal["all", "prefill", "decode"] = "all"
    """Which engine steps call it: those with more tokens than all streams can decode are taken for prefill, the others for decode."""
    processes: int = Field(default=4, ge=2)
    """Fresh processes a side in which the kernel is timed, interleaved; they are its replicates."""
    pairs: int | None = Field(default=None, ge=2)
    """Interleaved pairs of boots; the GPU's own number where not given."""

    @field_validator("gpus", "workloads", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value
