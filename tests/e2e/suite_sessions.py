"""pytest sessions of the suite as a user runs them, with baselines and results of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
JUDGED = "tests/serving/test_no_slower_than_baseline.py"
NOT_OURS = ("PYTEST_ADDOPTS", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")


class Session:
    """One session that has ended: its exit status, what it printed, and what it kept."""

    def __init__(self, status: int, said: str, kept: dict) -> None:
        self.status = status
        self.said = said
        self.kept = kept

    @property
    def verdicts(self) -> list[dict]:
        return self.kept["verdicts"]

    @property
    def outcomes(self) -> list[str]:
        return [verdict["outcome"] for verdict in self.verdicts]

    def metric(self, workload: str, name: str) -> dict:
        (verdict,) = [one for one in self.verdicts if one["cell"]["workload"] == workload]
        (metric,) = [one for one in verdict["metrics"] if one["metric"] == name]
        return metric


class Sessions:
    """Sessions that share a folder: one's baseline and noise model are the next one's reference."""

    def __init__(self, folder: Path, *options: str, config: str = "") -> None:
        self.folder = folder
        self.baselines = folder / "baselines"
        self.options = options
        self.config = folder / "perfgate.toml"
        self.config.write_text(config)
        self.count = 0

    def run(self, *arguments: str, timeout: float = 1800) -> Session:
        """Runs one session to its end; what it printed is kept beside its results."""
        self.count += 1
        results = self.folder / f"results-{self.count}"
        command = [sys.executable, "-m", "pytest", JUDGED, "-m", "serving", "-p", "no:cacheprovider"]
        where = [
            *("--perfgate-config", str(self.config), "--perfgate-history", "none"),
            *("--baselines", str(self.baselines), "--perfgate-results", str(results)),
        ]
        done = subprocess.run(
            [*command, *self.options, *where, *arguments],
            cwd=REPOSITORY,
            env={name: value for name, value in os.environ.items() if name not in NOT_OURS},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        (self.folder / f"session-{self.count}.txt").write_text(done.stdout)
        files = list(results.glob("*.json"))
        assert len(files) == 1, done.stdout
        return Session(done.returncode, done.stdout, json.loads(files[0].read_text()))
