"""Boots a server: starts it, waits until it is ready and is the one that answers, and ends it on every way out."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

from perfgate.environment import device_use, kept_memory
from perfgate.errors import (
    BootError,
    BootTimeoutError,
    IdentityError,
    InputError,
    PortInUseError,
    ServerError,
    StopError,
)
from perfgate.server.api import ServerApi
from perfgate.server.bootlog import failure_cause, phase_of
from perfgate.server.launch import check_model, docker_plan, local_plan
from perfgate.server.logtail import ServerLog
from perfgate.server.ports import LOOPBACK, leased_port, listeners, port_in_use
from perfgate.server.process import ServerProcess, describe_status
from perfgate.server.running import DYING_S, RunningServer, assert_own_listener, engine_processes
from perfgate.server.secrets import Secrets
from perfgate.server.spec import AttachLauncher, DockerLauncher, LocalLauncher, ModelRef, ServerSpec

Progress = Callable[[str, float], None]
"""Told the phase in words and the seconds since the start, at each change and about once a second."""

_POLL_S = 0.1


def new_boot_id(name: str) -> str:
    """A name for one boot that no other boot has: the server's name and eight random hexadecimal digits."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def boot(
    spec: ServerSpec,
    *,
    model: ModelRef,
    log_dir: Path,
    gpu_ids: Sequence[int | str] | None = None,
    on_progress: Progress | None = None,
    boot_id: str | None = None,
    extra_env: Mapping[str, str] | None = None,
) -> AbstractContextManager[RunningServer]:
    """Boots the server; the context holds it running, and every process of it is gone when the context ends.

    Args:
        spec: what to start.
        model: name and path of the model; the path is a folder or a hub id.
        log_dir: where its log goes, as ``<boot id>.log``.
        gpu_ids: the devices it may use, NVML numbers or UUIDs of slices (``CUDA_VISIBLE_DEVICES``); None for all.
        on_progress: told the phase while booting.
        boot_id: identity of the boot; made up where not given.
        extra_env: variables for this boot on top of the entry's.

    Raises:
        InputError: the model folder, the interpreter or an attached address is wrong.
        PortInUseError: the port is taken by somebody else.
        BootError: it ended before it was ready.
        BootTimeoutError: it was not ready in time.
        IdentityError: another server answers on the port.
        StopError: on leaving: something outlived the stop.
    """
    identity = boot_id or new_boot_id(spec.name)
    tell = on_progress or (lambda _phase, _elapsed: None)
    if isinstance(spec.launcher, AttachLauncher):
        return _attached(spec, spec.launcher, identity)
    return _started(spec, spec.launcher, model, log_dir, gpu_ids, tell, identity, dict(extra_env or {}))


@contextlib.contextmanager
def _started(
    spec: ServerSpec,
    launcher: LocalLauncher | DockerLauncher,
    model: ModelRef,
    log_dir: Path,
    gpu_ids: Sequence[int | str] | None,
    tell: Progress,
    boot_id: str,
    extra_env: Mapping[str, str],
) -> Iterator[RunningServer]:
    check_model(model)
    log_dir.mkdir(parents=True, exist_ok=True)
    log_path = (log_dir / f"{boot_id}.log").resolve()
    secrets = Secrets.of(spec.args, spec.env, extra_env, inherited=os.environ)
    log = ServerLog(log_path, secrets)
    wanted = spec.args.get("port")
    with _log_in(StopError, log), ExitStack() as stack:
        stack.callback(log.mask_file)
        port = stack.enter_context(leased_port(int(str(wanted)) if wanted is not None else None))
        common = {
            "model": model,
            "port": port,
            "served_name": boot_id,
            "boot_id": boot_id,
            "log": log_path,
            "gpu_ids": gpu_ids,
            "extra_env": extra_env,
        }
        plan = (
            local_plan(spec, launcher, **common)  # type: ignore[arg-type]
            if isinstance(launcher, LocalLauncher)
            else docker_plan(spec, launcher, **common)  # type: ignore[arg-type]
        )
        api = ServerApi(f"http://{LOOPBACK}:{port}", api_key=_api_key(spec), secrets=secrets)
        stack.callback(api.close)
        memory = _MemoryWatch(gpu_ids)
        stack.push(memory.check)
        started, begun = datetime.now(UTC), time.monotonic()
        tell("starting", 0.0)
        process = stack.enter_context(ServerProcess(plan))
        memory.process = process
        with _log_in(ServerError, log):
            ready_s = _wait_ready(spec, process, api, log, port, boot_id, begun, tell)
        server = RunningServer(
            spec=spec,
            url=api.url,
            model=boot_id,
            boot_id=boot_id,
            pid=process.pid,
            log_path=log_path,
            ready_s=ready_s,
            started=started,
            api=api,
            log=log,
            process=process,
            devices=None if gpu_ids is None else tuple(str(device) for device in gpu_ids),
            engines=engine_processes(process.tree(), process.pid),
        )
        tell("reading its configuration", ready_s)
        _ = server.evidence  # read before any load, and before it can die of one
        tell("ready", ready_s)
        yield server


@contextlib.contextmanager
def _log_in(kind: type[ServerError], log: ServerLog) -> Iterator[None]:
    """Puts the tail of the log into errors of a kind, in the one place."""
    try:
        yield
    except kind as error:
        raise type(error)(f"{error.message}\n{log.excerpt()}", remedy=error.remedy) from error


class _MemoryWatch:
    """Looks at the GPU memory before the boot, and again when every process of it is gone."""

    def __init__(self, gpu_ids: Sequence[int | str] | None) -> None:
        self.before = device_use(None if gpu_ids is None else [str(device) for device in gpu_ids])
        self.process: ServerProcess | None = None

    def check(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises StopError when memory stayed in use; an error that is already on its way goes first."""
        own = self.process.seen_pids if self.process is not None else frozenset()
        kept = kept_memory(self.before, own)
        if kept and kind is None:
            raise StopError(
                f"GPU memory did not come back after the stop: {'; '.join(kept)}",
                remedy="See nvidia-smi for what holds it; the next boot would have less memory.",
            )


@contextlib.contextmanager
def _attached(spec: ServerSpec, launcher: AttachLauncher, boot_id: str) -> Iterator[RunningServer]:
    key = None
    if launcher.api_key_env is not None:
        key = os.environ.get(launcher.api_key_env)
        if not key:
            raise InputError(
                f"server {spec.name!r}: the variable {launcher.api_key_env} (api_key_env) is not set",
                remedy=f"export {launcher.api_key_env}=…",
            )
    url = launcher.url.rstrip("/").removesuffix("/v1")
    secrets = Secrets([key] if key else [])
    with contextlib.closing(ServerApi(url, api_key=key, secrets=secrets)) as api:
        try:
            names = api.models()
        except ServerError as error:
            raise InputError(
                f"server {spec.name!r}: {error.message}",
                remedy=error.remedy or "Check `url` of its launcher, and that the server is running.",
            ) from error
        if not names:
            raise InputError(f"server {spec.name!r}: {url} serves no model")
        server = RunningServer(
            spec=spec,
            url=url,
            model=names[0],
            boot_id=boot_id,
            pid=None,
            log_path=None,
            ready_s=0.0,
            started=datetime.now(UTC),
            api=api,
        )
        with contextlib.suppress(ServerError):
            server.born = server.counters().get("process_start_time_seconds")
        yield server


def _wait_ready(
    spec: ServerSpec,
    process: ServerProcess,
    api: ServerApi,
    log: ServerLog,
    port: int,
    served_name: str,
    begun: float,
    tell: Progress,
) -> float:
    """Waits until the server is ready and proved to be this boot's; returns the seconds since ``begun``."""
    phase, told = "starting", 0.0
    deadline = begun + spec.boot_timeout_s
    local = spec.launcher.kind == "local"
    while True:
        elapsed = time.monotonic() - begun
        for line in log.new_lines():
            phase = phase_of(line) or phase
        if elapsed - told >= 1.0:
            told = elapsed
            tell(phase, elapsed)
        if not process.alive():
            raise _boot_failure(spec, process, log, port, elapsed)
        if api.healthy():
            try:
                if local:
                    assert_own_listener(port, process)
            except IdentityError:
                process.wait(DYING_S)
                if not process.alive():
                    continue
                raise
            names = api.models_if_ready()
            if names is not None and served_name not in names:
                raise IdentityError(
                    f"server {spec.name!r}: {api.url} is answered by a server of {', '.join(names)}, not by boot {served_name}",
                    remedy="An old server is still running on this port; end it.",
                )
            if names is not None:
                return time.monotonic() - begun
        if time.monotonic() > deadline:
            raise BootTimeoutError(
                f"server {spec.name!r} was not ready within {spec.boot_timeout_s:g} s (last phase: {phase})",
                remedy="Raise `boot_timeout_s` of its entry if it only needs longer; the log shows what it was doing.",
            )
        process.wait(_POLL_S)


def _boot_failure(
    spec: ServerSpec, process: ServerProcess, log: ServerLog, port: int, elapsed: float
) -> ServerError:
    status = describe_status(process.exit_status) if process.exit_status is not None else "an unknown status"
    text = log.text()
    if re.search(r"address already in use", text, flags=re.IGNORECASE):
        taken = listeners(port)
        if taken:
            return port_in_use(port, taken)
        return PortInUseError(f"port {port} was taken while the server booted")
    cause = failure_cause(text)
    shown = f"\ncause: {cause.line}" if cause else ""
    return BootError(
        f"server {spec.name!r} ended with {status} after {elapsed:.1f} s, before it was ready{shown}",
        remedy=cause.remedy if cause else "The log says why.",
    )


def _api_key(spec: ServerSpec) -> str | None:
    key = spec.environment().get("VLLM_API_KEY") or os.environ.get("VLLM_API_KEY")
    return key or None
