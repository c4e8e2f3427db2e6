"""Carries a claim out: boots both sides in turn, measures, and asks `perfgate.claims` what the data say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfgate.autotune.moe import moe_in_log
from perfgate.catalogue import Entry, load_catalogue
from perfgate.claims import ClaimSpec, Side, in_words, judge_claim, judge_flags
from perfgate.errors import CatalogueError, InputError, ServerError
from perfgate.experiment.interleaved import SideRun, differing, run_rounds
from perfgate.findings import ClaimFinding
from perfgate.selection import Catalogues, Request, Target, select, user_files
from perfgate.server import DockerLauncher, RunningServer, ServerSpec
from perfgate.server.spec import Value, absolute_path
from perfgate.statistics.planning import abba
from perfgate.targets import GpuSpec, ModelSpec
from perfgate.verdict import invalidity
from perfgate.workload import WorkloadSpec

if TYPE_CHECKING:
    from perfgate.experiment.suite import Suite

DEFAULT_PAIRS = 5
TUNED_MOE = "VLLM_TUNED_CONFIG_FOLDER"
"""The variable with the folder of tuned MoE configurations."""
GOODPUT = "request_goodput"


def load_claims(root: Path, config: tuple[Path, ...] = ()) -> tuple[ClaimSpec, ...]:
    """The shipped claims with the user's ``[claims.NAME]`` tables over them.

    Raises:
        CatalogueError: a mistake in one of them, with file, table and key.
    """
    files = user_files(root, config)
    found = load_catalogue("claims", user_files=files)
    gpus = load_catalogue("gpus", user_files=files)
    claims = []
    for entry in found.values():
        claim = entry.parse(ClaimSpec)
        for gpu in claim.gpus:
            _look_up(entry, "gpus", gpus, gpu)
        claims.append(claim)
    return tuple(claims)


def check_claims(names: Collection[str], root: Path, config: tuple[Path, ...] = ()) -> None:
    """Looks up everything that claims name, before the first server is booted.

    Args:
        names: of the claims that are to be examined.
        root: where the user's file is.
        config: the files given instead.

    Raises:
        CatalogueError: an unknown server, workload or model, a setting that a server cannot be given, two sides that are the same server,
            or a metric that a workload does not have; with file, table and key.
    """
    files = user_files(root, config)
    claims, known = load_catalogue("claims", user_files=files), Catalogues.load(files)
    for name in names:
        _check(claims[name], known)


def _check(entry: Entry, known: Catalogues) -> None:
    claim = entry.parse(ClaimSpec)
    for number, one in enumerate(claim.expect):
        workload = _look_up(entry, f"expect.{number}.workload", known.workloads, one.workload)
        if one.metric == GOODPUT and not workload.parse(WorkloadSpec).slo:
            raise CatalogueError(
                f"{entry.source}: {entry.table} key 'expect.{number}.metric': workload {one.workload!r} has no slo, so it has no {GOODPUT}",
                remedy=f"Give [workloads.{one.workload}] an slo, or claim something about another metric.",
            )
    if claim.model is not None:
        _look_up(entry, "model", known.models, claim.model).parse(ModelSpec)
    servers = {
        key: _side_server(entry, key, side, known)
        for key, side in (("old", claim.old), ("new", claim.new))
        if side is not None
    }
    old, new = servers.get("old"), servers["new"]
    if (
        old is not None
        and (old.args, old.env, old.launcher) == (new.args, new.env, new.launcher)
        and (claim.model is not None or old.model == new.model)
    ):
        raise CatalogueError(
            f"{entry.source}: {entry.table} keys 'old' and 'new': {old.name!r} and {new.name!r} are the same server: flags, variables, "
            "launcher and model are equal",
            remedy="Give one side the setting that the claim is about.",
        )


def _side_server(entry: Entry, key: str, side: Side, known: Catalogues) -> ServerSpec:
    server = _look_up(entry, f"{key}.server", known.servers, side.server).parse(ServerSpec)
    try:
        return _without(server.with_changes(*_added(side)), side)
    except InputError as error:
        raise CatalogueError(
            f"{entry.source}: {entry.table} key {key!r}: {error.message}", remedy=error.remedy
        ) from error


def _look_up(entry: Entry, key: str, known: Mapping[str, Entry], name: str) -> Entry:
    try:
        return known[name]
    except InputError as error:
        raise CatalogueError(
            f"{entry.source}: {entry.table} key {key!r}: {error.message}", remedy=error.remedy
        ) from error


def not_here(suite: Suite, claim: ClaimSpec) -> str | None:
    """Why this session cannot carry the claim, or None: other hardware, no model, a file that a side mounts is not there.

    Raises:
        InputError: the claim names an unknown server, workload or model.
    """
    if claim.gpus and suite.gpu not in claim.gpus:
        return f"the claim is about {' or '.join(claim.gpus)}, this session about {suite.gpu}"
    for target in (*_targets(suite, claim, claim.old), *_targets(suite, claim, claim.new)):
        absent = suite.absent_hardware(target)
        if absent is not None:
            return absent
        missing = missing_files(target, suite.options.root)
        if missing is not None:
            return missing
    return None


def examine(suite: Suite, claim: ClaimSpec) -> ClaimFinding:
    """Measures what the claim needs and judges it; every measurement is kept in the session's results.

    Raises:
        ServerError: a side does not boot, or its measurement cannot be believed.
        InputError: a name that no catalogue has.
    """
    if claim.runs_as:
        running = suite.server(_targets(suite, claim, claim.new)[0])
        found_running = {flag: running.running_flag(flag) for flag in claim.runs_as}
        return judge_flags(claim, running.flags_in_effect(), gpu=suite.gpu, running=found_running)
    if claim.old is None:
        raise InputError(f"claim {claim.name!r} has no old side")
    before, after = _targets(suite, claim, claim.old), _targets(suite, claim, claim.new)
    both = Compared.of(before[0], after[0])
    old = SideRun(targets=before, watched=differing(before[0].server, after[0].server), check=both.check)
    new = SideRun(targets=after, watched=differing(after[0].server, before[0].server), check=both.check)
    gpu = suite.catalogues.gpus[suite.gpu].parse(GpuSpec)
    pairs = suite.options.replicates or claim.pairs or gpu.pairs or DEFAULT_PAIRS
    order = abba(pairs)
    suite.announce(f"claim {claim.name}: {pairs} interleaved pairs, {2 * pairs} boots")
    try:
        made = run_rounds(
            suite.lab,
            (old, new),
            [order[2 * pair : 2 * pair + 2] for pair in range(pairs)],
            label=f"{suite.session}-{claim.name}",
            max_minutes=suite.options.max_minutes or math.inf,
            need_all=True,
        )
    finally:
        suite.keep((*old.measured.values(), *new.measured.values()))
    if both.alike:
        return _undecidable(suite, claim, f"both sides run the same: {', '.join(both.same)}")
    for words, side in (("old", old), ("new", new)):
        if side.problem is not None and side.refused:
            return _undecidable(suite, claim, f"the {words} side cannot be had here: {side.problem}")
        reason = side.problem or next(
            filter(None, (invalidity(one.boots) for one in side.measured.values())), None
        )
        if reason is not None:
            raise ServerError(f"claim {claim.name}, {words} side: {reason}")
    found = judge_claim(claim, old.measured, new.measured, gpu=suite.gpu, noise=suite.noise)
    if both.same:
        note = f"both sides run the same {', '.join(both.same)}"
        found = found.model_copy(update={"notes": (*found.notes, note)})
    if made < pairs:
        note = f"{made} of {pairs} pairs were measured (--max-minutes)"
        found = found.model_copy(update={"notes": (*found.notes, note)})
    return found


@dataclass(kw_only=True)
class Compared:
    """Whether two sides, once they run, differ in what they were to differ in: a default may be what the other side asks for."""

    flags: tuple[str, ...]
    """That the sides differ in, without ``no-``."""
    variables: tuple[str, ...]
    software: bool
    """The sides also differ in their software or model, so that equal settings are no equal servers."""
    seen: list[dict[str, str]] = field(default_factory=list)
    """What runs on each side, where the server says."""

    @classmethod
    def of(cls, old: Target, new: Target) -> Compared:
        """Before anything is booted."""
        one, two = old.server, new.server
        names = dict.fromkeys((*differing(one, two), *differing(two, one)))
        variables = tuple(name for name in names if name in one.env or name in two.env)
        flags = (name.removeprefix("no-") for name in names if name not in variables)
        return cls(
            flags=tuple(dict.fromkeys(flags)),
            variables=variables,
            software=(one.launcher, old.model) != (two.launcher, new.model),
        )

    @property
    def same(self) -> tuple[str, ...]:
        """The settings that run as the same on both sides, in words."""
        if len(self.seen) < 2 or self.software:
            return ()
        one, two = self.seen
        return tuple(f"{name} {value}" for name, value in one.items() if two.get(name) == value)

    @property
    def alike(self) -> bool:
        """Whether nothing is left in which the sides differ."""
        return bool(self.same) and len(self.same) == len(self.flags) + len(self.variables)

    def check(self, running: RunningServer) -> str | None:
        """Reads the settings off a side's first boot; why it is not to be measured, or None."""
        found: dict[str, Any] = {}
        for name in self.flags:
            found.update({f"--{name}": value for value in running.running_flag(name)[:1]})
        for name in self.variables:
            found[name] = running.running_variable(name)
        self.seen.append({name: in_words(value) for name, value in found.items() if value is not None})
        if self.alike:
            return "it runs the same as the other side"
        return untuned(running) if TUNED_MOE in self.variables else None


def untuned(running: RunningServer) -> str | None:
    """Why a server with a folder of tuned MoE configurations is not one that uses them, by its own log; None where it does or has none."""
    folder = running.spec.env.get(TUNED_MOE)
    if folder is None:
        return None
    inside = f"{absolute_path(folder).rstrip('/')}/"
    spoken = moe_in_log(running.log.text() if running.log is not None else "")
    if any(one.used and one.path.startswith(inside) for one in spoken):
        return None
    looked_for = ", ".join(one.file for one in spoken)
    said = (
        f"the log speaks of {looked_for}, not from there" if spoken else "the log names no MoE configuration"
    )
    return f"no tuned MoE configuration of {folder} is used: {said}"


def _undecidable(suite: Suite, claim: ClaimSpec, reason: str) -> ClaimFinding:
    return ClaimFinding(
        claim=claim.name,
        text=claim.text,
        source=claim.source,
        gpu=suite.gpu,
        answer="undecidable",
        reason=reason,
    )


def _targets(suite: Suite, claim: ClaimSpec, side: Side | None) -> tuple[Target, ...]:
    if side is None:
        return ()
    found = side_targets(suite, claim.name, side, model=claim.model, workloads=claim.workloads)
    return found if claim.workloads else found[:1]


def side_targets(
    suite: Suite, name: str, side: Side, *, model: str | None, workloads: Sequence[str]
) -> tuple[Target, ...]:
    """The cells of one side: its server with the command line's settings and its own on top.

    Args:
        suite: the session.
        name: of the entry that the side belongs to, for messages.
        side: the server and its settings.
        model: the entry's; the command line's comes first.
        workloads: the GPU's own where there are none.

    Raises:
        CatalogueError: a name that no catalogue has.
    """
    options = suite.options
    flags, variables = _added(side)
    asked = Request(
        gpu=suite.gpu,
        model=options.model or model,
        servers=(side.server,),
        workloads=tuple(workloads),
        vllm_args=(*options.vllm_args, *flags),
        env=(*options.env, *variables),
        python=options.python,
        boot_timeout_s=options.boot_timeout_s,
    )
    try:
        return tuple(
            replace(target, server=_without(target.server, side))
            for target in select(asked, suite.catalogues)
        )
    except InputError as error:
        raise CatalogueError(f"{name!r}: {error.message}", remedy=error.remedy) from error


def _added(side: Side) -> tuple[list[str], list[str]]:
    """The flags and variables that a side sets, as a command line has them."""
    flags = [_flag(name, value) for name, value in side.args.items() if value is not False]
    return flags, [f"{name}={value}" for name, value in side.env.items() if value is not False]


def _without(server: ServerSpec, side: Side) -> ServerSpec:
    """The server without the settings that the side takes away by false."""
    flags = {name for name, value in side.args.items() if value is False}
    variables = {name for name, value in side.env.items() if value is False}
    for name in sorted(flags - set(server.args)):
        raise InputError(
            f"server {server.name!r} has no --{name} that false could take away",
            remedy=f"For --no-{name} write no-{name} = true.",
        )
    for name in sorted(variables - set(server.env)):
        raise InputError(
            f"server {server.name!r} has no {name} that false could take away", remedy="Leave it out."
        )
    return server.model_copy(
        update={
            "args": {name: value for name, value in server.args.items() if name not in flags},
            "env": {name: value for name, value in server.env.items() if name not in variables},
        }
    )


def _flag(name: str, value: Value) -> str:
    if value is True:
        return f"--{name}"
    return f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"


def missing_files(target: Target, root: Path) -> str | None:
    """A hub model that is in no cache of this machine, or a mount or path in a variable that does not exist; None for everything there."""
    launcher = target.server.launcher
    if launcher.kind == "attach":
        return None
    for name, value in target.server.env.items() if launcher.kind == "local" else ():
        if value.startswith(("./", "../", "~/")) and not (root / Path(value).expanduser()).exists():
            return f"{name} of server {target.server.name} is {value}, which is not there"
    if isinstance(launcher, DockerLauncher):
        for mount in launcher.mounts:
            source = mount.split(":")[0]
            if source.startswith((".", "/", "~")) and not (root / Path(source).expanduser()).exists():
                return f"server {target.server.name} mounts {source}, which is not there"
    model = target.model
    if model.kind != "hub" or model.id is None or (root / Path(model.id).expanduser()).is_dir():
        return None
    if model.id.startswith((".", "/", "~")):
        return f"model {model.name}: no folder {model.id}"
    cache = hub_cache()
    if (cache / f"models--{model.id.replace('/', '--')}").is_dir():
        return None
    return f"model {model.id} is not on this machine ({cache})"


def hub_cache() -> Path:
    """Where the Hugging Face client keeps downloaded models."""
    given = os.environ.get("HF_HUB_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("HF_HOME")
    return Path(home) / "hub" if home else Path.home() / ".cache" / "huggingface" / "hub"
