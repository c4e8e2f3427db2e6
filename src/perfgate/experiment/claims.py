"""Carries a claim out: boots both sides in turn, measures, and asks `perfgate.claims` what the data say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perfgate.catalogue import load_catalogue
from perfgate.claims import ClaimSpec, Side, judge_claim, judge_flags
from perfgate.errors import CatalogueError, InputError, ServerError
from perfgate.experiment.interleaved import SideRun, differing, run_rounds
from perfgate.findings import ClaimFinding
from perfgate.selection import Request, Target, select, user_files
from perfgate.server import DockerLauncher
from perfgate.server.spec import Value
from perfgate.statistics.planning import abba
from perfgate.targets import GpuSpec
from perfgate.verdict import invalidity

if TYPE_CHECKING:
    from perfgate.experiment.suite import Suite

DEFAULT_PAIRS = 5


def load_claims(root: Path, config: tuple[Path, ...] = ()) -> tuple[ClaimSpec, ...]:
    """The shipped claims with the user's ``[claims.NAME]`` tables over them.

    Raises:
        CatalogueError: a mistake in one of them, with file, table and key.
    """
    found = load_catalogue("claims", user_files=user_files(root, config))
    return tuple(found[name].parse(ClaimSpec) for name in found)


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
        return judge_flags(claim, running.flags_in_effect(), gpu=suite.gpu)
    if claim.old is None:
        raise InputError(f"claim {claim.name!r} has no old side")
    before, after = _targets(suite, claim, claim.old), _targets(suite, claim, claim.new)
    old = SideRun(targets=before, watched=differing(before[0].server, after[0].server))
    new = SideRun(targets=after, watched=differing(after[0].server, before[0].server))
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
    for words, side in (("old", old), ("new", new)):
        if side.problem is not None and side.refused:
            return _undecidable(suite, claim, f"the {words} side cannot be had here: {side.problem}")
        reason = side.problem or next(
            filter(None, (invalidity(one.boots) for one in side.measured.values())), None
        )
        if reason is not None:
            raise ServerError(f"claim {claim.name}, {words} side: {reason}")
    found = judge_claim(claim, old.measured, new.measured, gpu=suite.gpu, noise=suite.noise)
    if made < pairs:
        note = f"{made} of {pairs} pairs were measured (--max-minutes)"
        found = found.model_copy(update={"notes": (*found.notes, note)})
    return found


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
    asked = Request(
        gpu=suite.gpu,
        model=options.model or model,
        servers=(side.server,),
        workloads=tuple(workloads),
        vllm_args=(*options.vllm_args, *map(_flag, side.args.items())),
        env=(*options.env, *(f"{variable}={value}" for variable, value in side.env.items())),
        python=options.python,
        boot_timeout_s=options.boot_timeout_s,
    )
    try:
        return select(asked, suite.catalogues)
    except InputError as error:
        raise CatalogueError(f"{name!r}: {error.message}", remedy=error.remedy) from error


def _flag(setting: tuple[str, Value]) -> str:
    name, value = setting
    if value is True:
        return f"--{name}"
    if value is False:
        return f"--no-{name}"
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
