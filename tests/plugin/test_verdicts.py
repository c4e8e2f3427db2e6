"""From the command line to the exit status, on a fake vLLM whose truth is known."""

import contextlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.conftest import FAKE


def listens(port: int) -> bool:
    """Whether something on this machine accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running_fake(tpot_ms: float) -> Iterator[int]:
    """A fake vLLM that somebody else started; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]
    options = ["--served-model-name", "m", "--port", str(port), "--fake-tpot-ms", str(tpot_ms)]
    with subprocess.Popen(
        [*command, *options], env={**os.environ, "PYTHONPATH": str(FAKE)}, stdout=subprocess.DEVNULL
    ) as server:
        deadline = time.monotonic() + 30
        try:
            while not listens(port):
                assert time.monotonic() < deadline
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"it ended with status {server.wait(0.05)}")
            yield port
        finally:
            server.kill()


def test_without_baseline_fails_and_says_how_to_record(project):
    """A cell without a baseline fails, and the option that records one is named before the boots and in the verdict."""
    result = project.pytest()
    result.assert_outcomes(failed=1)
    before = "perfgate: no baseline is stored for cpu/fake-model/fake/quick; --new-baselines records what is missing"
    result.stdout.fnmatch_lines([before, "tests/test_no_slower_than_baseline.py *"])
    result.stdout.fnmatch_lines(["*NO_BASELINE*", "*--new-baselines*"])
    assert not project.baseline().exists()


def test_recording_is_not_a_pass(project):
    """--new-baselines records, and the test is skipped: nothing was judged."""
    result = project.pytest("--new-baselines")
    result.assert_outcomes(skipped=1)
    here = project.baseline().relative_to(project.path)
    result.stdout.fnmatch_lines([f"*baseline recorded in {here}*"])
    result.stdout.re_match_lines([r"results: \.perfgate/results/\S+\.json"])
    assert len(json.loads(project.baseline().read_text())["boots"]) == 3


def test_unchanged_server_does_not_fail(recorded):
    """The same server against its own baseline is no regression."""
    result = recorded.pytest()
    assert result.parseoutcomes().get("failed", 0) == 0
    assert recorded.session()["verdicts"][0]["outcome"] in ("PASS", "INCONCLUSIVE")


def test_slower_server_is_a_regression(recorded):
    """A TPOT three times as long fails with REGRESSION, naming metric, sizes and interval."""
    result = recorded.pytest("--vllm-arg=--fake-tpot-ms=6")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*mean TPOT*ms*ms*%*REGRESSION*"])
    result.stdout.fnmatch_lines(["*--fake-tpot-ms=6*"])
    (verdict,) = recorded.session()["verdicts"]
    assert verdict["command"] == (
        "pytest -m serving --gpu cpu --server fake --workload quick --vllm-arg=--fake-tpot-ms=6 --attribute"
    )
    (tpot,) = [metric for metric in verdict["metrics"] if metric["metric"] == "mean_tpot_ms"]
    assert tpot["lower"] > 1.0


@pytest.mark.parametrize("where", [{"COLUMNS": "200"}, {"CI": "true"}], ids=["terminal", "CI"])
def test_a_failure_is_one_line_in_the_short_summary(recorded, where):
    """The short summary and JUnit's message name verdict and reason; on a CI, where pytest prints messages whole, not the table again."""
    result = recorded.pytest(
        "--vllm-arg=--fake-short-output=1", "--replicates", "1", "--junit-xml", "junit.xml", **where
    )
    lines = result.outlines
    start = next(number for number, line in enumerate(lines) if " short test summary info " in line)
    failed, ended = lines[start + 1 :]
    assert re.match(r"FAILED \S+ - INVALID: \w+", failed)
    assert ended.startswith("==")
    (failure,) = ET.parse(recorded.path / "junit.xml").getroot().iter("failure")
    assert failure.get("message").startswith("INVALID: ")
    assert "\n" not in failure.get("message")
    assert "baseline" in failure.text


def test_fewer_slots_are_a_regression_at_concurrency_four(recorded):
    """--max-num-seqs=1 makes four streams wait for each other: REGRESSION."""
    result = recorded.pytest("--vllm-arg=--max-num-seqs=1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*output tok/s*REGRESSION*"])


def test_faster_server_is_an_improvement(recorded):
    """A shorter TPOT passes as IMPROVEMENT, with the hint to keep it."""
    result = recorded.pytest("--vllm-arg=--fake-tpot-ms=0.5")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*IMPROVEMENT*"])


def test_changed_settings_never_become_a_baseline(project):
    """--new-baselines with --vllm-arg is refused before anything boots."""
    assert "cannot be recorded with --max-num-seqs=1" in project.refused(
        "--new-baselines", "--vllm-arg=--max-num-seqs=1"
    )
    assert not (project.path / ".perfgate").exists()


def test_short_outputs_are_invalid_not_fast(recorded):
    """A server that leaves tokens away is INVALID, not faster."""
    result = recorded.pytest("--vllm-arg=--fake-short-output=1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INVALID*", "*39 output tokens where 40*"])
    (measurement,) = recorded.session()["measurements"]
    assert all(run["invalid"] and not run["metrics"] for boot in measurement["boots"] for run in boot["runs"])


def test_invalid_runs_never_become_a_baseline(project):
    """--new-baselines records nothing from a server whose answers are not what was asked for."""
    result = project.pytest("--new-baselines", "--server", "short")
    result.assert_outcomes(failed=1)
    assert not project.baseline("short").exists()


def test_boot_failure_is_the_failure_of_its_cells(recorded):
    """A server that does not boot fails its test with the tail of its log, and the session still writes results."""
    result = recorded.pytest("--vllm-arg=--no-such-flag")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unrecognized arguments: --no-such-flag*"])
    assert recorded.session()["verdicts"][0]["outcome"] == "INVALID"


def test_new_baselines_never_change_one(recorded):
    """--new-baselines leaves an existing baseline as it is, and judges."""
    before = recorded.baseline().read_bytes()
    recorded.pytest("--new-baselines")
    assert recorded.baseline().read_bytes() == before
    assert recorded.session()["verdicts"][0]["baseline_file"]


def test_without_noise_model_a_slowdown_is_inconclusive(recorded):
    """Without a noise model the gate can only pass or be inconclusive, and says what to record."""
    (recorded.baseline().parents[2] / "noise.json").unlink()
    result = recorded.pytest("--vllm-arg=--fake-tpot-ms=6", "--replicates", "2")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*INCONCLUSIVE*", "*perfgate noise fit*"])
    recorded.pytest("--vllm-arg=--fake-tpot-ms=6", "--replicates", "2", "--strict-verdicts").assert_outcomes(
        failed=1
    )


def test_a_regression_rests_on_fresh_interleaved_pairs(recorded):
    """What the screen suspects is confirmed on boots of both sides that the screen did not use, and the plan is printed first."""
    result = recorded.pytest("--vllm-arg=--fake-tpot-ms=6")
    result.stdout.fnmatch_lines(
        [
            "*screening fake: 3 boots, 3 runs, about * s; shows a slowdown of mean TTFT +*% with 80% power; *",
            "*confirming fake: 3 interleaved pairs, 6 boots, 6 runs, about * s; shows a slowdown of mean TPOT +*% *",
            "*note  mean TPOT*: suspected by the screen, then measured on 3*",
        ]
    )
    screen, old, new = recorded.session()["measurements"]
    ids = [{boot["id"] for boot in measurement["boots"]} for measurement in (screen, old, new)]
    assert [len(found) for found in ids] == [3, 3, 3]
    assert not ids[0] & (ids[1] | ids[2])
    assert "fake-tpot-ms" not in old["server"]["args"]
    assert new["server"]["args"]["fake-tpot-ms"] == 6
    order = sorted((boot["started"], side) for side, m in (("A", old), ("B", new)) for boot in m["boots"])
    assert "".join(side for _, side in order) == "ABBAAB"


def test_other_software_is_judged_by_looks(recorded):
    """When the baseline's software is gone, growing fresh data against the stored baseline decides, never the screen's."""
    data = json.loads(recorded.baseline().read_text())
    data["fingerprint"]["vllm"] = "0.0.0-gone"
    recorded.baseline().write_text(json.dumps(data))
    result = recorded.pytest("--vllm-arg=--fake-tpot-ms=6")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cannot be confirmed by A/B*vllm was 0.0.0-gone*", "*REGRESSION*"])


def test_ab_against_another_server_needs_no_baseline(project):
    """--against-server interleaves two flag sets and judges them without anything stored."""
    result = project.pytest("--server", "slow", "--against-server", "fake")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*mean TPOT*REGRESSION*"])
    said = " ".join(result.stdout.str().split())
    assert "--attribute finds the setting" in said
    assert "--update-baselines" not in said
    result.stdout.fnmatch_lines(["*note *old side: server:*0 preemptions*", "*note *server:*0 preemptions*"])
    assert not (project.path / ".perfgate/baselines").exists()
    flags = {
        flag["name"]: flag["effect"] for flag in project.session()["measurements"][-1]["boots"][0]["flags"]
    }
    assert flags.items() >= {"--fake-tpot-ms": "unknown", "PYTHONPATH": "honoured"}.items()


def test_ab_of_a_server_with_itself_is_no_regression(project):
    """--against-server with the same entry on both sides does not fail, and says that there is nothing to see."""
    result = project.pytest("--against-server", "fake")
    assert result.parseoutcomes().get("failed", 0) == 0
    result.stdout.fnmatch_lines(
        ["*both sides are vLLM * with the same settings: an A/B of them shows only noise"]
    )


def program(path: Path, words: str) -> str:
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o755)
    return str(path)


def test_another_side_that_is_not_there_is_refused_before_anything_boots(project):
    """A Python that is missing, broken or without vLLM, an image that is not here and an unknown server are named with what to do."""
    broken = program(project.path / "broken", "exit 3")
    empty = program(project.path / "empty", f'exec {sys._base_executable} -I "$@"')
    docker = program(project.path / "docker", "exit 1")
    toml = project.path / "perfgate.toml"
    launcher = f'launcher = {{ kind = "docker", image = "vllm:new", docker = "{docker}" }}'
    toml.write_text(f'{toml.read_text()}\n[servers.boxed]\nextends = "fake"\n{launcher}\n')
    for arguments, words in (
        (("--against", "/no/such/python"), "--against /no/such/python: no such program Give the Python"),
        (("--against", broken), f"other side of 'fake': {broken} does not say what is installed"),
        (("--against", empty), f"{empty} (Python {platform.python_version()}) has no vLLM Give the Python"),
        (
            ("--server", "boxed", "--against", "vllm:old"),
            f"image vllm:old is not on this machine, or {docker} does",
        ),
        (("--against-server", "fakee"), "unknown server 'fakee' Nearest: fake"),
        (("--against-server", "attached"), "server 'attached' is attached: an A/B boots both sides in turn"),
        (("--server", "attached", "--against-server", "fake"), "server 'attached' is attached: an A/B boots"),
        (("--against-server", "hollow"), "server 'hollow' serves model 'hollow', 'fake' serves 'fake-model'"),
        (
            ("--against-server", "fake", "--replicates", "1"),
            "--replicates 1: of one boot a side nobody knows",
        ),
    ):
        assert words in project.refused(*arguments)
    assert not list((project.path / ".perfgate").rglob("*.log"))


def test_an_attached_server_is_one_boot_however_often_it_is_measured(recorded):
    """Three measurements of a running server are one boot of three runs; a slow one is SUSPECT, and nothing pretends to confirm it."""
    toml = recorded.path / "perfgate.toml"
    entry = '[servers.running]\nmodel = "fake-model"\nlauncher = {{ kind = "attach", url = "http://127.0.0.1:{port}" }}\n'
    before = toml.read_text()
    for tpot, arguments in ((2.0, ("--new-baselines",)), (6.0, ())):
        with running_fake(tpot) as port:
            toml.write_text(f"{before}\n{entry.format(port=port)}")
            result = recorded.pytest("--server", "running", *arguments)
        (measurement,) = recorded.session()["measurements"]
        assert [len(boot["runs"]) for boot in measurement["boots"]] == [3]
    result.assert_outcomes(skipped=1)
    assert recorded.session()["verdicts"][0]["outcome"] == "SUSPECT"
    result.stdout.fnmatch_lines(
        ["*screening running: attached, one boot, 3 runs; shows*; what it suspects cannot be confirmed"]
    )
    assert "an attached server is one boot" in " ".join(result.stdout.str().split())


def test_other_workload_is_not_compared(recorded):
    """A baseline of another workload definition is INCOMPARABLE, never judged."""
    toml = recorded.path / "perfgate.toml"
    toml.write_text(toml.read_text().replace("output_len = 40", "output_len = 20"))
    result = recorded.pytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INCOMPARABLE*"])


def test_corrupt_baseline_fails_with_file_field_and_remedy(recorded):
    """A broken baseline file is an error that names file and field, and the file is left as it is."""
    recorded.baseline().write_text('{"schema": 1}')
    result = recorded.pytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*quick.json*", "*$.provenance is missing*"])
    assert recorded.baseline().read_text() == '{"schema": 1}'
