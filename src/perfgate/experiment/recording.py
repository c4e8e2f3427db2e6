"""What is kept of a boot and of the machine it ran on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfgate.autotune.events import benched_configurations, read_events
from perfgate.environment import fingerprint
from perfgate.errors import CoverageError, ServerError
from perfgate.records import BootRecord, Fingerprint
from perfgate.server import DockerLauncher, LocalLauncher, RunningServer, ServerSpec, settings_hash
from perfgate.server.launch import image_digest


def boot_record(running: RunningServer, root: Path) -> BootRecord:
    """What the server says of itself after its runs were made, without them.

    Args:
        running: the server.
        root: the project's folder, from which the log's path is told.
    """
    try:
        metrics = {**_autotuning(running), **running.boot_metrics()}
        settings = running.resolved_settings()
        flags = running.flags_in_effect()
    except ServerError:
        # It died after its runs were made; they carry the reason, and what it said about itself cannot be asked any more.
        metrics, settings, flags = {}, {}, ()
    return BootRecord(
        id=running.boot_id,
        started=running.started,
        metrics=metrics,
        settings=settings,
        flags=flags,
        notes=running.boot_notes(),
        log=_from(root, running.log_path),
        runs=(),
    )


def _autotuning(running: RunningServer) -> dict[str, float]:
    """How many configurations the boot benchmarked, where a recorder was in its processes; nothing where that is not known."""
    if running.events_path is None:
        return {}
    try:
        benched = benched_configurations(read_events(running.events_path))
    except CoverageError:
        return {}
    return {} if benched is None else {"autotune_configs": float(benched)}


def _from(root: Path, path: Path | None) -> str | None:
    """A path as the project's folder sees it, so that a record means the same elsewhere; as it is where it lies outside."""
    if path is None:
        return None
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(root.resolve()))
    return str(path)


def machine_of(server: ServerSpec, settings: Mapping[str, Any], vllm: str | None) -> Fingerprint:
    """The machine with the software of the server; of a container or a foreign server no Python of this machine knows it."""
    launcher = server.launcher
    if isinstance(launcher, LocalLauncher):
        made = fingerprint(launcher.python, env=server.env)
        return made.model_copy(update={"settings_hash": settings_hash(settings)})
    digest = image_digest(launcher) if isinstance(launcher, DockerLauncher) else None
    return fingerprint().model_copy(
        update={
            "settings_hash": settings_hash(settings),
            "image_digest": digest,
            "vllm": vllm,
            **dict.fromkeys(("python", "torch", "triton")),
        }
    )
