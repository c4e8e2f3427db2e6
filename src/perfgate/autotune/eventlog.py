"""Appending to an events file, for the recorder inside vLLM: the standard library only, so that loading it costs an engine nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "PERFGATE_AUTOTUNE_EVENTS"
"""The environment variable that names the file and, by being set, enables the recorder."""


def append(path: Path, event: dict[str, Any]) -> None:
    """Append one event; never raises, because the caller is somebody else's engine."""
    try:
        line = json.dumps(event, ensure_ascii=True) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode("ascii"))
        finally:
            os.close(descriptor)
    except (OSError, TypeError, ValueError):
        return
