"""One child process per emulated GPU: start it, give it a deadline, reap it, read its answer.

A child answers all cells of its GPU after one import of vLLM. Its standard streams belong to vLLM's logs; the answer comes in a
file that exists only when complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from perfgate.errors import CoverageError, InputError

TIMEOUT_S = 600.0
_TAIL_LINES = 12
_GRACE_S = 5.0
_POLL_S = 0.2

# vLLM's source goes first, ours last: the interpreter may be another environment's, and only `perfgate` is to come from here, also where
# that environment has one (for the recorder), which may be of another release. Of a source's folder only `vllm` is seen (through a link),
# for it may be another environment's site-packages. On Linux the child dies with the thread that started it (PR_SET_PDEATHSIG, SIGKILL):
# a caller that was killed cannot hold it to its deadline.
_BOOTSTRAP = (
    "import ctypes; getattr(ctypes.CDLL(None), 'prctl', lambda *_: 0)(1, 9); "
    "import sys; s, p, q, a = sys.argv[1:5]; sys.path.insert(0, p); import perfgate; sys.path.remove(p); "
    "s and sys.path.insert(0, s); sys.path.append(p); "
    "import importlib; sys.exit(importlib.import_module(sys.argv[5]).main(q, a))"
)
EMULATED = "perfgate.autotune.runner"
ON_DEVICE = "perfgate.autotune.device"


def source_root(vllm_source: Path | None) -> Path | None:
    """The folder to put on the import path for ``--vllm-source``: the one that contains ``vllm/``.

    Raises:
        InputError: there is no vLLM in it.
    """
    if vllm_source is None:
        return None
    resolved = vllm_source.expanduser().resolve()
    for root in (resolved, resolved.parent):
        if _has_vllm(root) and (root == resolved or resolved.name == "vllm"):
            return root
    if resolved.is_file():
        unpack = "tar xf {} -C DIR" if resolved.name.endswith((".tar.gz", ".tgz")) else "unzip {} -d DIR"
        raise InputError(
            f"--vllm-source {vllm_source} is a file, not a folder",
            remedy=f"Unpack it and give the folder: {unpack.format(vllm_source)}.",
        )
    if not resolved.is_dir():
        raise InputError(
            f"--vllm-source {vllm_source}: there is no such folder",
            remedy=f"Give the folder of an unpacked vLLM wheel: {_UNPACK}.",
        )
    inside = [entry.name for entry in sorted(resolved.iterdir()) if _has_vllm(entry)]
    packed = [entry.name for entry in sorted(resolved.iterdir()) if entry.name.endswith((".whl", ".tar.gz"))]
    raise InputError(
        f"--vllm-source {vllm_source}: no vllm/__init__.py there",
        remedy=f"Did you mean {vllm_source / inside[0]}?"
        if inside
        else f"Unpack {vllm_source / packed[0]} and give its folder."
        if packed
        else f"Give the folder of an unpacked vLLM wheel: {_UNPACK}.",
    )


_UNPACK = "unzip vllm-*.whl -d DIR"


def _has_vllm(folder: Path) -> bool:
    return (folder / "vllm" / "__init__.py").is_file()


def ask(
    request: Mapping[str, Any],
    *,
    vllm_source: Path | None = None,
    python: str | None = None,
    timeout_s: float = TIMEOUT_S,
    entry: str = EMULATED,
    environment: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Run one request in a child of its own.

    Args:
        request: ``gpu`` (fields of `emulation.EmulatedGpu`), ``cells`` and optionally ``moe``; or what ``entry`` asks for.
        vllm_source: folder that contains the ``vllm`` package to examine; the interpreter's own where not given.
        python: the interpreter that has vLLM's dependencies; this one where not given.
        timeout_s: deadline for the whole request, seconds.
        entry: the module whose ``main`` answers: `EMULATED` or `ON_DEVICE`.
        environment: more variables for the child.
        stop: set by another thread, it ends the child as its deadline would.

    Raises:
        InputError: there is no such interpreter, or no vLLM in the source.
        CoverageError: the child failed, was killed at the deadline, or left no answer; with the end of what it wrote.
    """
    root, interpreter = source_root(vllm_source), _interpreter(python)
    with tempfile.TemporaryDirectory(prefix="perfgate-coverage-") as folder:
        work = Path(folder)
        question, answer, log = work / "request.json", work / "answer.json", work / "output.log"
        question.write_text(json.dumps(dict(request)), encoding="utf-8")
        ours = Path(__file__).resolve().parents[2]
        source = work / "source"
        if root is not None:
            source.mkdir()
            (source / "vllm").symlink_to(root / "vllm", target_is_directory=True)
        command = [
            interpreter,
            "-c",
            _BOOTSTRAP,
            str(source) if root is not None else "",
            str(ours),
            str(question),
            str(answer),
            entry,
        ]
        kept = _environment(work, own_python=python is None, devices=entry == ON_DEVICE)
        status = _run(
            command, work, log, timeout_s, kept | dict(environment or {}), stop or threading.Event()
        )
        what = f"emulates {request['gpu']['name']}" if entry == EMULATED else "runs on the GPU"
        if status is None:
            raise CoverageError(
                f"the process that {what} did not answer within {timeout_s:g} s",
                remedy=f"Its last output:\n{_tail(log)}",
            )
        if not answer.is_file():
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise CoverageError(
                f"the process that {what} {how} and left no answer",
                remedy=f"Its last output:\n{_tail(log)}",
            )
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        found["output"] = _tail(log)
        return found


def _interpreter(python: str | None) -> str:
    """The Python to start, as the caller's folder sees it: the child runs in another."""
    if python is None:
        return sys.executable
    # As text: a Path forgets the "." of ./python, which keeps it off the search path.
    found = shutil.which(os.path.expanduser(python))  # noqa: PTH111
    if found is None:
        raise InputError(
            f"--python {python}: there is no such program, or it cannot be run",
            remedy="Give the interpreter that has vLLM's dependencies: /opt/vllm/bin/python.",
        )
    # Not resolved: a virtual environment is known by the link's own place.
    return str(Path(found).absolute())


def ask_all(
    requests: Sequence[Mapping[str, Any]],
    *,
    vllm_source: Path | None = None,
    python: str | None = None,
    timeout_s: float = TIMEOUT_S,
    workers: int | None = None,
) -> list[dict[str, Any] | CoverageError]:
    """`ask` for several GPUs, as many at a time as there are cores (or ``workers``); answers in the order of the requests.

    A child that fails is its error in the place of its answer, so that the others' answers are not lost. Ctrl-C ends them all.
    """
    stop = threading.Event()
    at_once = workers or max(1, min(len(requests), os.cpu_count() or 1))
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        futures = [
            pool.submit(ask, request, vllm_source=vllm_source, python=python, timeout_s=timeout_s, stop=stop)
            for request in requests
        ]
        try:
            return [_answer_or_error(future) for future in futures]
        except BaseException:
            # Children have sessions of their own, which a terminal's Ctrl-C does not reach; the pool would wait for them.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _answer_or_error(future: Future[dict[str, Any]]) -> dict[str, Any] | CoverageError:
    try:
        return future.result()
    except CoverageError as error:
        return error


def _run(
    command: Sequence[str],
    work: Path,
    log: Path,
    timeout_s: float,
    environment: Mapping[str, str],
    stop: threading.Event,
) -> int | None:
    """The child's exit status; None when it was ended at the deadline or by ``stop``. The child and its children are gone afterwards."""
    deadline = time.monotonic() + timeout_s
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=work,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(min(left, _POLL_S))
            return None
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
            if number == signal.SIGKILL or child.returncode is not None:
                break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


_REMOVED = (
    "PERFGATE_AUTOTUNE_EVENTS",
    "PYTHONOPTIMIZE",
    "PYTHONWARNINGS",
    "TRITON_CACHE_AUTOTUNING",
    "TRITON_INTERPRET",
    "TRITON_OVERRIDE_ARCH",
    "VLLM_PLUGINS",
    "VLLM_TARGET_DEVICE",
    "VLLM_TRITON_FORCE_FIRST_CONFIG",
)


def _environment(work: Path, *, own_python: bool, devices: bool) -> dict[str, str]:
    """The caller's environment without what would change keys, with empty caches and one thread."""
    removed = [*_REMOVED]
    if not own_python:
        removed.append("PYTHONPATH")
    if not devices:
        removed.append("CUDA_VISIBLE_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
        "TRITON_CACHE_DIR": str(work / "triton"),
        "VLLM_CACHE_ROOT": str(work / "vllm"),
        "VLLM_CONFIGURE_LOGGING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(nothing)"
    return "\n".join(line[:300] for line in lines[-_TAIL_LINES:]) or "(nothing)"
