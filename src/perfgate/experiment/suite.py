"""One session of the suite: which cells, one lab, one gate, every measurement made once."""

from __future__ import annotations

import getpass
import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import perfgate
from perfgate.baseline import BaselineStore, DirectoryStore, LayeredStore, ReadOnlyStore
from perfgate.diagnosis import diagnose
from perfgate.environment import gpu_devices, match_gpu
from perfgate.errors import BaselineMissingError, NoiseError, NoiseMissingError, PerfgateError
from perfgate.experiment import attribution
from perfgate.experiment.attribution_settings import differences
from perfgate.experiment.confirm import (
    Budget,
    Confirmer,
    Measured,
    overrule,
    questions_of,
    suspects,
    verdicts_from,
)
from perfgate.experiment.gate import Gate, Settled, Writing
from perfgate.experiment.lab import Lab, LabSettings
from perfgate.experiment.notes import limit_notes
from perfgate.experiment.sides import against, old_side
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel, fit, noise_path, read_noise, write_noise
from perfgate.records import Baseline, CellVerdict, Measurement, SessionResults
from perfgate.results import read_results
from perfgate.selection import CPU, Catalogues, Request, Target, select, user_files
from perfgate.server import RunningServer
from perfgate.verdict import boot_means, invalid, invalidity, metric_verdict, whole

WORK = Path(".perfgate")
BASELINES = Path("baselines")
DEFAULT_REPLICATES = 3


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """What was asked for on the command line."""

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


@dataclass
class _Made:
    """What came out for one server: by workload the verdict, all measurements, or why there are none."""

    settled: dict[str, Settled] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    error: PerfgateError | None = None


class Suite:
    """One session. Everything is looked up when it is first needed, so that unrelated tests pay nothing."""

    def __init__(self, options: SuiteOptions) -> None:
        self.options = options
        self.session = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        self.started = datetime.now(UTC)
        self.progress: Callable[[str], None] = _silent
        """Told what is going on, often."""
        self.announce: Callable[[str], None] = _silent
        """Told what a person must see: plans before they start, warnings."""
        self._planned: tuple[Target, ...] | None = None
        self._made: dict[str, _Made] = {}
        self._kept: list[Measurement] = []
        self._refused: dict[str, str] = {}
        self._confirmations = 0
        self._lab: Lab | None = None

    @property
    def work(self) -> Path:
        """The folder for everything that belongs to this machine alone."""
        return self.options.root / WORK

    @cached_property
    def catalogues(self) -> Catalogues:
        """The shipped entries with the user's over them."""
        return Catalogues.load(user_files(self.options.root, self.options.config))

    @cached_property
    def here(self) -> str:
        """The entry of this machine's GPU; ``cpu`` without one."""
        return match_gpu(self.catalogues.gpus)

    @cached_property
    def gpu(self) -> str:
        """The GPU entry asked for."""
        return self.here if self.options.gpu == "auto" else self.catalogues.gpus[self.options.gpu].name

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Every cell that was asked for."""
        return select(self._request(), self.catalogues)

    def _request(self) -> Request:
        options = self.options
        return Request(
            gpu=self.gpu,
            model=options.model,
            servers=options.servers,
            workloads=options.workloads,
            vllm_args=options.vllm_args,
            env=options.env,
            python=options.python,
            boot_timeout_s=options.boot_timeout_s,
        )

    @property
    def command(self) -> str:
        """The command line with secrets masked: it is kept in results and baselines."""
        words = self.options.command
        for target in self.targets:
            words = target.server.secrets().mask(words)
        return words

    @cached_property
    def store(self) -> BaselineStore:
        """Where baselines are read and written.

        A CPU baseline belongs to one machine, so it is written to the machine's own folder; a GPU's is written to the project's.
        """
        if self.options.baselines is not None:
            return DirectoryStore(self.options.baselines)
        project, own = DirectoryStore(self.options.root / BASELINES), DirectoryStore(self.work / BASELINES)
        if self.gpu == CPU:
            return LayeredStore(own, ReadOnlyStore(project))
        return project

    @cached_property
    def gate(self) -> Gate:
        """Judges, and writes baselines where asked."""
        return Gate(
            store=self.store,
            writing=self.options.writing,
            by=_user(),
            command=self.command,
            notes=tuple(self.options.notes),
            noise=self.noise,
        )

    def plan(self, targets: Sequence[Target]) -> None:
        """The cells that will really be judged: a boot serves the workloads of these only."""
        self._planned = tuple(targets)
        self.gate.check_writable(self._planned)

    def missing(self) -> tuple[Target, ...]:
        """The cells that have no baseline."""
        found = []
        for target in self.targets:
            try:
                self.store.read(target.cell)
            except BaselineMissingError:
                found.append(target)
        return tuple(found)

    def absent_hardware(self, target: Target) -> str | None:
        """Why this machine cannot boot the target's server, or None."""
        if target.server.launcher.kind == "attach" or target.gpu.name in (CPU, self.here):
            return None
        found = "no GPU" if self.here == CPU else f"a {self.here}"
        return f"{target.cell.server} needs a {target.gpu.name}, this machine has {found}"

    def server(self, target: Target) -> RunningServer:
        """A running server of the target; the next measurement begins on this boot if it has seen no load."""
        return self.lab.server(target)

    @property
    def lab(self) -> Lab:
        """Boots and measures."""
        if self._lab is None:
            self._lab = Lab(
                LabSettings(
                    root=self.options.root,
                    directory=self.work,
                    devices=gpu_devices() or (CPU,),
                    load_processes=self.options.load_processes,
                    session=self.session,
                ),
                self._tell,
            )
        return self._lab

    def refuse(self, server: str, reason: str) -> None:
        """No load is spent on this server; its cells become INVALID with the reason."""
        self._refused[server] = reason

    @cached_property
    def noise(self) -> NoiseModel | None:
        """The noise model of this GPU, or None: without one a cell can only pass or be inconclusive."""
        for folder in self._baseline_folders():
            try:
                return read_noise(noise_path(folder, self.gpu))
            except NoiseMissingError:
                continue
            except NoiseError as error:
                self.announce(f"the noise model is not used: {error}")
        return None

    def _baseline_folders(self) -> list[Path]:
        if self.options.baselines is not None:
            return [self.options.baselines]
        project, own = self.options.root / BASELINES, self.work / BASELINES
        return [own, project] if self.gpu == CPU else [project]

    def judge(self, target: Target) -> Settled:
        """Measures the target's server, once a session, and judges the cell."""
        if target.cell.server in self._refused:
            return Settled(invalid(target.cell, self._refused[target.cell.server]))
        made = self._judged(target)
        if made.error is not None:
            return Settled(invalid(target.cell, made.error.message, made.error.remedy))
        return made.settled[target.cell.workload]

    def _judged(self, target: Target) -> _Made:
        name = target.cell.server
        if name not in self._made:
            planned = self._planned if self._planned is not None else self.targets
            cells = [other for other in planned if other.cell.server == name] or [target]
            made = self._made[name] = _Made()
            try:
                if self.options.against or self.options.against_server or self.options.attribute:
                    self._compare(cells, made)
                else:
                    self._gate(cells, made)
            except PerfgateError as error:
                made.error = error
        return self._made[name]

    def _gate(self, cells: Sequence[Target], made: _Made) -> None:
        """Screen against the stored baselines; whatever is suspected is confirmed on fresh data."""
        replicates = self.options.replicates or cells[0].gpu.replicates or DEFAULT_REPLICATES
        measured = self.lab.measure(cells, replicates=replicates, label=self.session)
        made.measurements.extend(measured.values())
        for cell in cells:
            made.settled[cell.cell.workload] = self.gate.judge(cell, measured[cell.cell.workload])
            self._add_notes(made, cell, measured[cell.cell.workload])
        doubtful = [
            cell
            for cell in cells
            if made.settled[cell.cell.workload].recorded is None
            and suspects(made.settled[cell.cell.workload].verdict)
        ]
        if not doubtful:
            return
        confirmable: list[tuple[Target, Target]] = []
        for cell in doubtful:
            workload = cell.cell.workload
            baseline = self.store.read(cell.cell).baseline
            old = old_side(cell, baseline, measured[workload])
            if isinstance(old, str):
                self._look(cell, baseline, old, made)
            else:
                confirmable.append((cell, old))
        if confirmable:
            self._confirm([cell for cell, _ in confirmable], [old for _, old in confirmable], made)

    def _add_notes(self, made: _Made, cell: Target, measured: Measurement) -> None:
        """What the server's counters and the hardware's bounds say beside the verdict."""
        settled = made.settled[cell.cell.workload]
        said = [*limit_notes(cell, measured), *self.lab.boot_notes()]
        try:
            before = self.store.read(cell.cell).baseline.boots
        except PerfgateError:
            before = ()
        said += diagnose(settled.verdict, before, measured.boots)
        verdict = settled.verdict.model_copy(update={"notes": (*settled.verdict.notes, *said)})
        made.settled[cell.cell.workload] = settled._replace(verdict=verdict)

    def _confirm(self, cells: Sequence[Target], old: Sequence[Target], made: _Made) -> None:
        asked = [
            question
            for cell in cells
            for question in questions_of(cell, self.noise, suspects(made.settled[cell.cell.workload].verdict))
        ]
        judged, fresh, _plan = self._confirmer().interleaved(
            old,
            cells,
            asked,
            self._budget(None),
            own_variance=False,
            position=self._next_position(),
            label=f"{self.session}-confirm",
        )
        made.measurements.extend(fresh.all())
        for cell in cells:
            screened = made.settled[cell.cell.workload].verdict
            reason = fresh.invalid(cell.cell.workload)
            if reason is not None:
                made.settled[cell.cell.workload] = Settled(invalid(cell.cell, f"confirmation: {reason}"))
                continue
            if not fresh.new:
                continue
            boots = len(fresh.new[cell.cell.workload].boots)
            note = f"suspected by the screen, then measured on {boots} interleaved pairs of fresh boots"
            made.settled[cell.cell.workload] = Settled(
                overrule(screened, verdicts_from(judged, fresh, cell, asked), note)
            )

    def _look(self, cell: Target, baseline: Baseline, reason: str, made: _Made) -> None:
        screened = made.settled[cell.cell.workload].verdict
        asked = questions_of(cell, self.noise, suspects(screened))
        self.announce(f"{cell.cell} cannot be confirmed by A/B: {reason}")
        # Every primary metric screened in the session shares the stored references, so each look pays for all of them.
        family = len(self.targets) * sum(verdict.primary for verdict in screened.metrics)
        judged, fresh = self._confirmer().looks(
            cell, baseline, asked, family=family, label=f"{self.session}-looks"
        )
        if fresh is None:
            return
        made.measurements.append(fresh)
        problem = invalidity(fresh.boots)
        if problem is not None:
            made.settled[cell.cell.workload] = Settled(invalid(cell.cell, problem))
            return
        verdicts = [
            metric_verdict(
                METRICS[one.metric],
                judged[one.key],
                boot_means(baseline.replicates(one.metric)),
                boot_means(fresh.replicates(one.metric)),
                moderated=one.prior is not None,
            )
            for one in asked
            if one.key in judged
        ]
        note = f"not confirmed by A/B ({reason}); judged on {len(fresh.boots)} fresh boots against the stored baseline"
        made.settled[cell.cell.workload] = Settled(overrule(screened, verdicts, note))

    def _compare(self, cells: Sequence[Target], made: _Made) -> None:
        """An A/B that was asked for: no stored baseline, every primary metric is a question."""
        options = self.options
        old = [self._old_side(cell) for cell in cells]
        primary = [metric.name for metric in METRICS.values() if metric.primary and metric.of == "run"]
        asked = [question for cell in cells for question in questions_of(cell, self.noise, primary)]
        pairs = options.replicates or cells[0].gpu.replicates
        judged, fresh, _plan = self._confirmer().interleaved(
            old,
            cells,
            asked,
            self._budget(pairs),
            own_variance=True,
            position=self._next_position(),
            label=self.session,
        )
        made.measurements.extend(fresh.all())
        words = options.against or options.against_server or f"{cells[0].server.name} without the changes"
        for cell in cells:
            workload = cell.cell.workload
            reason = fresh.invalid(workload)
            if reason is not None or not fresh.new:
                settled = invalid(cell.cell, reason or "no time was left for a single pair (--max-minutes)")
            else:
                note = f"A/B against {words}: {len(fresh.new[workload].boots)} interleaved pairs, baseline column = {words}"
                settled = whole(cell.cell, verdicts_from(judged, fresh, cell, asked), None, (note,))
            made.settled[workload] = Settled(settled)
        if options.attribute and fresh.new:
            self._attribute(old, cells, fresh, made)

    def _old_side(self, cell: Target) -> Target:
        options = self.options
        if options.attribute and not (options.against or options.against_server):
            return attribution.entry(cell, self._request(), self.catalogues)
        old = against(
            cell, environment=options.against, server=options.against_server, catalogues=self.catalogues
        )
        if options.attribute and not options.against:
            differences(old.server, cell.server)
        return old

    def _attribute(
        self, old: Sequence[Target], cells: Sequence[Target], fresh: Measured, made: _Made
    ) -> None:
        """Traces what the A/B confirmed to settings; that it cannot be traced changes no verdict."""
        attributor = attribution.Attributor(
            lab=self.lab,
            noise=self.noise,
            tell=self.announce,
            max_minutes=self.options.max_minutes or math.inf,
        )
        verdicts = {workload: settled.verdict for workload, settled in made.settled.items()}
        try:
            found = attributor.attribute(
                old, cells, verdicts, fresh, versions=bool(self.options.against), label=self.session
            )
        except PerfgateError as error:
            self.announce(f"nothing was attributed: {error}")
            return
        for workload, one in found.items():
            settled = made.settled[workload]
            verdict = settled.verdict.model_copy(update={"attribution": one})
            made.settled[workload] = settled._replace(verdict=verdict)

    def _next_position(self) -> int:
        """Counts confirmations over all workers of the session, so that none of them spends another's error."""
        index, count = self.options.worker
        self._confirmations += 1
        return index + 1 + (self._confirmations - 1) * count

    def _confirmer(self) -> Confirmer:
        return Confirmer(lab=self.lab, noise=self.noise, tell=self.announce)

    def _budget(self, pairs: int | None) -> Budget:
        boots, runs = self.lab.boot_seconds, self.lab.run_seconds
        return Budget(
            boot_minutes=_mean(boots) / 60,
            run_minutes=_mean(runs) / 60,
            pairs=pairs if pairs is not None else self.targets[0].gpu.pairs,
            max_minutes=self.options.max_minutes or math.inf,
        )

    def keep(self, measurements: Iterable[Measurement]) -> None:
        """Takes measurements that no gate made (claims, sweeps) into the session's results."""
        self._kept.extend(measurements)

    def measurements(self) -> tuple[Measurement, ...]:
        """Everything measured so far."""
        judged = (measurement for made in self._made.values() for measurement in made.measurements)
        return (*judged, *self._kept)

    def fit_noise(self, results: Path) -> None:
        """Fits this machine's noise model from all its sessions, after baselines were recorded.

        A CPU's model belongs to the machine and is renewed; a GPU's is fitted where there is none yet and otherwise left to
        ``perfgate noise fit``.
        """
        recorded = any(settled.recorded for made in self._made.values() for settled in made.settled.values())
        folder = self._baseline_folders()[0]
        if not recorded or (self.gpu != CPU and self.noise is not None):
            return
        sessions = []
        for file in sorted(results.glob("*.json")):
            try:
                sessions.append(read_results(file))
            except PerfgateError as error:
                self.announce(f"left out of the noise model: {error.message}")
        try:
            model = fit(sessions, self.gpu, at=datetime.now(UTC), version=perfgate.__version__)
            write_noise(noise_path(folder, self.gpu), model)
        except NoiseError as error:
            self.announce(f"no noise model was fitted: {error}")

    def results(self, verdicts: Sequence[CellVerdict], more: Sequence[Measurement] = ()) -> SessionResults:
        """The session as one record.

        Args:
            verdicts: what was judged.
            more: measurements made in other processes of the session.
        """
        return SessionResults(
            session=self.session,
            started=self.started,
            command=self.command,
            perfgate=perfgate.__version__,
            measurements=(*self.measurements(), *more),
            verdicts=tuple(verdicts),
        )

    def _tell(self, words: str) -> None:
        self.progress(words)

    def close(self) -> None:
        """Stops what is running."""
        if self._lab is not None:
            self._lab.close()


def _silent(_words: str) -> None:
    """Nobody listens."""


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
