"""Boots of several sides in turn, each with the check that it runs as asked: what claims and sweeps are measured by.

A side's first boot is asked what became of the settings that the side is about; a side that does not run as asked is not measured,
because its numbers would be those of something else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perfgate.errors import ServerError
from perfgate.experiment.lab import Lab
from perfgate.records import Measurement
from perfgate.selection import Target
from perfgate.server import RunningServer, ServerSpec


@dataclass(kw_only=True)
class SideRun:
    """One side while it is being measured."""

    targets: Sequence[Target]
    """Cells of one server."""
    watched: tuple[str, ...] = ()
    """Flags (long names without dashes, as the server has them) and variables that must be in effect."""
    check: Callable[[RunningServer], str | None] | None = None
    """Asked on the first boot too: why the server is not what the side is about, or None."""
    measured: dict[str, Measurement] = field(default_factory=dict)
    """By workload; its boots grow."""
    problem: str | None = None
    """Why it is not measured any further."""
    refused: bool = False
    """The problem is that a watched setting is not in effect: the server boots, but it is another one than was asked for."""
    boots: int = 0
    tries: int = 1
    """How often a boot that fails is made before the side is measured no further."""
    repeated: list[str] = field(default_factory=list)
    """Why boots failed that were made again."""

    def measure(self, lab: Lab, *, label: str) -> None:
        """One more replicate on a boot of its own; sets `problem` instead where the server does not boot or does not run as asked."""
        for left in reversed(range(self.tries)):
            lab.close()
            try:
                self._measure(lab, label=label)
            except ServerError as error:
                if left:
                    self.repeated.append(error.message)
                else:
                    self.problem = error.message
            else:
                return

    def _measure(self, lab: Lab, *, label: str) -> None:
        if self.boots == 0:
            self.problem = self._not_in_effect(lab)
            self.refused = self.problem is not None
        if self.problem is None:
            self._take(lab.measure(self.targets, replicates=1, label=label))
            self.boots += 1

    def _not_in_effect(self, lab: Lab) -> str | None:
        running = lab.server(self.targets[0], fresh=True)
        harmful = [
            report
            for report in running.flags_in_effect()
            if report.harmful and report.name.removeprefix("--") in self.watched
        ]
        if harmful:
            return "; ".join(str(report).partition("\n")[0] for report in harmful)
        return self.check(running) if self.check is not None else None

    def _take(self, fresh: dict[str, Measurement]) -> None:
        for workload, one in fresh.items():
            before = self.measured.get(workload)
            boots = (*(before.boots if before is not None else ()), *one.boots)
            self.measured[workload] = one.model_copy(update={"boots": boots})


def differing(server: ServerSpec, other: ServerSpec) -> tuple[str, ...]:
    """Flags and variables that a server has and another has not, or has with another value."""
    return (
        *(name for name, value in server.args.items() if other.args.get(name) != value),
        *(name for name, value in server.env.items() if other.env.get(name) != value),
    )


def run_rounds(
    lab: Lab,
    sides: Sequence[SideRun],
    orders: Sequence[Sequence[int]],
    *,
    label: str,
    max_minutes: float,
    need_all: bool = False,
) -> int:
    """Boots the sides round by round; sides of one round send the same prompts.

    Args:
        lab: boots and measures.
        sides: what is measured.
        orders: the sides of each round in their order, by index.
        label: part of the prompts' seed.
        need_all: a side that cannot be measured ends it, because the others alone say nothing.
        max_minutes: no round begins that would probably end after this, as far as rounds took before; the first always begins.

    Returns:
        how many rounds were made.
    """
    began = time.monotonic()
    for number, order in enumerate(orders):
        spent = time.monotonic() - began
        if number and spent * (number + 1) / number > 60 * max_minutes:
            return number
        for index in order:
            side = sides[index]
            if side.problem is None:
                side.measure(lab, label=f"{label}-{number}")
            if need_all and side.problem is not None:
                return number
    return len(orders)
