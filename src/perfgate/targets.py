"""What is measured on what: GPUs and models as the catalogues describe them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from perfgate.records import Name, NonNegative, Record


class GpuSpec(Record):
    """One entry of ``gpus.toml``: how NVML names it, what its kernels see, and what the suite runs on it by default.

    An entry without ``capability`` (``cpu``) cannot be emulated.
    """

    name: Name
    description: str = ""
    product_names: tuple[str, ...] = ()
    """Names as NVML reports them, or beginnings of them; the longest match decides."""
    device_name: str | None = None
    """The name that CUDA reports; part of the file names of tuned configurations."""
    capability: tuple[int, int] | None = None
    sms: int | None = Field(default=None, gt=0)
    shared_memory_per_block: int | None = Field(default=None, gt=0)
    """Opt-in shared memory of one block, bytes."""
    l2_bytes: int | None = Field(default=None, gt=0)
    memory_gib: NonNegative | None = None
    unified_memory: bool = False
    bandwidth_gb_s: NonNegative | None = None
    """Memory bandwidth by datasheet, 10⁹ bytes a second."""
    dense_tflops: dict[str, NonNegative] = {}
    """Dense matrix rate by datasheet, 10¹² operations a second, by dtype."""

    model: str | None = None
    servers: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    replicates: int | None = Field(default=None, ge=1)
    pairs: int | None = Field(default=None, ge=2)
    """Interleaved pairs of a confirmation; planned from the noise model where not given."""
    client_lag_ms: float | None = Field(default=None, gt=0)
    """The client's own mean lag that a run may have; 1 ms (or 1% of the mean TTFT) where not given. Only a machine whose client shares
    its cores with the server needs more, and its margins must be wide enough for it."""
    max_steal: float | None = Field(default=None, gt=0, le=1)
    """Share of the CPU time that a hypervisor may take during a replicate before it is void; 10% where not given."""
    max_loop_change: float | None = Field(default=None, gt=1)
    """How many times as long a fixed CPU loop may take after a replicate as before it; 2 where not given."""
    margins: dict[str, NonNegative] = {}
    """Margins on this machine by metric, in place of the metric table's."""
    tolerances: dict[str, NonNegative] = {}

    @field_validator("product_names", "servers", "workloads", "capability", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class ModelSpec(Record):
    """One entry of ``models.toml``."""

    name: Name
    description: str = ""
    kind: Literal["hub", "dummy"] = "hub"
    """``hub``: an id or folder that vLLM loads; ``dummy``: a folder that perfgate makes from ``config``, with random weights."""
    id: str | None = None
    """Hub id or folder; for kind hub."""
    config: dict[str, Any] = {}
    """The ``config.json`` of a dummy model."""
    parameters: NonNegative | None = None
    """All parameters, as published."""
    active_parameters: NonNegative | None = None
    """Those that one token uses, as published; of a mixture of experts."""
    architecture: dict[str, Any] = {}
    """Shape facts that coverage and physical limits are computed from."""
