"""As much of PyTorch as timing a kernel needs, with the time that this process had the processor for a GPU's."""

import sys
import time

__version__ = "0.0.1"
int8 = "int8"


class Flush:
    def zero_(self) -> None:
        pass


def empty(size: int, *, dtype: str, device: str) -> Flush:
    assert (dtype, device) == ("int8", "cuda")
    assert size > 0
    return Flush()


class Event:
    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = time.process_time()

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.at - self.at)


def synchronize() -> None:
    pass


def _sleep(cycles: int) -> None:
    assert cycles > 0


def get_device_name() -> str:
    return "fake"


cuda = sys.modules[__name__]
