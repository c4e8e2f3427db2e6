"""The two sides of an A/B: what is judged, and what it is judged against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from perfgate.errors import InputError
from perfgate.records import Baseline, Measurement
from perfgate.selection import Catalogues, Target
from perfgate.server import ServerSpec
from perfgate.server.secrets import MASK
from perfgate.server.spec import Launcher

_SOFTWARE = ("vllm", "torch", "triton", "cuda", "image_digest")


def against(target: Target, *, environment: str | None, server: str | None, catalogues: Catalogues) -> Target:
    """The side that an A/B compares with, as asked for on the command line.

    Args:
        target: the side that is judged.
        environment: another Python (for a local launcher) or another image (for docker).
        server: another server entry.
        catalogues: where that entry is.

    Raises:
        InputError: an unknown entry, no such Python, or a launcher that neither applies to.
    """
    if server is not None:
        other = catalogues.servers[server].parse(ServerSpec)
        return replace(target, server=other, changes=())
    if environment is None:
        raise InputError(
            "an A/B needs another side", remedy="Give --against PYTHON|IMAGE or --against-server NAME."
        )
    launcher = target.server.launcher
    changed: Launcher
    if launcher.kind == "local":
        if not Path(environment).is_file():
            raise InputError(
                f"--against {environment}: no such file",
                remedy="Give the Python of the environment with the other vLLM, such as /opt/vllm-old/bin/python.",
            )
        changed = launcher.model_copy(update={"python": environment})
    elif launcher.kind == "docker":
        changed = launcher.model_copy(update={"image": environment})
    else:
        raise InputError(
            f"server {target.server.name!r} is attached: perfgate cannot boot another version of it",
            remedy="Give --against-server NAME with another entry.",
        )
    return replace(target, server=target.server.model_copy(update={"launcher": changed}))


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
