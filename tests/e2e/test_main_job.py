"""The main job on a real vLLM on the CPU: record, judge the same server, judge a slower one.

Eight boots, shared as far as they can be: what each test asserts is a large effect or its absence, never an absolute time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.alone]


class Sessions:
    """pytest sessions of the suite with results and baselines of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.baselines = folder / "baselines"

    def run(self, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict]:
        results = self.folder / f"results-{len(list(self.folder.glob('results-*')))}"
        config = self.folder / "perfgate.toml"
        config.write_text("[gpus.cpu]\npairs = 2\n")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "serving",
            "tests/serving/test_no_slower_than_baseline.py",
        ]
        options = ["--gpu", "cpu", "--server", "tiny", "--workload", "cpu-chat"]
        where = [
            "--perfgate-config",
            str(config),
            "--baselines",
            str(self.baselines),
            "--perfgate-results",
            str(results),
            "-p",
            "no:cacheprovider",
        ]
        environment = {
            k: v
            for k, v in os.environ.items()
            if k not in ("PYTEST_ADDOPTS", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")
        }
        done = subprocess.run(
            [*command, *options, *where, *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        (file,) = results.glob("*.json")
        return done, json.loads(file.read_text())


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Sessions:
    """Sessions whose baseline of the unchanged server is recorded."""
    made = Sessions(tmp_path_factory.mktemp("main-job"))
    done, _ = made.run("--new-baselines", "--replicates", "2")
    assert done.returncode == 0, done.stdout
    assert "baseline recorded in" in done.stdout
    return made


def test_recording_keeps_every_boot_of_this_machine(sessions):
    """The recorded file holds both boots with raw runs, this machine's CPU and the vLLM release."""
    (file,) = sessions.baselines.rglob("cpu-chat.json")
    baseline = json.loads(file.read_text())
    assert len({boot["id"] for boot in baseline["boots"]}) == 2
    assert all(run["metrics"]["output_throughput"] > 0 for boot in baseline["boots"] for run in boot["runs"])
    assert baseline["fingerprint"]["cpu_model"]
    assert baseline["fingerprint"]["vllm"].split(".")[0].isdigit()


def test_unchanged_server_is_no_regression(sessions):
    """The same server against its own baseline does not fail."""
    done, session = sessions.run("--replicates", "1")
    assert done.returncode == 0, done.stdout
    assert session["verdicts"][0]["outcome"] in ("PASS", "INCONCLUSIVE", "IMPROVEMENT")


def test_one_sequence_at_a_time_is_a_regression(sessions):
    """--max-num-seqs=1 fails with REGRESSION at concurrency 4, naming metric, sizes and interval, and that requests queued."""
    done, session = sessions.run("--replicates", "1", "--vllm-arg=--max-num-seqs=1")
    assert done.returncode == 1, done.stdout
    (verdict,) = session["verdicts"]
    assert verdict["outcome"] == "REGRESSION", done.stdout
    worst = {metric["metric"]: metric for metric in verdict["metrics"] if metric["outcome"] == "REGRESSION"}
    assert worst.keys() & {"mean_ttft_ms", "output_throughput"}
    for metric in worst.values():
        assert metric["baseline"] > 0
        assert metric["lower"] <= metric["change"] <= metric["upper"]
    assert any("mostly queueing" in note for note in verdict["notes"]), done.stdout
    assert "REGRESSION" in done.stdout
