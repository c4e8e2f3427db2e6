"""The workflows: lint, and what linters do not know — that their commands exist, and that their scripts do what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
PINNED = re.compile(r"^\s*-? ?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

pytestmark = pytest.mark.skipif(not GITHUB.is_dir(), reason="the tests run outside the repository")


def steps_of(file: Path) -> Iterator[dict[str, Any]]:
    """Every step of a workflow or composite action."""
    content = yaml.safe_load(file.read_text())
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    for job in jobs:
        yield from job["steps"]


def scripts_of(file: Path) -> list[str]:
    """Every script, continued lines joined."""
    return [step["run"].replace("\\\n", " ") for step in steps_of(file) if "run" in step]


def script(file: str, step: str) -> str:
    """The script of one named step."""
    return next(found["run"] for found in steps_of(GITHUB / file) if found.get("name") == step)


@pytest.mark.parametrize("file", [*WORKFLOWS, *ACTIONS], ids=lambda file: file.stem)
def test_every_action_is_pinned_by_commit(file: Path) -> None:
    """Each action is named by a full commit and the version that it is."""
    uses = [line for line in file.read_text().splitlines() if "uses:" in line]
    assert uses
    assert [line for line in uses if not PINNED.match(line)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_job_states_the_least_it_may_do(file: Path) -> None:
    """A workflow grants nothing, a job what it needs, and only the job that proposes baselines may write."""
    content = yaml.safe_load(file.read_text())
    assert content["permissions"] == {}
    for name, job in content["jobs"].items():
        if name == "propose":
            assert job["permissions"] == {"contents": "write", "pull-requests": "write"}
            assert "self-hosted" not in job["runs-on"]
        else:
            assert set(job["permissions"].values()) <= {"read"}
        assert job["timeout-minutes"] > 0
    assert "pull_request_target" not in content[True]


@pytest.mark.parametrize("file", [*WORKFLOWS, *ACTIONS], ids=lambda file: file.stem)
def test_no_expression_is_pasted_into_a_script(file: Path) -> None:
    """Inputs and names reach scripts as environment variables, so none of them is ever parsed by the shell."""
    assert [run for run in scripts_of(file) if "${{" in run] == []


@pytest.mark.parametrize("file", [*WORKFLOWS, *ACTIONS], ids=lambda file: file.stem)
def test_scripts_are_valid_bash(file: Path) -> None:
    """Bash can parse every script."""
    for run in scripts_of(file):
        subprocess.run(["bash", "-n"], input=run, text=True, check=True)


def test_commands_exist() -> None:
    """Every make target, perfgate subcommand and pytest option of the workflows is one that there is."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    subcommands = {file.stem.rstrip("_") for file in (ROOT / "src/perfgate/commands").glob("[a-z]*.py")}
    plugin = (ROOT / "src/perfgate/pytesting/options.py").read_text()
    known = set(re.findall(r'"(--[a-z-]+)"', plugin)) | {"--junitxml", "--pyargs"}
    seen: set[str] = set()
    for file in [*WORKFLOWS, *ACTIONS]:
        for run in scripts_of(file):
            for line in run.splitlines():
                if found := re.match(r"\s*make ([a-z]+)", line):
                    assert found[1] in targets, line
                    seen.add("make")
                if found := re.search(r'(?:^|/|\s)perfgate"? (?!\$)([a-z]+)', line):
                    assert found[1] in subcommands, line
                    seen.add("perfgate")
                if "-m pytest " in line:
                    given = set(re.findall(r"(?<=\s)(--[a-z-]+)", line.partition("-m pytest ")[2]))
                    assert given <= known, given - known
                    seen.add("pytest")
    assert seen == {"make", "perfgate", "pytest"}


def test_the_gate_asks_the_kernels_first_and_one_job_a_gpu() -> None:
    """Kernels come before serving, on a self-hosted runner by label, strictly, one at a time, never from a fork by itself."""
    job = yaml.safe_load((GITHUB / "workflows/gate.yml").read_text())["jobs"]["measure"]
    pytests = [step["run"] for step in job["steps"] if "-m pytest" in step.get("run", "")]
    assert "-m kernels" in pytests[0]
    assert "-m serving --strict-verdicts --require-gpu" in pytests[1]
    assert job["runs-on"] == ["self-hosted", "gpu", "${{ matrix.gpu }}"]
    assert job["concurrency"] == {"group": "gpu-${{ matrix.gpu }}", "cancel-in-progress": False}
    assert "head.repo.full_name == github.repository" in job["if"]


def tool(name: str) -> str:
    """A linter of the environment; every one of them comes with the extra dev, so none may be missing."""
    found = Path(sys.executable).with_name(name)
    assert found.exists(), f"{found}: missing; pip install -e '.[dev]'"
    return str(found)


def lint(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a linter in the repository."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_zizmor_finds_nothing() -> None:
    """Zizmor's audits, as far as they need no network, are content with workflows, action and dependabot's settings."""
    done = lint(tool("zizmor"), "--offline", "--no-progress", GITHUB)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing() -> None:
    """Actionlint accepts every workflow, and the shellcheck that it calls accepts every script in them."""
    done = lint(tool("actionlint"), "-no-color", "-shellcheck", tool("shellcheck"), *WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("ref: ${{ inputs.ref }}", "ref: ${{ inputs.reff }}"),
        ("vars.PERFGATE_HISTORY", "vars.PERFGATE_HISTORI"),
        ('--gpu "$GPU" --require', "--gpu $GPU --require"),
        ("needs: measure", "needs: measured"),
        ('[self-hosted, gpu, "${{ matrix.gpu }}"]', '[self-hosted, gqu, "${{ matrix.gpu }}"]'),
    ],
)
def test_actionlint_would_find_mistakes(tmp_path: Path, given: str, found: str) -> None:
    """An unknown input, variable, job or runner label and an unquoted word in a script are each refused, with the line."""
    text = (GITHUB / "workflows/gate.yml").read_text()
    assert given in text
    file = tmp_path / "gate.yml"
    file.write_text(text.replace(given, found, 1))
    done = lint(
        tool("actionlint"), "-config-file", GITHUB / "actionlint.yaml", "-shellcheck", tool("shellcheck"), file
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"gate\.yml:\d+:\d+: ", done.stdout)


@pytest.mark.parametrize("file", ACTIONS, ids=lambda file: file.parent.name)
def test_shellcheck_accepts_the_scripts_of_actions(file: Path) -> None:
    """Shellcheck accepts the scripts of composite actions, which actionlint does not read."""
    for run in (step["run"] for step in steps_of(file) if "run" in step):
        done = subprocess.run(
            [tool("shellcheck"), "--shell=bash", "-"], input=run, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout


def stub(folder: Path, name: str, body: str) -> None:
    """An executable that stands in for a tool."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


def bash(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as a runner does."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def obeyed(output: str) -> list[str]:
    """The lines that a runner would obey as commands."""
    commands, token = [], None
    for line in map(str.strip, output.splitlines()):
        if token is not None:
            if line == f"::{token}::":
                token = None
        elif line.startswith("::stop-commands::"):
            token = line.removeprefix("::stop-commands::")
        elif line.startswith("::"):
            commands.append(line)
    return commands


@pytest.mark.parametrize("status", [0, 1])
def test_pytest_output_commands_no_runner(tmp_path: Path, status: int) -> None:
    """Commands in pytest's output are not obeyed, those of the report are, and pytest's status is the step's."""
    stub(
        tmp_path,
        ".venv/bin/python",
        f"mkdir -p gate/results; echo '::error::owned'; echo '  ::add-mask::x'; exit {status}",
    )
    stub(tmp_path, ".venv/bin/perfgate", "echo '::error file=b.json::slower'")
    done = bash(script("workflows/gate.yml", "Serving"), tmp_path, GPU="gb10")
    assert obeyed(done.stdout) == ["::error file=b.json::slower"]
    assert "::error::owned" in done.stdout
    assert done.returncode == status


def test_the_composite_action_passes_its_inputs_on(tmp_path: Path) -> None:
    """Servers, workloads and options arrive as separate arguments, outputs are set, pytest's status is the action's."""
    stub(tmp_path, "place/bin/python", 'printf "%s\\n" "$@" > arguments; exit 1')
    done = bash(
        script("actions/gate/action.yml", "Measure and judge"),
        tmp_path,
        GPU="auto",
        SERVERS="one two",
        WORKLOADS="",
        SERVER_PYTHON="/opt/my vllm/python",
        MORE="-x --maxfail=2",
        PLACE=str(tmp_path / "place"),
        GITHUB_OUTPUT=str(tmp_path / "output"),
    )
    assert done.returncode == 1
    given = (tmp_path / "arguments").read_text().splitlines()
    assert given[-8:] == [
        "-x",
        "--maxfail=2",
        "--server",
        "one",
        "--server",
        "two",
        "--server-python",
        "/opt/my vllm/python",
    ]
    assert "report=" in (tmp_path / "output").read_text()


def git(folder: Path, *arguments: str) -> str:
    """Runs git as somebody."""
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_refresh_proposes_baselines_and_nothing_else(tmp_path: Path) -> None:
    """Of a patch from the GPU machine only baselines are taken; reason, before and after are the pull request's text."""
    remote, work, found = tmp_path / "remote", tmp_path / "work", tmp_path / "found"
    for folder in (remote, work, found):
        folder.mkdir()
    git(remote, "init", "--bare")
    git(work, "init")
    target = work / "baselines/gb10/m/s/w.json"
    target.parent.mkdir(parents=True)
    target.write_text("old\n")
    (work / "Makefile").write_text("all:\n")
    git(work, "add", ".")
    git(work, "commit", "-m", "first")
    git(work, "remote", "add", "origin", str(remote))
    target.write_text("new\n")
    (target.parent / "added.json").write_text("more\n")
    (work / "Makefile").write_text("all:\n\techo owned\n")
    git(work, "add", "--intent-to-add", ".")
    (found / "baselines.patch").write_text(git(work, "diff", "--binary"))
    (found / "report.md").write_text("| a | table |\n")
    git(work, "rm", "-q", "--cached", "baselines/gb10/m/s/added.json")
    (target.parent / "added.json").unlink()
    git(work, "checkout", "-q", ".")
    stub(
        tmp_path,
        "bin/gh",
        'if [ "$1" = pr ]; then printf "%s\\n" "$@" > "$HOME/called"; cp "${!#}" "$HOME/body"; fi',
    )
    done = bash(
        script("workflows/refresh-baselines.yml", "Propose"),
        work,
        HOME=str(tmp_path),
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        GPU="gb10",
        REASON="driver 580; $(touch owned)",
        RUN="https://example.org/1",
        BRANCH="baselines/1",
        FOUND=str(found),
        RUNNER_TEMP=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    changed = git(remote, "diff", "--name-only", "baselines/1~1", "baselines/1").split()
    assert changed == ["baselines/gb10/m/s/added.json", "baselines/gb10/m/s/w.json"]
    assert not (work / "owned").exists()
    body = (tmp_path / "body").read_text()
    assert body.startswith("driver 580; $(touch owned)\n")
    assert "| a | table |" in body
