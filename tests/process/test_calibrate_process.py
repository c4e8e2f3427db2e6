"""The processes of a calibration."""

import subprocess
import sys
import time

import psutil
import pytest


@pytest.mark.parametrize("arguments", [(), ("--attribution", "--settings=5")], ids=["gate", "attribution"])
def test_nothing_is_left_when_a_calibration_is_killed(arguments):
    """The processes that simulate end with the one that started them, although it could not tell them to."""
    command = [sys.executable, "-m", "perfgate", "calibrate", "--workers=2", "--suites=100000", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        deadline = time.monotonic() + 60
        busy: list[psutil.Process] = []
        while len(busy) < 2 and time.monotonic() < deadline and parent.poll() is None:
            children = psutil.Process(parent.pid).children(recursive=True)
            # One that has computed for so long is past its start.
            busy = [child for child in children if sum(child.cpu_times()[:2]) > 3]
            psutil.wait_procs(children, timeout=0.2)
        every = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(busy) == 2
    assert psutil.wait_procs(every, timeout=20)[1] == []
