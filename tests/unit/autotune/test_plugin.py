"""The recorder in a live process: real Triton, an emulated device, real events."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perfgate.autotune.eventlog import VARIABLE
from perfgate.autotune.events import Event, describe, late_events, read_events

CHILD = Path(__file__).with_name("triton_child.py")
TIMEOUT_S = 240


def run(events: Path, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the child, or a script, with the recorder enabled."""
    command = [sys.executable, *(["-c", script] if script else [str(CHILD)]), *arguments]
    environment = os.environ | {VARIABLE: str(events), "TRITON_CACHE_DIR": str(events.parent / "cache")}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.fixture(scope="module", params=["listener", "wrapper"])
def events(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Event, ...]:
    """Events of the child, by Triton's listener and by the wrapper for releases that have none."""
    path = tmp_path_factory.mktemp(request.param) / "events.jsonl"
    done = run(path, request.param)
    assert done.returncode == 0, done.stderr
    return read_events(path)


def test_every_autotuned_key_is_one_event(events: tuple[Event, ...]) -> None:
    """Two keys give two events with winner, timings of each configuration, the failed one and the duration; a repeated key none."""
    tuned = [event for event in events if event.kind == "autotune"]
    assert [event.kernel for event in tuned] == ["add_one", "add_one"]
    assert [event.key[0] for event in tuned] == ["64", "33"]
    for event in tuned:
        assert "num_warps: 1" in event.winner
        assert len(event.timings_ms) == 3
        assert event.failed == 1
        assert sum(timing == 0.25 for timing in event.timings_ms.values()) == 2
        assert event.duration_s is not None
        assert event.duration_s > 0
        assert not event.cache_hit


def test_every_compile_is_one_event(events: tuple[Event, ...]) -> None:
    """Three configurations for each of two specialisations are compiled, and each says how long it took."""
    compiled = [event for event in events if event.kind == "jit"]
    assert len(compiled) == 6
    assert {event.kernel for event in compiled} == {"add_one"}
    assert all(event.duration_s is not None and event.duration_s > 0 for event in compiled)


def test_the_recorder_says_that_it_was_there(events: tuple[Event, ...]) -> None:
    """The first event is a start with Triton's version: without it no event would prove nothing."""
    assert events[0].kind == "start"
    assert events[0].triton == importlib.metadata.version("triton")


def test_events_after_ready_are_late(events: tuple[Event, ...]) -> None:
    """By the server's own readiness time, what was benchmarked or compiled afterwards is late and described with its kernel."""
    assert late_events(events) == ()
    late = late_events(events, ready_at=events[0].time)
    assert len(late) == 8
    assert "add_one benchmarked in" in describe(late)
    assert "1 configurations failed" in describe(late)
    quick = late[0].model_copy(update={"duration_s": 0.0027})
    assert " in 2.7 ms in process " in describe([quick])


def test_vllm_finds_the_recorder() -> None:
    """The entry point that vLLM loads in each of its processes is declared by the installed distribution."""
    (entry,) = [
        entry
        for entry in importlib.metadata.entry_points(group="vllm.general_plugins")
        if entry.name == "perfgate_recorder"
    ]
    assert entry.value == "perfgate.autotune.plugin:register"


def test_without_the_variable_nothing_is_touched(tmp_path: Path) -> None:
    """Inert: Triton is not even imported, and no file appears."""
    script = (
        "import sys, os; from perfgate.autotune.plugin import register; register(); "
        "assert 'triton' not in sys.modules and 'pydantic' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


WORKER = """
import sys, types
sys.path.insert(0, {folder!r})
from perfgate.autotune.plugin import register
register()
import vllm.v1.worker.gpu_worker as module
class Derived(module.Worker):
    pass
assert Derived().compile_or_warm_up_model(3) == 6
"""


@pytest.mark.parametrize("forked", [False, True])
def test_ready_is_the_end_of_the_workers_last_step(tmp_path: Path, forked: bool) -> None:
    """The worker's warm-up returns what it returned, and the file says when it ended, and in a forked process that it was watched."""
    folder = tmp_path / "lib" / "vllm" / "v1" / "worker"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").write_text("")
    (folder / "gpu_worker.py").write_text(
        "class Worker:\n    def compile_or_warm_up_model(self, x):\n        return 2 * x\n"
    )
    path = tmp_path / "events.jsonl"
    script = WORKER.format(folder=str(tmp_path / "lib"))
    if forked:
        script = script.replace(
            "register()\n", "register()\nimport os\nif os.fork():\n    sys.exit(os.wait()[1])\n", 1
        )
    done = run(path, script=script)
    assert done.returncode == 0, done.stderr
    events = read_events(path)
    *started, ready = events
    assert [event.kind for event in started] == ["start"] * (2 if forked else 1)
    assert (ready.kind, ready.pid) == ("ready", started[-1].pid)


def test_a_recorder_that_fails_says_so_and_lets_vllm_run(tmp_path: Path) -> None:
    """Where Triton is not what the recorder knows, the process goes on and reading the file is an error."""
    script = (
        "import sys, types; t = types.ModuleType('triton'); t.__path__ = []; sys.modules['triton'] = t; "
        "r = types.ModuleType('triton.runtime'); r.__path__ = []; sys.modules['triton.runtime'] = r; "
        "a = types.ModuleType('triton.runtime.autotuner'); a.Autotuner = object; sys.modules['triton.runtime.autotuner'] = a; "
        "from perfgate.autotune.plugin import register; register(); print('alive')"
    )
    path = tmp_path / "events.jsonl"
    done = run(path, script=script)
    assert done.stdout.strip() == "alive"
    with pytest.raises(Exception, match="recorder in process"):
        read_events(path)
