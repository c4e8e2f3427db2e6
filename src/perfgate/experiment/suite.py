"""One session of the suite: which cells, one lab, one gate, every measurement made once."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import perfgate
from perfgate.baseline import BaselineStore
from perfgate.environment import fingerprint, gpu_devices, match_gpu
from perfgate.errors import BaselineError, BaselineMissingError, PerfgateError
from perfgate.experiment.ab import compare, other_side
from perfgate.experiment.bench import Bench, Made, Positions
from perfgate.experiment.gate import Gate, Settled, Writing
from perfgate.experiment.lab import Lab, LabSettings
from perfgate.experiment.options import SuiteOptions
from perfgate.experiment.places import WORK, Places
from perfgate.experiment.screening import screen
from perfgate.experiment.sides import check_bootable, check_side
from perfgate.findings import Findings
from perfgate.noise import NoiseModel, usable
from perfgate.records import CellVerdict, Measurement, SessionResults
from perfgate.selection import CPU, Catalogues, Target, select, user_files
from perfgate.server import RunningServer
from perfgate.verdict import invalid


class Suite:
    """One session. Everything is looked up when it is first needed, so that unrelated tests pay nothing."""

    def __init__(self, options: SuiteOptions) -> None:
        self.options = options
        self.started = datetime.now(UTC)
        self.session = f"{self.started:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        self.progress: Callable[[str], None] = _silent
        """Told what is going on, often."""
        self.announce: Callable[[str], None] = _silent
        """Told what a person must see: plans before they start, warnings."""
        self._planned: tuple[Target, ...] | None = None
        self._made: dict[str, Made] = {}
        self._kept: list[Measurement] = []
        self._broken_off: list[Findings] = []
        self._refused: dict[str, PerfgateError] = {}
        self._positions = Positions(options.worker)
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
        return select(self.options.request(self.gpu), self.catalogues)

    @property
    def command(self) -> str:
        """The command line with secrets masked: it is kept in results and baselines."""
        return self.masked(self.options.command)

    def masked(self, words: str) -> str:
        """The words without the secrets of any server of the session."""
        for target in self.targets:
            words = target.server.secrets().mask(words)
        return words

    @cached_property
    def places(self) -> Places:
        """Where baselines and the noise model are."""
        return Places(root=self.options.root, gpu=self.gpu, given=self.options.baselines)

    @cached_property
    def store(self) -> BaselineStore:
        """Where baselines are read and written."""
        return self.places.store()

    @cached_property
    def noise(self) -> NoiseModel | None:
        """The noise model of this GPU, or None: without one a cell can only pass or be inconclusive."""
        if self._stored_noise is None:
            return None
        found, why_not = usable(self._stored_noise, fingerprint().hardware())
        for reason in why_not:
            self.announce(reason)
        return found

    @cached_property
    def _stored_noise(self) -> NoiseModel | None:
        return self.places.noise(self.announce)

    @cached_property
    def gate(self) -> Gate:
        """Judges, and writes baselines where asked."""
        return Gate(
            store=self.store,
            writing=self.options.writing,
            by=_user(),
            command=self.command,
            notes=tuple(self.options.notes),
            noise=self._stored_noise,
        )

    def plan(self, targets: Sequence[Target]) -> None:
        """The cells that will really be judged: a boot serves the workloads of these only."""
        self._planned = tuple(targets)
        self.gate.check_writable(self._planned)
        if self.options.is_ab:
            for target in self._planned:
                if self.absent_hardware(target) is None:
                    check_bootable(target)
                    check_side(other_side(self.options, self.catalogues, target))
        elif self.options.writing is Writing.NOTHING:
            self._announce_missing()

    def _announce_missing(self) -> None:
        """Before the boots: on a GPU the verdict would come an hour later."""
        try:
            missing = [target for target in self.missing() if self.absent_hardware(target) is None]
        except BaselineError as error:
            self.announce(error.message)
            return
        if missing:
            first, *others = (str(target.cell) for target in missing)
            more = f" and {len(others)} more" if others else ""
            self.announce(f"no baseline is stored for {first}{more}; --new-baselines records what is missing")

    def missing(self) -> tuple[Target, ...]:
        """The cells that have no baseline."""
        found = []
        for target in self._planned or self.targets:
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
                self.announce,
            )
        return self._lab

    def server(self, target: Target) -> RunningServer:
        """A running server of the target; the next measurement begins on this boot if it has seen no load.

        Raises:
            PerfgateError: it cannot be booted. Its cells become INVALID with the reason, and it is not booted again for them.
        """
        try:
            return self.lab.server(target)
        except PerfgateError as error:
            self.refuse(target.cell.server, error.message, error.remedy)
            raise

    def refuse(self, server: str, reason: str, remedy: str = "") -> None:
        """No load is spent on this server; its cells become INVALID with the reason. The first one stands."""
        self._refused.setdefault(server, PerfgateError(reason, remedy=remedy))

    def judge(self, target: Target) -> Settled:
        """Measures the target's server, once a session, and judges the cell."""
        name = target.cell.server
        error = self._refused.get(name) or self._judged(target).error
        if error is not None:
            return Settled(invalid(target.cell, error.message, error.remedy))
        return self._made[name].settled[target.cell.workload]

    def _judged(self, target: Target) -> Made:
        name = target.cell.server
        if name not in self._made:
            planned = self._planned if self._planned is not None else self.targets
            cells = [other for other in planned if other.cell.server == name] or [target]
            made = self._made[name] = Made()
            try:
                (compare if self.options.is_ab else screen)(self._bench(), cells, made)
            except PerfgateError as error:
                made.error = error
        return self._made[name]

    def _bench(self) -> Bench:
        return Bench(
            session=self.session,
            options=self.options,
            catalogues=self.catalogues,
            targets=self.targets,
            lab=self.lab,
            gate=self.gate,
            noise=self.noise,
            announce=self.announce,
            positions=self._positions,
        )

    def keep(self, measurements: Iterable[Measurement]) -> None:
        """Takes measurements that no gate made (claims, sweeps) into the session's results."""
        self._kept.extend(measurements)

    def keep_broken_off(self, found: Findings) -> None:
        """Takes what something found that breaks off: its test ends without a report that could carry it."""
        self._broken_off.append(found)

    def broken_off(self) -> tuple[Findings, ...]:
        """What was found by what broke off."""
        return tuple(self._broken_off)

    def measurements(self) -> tuple[Measurement, ...]:
        """Everything measured so far."""
        judged = (measurement for made in self._made.values() for measurement in made.measurements)
        broken_off = self._lab.broken_off() if self._lab is not None else ()
        return (*judged, *self._kept, *broken_off)

    def unreported(self, verdicts: Iterable[CellVerdict]) -> tuple[CellVerdict, ...]:
        """What was judged, but for these verdicts: of a test that was interrupted before it could report."""
        known = {verdict.cell for verdict in verdicts}
        settled = (one.verdict for made in self._made.values() for one in made.settled.values())
        return tuple(verdict for verdict in settled if verdict.cell not in known)

    def fit_noise(self, results: Path) -> None:
        """Fits this machine's noise model from all its sessions, after baselines were recorded.

        A CPU's model belongs to the machine and is renewed; a GPU's is fitted where there is none yet and otherwise left to
        ``perfgate noise fit``.
        """
        if self.gpu == CPU or self._stored_noise is None:
            self.places.fit_noise(results, self.announce)

    def results(
        self,
        verdicts: Sequence[CellVerdict],
        more: Sequence[Measurement] = (),
        findings: Sequence[Findings] = (),
    ) -> SessionResults:
        """The session as one record.

        Args:
            verdicts: what was judged.
            more: measurements made in other processes of the session.
            findings: of claims, sweeps and changes.
        """
        return SessionResults(
            session=self.session,
            started=self.started,
            command=self.command,
            perfgate=perfgate.__version__,
            measurements=(*self.measurements(), *more),
            verdicts=tuple(verdicts),
            findings=sum(findings, Findings()),
        )

    def _tell(self, words: str) -> None:
        self.progress(words)

    def close(self) -> None:
        """Stops what is running."""
        if self._lab is not None:
            self._lab.close()


def _silent(_words: str) -> None:
    """Nobody listens."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
