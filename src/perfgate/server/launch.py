"""Turns a server entry into the exact program to start: local Python or ``docker run``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from perfgate.errors import InputError
from perfgate.server import warden
from perfgate.server.ports import LOOPBACK
from perfgate.server.process import LaunchPlan
from perfgate.server.spec import DockerLauncher, LocalLauncher, ModelRef, ServerSpec

DEFAULT_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_SERVER_DEV_MODE": "1",  # /server_info and /reset_prefix_cache
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",  # a log that ends where the process ended
    "SPT_NOENV": "1",  # process titles must not overwrite the environment that carries our tag
}

_NOT_INHERITED = ("PYTEST_", "COV_", "COVERAGE_", "PERFGATE_")


def local_plan(
    spec: ServerSpec,
    launcher: LocalLauncher,
    *,
    model: ModelRef,
    port: int,
    served_name: str,
    boot_id: str,
    log: Path,
    gpu_ids: Sequence[int | str] | None,
    extra_env: Mapping[str, str],
) -> LaunchPlan:
    """The plan for vLLM in a Python environment of this machine.

    Raises:
        InputError: the interpreter does not exist.
    """
    python = shutil.which(str(Path(launcher.python).expanduser()))
    if python is None:
        raise InputError(
            f"server {spec.name!r}: launcher python {launcher.python!r} is not an executable file",
            remedy="Give the interpreter of an environment that has vLLM, for example /opt/vllm/bin/python.",
        )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
    # Device numbers are NVML's, which are CUDA's only in this order.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    devices = {} if gpu_ids is None else {**order, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpu_ids))}
    return LaunchPlan(
        # The path as given: resolving a virtual environment's link would leave the environment.
        argv=[
            str(Path(python).absolute()),
            *spec.command(model=model.path, port=port, served_name=served_name),
        ],
        env={**inherited, **DEFAULT_ENVIRONMENT, **devices, **spec.local_environment(), **extra_env},
        # `python -m` puts the working directory on the module path: a folder of ours holds no module.
        cwd=log.parent,
        log=log,
        boot_id=boot_id,
        grace_s=spec.stop_grace_s,
    )


def docker_plan(
    spec: ServerSpec,
    launcher: DockerLauncher,
    *,
    model: ModelRef,
    port: int,
    served_name: str,
    boot_id: str,
    log: Path,
    gpu_ids: Sequence[int | str] | None,
    extra_env: Mapping[str, str],
) -> LaunchPlan:
    """The plan for vLLM in a container: ``docker run`` in the foreground, and the command that removes the container."""
    container = f"perfgate-{boot_id}"
    inside = {**DEFAULT_ENVIRONMENT, **spec.environment(), **extra_env, warden.TAG: boot_id}
    argv = [launcher.docker, "run", "--rm", "--name", container]
    if gpu_ids is not None and launcher.gpus is not None:
        # The quotes are docker's own: --gpus takes comma-separated fields, and this is one of them.
        argv += ["--gpus", '"device=' + ",".join(map(str, gpu_ids)) + '"']
    elif launcher.gpus is not None:
        argv += ["--gpus", launcher.gpus]
    if launcher.ipc is not None:
        argv += ["--ipc", launcher.ipc]
    if launcher.network == "host":
        host = LOOPBACK
        argv += ["--network", "host"]
    else:
        host = "0.0.0.0"  # inside the container; outside it is published on the loopback interface only
        argv += ["--network", launcher.network] if launcher.network else []
        argv += ["--publish", f"{LOOPBACK}:{port}:{port}"]
    for name in sorted(inside):
        argv += ["--env", name]  # by name: values, secrets among them, stay off the command line
    if Path(model.path).is_dir():
        folder = str(Path(model.path).resolve())
        argv += ["--volume", f"{folder}:{folder}:ro"]
    for mount in launcher.mounts:
        source, _, target = mount.partition(":")
        if target.endswith(":ro"):
            _check_source(spec, source)
        argv += ["--volume", f"{Path(source).expanduser().absolute()}:{target}"]
    for volume, target in launcher.cache_volumes.items():
        argv += ["--volume", f"{volume}:{target}"]
    argv += [*launcher.extra, "--entrypoint", launcher.python, launcher.image]
    argv += spec.command(model=model.path, port=port, served_name=served_name, host=host)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
    return LaunchPlan(
        argv=argv,
        env={**inherited, **inside},
        cwd=log.parent,
        log=log,
        boot_id=boot_id,
        grace_s=spec.stop_grace_s,
        cleanup=[launcher.docker, "rm", "--force", "--volumes", container],
    )


def _check_source(spec: ServerSpec, source: str) -> None:
    """Docker makes an empty folder of a source that is missing, and vLLM then runs without what was to be read there.

    Raises:
        InputError: nothing to read at the source. Where docker runs on another machine, that is not known.
    """
    if not Path(source).expanduser().exists() and not os.environ.get("DOCKER_HOST", "").startswith(
        ("tcp:", "ssh:")
    ):
        raise InputError(
            f"server {spec.name!r}: mount source {source!r} does not exist (from {Path.cwd()})",
            remedy="Create it, or correct `mounts` of its launcher; docker would mount an empty folder in its place.",
        )


def container_pids(launcher: DockerLauncher, boot_id: str) -> frozenset[int]:
    """The processes of a boot's container as this machine numbers them; none where docker does not say."""
    lines = _ask_docker(launcher, "top", f"perfgate-{boot_id}", "-eo", "pid").splitlines()
    return frozenset(int(line) for line in lines if line.strip().isdigit())


def image_digest(launcher: DockerLauncher) -> str | None:
    """The digest of the image that a container would be made of; None where docker does not know it."""
    template = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    return _ask_docker(launcher, "image", "inspect", "--format", template, launcher.image) or None


def _ask_docker(launcher: DockerLauncher, *words: str) -> str:
    """What the client answers; nothing where it fails or is not there."""
    try:
        answer = subprocess.run(
            [launcher.docker, *words], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def check_model(model: ModelRef) -> None:
    """A model that is meant to be a folder must be one that vLLM can read.

    Raises:
        InputError: no such folder, or a folder without ``config.json``.
    """
    path = Path(model.path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                f"model {model.name!r}: {path} has no config.json",
                remedy="Give the folder of a Hugging Face model, as `save_pretrained` writes it.",
            )
    elif path.is_absolute() or model.path.startswith((".", "~")):
        raise InputError(
            f"model {model.name!r}: {path} is not a folder", remedy="Check the path of the model."
        )
