"""The child that emulates a GPU: deadline, death, and where vLLM comes from."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import perfgate
from perfgate.autotune.process import ask, source_root
from perfgate.errors import CoverageError, InputError

REQUEST = {"gpu": {"name": "GB10"}, "cells": []}


def interpreter(folder: Path, body: str) -> str:
    """A stand-in for Python that does what ``body`` says; $4 is where the answer belongs."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\nshift 2\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_child_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    """No answer is never an empty answer."""
    with pytest.raises(CoverageError, match="ended with status 3") as raised:
        ask(REQUEST, python=interpreter(tmp_path, "echo last words >&2; exit 3"))
    assert "last words" in str(raised.value)


def test_a_child_past_the_deadline_is_killed_with_its_children(tmp_path: Path) -> None:
    """The deadline holds, and nothing of the process group is left."""
    pids = tmp_path / "pids"
    body = f"trap '' TERM; sleep 300 & echo $$ $! > {pids}; wait; sleep 300"
    began = time.monotonic()
    with pytest.raises(CoverageError, match="did not answer within 1 s"):
        ask(REQUEST, python=interpreter(tmp_path, body), timeout_s=1.0)
    assert time.monotonic() - began < 30
    for pid in map(int, pids.read_text().split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_interrupt_ends_every_child_at_once(tmp_path: Path) -> None:
    """Ctrl-C does not wait for children, which have sessions of their own, and none is left; those that had not begun never do."""
    script = tmp_path / "asks.py"
    folder = tmp_path / "children"
    folder.mkdir()
    python = interpreter(tmp_path, f"touch {folder}/$$; exec sleep 300")
    # What a script starts in the background ignores SIGINT, and so would everything below it.
    script.write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from perfgate.autotune.process import ask_all\nask_all([{REQUEST!r}] * 3, python={python!r}, workers=2)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE) as asking:
        try:
            began = time.monotonic()
            while len(list(folder.iterdir())) < 2 and time.monotonic() - began < 30:
                time.sleep(0.02)
            asking.send_signal(signal.SIGINT)
            _, error = asking.communicate(timeout=30)
        finally:
            asking.kill()
    assert b"KeyboardInterrupt" in error
    pids = [int(child.name) for child in folder.iterdir()]
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


def test_no_child_outlives_who_asked(tmp_path: Path) -> None:
    """A caller that is killed takes its children with it: nobody would hold them to their deadline."""
    (tmp_path / "stays.py").write_text(
        "import os, pathlib, time\n"
        "def main(question, answer):\n"
        "    path = pathlib.Path(os.environ['PID_FILE'])\n"
        "    path.with_suffix('.new').write_text(str(os.getpid()))\n"
        "    path.with_suffix('.new').rename(path)\n"
        "    time.sleep(300)\n"
    )
    known = tmp_path / "pid"
    environment = {"PYTHONPATH": str(tmp_path), "PID_FILE": str(known)}
    script = tmp_path / "asks.py"
    script.write_text(
        f"from perfgate.autotune.process import ask\nask({REQUEST!r}, entry='stays', environment={environment!r})\n"
    )
    # A caller that is killed leaves its folder behind; here it is the test's.
    with subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as asking:
        began = time.monotonic()
        while not known.exists() and time.monotonic() - began < 30:
            time.sleep(0.02)
        asking.kill()
    child = int(known.read_text())
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - began < 60
        time.sleep(0.02)


def test_the_answer_is_a_file_whatever_is_printed(tmp_path: Path) -> None:
    """Output on the standard streams is a log, not an answer."""
    body = """echo '{"cells": ["printed"]}'; echo '{"cells": ["written"]}' > "$4" """
    assert ask(REQUEST, python=interpreter(tmp_path, body))["cells"] == ["written"]


def test_the_child_sees_empty_caches_and_no_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would change keys is taken out of the environment; caches are fresh folders."""
    monkeypatch.setenv("VLLM_TRITON_FORCE_FIRST_CONFIG", "1")
    monkeypatch.setenv("PERFGATE_AUTOTUNE_EVENTS", "x")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    # An assertion that is not asked, or a warning that is an error, is another vLLM than the one that serves.
    for name in ("PYTHONOPTIMIZE", "PYTHONWARNINGS", "TRITON_OVERRIDE_ARCH"):
        monkeypatch.setenv(name, "1")
    body = (
        """printf '{"cells": ["%s%s%s", "%s"]}' "$VLLM_TRITON_FORCE_FIRST_CONFIG" "$PERFGATE_AUTOTUNE_EVENTS" """
        """"$PYTHONOPTIMIZE$PYTHONWARNINGS$TRITON_OVERRIDE_ARCH" "$TRITON_CACHE_DIR" > "$4" """
    )
    overrides, cache = ask(REQUEST, python=interpreter(tmp_path, body))["cells"]
    assert overrides == ""
    assert cache != "/elsewhere"
    assert not os.path.exists(cache)  # noqa: PTH110


def test_an_interpreter_is_found_from_where_the_caller_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means the caller's folder, though the child runs in another; a bare name is looked for on the path."""
    interpreter(tmp_path, """echo '{"cells": ["here"]}' > "$4" """)
    monkeypatch.chdir(tmp_path)
    assert ask(REQUEST, python="./python")["cells"] == ["here"]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert ask(REQUEST, python="python")["cells"] == ["here"]


def test_a_source_is_a_folder_with_vllm_or_vllm_itself(tmp_path: Path) -> None:
    """Both are what people have after unpacking; anything else is refused by name."""
    package = tmp_path / "unpacked" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert source_root(package.parent) == package.parent
    assert source_root(package) == package.parent
    assert source_root(None) is None
    with pytest.raises(InputError, match=r"no vllm/__init__.py") as raised:
        source_root(tmp_path)
    assert raised.value.remedy == f"Did you mean {tmp_path / 'unpacked'}?"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("vllm-9.9-cp38-abi3-linux_x86_64.whl", "unzip {} -d DIR"),
        ("vllm-9.9.tar.gz", "tar xf {} -C DIR"),
    ],
)
def test_a_packed_source_is_to_be_unpacked(tmp_path: Path, name: str, remedy: str) -> None:
    """A wheel or an archive is no folder, and the message has the command that makes it one; so has one for the folder it lies in."""
    packed = tmp_path / name
    packed.touch()
    with pytest.raises(InputError, match="is a file, not a folder") as raised:
        source_root(packed)
    assert remedy.format(packed) in str(raised.value.remedy)
    with pytest.raises(InputError, match=r"no vllm/__init__.py") as raised:
        source_root(tmp_path)
    assert str(packed) in str(raised.value.remedy)


def test_another_environments_perfgate_does_not_answer(tmp_path: Path) -> None:
    """The environment of vLLM may have a perfgate for the recorder, of any release: the one that asks is the one that answers."""
    (tmp_path / "perfgate").mkdir()
    (tmp_path / "perfgate" / "__init__.py").touch()
    (tmp_path / "which.py").write_text(
        "import json, perfgate\n"
        "def main(question, answer):\n"
        "    json.dump({'cells': [perfgate.__file__]}, open(answer, 'w'))\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert ask(REQUEST, python=str(python), entry="which")["cells"] == [perfgate.__file__]


def test_of_a_source_only_vllm_is_seen(tmp_path: Path) -> None:
    """The folder may be another environment's: what else is in it must not come before this environment's packages."""
    for package in ("vllm", "torch"):
        (tmp_path / "site-packages" / package).mkdir(parents=True)
        (tmp_path / "site-packages" / package / "__init__.py").touch()
    body = """printf '{"cells": ["%s", "%s"]}' "$1" "$(ls "$1")" > "$4" """
    folder, names = ask(REQUEST, python=interpreter(tmp_path, body), vllm_source=tmp_path / "site-packages")[
        "cells"
    ]
    assert names == "vllm"
    assert Path(folder) != tmp_path / "site-packages"
