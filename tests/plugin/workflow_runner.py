"""Runs a job of a workflow, or a composite action, as a GitHub runner does: scripts for real, actions as what they do to files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

GITHUB = Path(__file__).resolve().parents[2] / ".github"
DEADLINE_S = 600


@dataclass
class Job:
    """What came of a job."""

    outcomes: dict[str, str] = field(default_factory=dict)
    """success, failure or skipped, by step."""
    output: str = ""
    """What its scripts printed."""
    summary: str = ""
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """What steps with an id wrote to GITHUB_OUTPUT."""
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Actions and what they were given."""

    @property
    def result(self) -> str:
        """What ``needs.<job>.result`` is."""
        return "failure" if "failure" in self.outcomes.values() else "success"

    def commands(self) -> list[str]:
        """The lines that a runner obeys: none between ``stop-commands`` and its token."""
        found, token = [], None
        for line in map(str.strip, self.output.splitlines()):
            if token is not None:
                token = None if line == f"::{token}::" else token
            elif line.startswith("::stop-commands::"):
                token = line.removeprefix("::stop-commands::")
            elif line.startswith("::"):
                found.append(line)
        return found


@dataclass
class Runner:
    """One machine: its workspace, its tools, and the artifacts that it shares with others."""

    workspace: Path
    place: Path
    """For temporary files, artifacts and stand-ins for tools."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifacts(self) -> Path:
        """A folder an artifact."""
        return self.place / "artifacts"

    def tool(self, name: str, body: str) -> None:
        """Puts a shell script in front of the PATH."""
        executable(self.place / "bin" / name, body)

    def job(self, file: str, name: str, contexts: Mapping[str, Any]) -> Job:
        """Runs the steps of one job of a workflow."""
        job = yaml.safe_load((GITHUB / "workflows" / file).read_text())["jobs"][name]
        return self._steps(job["steps"], job.get("env", {}), contexts)

    def action(self, name: str, inputs: Mapping[str, str]) -> Job:
        """Runs a composite action with its inputs, the others at their defaults."""
        folder = GITHUB / "actions" / name
        action = yaml.safe_load((folder / "action.yml").read_text())
        given = {key: about.get("default", "") for key, about in action["inputs"].items()} | dict(inputs)
        contexts = {"inputs": given, "github": {"action_path": str(folder)}}
        return self._steps(action["runs"]["steps"], {}, contexts)

    def _steps(self, steps: list[dict[str, Any]], env: Mapping[str, str], contexts: Mapping[str, Any]) -> Job:
        (self.place / "temp").mkdir(parents=True, exist_ok=True)
        scope: dict[str, Any] = {
            "runner": {"temp": str(self.place / "temp")},
            "github": {"workspace": str(self.workspace), "token": "a-token", "run_id": "7"},
            "steps": {},
        }
        for name, values in contexts.items():
            scope[name] = {**scope.get(name, {}), **values}
        done = Job()
        shared = {name: filled(value, scope) for name, value in env.items()}
        for number, step in enumerate(steps):
            name = step.get("name") or step.get("id") or f"{number}: {step.get('uses', '').partition('@')[0]}"
            if not holds(step.get("if", "success()"), scope, failed=done.result == "failure"):
                outcome = "skipped"
            elif "uses" in step:
                given = {key: filled(value, scope) for key, value in step.get("with", {}).items()}
                done.used.append((step["uses"].partition("@")[0], given))
                outcome = "success" if self._use(*done.used[-1]) else "failure"
            else:
                values = {key: filled(value, scope) for key, value in step.get("env", {}).items()}
                outcome = self._run(step["run"], {**shared, **values}, done, step.get("id"))
            done.outcomes[name] = outcome
            if "id" in step:
                scope["steps"][step["id"]] = {
                    "outcome": outcome,
                    "outputs": done.outputs.get(step["id"], {}),
                }
        return done

    def _run(self, script: str, env: Mapping[str, str], done: Job, step: str | None) -> str:
        said, summary = self.place / "output", self.place / "summary"
        said.write_text("")
        summary.write_text("")
        ran = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.workspace,
            env={
                "HOME": str(self.place / "home"),
                "GITHUB_ACTIONS": "true",
                "GITHUB_WORKSPACE": str(self.workspace),
                "GITHUB_OUTPUT": str(said),
                "GITHUB_STEP_SUMMARY": str(summary),
                "RUNNER_TEMP": str(self.place / "temp"),
                **self.environment,
                "PATH": f"{self.place / 'bin'}{os.pathsep}{os.environ['PATH']}",
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        done.output += ran.stdout
        done.summary += summary.read_text()
        if step is not None:
            done.outputs[step] = dict(line.split("=", 1) for line in said.read_text().splitlines())
        return "failure" if ran.returncode else "success"

    def _use(self, action: str, given: Mapping[str, str]) -> bool:
        if action == "actions/upload-artifact":
            self._upload(given["name"], given["path"].split("\n"))
        elif action == "actions/download-artifact":
            target = self.workspace / given["path"]
            if "name" in given:
                shutil.copytree(self.artifacts / given["name"], target, dirs_exist_ok=True)
            else:
                for found in self.artifacts.iterdir() if self.artifacts.exists() else ():
                    if fnmatch(found.name, given["pattern"]):
                        shutil.copytree(found, target / found.name)
        else:
            return action in {"actions/checkout", "actions/setup-python", "actions/cache"}
        return True

    def _upload(self, name: str, paths: list[str]) -> None:
        """Keeps files below the deepest folder that all the paths have in common, as the action does; missing ones are no error."""
        places = [self.workspace / path for path in paths if path.strip()]
        root = Path(os.path.commonpath(places))
        for place in places:
            if place.is_dir():
                shutil.copytree(place, self.artifacts / name / place.relative_to(root), dirs_exist_ok=True)
            elif place.is_file():
                target = self.artifacts / name / (place.relative_to(root) if place != root else place.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(place, target)


def executable(file: Path, body: str) -> None:
    """Writes a shell script."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


def filled(text: object, scope: Mapping[str, Any]) -> str:
    """A value with its expressions evaluated; only names and alternatives (``||``) occur outside conditions."""

    def one(found: re.Match[str]) -> str:
        for name in found[1].split("||"):
            value = looked_up(name.strip(), scope)
            if value:
                return str(value)
        return ""

    return re.sub(r"\$\{\{(.*?)\}\}", one, str(text))


def looked_up(name: str, scope: Mapping[str, Any]) -> Any:
    """The value of a dotted name; empty where there is none, as on GitHub."""
    if name.startswith("'"):
        return name.strip("'")
    value: Any = scope
    for part in name.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return value


def holds(condition: str, scope: Mapping[str, Any], *, failed: bool) -> bool:
    """Whether a step runs; a condition without a status function implies ``success()``."""
    text = condition.strip().removeprefix("${{").removesuffix("}}").strip()
    if not re.search(r"\b(success|failure|always|cancelled)\(\)", text):
        text = f"success() && ({text})"
    status = {"success": not failed, "failure": failed, "always": True, "cancelled": False}
    text = re.sub(r"\b(success|failure|always|cancelled)\(\)", lambda found: str(status[found[1]]), text)
    text = re.sub(r"\b[a-z_]+(\.[a-zA-Z_-]+)+\b", lambda found: repr(looked_up(found[0], scope)), text)
    text = text.replace("&&", " and ").replace("||", " or ")
    return bool(eval(re.sub(r"!(?!=)", " not ", text), {"__builtins__": {}}))  # conditions of this repository
