"""The two sides of an A/B: what is judged, and what it is judged against."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from perfgate.environment import versions
from perfgate.errors import EnvironmentProbeError, InputError
from perfgate.records import Baseline, Measurement
from perfgate.selection import Catalogues, Target
from perfgate.server import ServerSpec
from perfgate.server.launch import image_digest
from perfgate.server.secrets import MASK
from perfgate.server.spec import DockerLauncher, Launcher, LocalLauncher

_GIVE_PYTHON = "Give the Python of the environment with the other vLLM, such as /opt/vllm-old/bin/python."
_SOFTWARE = ("vllm", "torch", "triton", "cuda", "image_digest")


def against(
    target: Target,
    *,
    environment: str | None,
    server: str | None,
    catalogues: Catalogues,
    model: str | None = None,
) -> Target:
    """The side that an A/B compares with, as asked for on the command line.

    Args:
        target: the side that is judged.
        environment: another Python (for a local launcher) or another image (for docker).
        server: another server entry.
        catalogues: where that entry is.
        model: what both sides serve, where it was asked for; otherwise the entries must agree.

    Raises:
        InputError: an unknown entry, no such Python, or a launcher that neither applies to.
    """
    if server is not None:
        other = catalogues.servers[server].parse(ServerSpec)
        if model is None and other.model is not None and other.model != target.cell.model:
            raise InputError(
                f"server {other.name!r} serves model {other.model!r}, {target.server.name!r} serves {target.cell.model!r}: "
                "an A/B compares servers of one model",
                remedy="Give --model NAME to serve the same on both sides.",
            )
        return replace(target, server=other, changes=())
    if environment is None:
        raise InputError(
            "an A/B needs another side", remedy="Give --against PYTHON|IMAGE or --against-server NAME."
        )
    launcher = target.server.launcher
    changed: Launcher
    if launcher.kind == "local":
        if shutil.which(str(Path(environment).expanduser())) is None:
            raise InputError(f"--against {environment}: no such program", remedy=_GIVE_PYTHON)
        changed = launcher.model_copy(update={"python": environment})
    elif launcher.kind == "docker":
        changed = launcher.model_copy(update={"image": environment})
    else:
        check_bootable(target)
    return replace(target, server=target.server.model_copy(update={"launcher": changed}))


def check_bootable(side: Target) -> None:
    """Refuses a side of an A/B that cannot be booted in turn with the other.

    Raises:
        InputError: it is attached.
    """
    if side.server.launcher.kind == "attach":
        raise InputError(
            f"server {side.server.name!r} is attached: an A/B boots both sides in turn, and of an attached one there is one boot",
            remedy="Let perfgate boot it: an entry with a local or docker launcher.",
        )


def check_side(side: Target) -> None:
    """Refuses, before minutes are spent, a side that cannot boot because its software is not there.

    Raises:
        InputError: no such interpreter, one that does not start or has no vLLM, an image that this machine does not have, or an attached
            server.
    """
    check_bootable(side)
    launcher, name = side.server.launcher, side.server.name
    if isinstance(launcher, LocalLauncher):
        try:
            found = versions(launcher.python, side.server.env)
        except EnvironmentProbeError as error:
            raise InputError(f"other side of {name!r}: {error.message}", remedy=error.remedy) from error
        if found.get("imports_vllm") is None:
            raise InputError(
                f"other side of {name!r}: {launcher.python} (Python {found.get('python')}) has no vLLM",
                remedy=_GIVE_PYTHON,
            )
    elif isinstance(launcher, DockerLauncher):
        if shutil.which(launcher.docker) is None:
            raise InputError(
                f"other side of {name!r}: no program {launcher.docker!r} on this machine",
                remedy="Install the client of the container engine, or set launcher.docker of the entry.",
            )
        if image_digest(launcher) is None:
            raise InputError(
                f"other side of {name!r}: image {launcher.image} is not on this machine, or {launcher.docker} does not answer",
                remedy=f"{launcher.docker} pull {launcher.image}, and see that {launcher.docker} info works.",
            )


def alike(side: Target, other: Target) -> str | None:
    """What both sides are, where an A/B of them can show nothing but noise; None where they differ in software or settings."""
    one, two = side.server, other.server
    if (one.args, one.env, side.model) != (two.args, two.env, other.model):
        return None
    if isinstance(one.launcher, LocalLauncher) and isinstance(two.launcher, LocalLauncher):
        software = versions(one.launcher.python, one.env)
        if software != versions(two.launcher.python, two.env):
            return None
        return f"vLLM {software.get('vllm') or 'of the same version'}"
    if isinstance(one.launcher, DockerLauncher) and one.launcher == two.launcher:
        return f"image {one.launcher.image}"
    return None


def old_side(target: Target, baseline: Baseline, now: Measurement) -> Target | str:
    """The server as it was when the baseline was recorded, or why it cannot be booted any more.

    The flags come from the baseline itself. The software is what the launcher finds today: where that is not what the baseline was
    measured with, booting it would compare the new version with itself.
    """
    changed = [
        f"{name} was {before}, is {after}"
        for name in _SOFTWARE
        if (before := getattr(baseline.fingerprint, name)) != (after := getattr(now.fingerprint, name))
    ]
    if changed:
        return f"the software of the baseline is not installed any more ({'; '.join(changed)})"
    if baseline.provenance.source != "measured" or not baseline.server:
        return f"the baseline was not measured by perfgate ({baseline.provenance.source})"
    if MASK in str(baseline.server):
        return "the baseline's server has secrets, which are not kept"
    try:
        server = ServerSpec.model_validate(baseline.server, strict=False)
    except ValidationError as error:
        return f"the baseline's server entry cannot be read: {error.errors()[0]['msg']}"
    if server.launcher.kind == "attach":
        return "the baseline's server was attached: perfgate cannot boot it"
    # Where the interpreter lives is this machine's business; the fingerprint has shown that it holds the same software.
    return replace(target, server=server.model_copy(update={"launcher": target.server.launcher}), changes=())


def same_order(sides: Sequence[Target], like: Sequence[Target]) -> list[Target]:
    """The cells of one side in the order of the other, by workload."""
    by_workload = {side.cell.workload: side for side in sides}
    return [by_workload[target.cell.workload] for target in like]
