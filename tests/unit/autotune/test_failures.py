"""A warm-up that went wrong is noticed, and one that went well is believed."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from perfgate.autotune.failures import watching


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (logging.WARNING, "GDN prefill kernel warmup (T=64) failed"),
        (logging.WARNING, "GDN warm_up failed"),
        (logging.INFO, "Warming up the GDN kernels failed"),
        (logging.DEBUG, "exception during warm-up"),
        (logging.WARNING, "Could not warm up prefill kernels"),
        (logging.ERROR, "warmup aborted: out of memory"),
        (logging.WARNING, "Skipping GDN prefill kernel warmup"),
    ],
)
def test_a_warm_up_that_says_it_failed_is_noticed(level: int, message: str) -> None:
    """However it is worded: a failure at any level, and any warning that speaks of warming up."""
    failures: list[str] = []
    with watching(failures, ()):
        logging.getLogger("vllm.some.layer").log(level, message)
    assert failures == [f"logged: {message}"]


@pytest.mark.parametrize(
    "message",
    ["GDN prefill kernel warmup (T=64) completed", "Warm-up done: no failures, 0 errors", "KV cache error"],
)
def test_a_warm_up_that_says_it_is_done_is_believed(message: str) -> None:
    """A note of success that says what did not happen, and a note about something else, are no failures."""
    failures: list[str] = []
    with watching(failures, ()):
        logging.getLogger("vllm.some.layer").info(message)
    assert failures == []


SWALLOWS = """
def NAME():
    try:
        raise MemoryError("no room")
    except MemoryError:
        pass
"""


@pytest.mark.parametrize(
    ("name", "file", "noticed"),
    [
        ("_warmup_kernels", "/x/vllm/ops.py", True),
        ("_prime", "/x/vllm/layer.py", True),
        ("helper", "/x/vllm/ops.py", False),
    ],
)
def test_a_swallowed_exception_is_noticed_whatever_the_warm_up_is_called(
    name: str, file: str, noticed: bool
) -> None:
    """A function of the layer's own file counts by any name, one elsewhere by its name."""
    known: dict[str, Any] = {}
    exec(compile(SWALLOWS.replace("NAME", name), file, "exec"), known)
    failures: list[str] = []
    with watching(failures, ("/x/vllm/layer.py",)):
        known[name]()
    assert failures == ([f"in {name}: MemoryError: no room"] if noticed else [])
