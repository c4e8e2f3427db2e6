"""From names to cells: which GPU this is, its model, its servers and workloads, as asked on the command line.

The catalogues decide, this module only looks up: an unknown name is an error that lists the nearest ones, a name that was not given
comes from the GPU's entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfgate.catalogue import USER_FILE, Catalogue, load_catalogue
from perfgate.errors import InputError
from perfgate.records import Cell
from perfgate.server.spec import ServerSpec
from perfgate.targets import GpuSpec, ModelSpec
from perfgate.workload import WorkloadSpec

CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for, unresolved; empty means "the GPU's own"."""

    gpu: str
    """A catalogue name; ``auto`` has been resolved before."""
    model: str | None = None
    servers: Sequence[str] = ()
    workloads: Sequence[str] = ()
    vllm_args: Sequence[str] = ()
    env: Sequence[str] = ()
    python: str | None = None
    boot_timeout_s: float | None = None
    user_files: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class Target:
    """One cell with everything needed to measure it."""

    cell: Cell
    gpu: GpuSpec
    model: ModelSpec
    server: ServerSpec
    workload: WorkloadSpec
    changes: tuple[str, ...] = ()
    """Settings of the command line on top of the server entry, secrets masked; such a measurement never becomes a baseline."""

    def margins(self) -> dict[str, float]:
        """Margins by metric: the workload's over the GPU's over the metric table's."""
        return {**self.gpu.margins, **self.workload.margins}


@dataclass(frozen=True, kw_only=True)
class Catalogues:
    """The four catalogues, loaded together."""

    gpus: Catalogue
    models: Catalogue
    servers: Catalogue
    workloads: Catalogue

    @classmethod
    def load(cls, user_files: Sequence[Path] = ()) -> Catalogues:
        """The shipped entries with the user's files merged over them."""
        return cls(
            gpus=load_catalogue("gpus", user_files=user_files),
            models=load_catalogue("models", user_files=user_files),
            servers=load_catalogue("servers", user_files=user_files),
            workloads=load_catalogue("workloads", user_files=user_files),
        )


def user_files(directory: Path, given: Sequence[Path] = ()) -> tuple[Path, ...]:
    """The ``perfgate.toml`` files that apply: those given, or the one in the directory if there is one."""
    if given:
        return tuple(given)
    own = directory / USER_FILE
    return (own,) if own.is_file() else ()


def select(request: Request, catalogues: Catalogues | None = None) -> tuple[Target, ...]:
    """The cells of a request, ordered so that all workloads of a server follow each other.

    Raises:
        InputError: an unknown name, a GPU without default model or servers, or a server entry without workloads.
    """
    found = catalogues or Catalogues.load(request.user_files)
    gpu = found.gpus[request.gpu].parse(GpuSpec)
    targets: list[Target] = []
    for server_name in request.servers or gpu.servers or _none(gpu, "servers", found.servers):
        server = found.servers[server_name].parse(ServerSpec)
        if request.python is not None:
            server = _with_python(server, request.python)
        if request.boot_timeout_s is not None:
            server = server.model_copy(update={"boot_timeout_s": request.boot_timeout_s})
        server = server.with_changes(request.vllm_args, request.env)
        model_name = request.model or server.model or gpu.model
        if model_name is None:
            _none(gpu, "model", found.models)
        model = found.models[str(model_name)].parse(ModelSpec)
        targets.extend(
            Target(
                cell=Cell(gpu=gpu.name, model=model.name, server=server.name, workload=workload),
                gpu=gpu,
                model=model,
                server=server,
                workload=found.workloads[workload].parse(WorkloadSpec),
                changes=tuple(server.secrets().mask(word) for word in (*request.vllm_args, *request.env)),
            )
            for workload in request.workloads or gpu.workloads or _none(gpu, "workloads", found.workloads)
        )
    return tuple(targets)


def _with_python(server: ServerSpec, python: str) -> ServerSpec:
    if server.launcher.kind != "local":
        raise InputError(
            f"--server-python changes a local launcher, server {server.name!r} uses {server.launcher.kind}",
            remedy="Choose a server with a local launcher, or drop --server-python.",
        )
    return server.model_copy(update={"launcher": server.launcher.model_copy(update={"python": python})})


def _none(gpu: GpuSpec, what: str, known: Catalogue) -> tuple[str, ...]:
    raise InputError(
        f"GPU {gpu.name!r} has no default {what}",
        remedy=f"Give --{what.rstrip('s')} NAME ({', '.join(sorted(known)[:8])}, …) or set {what} in its [gpus.{gpu.name}] entry.",
    )
