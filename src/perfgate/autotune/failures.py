"""What goes wrong in a warm-up: an exception that leaves it, one that it swallows, a failure that it only logs.

Runs inside the process that emulates a GPU.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from perfgate.autotune.discovery import UnknownLayoutError


def source_files(owners: Sequence[Any]) -> frozenset[str]:
    """The files of the modules among ``owners``."""
    return frozenset(
        str(owner.__file__) for owner in owners if isinstance(owner, types.ModuleType) and owner.__file__
    )


@contextmanager
def watching(failures: list[str], files: Collection[str]) -> Iterator[None]:
    """Append what goes wrong in a warm-up: raised, swallowed inside it (in a function of ``files``), or only logged.

    An exception that leaves the warm-up does not leave this context: the replay goes on to tell which keys it cost.
    """
    logger = logging.getLogger("vllm")
    handler = _FailureLog(failures)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    before = sys.gettrace()
    sys.settrace(_exceptions_in_warm_ups(failures, files))
    try:
        yield
    except UnknownLayoutError:
        raise
    except Exception:
        failures.append("raised: " + traceback.format_exc(limit=-2).strip().replace("\n", " | "))
    finally:
        sys.settrace(before)
        logger.removeHandler(handler)
        logger.setLevel(level)


_WARM_UP = r"\bwarm(?:ing|s|ed)?[-_ ]?up"
_FAILURE = r"(?<!\bno )(?<!\b0 )(?<!\bwithout )\b(?:fail|error|exception)"
_SPOKEN = re.compile(_WARM_UP, re.IGNORECASE)
_FAILED = re.compile(f"{_WARM_UP}.*{_FAILURE}|{_FAILURE}.*{_WARM_UP}", re.IGNORECASE | re.DOTALL)


class _FailureLog(logging.Handler):
    def __init__(self, failures: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # Whatever its words, a warning about a warm-up is no reason to believe it.
        warned = record.levelno >= logging.WARNING and _SPOKEN.search(message)
        if warned or _FAILED.search(message) or (record.exc_info and record.exc_info[0] is not None):
            cause = f" ({record.exc_info[1]!r})" if record.exc_info else ""
            self._failures.append(f"logged: {message}{cause}")


def _exceptions_in_warm_ups(failures: list[str], files: Collection[str]) -> Callable[..., Any]:
    """A trace function that notes exceptions reaching a function of ``files`` or one named after warming up, caught there or not."""

    def local(frame: types.FrameType, event: str, argument: Any) -> Any:
        if event == "exception" and not issubclass(argument[0], StopIteration | GeneratorExit):
            note = f"in {frame.f_code.co_name}: {argument[0].__name__}: {argument[1]}"
            if note not in failures:
                failures.append(note)
        return local

    def trace(frame: types.FrameType, event: str, _argument: Any) -> Any:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if event == "call" and (file in files or ("warm" in name and "vllm" in file)):
            frame.f_trace_lines = False
            return local
        return None

    return trace
