"""The jobs of the workflows from their first step to their last: every script is run, on a fake vLLM, as a runner runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from report_data import session
from workflow_runner import GITHUB, Job, Runner, executable

from perfgate.results import write_results

pytestmark = pytest.mark.skipif(not GITHUB.is_dir(), reason="the tests run outside the repository")

KERNELS = """
import pytest

@pytest.mark.kernels
def test_keys_are_covered(request):
    assert request.config.getoption("--gpu") == "cpu"
    request.config.get_terminal_writer().line("\\n::error::a line that looks like a command")
"""


@pytest.fixture
def runner(recorded, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A machine with a checkout whose baseline is recorded; only the installation stands in for itself."""
    place = tmp_path_factory.mktemp("runner")
    (recorded.path / "tests/test_kernels.py").write_text(KERNELS)
    for name in ("vllm", "torch", "triton"):
        about = place / "installed" / f"{name}-9.9.dist-info" / "METADATA"
        about.parent.mkdir(parents=True)
        about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    python, perfgate = sys.executable, Path(sys.executable).with_name("perfgate")
    machine = Runner(
        recorded.path,
        place,
        {
            "PYTHONPATH": f"{place / 'installed'}{os.pathsep}{os.environ['PYTHONPATH']}",
            "TMPDIR": os.environ["TMPDIR"],
            "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:hypothesispytest -p no:benchmark",
        },
    )
    executable(place / "env/python", f'exec {python} "$@"')
    executable(place / "env/perfgate", f'exec {perfgate} "$@"')
    machine.tool("make", f'test "$*" = "env BACKEND=gpu" && mkdir -p .venv && cp -r {place}/env .venv/bin')
    machine.tool("python", 'test "$*" = "-m pip install --quiet ."')
    machine.tool("perfgate", f'exec {perfgate} "$@"')
    return machine


def measure(runner: Runner) -> Job:
    """The gate's job on this machine."""
    return runner.job(
        "gate.yml", "measure", {"matrix": {"gpu": "cpu"}, "vars": {"PERFGATE_GPUS": '["cpu"]'}, "inputs": {}}
    )


def test_a_slower_server_turns_the_gate_red_from_measuring_to_the_joined_report(runner: Runner) -> None:
    """For a slower server gate.yml is red, with a summary, an annotation at the baseline, artifacts and one report for two machines."""
    toml = runner.workspace / "perfgate.toml"
    toml.write_text(toml.read_text().replace("max-num-seqs = 16", "max-num-seqs = 16, fake-tpot-ms = 6.0", 1))
    measured = measure(runner)
    assert measured.result == "failure", measured.output
    assert measured.outcomes["Kernels"] == "success", measured.output
    assert measured.outcomes["Serving"] == "failure"
    assert measured.outcomes["Keep results, report and logs"] == "success"
    baseline = runner.workspace / ".perfgate/baselines/cpu/fake-model/fake/quick.json"
    (annotation,) = measured.commands()
    assert annotation.startswith(
        "::error file=.perfgate/baselines/cpu/fake-model/fake/quick.json,title=REGRESSION "
    )
    assert "::error::a line that looks like a command" in measured.output
    assert "**REGRESSION**" in measured.summary
    assert measured.outputs["installed"] == {"versions": "9.9-9.9-9.9"}
    cache = dict(measured.used)["actions/cache"]
    assert cache["key"] == "kernels-cpu-9.9-9.9-9.9-7"
    assert cache["key"].startswith(cache["restore-keys"])
    kept = runner.artifacts / "gate-cpu"
    assert {file.name for file in (kept / "gate").iterdir()} == {
        "kernels.xml",
        "serving.xml",
        "results",
        "report.html",
    }
    assert list(kept.rglob("*.log"))
    assert 'name="perfgate.verdict" value="REGRESSION"' in (kept / "gate/serving.xml").read_text()
    assert (runner.place / "home/.perfgate/history.sqlite").exists()
    for document, files in (("results", kept.glob("gate/results/*.json")), ("baseline", [baseline])):
        schema = json.loads((GITHUB.parent / f"docs/schema/{document}.json").read_text())
        for file in files:
            jsonschema.validate(json.loads(file.read_text()), schema)

    write_results(runner.artifacts / "gate-gb10/gate/results", session(boots=1, runs=1, requests=2).results)
    joined = runner.job("gate.yml", "verdict", {"needs": {"measure": {"result": measured.result}}})
    assert joined.outcomes["One report for all machines"] == "success", joined.output
    assert joined.outcomes["Every machine measured, and nothing got slower"] == "failure"
    verdicts = json.loads((runner.artifacts / "all-machines/results.json").read_text())["verdicts"]
    assert {verdict["cell"]["gpu"] for verdict in verdicts} == {"cpu", "gb10"}
    assert "cpu/fake-model/fake/quick" in (runner.artifacts / "all-machines/report.html").read_text()
    assert "10 cells: 2 regression" in joined.summary


def test_machines_that_recorded_nothing_are_no_pass(runner: Runner) -> None:
    """Without any results the joining job fails with an error that says so, whatever the machines' own result."""
    joined = runner.job("gate.yml", "verdict", {"needs": {"measure": {"result": "success"}}})
    assert joined.result == "failure"
    assert joined.outcomes["Every machine measured, and nothing got slower"] == "success"
    assert joined.commands() == ["::error::No machine recorded any result. That is not a pass."]


def test_a_failed_installation_measures_nothing(runner: Runner) -> None:
    """Where the environment cannot be made neither kernels nor serving run, and the job is red."""
    runner.tool("make", "echo no network; exit 1")
    measured = measure(runner)
    assert measured.outcomes["Kernels"] == measured.outcomes["Serving"] == "skipped"
    assert measured.result == "failure"


def test_a_refresh_measures_and_proposes_with_before_after_and_the_reason(runner: Runner) -> None:
    """refresh-baselines.yml, from measuring to the pull request, commits the new baselines alone; its text is the reason and the table."""
    work, remote = runner.workspace, runner.place / "remote"
    git = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main")

    def run(*arguments: str, cwd: Path = work) -> str:
        return subprocess.run([*git, *arguments], cwd=cwd, text=True, capture_output=True, check=True).stdout

    toml = work / "perfgate.toml"
    toml.write_text(toml.read_text().replace("replicates = 3", "replicates = 1"))
    shutil.copytree(work / ".perfgate/baselines", work / "baselines")
    (work / ".gitignore").write_text(".perfgate\n.venv\nrefresh\ntmp\n__pycache__\n")
    remote.mkdir()
    run("init", "--bare", cwd=remote)
    run("init")
    run("add", ".")
    run("commit", "-m", "first")
    run("remote", "add", "origin", str(remote))
    inputs = {"gpu": "cpu", "reason": "driver 580; `$(touch owned)`", "server": "fake", "workload": ""}
    measured = runner.job("refresh-baselines.yml", "measure", {"inputs": inputs})
    assert measured.result == "success", measured.output
    run("checkout", "--", ".")
    runner.tool(
        "gh",
        'if [ "$1" = pr ]; then printf "%s\\n" "$@" > "$RUNNER_TEMP/called"; cp "${!#}" "$RUNNER_TEMP/said"; fi',
    )
    proposed = runner.job("refresh-baselines.yml", "propose", {"inputs": inputs})
    assert proposed.result == "success", proposed.output
    changed = run("diff", "--name-only", "baselines/7~1", "baselines/7", cwd=remote).split()
    assert set(changed) - {"baselines/cpu/noise.json"} == {"baselines/cpu/fake-model/fake/quick.json"}
    recorded = json.loads(run("show", "baselines/7:baselines/cpu/fake-model/fake/quick.json", cwd=remote))
    assert recorded["provenance"]["notes"] == [inputs["reason"]]
    text = (runner.place / "temp/said").read_text()
    assert text.startswith(inputs["reason"])
    assert "| baseline | now | change |" in text
    assert "mean TPOT" in text
    assert "Refresh the baselines of cpu" in (runner.place / "temp/called").read_text()
    assert not (work / "owned").exists()


@pytest.mark.long
def test_the_composite_action_installs_itself_and_gates(
    recorded, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The action installs perfgate and its suite into a new environment, measures, judges, keeps what was found, and is red when slower."""
    project = recorded.path
    (project / "conftest.py").unlink()
    shutil.rmtree(project / "tests")
    place = tmp_path_factory.mktemp("runner")
    kept = {
        name: os.environ[name] for name in ("TMPDIR", "PIP_FIND_LINKS", "PIP_INDEX_URL") if name in os.environ
    }
    machine = Runner(project, place, kept)
    inputs = {"gpu": "cpu", "server": "fake", "workload": "quick", "python": sys.executable}
    same = machine.action("gate", inputs | {"pytest-args": "-p no:cacheprovider"})
    assert same.outcomes["Install perfgate"] == "success", same.output
    (file,) = Path(same.outputs["measure"]["results"]).glob("*.json")
    (verdict,) = json.loads(file.read_text())["verdicts"]
    assert verdict["outcome"] in {"PASS", "IMPROVEMENT", "INCONCLUSIVE"}, same.output
    assert (same.result == "success") == (verdict["outcome"] != "INCONCLUSIVE")
    assert {file.name for file in (machine.artifacts / "perfgate").iterdir()} >= {
        "results",
        "report.html",
        "junit.xml",
    }
    slower = machine.action("gate", inputs | {"pytest-args": "--vllm-arg=--fake-tpot-ms=6"})
    assert slower.result == "failure"
    assert Path(slower.outputs["measure"]["report"]).exists()
    assert [line.split("title=")[1][:10] for line in slower.commands()] == ["REGRESSION"]
