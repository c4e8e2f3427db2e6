"""A kernel that takes as long as it is told."""

import time
from collections.abc import Callable


def make(tokens: int, *, model: dict, us: float) -> Callable[[], None]:
    assert tokens > 0
    assert model["name"] == "fake-model"

    def launch() -> None:
        end = time.process_time() + us * 1e-6
        while time.process_time() < end:
            pass

    return launch
