"""When servers end: after the last test that wants one, and when the session is told to stop."""

import contextlib
import getpass
import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from perfgate.lease import lease_devices

# What a script starts in the background ignores SIGINT, and so would everything below it.
FOREGROUND = "import signal, sys, pytest; signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(pytest.console_main())"

WATCHING = """
import psutil


def vllm():
    return [child for child in psutil.Process().children(recursive=True) if "vllm" in " ".join(child.cmdline())]


def test_1_before_the_load(server_target):
    pass


def test_2_a_server(server):
    assert vllm()


def test_3_another_thing():
    assert not vllm()
"""


def vllm_below(pid):
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "api_server" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_no_server_outlives_the_last_test_that_wants_one(project):
    """A server is shared by the tests that want one and ended after the last of them, not at the end of the session."""
    (project.path / "tests/test_watching.py").write_text(WATCHING)
    result = project.pytester.runpytest_subprocess("-p", "no:cacheprovider", "tests/test_watching.py")
    result.assert_outcomes(passed=3)


def test_sigterm_ends_the_session_like_ctrl_c(project):
    """A cancelled job leaves no server, and the session ends as interrupted, with its table and results."""
    suite = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-m", "serving", "-p", "no:cacheprovider", "--new-baselines"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (servers := vllm_below(suite.pid)):
        assert suite.poll() is None, suite.communicate()
        assert time.monotonic() < deadline
    suite.send_signal(signal.SIGTERM)
    output, _ = suite.communicate(timeout=60)
    assert suite.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "SIGTERM" in output
    assert not [server for server in servers if server.is_running()]


def interrupted(project, *arguments, after, boot=1):
    """What a session printed that got Ctrl-C at the first server it runs once it has said ``after``; it leaves none.

    Not before the session's ``boot``-th boot.
    """
    command = [sys.executable, "-c", FOREGROUND, "-m", "serving", "-p", "no:cacheprovider"]
    suite = subprocess.Popen(
        [*command, *arguments],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert suite.stdout is not None
    said = ""
    for line in suite.stdout:
        said += line
        if after in line:
            break
    deadline = time.monotonic() + 60
    logs = project.path / ".perfgate/logs"
    while len(list(logs.rglob("*.log"))) < boot or not (servers := vllm_below(suite.pid)):
        assert suite.poll() is None, said
        assert time.monotonic() < deadline
    suite.send_signal(signal.SIGINT)
    output, _ = suite.communicate(timeout=60)
    assert suite.returncode == pytest.ExitCode.INTERRUPTED, said + output
    _, left = psutil.wait_procs(servers, timeout=10)
    assert not left, [(server.cmdline(), server.status()) for server in left]
    return output


def test_ctrl_c_in_an_ab_keeps_the_boots_that_were_made(project):
    """After Ctrl-C in the second pair both boots of the first are in the results, each on its side, and no server is left."""
    interrupted(project, "--server", "slow", "--against-server", "fake", after="slow: a pair takes about")
    old, new = project.session()["measurements"]
    assert (old["side"], old["server"]["name"], len(old["boots"])) == ("old", "fake", 1)
    assert (new.get("side", "now"), new["server"]["name"], len(new["boots"])) == ("now", "slow", 1)
    assert old["boots"][0]["runs"][0]["metrics"]["mean_tpot_ms"] > 0


def test_ctrl_c_in_an_attribution_keeps_its_boots_and_the_verdict(project):
    """After Ctrl-C in the second boot of a search the A/B's verdict and the first boot are in the table and in the results."""
    arguments = ("--attribute", "--vllm-arg=--fake-tpot-ms=6", "--env=ONE=1", "--env=TWO=2", "--env=THREE=3")
    output = interrupted(project, *arguments, after="attribution boot 1:")
    (verdict,) = project.session()["verdicts"]
    assert verdict["outcome"] == "REGRESSION"
    found = verdict["attribution"]
    assert (found["ended"], found["search_boots"]) == ("budget", len(found["boots"]))
    assert found["boots"][0]["metrics"]["mean_tpot_ms"]
    assert any(note.startswith("broken off") for note in found["notes"])
    assert "attribution of cpu/fake-model/fake/quick" in output


@pytest.mark.parametrize(
    ("boot", "boots", "rounds"),
    [(2, [0, 0, 1], 0), (5, [1, 1, 2], 1)],
    ids=["in the first round", "in the second"],
)
def test_ctrl_c_in_a_sweep_keeps_its_table(swept, boot, boots, rounds):
    """After Ctrl-C the table of the boots that were made is printed and in the results, marked as interrupted."""
    output = interrupted(swept, "--sweep", "fake-tpot-ms=2,4,6", after="sweeping fake:", boot=boot)
    (found,) = swept.session()["findings"]["sweeps"]
    rows = found["cells"][0]["rows"]
    assert (found["interrupted"], found["rounds"], sorted(row["boots"] for row in rows)) == (
        True,
        rounds,
        boots,
    )
    assert [row["boots"] for row in rows if row.get("problem")] == [0] * boots.count(0)
    assert f"Interrupted: {rounds} of 3 rounds were measured whole" in output
    assert len(re.findall(r"^fake-tpot-ms=4 ", output, re.MULTILINE)) == 1


@pytest.mark.parametrize("spread", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_no_server_is_left_ten_seconds_after_sigkill_of_pytest(project, spread):
    """Pytest killed with SIGKILL while its server is under load leaves no process of the server 10 s later, with xdist as without."""
    toml = project.path / "perfgate.toml"
    toml.write_text(toml.read_text().replace("num_prompts = 24", "num_prompts = 2400"))
    suite = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "serving",
            "-p",
            "no:cacheprovider",
            "--new-baselines",
            *spread,
        ],
        cwd=project.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (servers := vllm_below(suite.pid)):
        assert suite.poll() is None
        assert time.monotonic() < deadline
    workers = psutil.Process(suite.pid).children() if spread else []
    suite.kill()
    suite.wait()
    # A worker left to itself would first wait, and then end its server as gently as it can.
    assert not psutil.wait_procs(workers, timeout=4)[1]
    _, left = psutil.wait_procs(servers, timeout=10)
    assert not left


def test_waiting_for_a_device_is_said(project):
    """While another suite holds the device, a session says at once that it waits, also into a pipe."""
    with lease_devices(("cpu",), 1, directory=project.path / "tmp" / f"perfgate-leases-{getpass.getuser()}"):
        suite = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-m", "serving", "-p", "no:cacheprovider", "--replicates", "1"],
            cwd=project.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
        limit = threading.Timer(60, suite.kill)
        limit.start()
        line = next(
            (line for line in suite.stdout if line.startswith("perfgate: waiting")), "nothing in 60 s"
        )
        limit.cancel()
        assert line.strip() == "perfgate: waiting for a device: cpu in use by another suite"
        assert not vllm_below(suite.pid)
    output, _ = suite.communicate(timeout=60)
    assert "NO_BASELINE" in output
