"""Finds the settings that make a confirmed difference, on real boots: which subset next, how long it may take, what is kept of it.

The boots of the A/B that confirmed the difference are the search's first ones. The search itself is `perfgate.statistics.attribution`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from perfgate.errors import BootError, BootTimeoutError, InputError, ServerError
from perfgate.experiment.attribution_pins import moved_pins
from perfgate.experiment.attribution_record import Log, record
from perfgate.experiment.attribution_settings import Setting, applied, differences
from perfgate.experiment.attribution_together import together
from perfgate.experiment.confirm import Measured, questions_of
from perfgate.experiment.lab import Lab
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel
from perfgate.records import Attribution, CellVerdict, Measurement, Outcome, replicates
from perfgate.selection import Catalogues, Request, Target, select
from perfgate.server import ServerSpec, moved_settings
from perfgate.shortening import shortened
from perfgate.statistics.attribution import Search
from perfgate.statistics.attribution_evidence import Response, SearchPolicy
from perfgate.statistics.attribution_findings import Findings
from perfgate.statistics.attribution_forecast import MOST_SIMULATED, forecast, smallest_effect
from perfgate.statistics.attribution_units import Boot, Key
from perfgate.verdict import boot_means, invalidity

UNBELIEVED = 3
"""Boots that cannot be believed after which a search ends."""
FORECASTS = 4
"""Simulated searches from which the plan's number of boots is taken."""


def entry(target: Target, request: Request, catalogues: Catalogues) -> Target:
    """The cell on the server's entry without the changes of the command line: the old side of their attribution.

    Args:
        target: the cell with the changes.
        request: what was asked for, the changes included.
        catalogues: where the entry is.

    Raises:
        InputError: there are no changes, or they ask for what the entry has, so there is no difference to attribute.
    """
    if not target.changes:
        raise InputError(
            f"--attribute: nothing differs from server entry {target.server.name!r}",
            remedy="Give the changes (--vllm-arg, --env), another entry (--against-server NAME) or another version (--against PYTHON).",
        )
    plain = select(replace(request, servers=(target.cell.server,), vllm_args=(), env=()), catalogues)
    found = next(one for one in plain if one.cell == target.cell)
    try:
        differences(found.server, target.server)
    except InputError as error:
        raise InputError(
            f"--attribute: with {' '.join(target.changes)} nothing differs from server entry {target.server.name!r}: {error.message}",
            remedy=error.remedy,
        ) from error
    return found


@dataclass(kw_only=True)
class Attributor:
    """Carries a search out on the cells of one server.

    Args:
        lab: boots and measures.
        noise: the noise model, if there is one.
        tell: told the plan and each boot, in words.
        max_minutes: bound on the search, beyond the A/B.
        policy: constants of the search.
    """

    lab: Lab
    noise: NoiseModel | None
    tell: Callable[[str], None]
    max_minutes: float = math.inf
    policy: SearchPolicy = field(default_factory=SearchPolicy)

    def attribute(
        self,
        old: Sequence[Target],
        new: Sequence[Target],
        verdicts: Mapping[str, CellVerdict],
        fresh: Measured,
        *,
        versions: bool,
        label: str,
        keep: Callable[[Mapping[str, Attribution]], None],
    ) -> None:
        """Searches after an A/B; what was found by workload is handed to ``keep``, also when the search breaks off.

        Args:
            old: cells of the old side.
            new: cells of the new side, in the same order.
            verdicts: of the A/B, by workload.
            fresh: what it measured.
            versions: whether the sides are two versions: then defaults that moved are pinned on the new one.
            label: part of the prompts' seed.
            keep: takes the result.

        Raises:
            InputError: the sides do not differ in a setting, or cannot be booted with some of them.
        """
        begun = time.monotonic()
        notes: list[str] = []
        # A cell whose A/B cannot be believed has nothing to attribute; its server's other cells may.
        believed = [cell for cell in new if verdicts[cell.cell.workload].outcome is not Outcome.INVALID]
        if not believed:
            return
        if versions:
            settings, notes = self._pins(old[0], new[0], fresh)
        else:
            settings = differences(old[0].server, new[0].server)
        # A gain is traced where nothing is slower: what is wrong comes first, and the two would share their boots badly.
        direction: Literal["slower", "faster"] = "slower"
        asked = self._asked(new, verdicts, Outcome.REGRESSION)
        if not asked and (gains := self._asked(new, verdicts, Outcome.IMPROVEMENT)):
            direction, asked = "faster", gains
        traced = {response.key[0] for response in asked}
        log = Log(
            kind="versions" if versions else "settings", settings=settings, notes=notes, direction=direction
        )
        log.ab_boots = _ab_boots(fresh)
        for side, words in ((fresh.old, ()), (fresh.new, [setting.words for setting in settings])):
            log.size(words, side)

        def found(findings: Findings | None) -> dict[str, Attribution]:
            log.minutes = (time.monotonic() - begun) / 60 if log.boots else 0.0
            return {
                cell.cell.workload: record(
                    log,
                    findings,
                    cell,
                    fresh,
                    confirmed=str(cell.cell) in traced,
                    verdict=verdicts[cell.cell.workload],
                )
                for cell in believed
            }

        if not asked or not settings:
            self.tell(
                "attribution: no difference is confirmed, so no setting is named"
                if not asked
                else f"attribution: no default that a flag can set has moved; what is {direction} is in the code"
            )
            keep(found(None))
            return
        run = _Run(
            attributor=self,
            base=(new if versions else old)[0].server,
            cells=new,
            settings=settings,
            sign=1 if versions == (direction == "faster") else -1,
            log=log,
            label=label,
            deadline=begun + 60 * self.max_minutes,
        )
        try:
            findings = run.search(asked, fresh, versions=versions)
        except BaseException:
            # Ctrl-C, or a machine that fails: each boot took a minute or more, and what they say stays true.
            log.notes.append("broken off before everything was explained")
            log.stopped = "interrupted"
            keep(found(run.known()))
            raise
        keep(found(findings))

    def _asked(
        self, new: Sequence[Target], verdicts: Mapping[str, CellVerdict], outcome: Outcome
    ) -> list[Response]:
        """The primary metrics of runs that the A/B confirmed to have changed so."""
        found: list[Response] = []
        for cell in new:
            verdict = verdicts.get(cell.cell.workload)
            names = [
                metric.metric
                for metric in (verdict.metrics if verdict is not None else ())
                if metric.primary and metric.outcome is outcome and METRICS[metric.metric].of == "run"
            ]
            found += [
                Response(
                    key=one.key,
                    tolerance=one.tolerance,
                    margin=one.margin,
                    prior=one.prior,
                    trend=max(0.01, one.drift.sd) if one.drift is not None else 0.01,
                )
                for one in questions_of(cell, self.noise, names)
            ]
        return found

    def _pins(self, old: Target, new: Target, fresh: Measured) -> tuple[tuple[Setting, ...], list[str]]:
        workload = new.cell.workload
        before, after = (_settings(side.get(workload)) for side in (fresh.old, fresh.new))
        if not before or not after:
            return (), ["the servers do not tell their resolved configuration, so no default can be compared"]
        changes = moved_settings(before, after, asked_before=old.server.args, asked_after=new.server.args)
        settings, cannot = moved_pins(changes, new.server)
        return settings, list(cannot)


@dataclass(kw_only=True)
class _Run:
    """One search while it goes on."""

    attributor: Attributor
    base: ServerSpec
    cells: Sequence[Target]
    settings: tuple[Setting, ...]
    sign: int
    """+1 where applying the settings is expected to slow, −1 where to speed up: what a search looks for is always an increase."""
    log: Log
    label: str
    deadline: float
    unbelieved: int = 0
    searched: Search | None = None

    def known(self) -> Findings | None:
        """What the boots so far say."""
        return self.searched.findings() if self.searched is not None else None

    def search(self, asked: Sequence[Response], fresh: Measured, *, versions: bool) -> Findings | None:
        """Boots until the search is over, the time is, or boots cannot be believed; None where everything together does not boot."""
        keys = [response.key for response in asked]
        known = self._pinned(keys) if versions else self._known(keys, fresh)
        if not known:
            return None
        pairs = len(next(iter(fresh.new.values())).boots)
        search = Search(
            len(self.settings),
            asked,
            groups=_groups(self.settings),
            confirmed=not versions,
            pairs=pairs,
            policy=self.attributor.policy,
        )
        for boot in known:
            search.add(boot)
        self.searched = search
        self._announce(search)
        while (chosen := search.next()) is not None:
            if not self._in_time():
                self._out_of_time()
                break
            boot, _ = self._boot(chosen, keys)
            search.add(boot)
            if self.unbelieved >= UNBELIEVED:
                self.log.notes.append(f"ended after {UNBELIEVED} boots that cannot be believed")
                self.log.stopped = "unbelieved"
                break
        return search.findings()

    @property
    def _runs(self) -> int:
        return sum(cell.workload.runs for cell in self.cells)

    def _known(self, keys: Sequence[Key], fresh: Measured) -> list[Boot]:
        """The boots of the A/B, in the order they were made."""
        found: list[tuple[float, Boot]] = []
        for side, applied_items in (
            (fresh.old, frozenset[int]()),
            (fresh.new, frozenset(range(len(self.settings)))),
        ):
            first = next(iter(side.values()))
            for number, one in enumerate(first.boots):
                each = {
                    workload: measurement.model_copy(update={"boots": (measurement.boots[number],)})
                    for workload, measurement in side.items()
                }
                begun = one.started.timestamp() if one.started else float(number)
                found.append((begun, Boot(applied=applied_items, values=self._values(each, keys))))
        return [boot for _, boot in sorted(found, key=lambda pair: pair[0])]

    def _values(self, measured: Mapping[str, Measurement], keys: Sequence[Key]) -> dict[Key, float]:
        workloads = {str(cell.cell): cell.cell.workload for cell in self.cells}
        values: dict[Key, float] = {}
        for key in keys:
            measurement = measured[workloads[key[0]]]
            if invalidity(measurement.boots) is None:
                means = boot_means(replicates(measurement.boots, key[1]))
                if means:
                    values[key] = self.sign * METRICS[key[1]].sign * math.fsum(means) / len(means)
        return values

    def _boot(self, chosen: frozenset[int], keys: Sequence[Key]) -> tuple[Boot, str]:
        """One boot with some settings, by their numbers; and why it did not come up, empty where it did."""
        picked = [setting for number, setting in enumerate(self.settings) if number in chosen]
        return self._boot_with(picked, chosen, keys)

    def _boot_with(
        self, picked: Sequence[Setting], chosen: frozenset[int], keys: Sequence[Key]
    ) -> tuple[Boot, str]:
        server = applied(self.base, picked, like=self.cells[0].server)
        targets = [replace(cell, server=server) for cell in self.cells]
        number, begun = len(self.log.boots), time.monotonic()
        lab = self.attributor.lab
        lab.close()
        problem = ""
        measured: dict[str, Measurement] = {}
        try:
            measured = lab.measure(targets, replicates=1, label=f"{self.label}-attribute-{number}")
        except (BootError, BootTimeoutError) as error:
            problem = f"does not boot: {error.message}"
        except ServerError as error:
            problem = error.message
        failed = problem.startswith("does not boot")
        values = self._values(measured, keys) if measured else {}
        if measured and not values:
            problem = invalidity(next(iter(measured.values())).boots) or "no metric could be measured"
        self.unbelieved += bool(problem) and not failed
        minutes = (time.monotonic() - begun) / 60
        self.log.add(picked, measured, keys, minutes=minutes, problem=problem)
        said = ", ".join(shortened(setting.words) for setting in picked) or "none of the settings"
        self.attributor.tell(
            f"attribution boot {number + 1}: {said}{f': {problem.splitlines()[0]}' if problem else ''}"
        )
        return Boot(applied=chosen, values=values, failed=failed), problem

    def _pinned(self, keys: Sequence[Key]) -> list[Boot]:
        """The first boot with every pin that can be set; empty where there is none.

        The boots of the A/B are no part of the search: all of them are older than the first with a pin, and a machine that has changed
        since would be taken for the pins. Nothing and everything pinned are booted by turns.
        """
        found = together(self.settings, lambda some: self._boot_with(some, frozenset(), keys), self._in_time)
        self.log.notes += [f"cannot be set on the new version: {shortened(s.words)}" for s in found.left_out]
        if found.boot is not None:
            self.settings = self.log.settings = found.settings
            return [found.boot]
        if self._in_time():
            self.log.notes.append("the moved defaults cannot be pinned together on the new version")
            self.log.stopped = "unpinnable"
        else:
            self._out_of_time()
        return []

    def _in_time(self) -> bool:
        lab = self.attributor.lab
        spent = _mean(lab.boot_seconds) + _mean(lab.run_seconds) * self._runs
        return time.monotonic() + spent <= self.deadline

    def _out_of_time(self) -> None:
        self.log.notes.append("the time was over (--max-minutes) before everything was explained")
        self.log.stopped = "time"

    def _announce(self, search: Search) -> None:
        lab = self.attributor.lab
        each = (_mean(lab.boot_seconds) + _mean(lab.run_seconds) * self._runs) / 60
        expected = forecast(search, FORECASTS, np.random.default_rng(0))
        rough = "about" if expected < MOST_SIMULATED else "at least"
        shown = [
            f"{METRICS[response.key[1]].label} {smallest_effect(search, response, expected):+.0%}"
            for response in search.responses
        ]
        limit = self.attributor.max_minutes
        bound = f", at most {limit:.0f} min" if math.isfinite(limit) else ""
        self.attributor.tell(
            f"attributing the difference of {self.cells[0].server.name} to {len(self.settings)} settings: "
            f"{rough} {expected} boots, {expected * each:.0f} min{bound}; "
            f"tells a setting's effect of {', '.join(dict.fromkeys(shown))} or more"
        )


def _groups(settings: Sequence[Setting]) -> list[list[int]]:
    by_name: dict[str, list[int]] = {}
    for number, setting in enumerate(settings):
        if setting.group:
            by_name.setdefault(setting.group, []).append(number)
    return list(by_name.values())


def _settings(measurement: Measurement | None) -> Mapping[str, object]:
    return next((boot.settings for boot in (measurement.boots if measurement else ()) if boot.settings), {})


def _ab_boots(fresh: Measured) -> int:
    sides = [next(iter(side.values()), None) for side in (fresh.old, fresh.new)]
    return sum(len(measurement.boots) for measurement in sides if measurement is not None)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
