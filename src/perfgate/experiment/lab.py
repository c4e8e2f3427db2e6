"""Boots servers and measures workloads on them, one server at a time.

The lab keeps the last server it booted running until another one is wanted: a test that only needs *a* running server (flags in
effect, JIT after ready) shares the boot with the measurement, and measuring begins on a boot that has seen no load yet.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from perfgate.autotune.eventlog import VARIABLE as EVENTS_VARIABLE
from perfgate.environment import ProbeLimits, void_reasons
from perfgate.errors import ServerError
from perfgate.experiment.models import model_reference
from perfgate.experiment.recording import boot_record, machine_of
from perfgate.experiment.runner import Runner
from perfgate.lease import lease_devices
from perfgate.records import BootRecord, Measurement, RunRecord
from perfgate.selection import CPU, Target
from perfgate.server import (
    ModelRef,
    RunningServer,
    ServerSpec,
    boot,
    new_boot_id,
)
from perfgate.targets import GpuSpec

EXTRA_ATTEMPTS = 2
"""Invalid runs are kept and made again this often a boot: the rule looks at validity alone, never at the value."""

EXTRA_BOOTS = 2
"""Void boots are kept and made again, at most so many: what voids a boot looks at the probe alone."""

Progress = Callable[[str], None]
"""Told in a few words what is going on; called often."""


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """Where a lab works and what it may use."""

    root: Path
    """The project's folder: relative model folders are looked for in it."""
    directory: Path
    """Logs go below it."""
    devices: tuple[str, ...]
    """Devices that may be leased: GPU indices, or ``("cpu",)``."""
    load_processes: int = 1
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    extra_env: Mapping[str, str] = field(default_factory=dict)
    keep_arrays: bool = True


GoOn = Callable[[int, Sequence[BootRecord]], bool]
"""Told the pairs made and all their records: whether to make another one."""


@dataclass(kw_only=True)
class _Side:
    """The boots of one side as they are made."""

    targets: tuple[Target, ...]
    name: Literal["now", "old"]
    boots: list[dict[str, BootRecord]] = field(default_factory=list)


class Lab:
    """One server of ours at a time, and everything measured with it.

    Args:
        settings: see there.
        progress: told what is going on.
        announce: told what a person must see even where nobody watches the progress; ``progress`` where not given.
    """

    def __init__(
        self,
        settings: LabSettings,
        progress: Progress = lambda _words: None,
        announce: Progress | None = None,
    ) -> None:
        self.settings = settings
        self._progress = progress
        self._announce = announce or progress
        self._stack = ExitStack()
        self._running: RunningServer | None = None
        self._spec: ServerSpec | None = None
        self._model: ModelRef | None = None
        self._loaded = False
        self._versions: dict[str, str | None] = {}
        self.boot_seconds: list[float] = []
        """How long each boot took; with `run_seconds` what a plan of more boots would cost."""
        self.run_seconds: list[float] = []
        self.loaded_seconds: list[float] = []
        """How long all runs on each boot took."""
        self._unfinished: list[_Side] = []
        self._given_up: list[Measurement] = []
        self._born: dict[str, float | None] = {}
        """Of boots of attached servers: when the process that answered was started, as far as it says so."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the running server, if any, and gives its device back."""
        self._running = None
        self._spec = None
        self._stack.close()

    def server(self, target: Target, *, fresh: bool = False) -> RunningServer:
        """A running server of the target's specification.

        Args:
            target: which server and model.
            fresh: only a boot that has seen no load.

        Raises:
            ServerError: it did not boot; nothing is left behind.
        """
        same = self._spec == target.server and self._running is not None
        if same and not (fresh and self._loaded):
            assert self._running is not None
            self._running.assert_alive()
            return self._running
        self.close()
        return self._boot(target)

    def measure(
        self, targets: Sequence[Target], *, replicates: int, label: str = "now"
    ) -> dict[str, Measurement]:
        """Measures all workloads of one server on ``replicates`` boots.

        Args:
            targets: cells of one server; each boot runs all of them in this order.
            replicates: boots.
            label: part of the prompts' seed.

        Returns:
            a measurement for each workload name. A boot whose server died keeps the runs made before, with the reason.

        Raises:
            ServerError: a server did not boot at all.
        """
        boots = self._side(targets, "now")
        used = 0
        while used < replicates and len(boots) < replicates + EXTRA_BOOTS:
            number = len(boots)
            boots.append(
                self._replicate(targets, token=f"{label}-{number}", words=f"boot {used + 1}/{replicates}")
            )
            used += not any(record.void for record in boots[-1].values())
        self._unfinished.clear()
        return self._measurements(targets, boots)

    def interleave(
        self,
        sides: tuple[Sequence[Target], Sequence[Target]],
        order: Sequence[int],
        *,
        label: str,
        go_on: GoOn = lambda _pairs, _records: True,
    ) -> tuple[dict[str, Measurement], dict[str, Measurement]]:
        """Boots two sides in turn and measures the same workloads with the same seeds on both.

        Args:
            sides: cells of the old and of the new server, the same workloads in the same order.
            order: which side each boot is of, 0 old and 1 new; the n-th boots of both sides send the same prompts.
            label: part of the prompts' seed.
            go_on: asked before each further pair.

        Returns:
            measurements by workload name, old and new.

        Raises:
            ServerError: a server did not boot at all.
        """
        boots = self._side(sides[0], "old"), self._side(sides[1], "now")
        for step, side in enumerate(order, 1):
            number = len(boots[side])
            records = [record for made in boots for boot in made for record in boot.values()]
            if step % 2 and step > 1 and not go_on(step // 2, records):
                break
            words = f"A/B boot {step}/{len(order)} ({'AB'[side]})"
            self.close()
            boots[side].append(self._replicate(sides[side], token=f"{label}-{number}", words=words))
        self._unfinished.clear()
        return self._measurements(sides[0], boots[0]), self._measurements(sides[1], boots[1])

    def broken_off(self) -> tuple[Measurement, ...]:
        """Whole boots of measurements that were not finished: of an A/B whose third boot failed, say."""
        return (
            *self._given_up,
            *(
                measurement.model_copy(update={"side": side.name})
                for side in self._unfinished
                if side.boots
                for measurement in self._measurements(side.targets, side.boots).values()
            ),
        )

    def give_up(self, measurement: Measurement) -> None:
        """What was measured for something that is not finished: it is kept as what was broken off."""
        self._given_up.append(measurement)

    def _side(self, targets: Sequence[Target], name: Literal["now", "old"]) -> list[dict[str, BootRecord]]:
        """A list for the boots of one side, which the lab remembers until the measurement is finished."""
        self._unfinished.append(_Side(targets=tuple(targets), name=name))
        return self._unfinished[-1].boots

    def _replicate(self, targets: Sequence[Target], *, token: str, words: str) -> dict[str, BootRecord]:
        running = self.server(targets[0], fresh=True)
        loading = time.monotonic()
        self._loaded = True
        assert self._model is not None
        runner = Runner(
            running=running,
            model=self._model,
            token=token,
            progress=self._progress,
            processes=self.settings.load_processes,
            keep_arrays=self.settings.keep_arrays,
        )
        before = running.probe(unified=targets[0].gpu.unified_memory or None)
        runs = {
            target.cell.workload: self._runs(
                runner, target, words=f"{target.server.name} {words}, {target.workload.name}"
            )
            for target in targets
        }
        after = running.probe(unified=targets[0].gpu.unified_memory or None)
        record = boot_record(running, self.settings.root).model_copy(
            update={
                "probes": (before, after),
                "void": void_reasons(before, after, _probe_limits(targets[0].gpu)),
            }
        )
        self.loaded_seconds.append(time.monotonic() - loading)
        return {workload: record.model_copy(update={"runs": tuple(made)}) for workload, made in runs.items()}

    def _measurements(
        self, targets: Sequence[Target], boots: Sequence[dict[str, BootRecord]]
    ) -> dict[str, Measurement]:
        server = targets[0].server
        settings = next((record.settings for boot in boots for record in boot.values()), {})
        machine = machine_of(server, settings, self._versions.get(server.name))
        return {
            target.cell.workload: Measurement(
                cell=target.cell,
                fingerprint=machine,
                server=target.server.public(),
                workload=target.workload.model_dump(mode="json"),
                boots=self._distinct([boot[target.cell.workload] for boot in boots]),
                changes=target.changes,
            )
            for target in targets
        }

    def _distinct(self, records: Sequence[BootRecord]) -> tuple[BootRecord, ...]:
        """The boots as they were: attaching again to the same process is no further boot, so its runs belong to one record."""
        boots: list[BootRecord] = []
        places: dict[float | None, int] = {}
        for record in records:
            place = None
            if record.id in self._born and not record.void:
                place = places.setdefault(self._born[record.id], len(boots))
            if place is None or place == len(boots):
                boots.append(record)
            else:
                boots[place] = boots[place].model_copy(update={"runs": (*boots[place].runs, *record.runs)})
        return tuple(boots)

    def _boot(self, target: Target) -> RunningServer:
        server = target.server
        model = model_reference(target.model, self.settings.root)
        leased: Sequence[str] = ()
        if server.launcher.kind != "attach":
            leased = self._stack.enter_context(
                lease_devices(
                    self.settings.devices, _gpus_needed(server, self.settings.devices), on_wait=self._announce
                )
            )
        gpu_ids = None if not leased or leased == (CPU,) else list(leased)
        logs = self.settings.directory / "logs" / self.settings.session
        boot_id = new_boot_id(server.name)
        events = (logs / f"{boot_id}.events.jsonl").resolve() if server.launcher.kind == "local" else None
        recorder = {} if events is None else {EVENTS_VARIABLE: str(events)}
        try:
            running = self._stack.enter_context(
                boot(
                    server,
                    model=model,
                    log_dir=logs,
                    boot_id=boot_id,
                    gpu_ids=gpu_ids,
                    on_progress=lambda phase, elapsed: self._progress(
                        f"booting {server.name}: {phase} {elapsed:.0f} s"
                    ),
                    extra_env={**recorder, **self.settings.extra_env},
                )
            )
        except BaseException:
            self.close()
            raise
        running.events_path = events
        if server.launcher.kind == "attach":
            self._born[running.boot_id] = running.born
        self._running, self._spec, self._model, self._loaded = running, server, model, False
        self._versions[server.name] = running.version()
        self.boot_seconds.append(running.ready_s)
        return running

    def _runs(self, runner: Runner, target: Target, *, words: str) -> list[RunRecord]:
        made: list[RunRecord] = []
        valid = 0
        for attempt in range(target.workload.runs + EXTRA_ATTEMPTS):
            try:
                record, seconds = runner.run(target, attempt=attempt, words=f"{words}, run {attempt + 1}")
            except ServerError as error:
                made.append(RunRecord(metrics={}, invalid=(error.message,)))
                break
            made.append(record)
            self.run_seconds.append(seconds)
            valid += made[-1].valid
            if valid == target.workload.runs:
                break
        return made


def _probe_limits(gpu: GpuSpec) -> ProbeLimits:
    """What a replicate on this machine may be put through."""
    given = {"steal": gpu.max_steal, "cpu_loop": gpu.max_loop_change}
    return ProbeLimits(**{name: value for name, value in given.items() if value is not None})


def _gpus_needed(server: ServerSpec, devices: Sequence[str]) -> int:
    """How many devices one server takes: tensor × pipeline × data parallel ranks."""
    if tuple(devices) == (CPU,):
        return 1
    needed = 1
    for flag in ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"):
        value = server.args.get(flag, 1)
        needed *= int(str(value)) if str(value).isdigit() else 1
    return needed
