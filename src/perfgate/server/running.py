"""A server that answers: who it is, whether it still lives, and what it says about itself."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from perfgate.effects import FlagReport
from perfgate.environment import gpu_energy_j, probe
from perfgate.errors import IdentityError, ServerDiedError, ServerError
from perfgate.server.api import ServerApi, parse_cache_config, parse_counters
from perfgate.server.bootlog import BootLog, compile_events, failure_cause, parse_boot_log
from perfgate.server.flags import Evidence, flags_in_effect, running_flag, running_variable
from perfgate.server.launch import container_pids
from perfgate.server.logtail import ServerLog
from perfgate.server.ports import listeners
from perfgate.server.process import Family, ServerProcess, describe_status
from perfgate.server.secrets import masked
from perfgate.server.settings import FROM_LOG, flat, lasting, plain, read
from perfgate.server.spec import DockerLauncher, ServerSpec

_HELPERS = ("resource_tracker", "compile_worker", "multiprocessing.forkserver import")
"""Processes below a server that may come and go without harm."""

DYING_S = 2.0
"""How long the end of a server that behaves oddly is waited for before it is called something else, in seconds."""


@dataclass(kw_only=True)
class RunningServer:
    """A server that was ready, and the questions one can ask it. Made by :func:`perfgate.server.boot`."""

    spec: ServerSpec = field(repr=False)
    url: str
    model: str
    """The name it serves; made up for this boot, so that it proves who answers. Every request must give it."""
    boot_id: str
    pid: int | None
    """The process that was started; None for an attached server."""
    log_path: Path | None
    """Its log; None for an attached server."""
    ready_s: float
    """Seconds from the start until it answered; 0 for an attached server."""
    started: datetime
    api: ServerApi = field(repr=False)
    log: ServerLog | None = field(default=None, repr=False)
    process: ServerProcess | None = field(default=None, repr=False)
    engines: tuple[Family, ...] = ()
    """The engine and worker processes that it had when it was ready."""
    devices: tuple[str, ...] | None = None
    """The GPUs it may use; None for all."""
    events_path: Path | None = None
    """Where perfgate's recorder inside the server's processes writes autotune and JIT events; None where there is none."""
    born: float | None = None
    """``process_start_time_seconds`` of an attached server: changes when it is restarted."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request must carry; the API key, where one is needed."""
        return self.api.headers

    @property
    def api_key(self) -> str | None:
        """The API key that it wants, or None."""
        return self.api.api_key

    def assert_alive(self) -> None:
        """Returns only if this boot's server, with every engine process it had, is alive and is the one that answers.

        Raises:
            ServerDiedError: the API server or one of its engine processes ended, or it answers no more.
            IdentityError: another server answers.
        """
        self._assert_processes()
        self.assert_identity()

    def _assert_processes(self) -> None:
        if self.process is None:
            return
        if not self.process.alive():
            status = self.process.exit_status
            how = "was stopped" if status is None else f"ended with {describe_status(status)}"
            raise ServerDiedError(self._with_log(f"the API server (pid {self.pid}) {how}"))
        for engine in self.engines:
            if not engine.alive():
                raise ServerDiedError(
                    self._with_log(
                        f"engine process {engine.pid} ({engine.label}) ended while the API server (pid {self.pid}) lives"
                    )
                )

    def assert_identity(self) -> None:
        """Returns only if the server that answers is this boot's.

        Raises:
            ServerDiedError: nothing answers.
            IdentityError: another server answers.
        """
        try:
            self._assert_answer()
        except ServerError as error:
            if self.process is not None:
                # A server that is just dying stops answering, and its port seems another's, before its end is known; the end says more.
                self.process.wait(DYING_S)
                self._assert_processes()
            kind = IdentityError if isinstance(error, IdentityError) else ServerDiedError
            raise kind(self._with_log(error.message), remedy=error.remedy) from error

    def _assert_answer(self) -> None:
        names = self.api.models()
        if self.model not in names:
            raise IdentityError(
                f"{self.url} is answered by another server: it serves {', '.join(names) or 'nothing'}, not {self.model}",
                remedy="An old server is still running on this port; end it.",
            )
        if self.process is not None and self.spec.launcher.kind == "local":
            assert_own_listener(urlsplit(self.url).port or 0, self.process)
        if (
            self.born is not None
            and self.counters().get("process_start_time_seconds", self.born) != self.born
        ):
            raise IdentityError(
                f"{self.url}: the server was restarted since perfgate attached to it",
                remedy="Run again; what was measured belongs to two servers.",
            )

    def counters(self) -> dict[str, float]:
        """The samples of ``/metrics`` by name, summed over labels (the largest for ``…_perc``)."""
        return parse_counters(self.api.metrics_text())

    def cache_config(self) -> dict[str, str]:
        """The labels of ``vllm:cache_config_info``: resolved cache settings, as text."""
        return parse_cache_config(self.api.metrics_text())

    def resolved_settings(self) -> dict[str, Any]:
        """The configuration that the server resolved to, flat: ``scheduler_config.max_num_seqs`` → 32; asked once a boot.

        From ``/server_info`` where the release offers it, else what the metrics page and the engine's log line say.
        """
        evidence = self.evidence
        if evidence.settings:
            return lasting(evidence.settings)
        sources = ((evidence.log.engine_config, FROM_LOG), (evidence.cache_config, "cache_config"))
        said = (plain(read(values, prefix)) for values, prefix in sources if values)
        return lasting({name: value for source in said for name, value in source.items()})

    @cached_property
    def evidence(self) -> Evidence:
        """Everything the server says about its settings, read once, after it was ready."""
        info = self.api.server_info() or {}
        try:
            cache_config = self.cache_config()
        except ServerError:
            cache_config = {}
        config, variables = info.get("vllm_config"), info.get("vllm_env")
        secrets = self.spec.secrets()
        return Evidence(
            settings=masked(flat(config), secrets) if isinstance(config, dict) else {},
            variables=variables if isinstance(variables, dict) else {},
            cache_config=cache_config,
            log=self.boot_log,
            process_environment=self._process_environment(),
            secrets=secrets,
        )

    @cached_property
    def boot_log(self) -> BootLog:
        """What its log said until it was ready."""
        return parse_boot_log(self.log.text() if self.log is not None else "")

    def version(self) -> str | None:
        """The release of vLLM that answers; None where it does not say."""
        try:
            said = self.api.get("/version").json().get("version")
        except (ServerError, ValueError, AttributeError):
            said = None
        return said if isinstance(said, str) else self.boot_log.version

    def boot_metrics(self) -> dict[str, float]:
        """Metrics of the boot by name: seconds by phase, KV tokens, GiB. What nobody says is absent.

        An attached server was booted by somebody else: only its KV cache is known.
        """
        found: dict[str, float] = {}
        if self.process is not None:
            found["ready_s"] = self.ready_s
            imports = self.boot_log.imports_s(self.started)
            if imports is not None:
                found["imports_s"] = imports
        found.update(self.boot_log.quantities)
        for key, name, scale in (
            ("kv_cache_size_tokens", "kv_cache_tokens", 1.0),
            ("kv_cache_memory_bytes", "kv_cache_gib", 1024.0**3),
        ):
            with contextlib.suppress(ValueError, KeyError):
                found.setdefault(name, float(self.evidence.cache_config[key]) / scale)
        if self.boot_log.autotuned or self.spec.env.get("TRITON_PRINT_AUTOTUNING") == "1":
            found["autotune_configs"] = float(sum(self.boot_log.autotuned.values()))
        return found

    def boot_notes(self) -> tuple[str, ...]:
        """What a person who reads its boot metrics should know, in sentences."""
        accounting = self.boot_log.accounting
        return (accounting.explain(),) if accounting is not None else ()

    def flags_in_effect(self) -> tuple[FlagReport, ...]:
        """Per requested flag and variable: asked versus in effect."""
        return flags_in_effect(self.spec, self.evidence)

    def running_flag(self, name: str) -> tuple[Any, ...]:
        """What runs for a flag, asked for or not, as each source says it; empty where nothing says."""
        return running_flag(name, self.evidence)

    def running_variable(self, name: str) -> Any:
        """What a variable is in the server; None where it is not set or nothing says."""
        return running_variable(name, self.evidence)

    def log_mark(self) -> int:
        """The present length of its log, for :meth:`compile_events`; 0 for an attached server."""
        with contextlib.suppress(OSError):
            return self.log_path.stat().st_size if self.log_path is not None else 0
        return 0

    def compile_events(self, since: int) -> tuple[str, ...]:
        """Kernels that the log says were compiled or autotuned after the mark, by name."""
        return compile_events(self.log.lines_since(since)) if self.log is not None else ()

    def cpu_seconds(self) -> float | None:
        """CPU seconds that all its processes have used so far; None for an attached server or a container."""
        if self.process is None or self.spec.launcher.kind != "local":
            return None
        return self.process.cpu_seconds()

    def usage(self) -> dict[str, float]:
        """What it has used so far: ``cpu_s`` of all its processes, ``energy_j`` of its GPUs; what is not known is absent."""
        found = {"cpu_s": self.cpu_seconds()}
        if self.process is not None:
            found["energy_j"] = gpu_energy_j(self.devices)
        return {name: value for name, value in found.items() if value is not None}

    def probe(self, *, matmul: bool = True, unified: bool | None = None) -> dict[str, Any]:
        """The state of its machine; with ``matmul`` a fixed one is made on its first GPU, in its own Python.

        ``unified`` says whether its GPUs share the system's memory, where an entry knows that.
        """
        launcher = self.spec.launcher
        return probe(
            devices=self.devices,
            own_pids=self._own_pids(),
            python=launcher.python if matmul and launcher.kind == "local" else None,
            unified=unified,
        )

    def _own_pids(self) -> frozenset[int]:
        launcher = self.spec.launcher
        if self.process is None:
            return frozenset()
        own = frozenset(member.pid for member in self.process.tree())
        return own | container_pids(launcher, self.boot_id) if isinstance(launcher, DockerLauncher) else own

    def _process_environment(self) -> dict[str, str] | None:
        if self.pid is None or self.spec.launcher.kind != "local":
            return None
        with contextlib.suppress(psutil.Error, OSError):
            return psutil.Process(self.pid).environ()
        return None

    def reset_prefix_cache(self) -> bool:
        """Empties the prefix cache; false where the server does not offer it (no development mode)."""
        try:
            self.api.post("/reset_prefix_cache")
        except ServerError:
            return False
        return True

    def stop(self) -> None:
        """Ends the server and everything below it; an attached server is left alone. Safe to call again."""
        if self.process is not None:
            self.process.stop()

    def _with_log(self, what: str) -> str:
        if self.log is None:
            return f"server {self.spec.name!r}, boot {self.boot_id}: {what}"
        cause = failure_cause(self.log.text())
        why = f"\ncause: {cause.line}" if cause is not None else ""
        return f"server {self.spec.name!r}, boot {self.boot_id}: {what}{why}\n{self.log.excerpt()}"


def engine_processes(tree: tuple[Family, ...], server_pid: int | None) -> tuple[Family, ...]:
    """The processes of a tree without which the server cannot serve: engine cores and workers.

    vLLM titles them ``VLLM::…``; where a release does not, they are the children made by ``multiprocessing``.
    """
    below = [
        member
        for member in tree
        if member.pid != server_pid and not any(helper in member.title for helper in _HELPERS)
    ]
    titled = tuple(member for member in below if "VLLM::" in member.title)
    return titled or tuple(member for member in below if "multiprocessing" in member.title)


def assert_own_listener(port: int, process: ServerProcess) -> None:
    """Returns only if nobody but this boot listens on the port.

    Raises:
        IdentityError: somebody else does; two servers may share a port through SO_REUSEPORT.
    """
    before = process.tree()  # so that one of its own that ends meanwhile is no stranger
    found = listeners(port)
    own = {member.pid for member in (*before, *process.tree())}
    foreign = [listener for listener in found if listener.pid not in own]
    if foreign:
        raise IdentityError(
            f"port {port} is also answered by {', '.join(map(str, foreign))}, which this boot did not start",
            remedy="An old server is still running on this port; end it.",
        )


def usage_per_token(
    before: Mapping[str, float], after: Mapping[str, float], output_tokens: int
) -> dict[str, float]:
    """CPU milliseconds and joules per output token between two readings of :meth:`RunningServer.usage`.

    The CPU time of the whole server moves far less from run to run than wall-clock times do, and shows the same work.
    """
    if output_tokens <= 0:
        return {}
    names = {"cpu_s": ("server_cpu_ms_per_token", 1e3), "energy_j": ("energy_j_per_token", 1.0)}
    return {
        metric: (after[name] - before[name]) * scale / output_tokens
        for name, (metric, scale) in names.items()
        if name in before and name in after and after[name] >= before[name]
    }
