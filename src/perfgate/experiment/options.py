"""What was asked for on the command line, as the session of the suite wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfgate.experiment.gate import Writing
from perfgate.selection import Request


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """Every option, unresolved."""

    root: Path
    """The project's folder: perfgate.toml, baselines/ and .perfgate/ are looked for in it."""
    command: str
    gpu: str = "auto"
    model: str | None = None
    servers: Sequence[str] = ()
    workloads: Sequence[str] = ()
    vllm_args: Sequence[str] = ()
    env: Sequence[str] = ()
    python: str | None = None
    boot_timeout_s: float | None = None
    replicates: int | None = None
    load_processes: int = 1
    baselines: Path | None = None
    results: Path | None = None
    config: Sequence[Path] = ()
    writing: Writing = Writing.NOTHING
    notes: Sequence[str] = ()
    against: str | None = None
    """Another Python or image; an A/B, without a stored baseline."""
    against_server: str | None = None
    max_minutes: float | None = None
    """For everything beyond the screen."""
    attribute: bool = False
    """A confirmed difference of an A/B is traced to the settings that make it."""
    worker: tuple[int, int] = (0, 1)
    """Which of how many processes of the session this is."""

    @property
    def is_ab(self) -> bool:
        """Whether two sides are compared with each other, rather than one with its stored baseline."""
        return bool(self.against or self.against_server or self.attribute)

    def request(self, gpu: str) -> Request:
        """Which cells are wanted, on the GPU entry that ``gpu`` was resolved to."""
        return Request(
            gpu=gpu,
            model=self.model,
            servers=self.servers,
            workloads=self.workloads,
            vllm_args=self.vllm_args,
            env=self.env,
            python=self.python,
            boot_timeout_s=self.boot_timeout_s,
        )
