"""Real children for the tests of server control, and the proof that none of them is left."""

import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from perfgate.server import LocalLauncher, ModelRef, ServerSpec
from perfgate.server.process import tagged_processes

HERE = Path(__file__).parent


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that runs the misbehaving server, whatever module it is asked for."""
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\nexec {sys.executable} {HERE / "misbehaving_server.py"} "$@"\n', encoding="utf-8"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


@pytest.fixture
def model(tmp_path: Path) -> ModelRef:
    """A model folder that looks like one."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return ModelRef(name="some-model", path=str(folder))


@pytest.fixture
def spec(python: str) -> Callable[..., ServerSpec]:
    """A server entry whose server misbehaves as the words say."""

    def make(*words: str, **more: object) -> ServerSpec:
        env = {"MISBEHAVE": " ".join(words), **more.pop("env", {})}  # type: ignore[dict-item]
        defaults = {
            "name": "odd",
            "boot_timeout_s": 30.0,
            "stop_grace_s": 5.0,
            "launcher": LocalLauncher(python=python),
        }
        return ServerSpec(**{**defaults, **more, "env": env})  # type: ignore[arg-type]

    return make


@pytest.fixture
def boot_id(request: pytest.FixtureRequest) -> Iterator[str]:
    """A boot id of the test's own; when the test is over no process may carry it."""
    identity = f"test-{abs(hash(request.node.nodeid)) % 16**8:08x}"
    yield identity
    left = tagged_processes(identity)
    for member in left:
        psutil.Process(member.pid).kill()
    assert not left, f"left behind: {left}"
