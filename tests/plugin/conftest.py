"""A user's project in a temporary folder: one perfgate.toml, the suite's own test, and a fake vLLM with scripted times."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FAKE = REPOSITORY / "tests" / "fakevllm"
sys.path.insert(0, str(REPOSITORY / "tests" / "unit" / "report"))

CATALOGUE = """
[gpus.cpu]
model = "fake-model"
servers = ["fake"]
workloads = ["quick"]
replicates = 3
pairs = 3
client_lag_ms = 200.0
max_steal = 1.0
max_loop_change = 1000.0

[gpus.cpu.margins]
output_throughput = 0.25
mean_tpot_ms = 0.25
mean_ttft_ms = 0.5

[models.fake-model]
id = "./model"

[servers.fake]
model = "fake-model"
boot_timeout_s = 20
stop_grace_s = 2
args = {{ max-num-seqs = 16 }}
env = {{ PYTHONPATH = "{fake}" }}

[servers.slow]
extends = "fake"
args = {{ fake-tpot-ms = 6.0 }}

[servers.bad]
extends = "fake"
args = {{ no-such-flag = true }}

[servers.short]
extends = "fake"
args = {{ fake-short-output = 1 }}

[servers.attached]
model = "fake-model"
launcher = {{ kind = "attach", url = "http://127.0.0.1:9" }}

[servers.no-python]
extends = "fake"
launcher = {{ kind = "local", python = "/no/python" }}

[servers.hollow]
extends = "fake"
model = "hollow"

[models.hollow]
id = "./hollow"

[workloads.quick]
input_len = 16
output_len = 40
concurrency = 4
num_prompts = 24
warmups = 1

[workloads.single]
extends = "quick"
concurrency = 1
num_prompts = 8
"""


SPREAD = pytest.mark.parametrize("spread", [(), ("-n", "1")], ids=["one process", "xdist"])
"""For what must not depend on whether tests are handed out to other processes."""

KEPT = pytest.StashKey[dict[str, bytes]]()


class Project:
    """A project and the pytest runs in it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def pytest(self, *arguments: str, **environment: str) -> pytest.RunResult:
        for name, value in environment.items():
            self.pytester._monkeypatch.setenv(name, value)
        # Each is a process of its own, and takes half as long to start without what it does not use.
        unused = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:benchmark")
        return self.pytester.runpytest_subprocess("-m", "serving", *unused, *arguments, timeout=120)

    def refused(self, *arguments: str) -> str:
        """What is said on a command line that is refused before anything runs, in one line."""
        # In this process the suite's own test of that name may have been imported already.
        fresh = ("-p", "no:cacheprovider", "--import-mode=importlib")
        result = self.pytester.runpytest_inprocess("-m", "serving", *fresh, *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "Traceback" not in result.stdout.str() + result.stderr.str()
        return " ".join(result.errlines)

    def session(self) -> dict:
        newest = max(
            (self.path / ".perfgate/results").glob("*.json"), key=lambda file: file.stat().st_mtime_ns
        )
        return json.loads(newest.read_text())

    def baseline(self, server: str = "fake", workload: str = "quick") -> Path:
        return self.path / ".perfgate/baselines/cpu/fake-model" / server / f"{workload}.json"


@pytest.fixture
def project(pytester, monkeypatch) -> Project:
    (pytester.path / "model").mkdir()
    (pytester.path / "model/config.json").write_text('{"vocab_size": 1024}')
    (pytester.path / "perfgate.toml").write_text(CATALOGUE.format(fake=FAKE))
    (pytester.path / "pytest.ini").write_text(
        "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n"
    )
    (pytester.path / "conftest.py").write_text('pytest_plugins = ["fixtures.serving"]\n')
    (pytester.path / "tests").mkdir()
    shutil.copy(REPOSITORY / "tests/serving/test_no_slower_than_baseline.py", pytester.path / "tests")
    monkeypatch.setenv(
        "PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    )
    # Leases are kept in the temporary folder: these servers are fakes and wait for nobody's.
    (pytester.path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    # On a CI pytest itself prints more.
    for variable in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(variable, raising=False)
    return Project(pytester)


@pytest.fixture
def swept(project):
    """The project with the sweep's own test beside the gate's."""
    (project.path / "conftest.py").write_text('pytest_plugins = ["fixtures.serving", "fixtures.sweep"]\n')
    # Under a name of its own: pytest run in this process has this module as test_sweep already.
    shutil.copy(REPOSITORY / "tests/serving/test_sweep.py", project.path / "tests/test_points.py")
    return project


@pytest.fixture
def recorded(project, request) -> Project:
    """The project with a baseline of the fake server and the noise model fitted with it, recorded once by whichever test comes first."""
    kept = request.config.stash.get(KEPT, None)
    noise = project.baseline().parents[2] / "noise.json"
    if kept is None:
        project.pytest("--new-baselines").assert_outcomes(skipped=1)
        request.config.stash[KEPT] = {
            "baseline": project.baseline().read_bytes(),
            "noise": noise.read_bytes(),
        }
    else:
        project.baseline().parent.mkdir(parents=True)
        project.baseline().write_bytes(kept["baseline"])
        noise.write_bytes(kept["noise"])
    return project
