"""How xdist hands out tests: all tests of one server to one worker, because a server is booted once for all of them.

The server is read from the test's own name, which ends in its cell (``[gpu/model/server/workload]``) or server (``[gpu/model/server]``):
xdist's ``loadgroup`` marks test names instead, and pytest 9 no longer lets it (seen with xdist 3.8.0 on pytest 9.2.0).
"""

from __future__ import annotations

import re
from typing import Any

_SERVER = re.compile(r"\[(?P<server>[^\[\]/]+/[^\[\]/]+/[^\[\]/]+)(/[^\[\]/]+)?\]$")


def scope_of(nodeid: str) -> str:
    """What a worker takes as a whole: the server that a test belongs to, or the test itself.

    >>> scope_of("tests/test_x.py::test_x[cpu/tiny/standard/chat]")
    'cpu/tiny/standard'
    >>> scope_of("tests/test_x.py::test_y[1]")
    'tests/test_x.py::test_y[1]'
    """
    found = _SERVER.search(nodeid)
    if found is not None:
        return found["server"]
    _, mark, group = nodeid.rpartition("@")
    return group if mark and "]" not in group else nodeid


def scheduler(config: Any, log: Any) -> Any | None:
    """A scheduler for ``-n N`` (distribution ``load``) and ``--dist loadgroup``; None leaves the choice to xdist."""
    if config.getvalue("dist") not in ("load", "loadgroup"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    made: Any = LoadScopeScheduling(config, log)
    made._split_scope = scope_of
    return made
