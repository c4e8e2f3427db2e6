"""--attribute from the command line to table and results, on a fake vLLM whose truth is in its flags."""

import json
import sys

import pytest

from tests.plugin.conftest import SPREAD

CHANGES = ("--vllm-arg=--enforce-eager", "--vllm-arg=--fake-noise=0.011", "--env=ONE=1", "--env=TWO=2")
"""Four changes that do nothing to the fake's times."""


@pytest.fixture
def project(project):
    """The project with a workload of a third of the size: effects here are large."""
    toml = project.path / "perfgate.toml"
    toml.write_text(toml.read_text().replace("num_prompts = 24", "num_prompts = 8"))
    return project


def attribution(project) -> dict:
    (verdict,) = project.session()["verdicts"]
    return verdict["attribution"]


def test_names_the_one_setting_that_matters(project):
    """Of five changed settings the one that slows is named, with effect, interval, share and boots, and nothing is stored as a baseline."""
    result = project.pytest("--attribute", "--vllm-arg=--fake-tpot-ms=6", *CHANGES)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*attributing the difference of fake to 5 settings: about * boots*tells a setting's effect of*"]
    )
    result.stdout.fnmatch_lines(["*attribution of cpu/fake-model/fake/quick: because of --fake-tpot-ms 6 (*"])
    result.stdout.fnmatch_lines(["*[*] --fake-tpot-ms 6 * +*%*[[]*]*%*", "*left without them*"])
    result.stdout.fnmatch_lines(["*next  If it is not meant, take --fake-tpot-ms 6 back."])
    found = attribution(project)
    assert found["responsible"] == ["--fake-tpot-ms 6"]
    assert found["ended"] == "explained"
    (tpot,) = [metric for metric in found["metrics"] if metric["metric"] == "mean_tpot_ms"]
    (part,) = [part for part in tpot["parts"] if part["named"]]
    assert part["lower"] < part["effect"] < part["upper"]
    assert part["effect"] == pytest.approx(2.0, abs=0.3)
    assert part["share"] == pytest.approx(1.0, abs=0.1)
    assert found["search_boots"] == len(found["boots"]) <= 12
    assert all(boot["metrics"]["mean_tpot_ms"] for boot in found["boots"])
    assert not (project.path / ".perfgate/baselines").exists()


def test_a_gain_is_traced_where_nothing_is_slower(project):
    """Where the A/B confirms an improvement the setting that makes it is named, the session passes, and it is said to be kept."""
    result = project.pytest("--attribute", "--vllm-arg=--fake-tpot-ms=1", "--env=ONE=1", "--env=TWO=2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*attribution of *: faster because of --fake-tpot-ms 1 (*"])
    result.stdout.fnmatch_lines(["*mean TPOT: +*% faster with all of them, [[]*"])
    result.stdout.fnmatch_lines(["*next  Keep --fake-tpot-ms 1."])
    found = attribution(project)
    assert (found["direction"], found["responsible"]) == ("faster", ["--fake-tpot-ms 1"])
    (tpot,) = [metric for metric in found["metrics"] if metric["metric"] == "mean_tpot_ms"]
    (part,) = [part for part in tpot["parts"] if part["named"]]
    assert part["effect"] == pytest.approx(1.0, abs=0.3)


def test_names_the_one_key_of_a_table_that_matters(project):
    """Of the keys of a JSON flag the one that slows is named alone; a long value is whole in the results and short in the table."""
    table = json.dumps({"tpot_ms": 6, "stages": list(range(100)), "mode": 0})
    result = project.pytest("--attribute", f"--vllm-arg=--fake-config={table}", "--env=ONE=1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*next  If it is not meant, take --fake-config.tpot_ms 6 back."])
    result.stdout.fnmatch_lines(["*  --fake-config.stages*…*99[]] *"])
    found = attribution(project)
    assert found["responsible"] == ["--fake-config.tpot_ms 6"]
    assert f"--fake-config.stages {list(range(100))}" in found["settings"]
    assert len(found["settings"]) == 4


def test_a_moved_default_of_a_new_version_is_pinned_back(project):
    """Across versions the default that slows is named with how much comes back, and what no flag can set is said."""
    old = project.path / "old-python"
    old.write_text(f'#!/bin/sh\nFAKE_RELEASE=old exec "{sys.executable}" "$@"\n')
    old.chmod(0o755)
    result = project.pytest("--against", str(old), "--attribute", FAKE_RELEASE="new")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*comes back by --no-async-scheduling (async_scheduling: false → true) (*"])
    found = attribution(project)
    assert found["kind"] == "versions"
    assert len(found["settings"]) == 2
    (tpot,) = [metric for metric in found["metrics"] if metric["metric"] == "mean_tpot_ms"]
    (part,) = [part for part in tpot["parts"] if part["named"]]
    assert part["share"] == pytest.approx(1.0, abs=0.15)
    assert any("no flag sets of_the_release" in note for note in found["notes"])
    assert any("of it comes back" in note for note in found["notes"])
    verdict = project.session()["verdicts"][0]
    assert verdict["reason"].startswith("async_scheduling: false → true"), (
        "a failed A/B begins with what moved unasked"
    )
    assert {note.partition(":")[0] for note in verdict["notes"]} >= {
        "block_size",
        "of_the_release",
        "old side",
        "server",
    }


@SPREAD
def test_no_slowdown_names_nothing_and_boots_nothing_more(project, spread):
    """Where the A/B confirms no slowdown, no setting is named and the search makes no boot."""
    result = project.pytest("--attribute", *CHANGES, *spread)
    assert result.parseoutcomes().get("failed", 0) == 0
    result.stdout.fnmatch_lines(
        ["*attribution of *: no setting is named: no difference is confirmed (6 boots)"]
    )
    found = attribution(project)
    assert (found["responsible"], found["search_boots"], found["ended"]) == ([], 0, "no effect")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--attribute needs a difference"),
        (("--env=A=1", "--new-baselines"), "drop --new-baselines"),
        (
            ("--vllm-arg=--max-num-seqs=16",),
            "with --max-num-seqs=16 nothing differs from server entry 'fake'",
        ),
        (("--env=A=1", "--update-baselines"), "drop --new-baselines/--update-baselines"),
    ],
)
def test_attribution_of_nothing_and_into_baselines_is_refused(project, arguments, said):
    """--attribute without a difference, or together with recording, is a usage error before anything boots."""
    assert said in project.refused("--attribute", *arguments)
    assert not (project.path / ".perfgate").exists()


def test_equal_entries_are_refused(project):
    """--attribute against an entry with the same settings says so and boots nothing."""
    assert "'fake' and 'fake' have the same settings" in project.refused(
        "--attribute", "--against-server", "fake"
    )
    assert not list((project.path / ".perfgate").rglob("*.log"))


def test_an_ab_that_cannot_be_believed_is_not_attributed(project):
    """Where a side's runs are invalid the verdict says so, and no word of attribution is said."""
    result = project.pytest("--attribute", "--vllm-arg=--fake-short-output=1")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*attribution*")
    assert "attribution" not in project.session()["verdicts"][0]
