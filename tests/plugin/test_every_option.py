"""Every option of a session takes effect, in one process and handed out by xdist."""

import json
import shutil
import sqlite3
import sys
import xml.etree.ElementTree as ET

from tests.plugin.conftest import CATALOGUE, FAKE, REPOSITORY, SPREAD


@SPREAD
def test_what_is_asked_for_is_what_is_measured(project, spread):
    """Cells, flags, environment, Python, time limit, boots, configuration, and where results, history, page and JUnit file go."""
    (project.path / "perfgate.toml").write_text("[servers.fake]\nthis = 'file is not read'\n")
    given = CATALOGUE.format(fake=FAKE) + '\n[models.other]\nid = "./model"\n'
    (project.path / "given.toml").write_text(given)
    python = project.path / "a-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    chosen = (
        "--gpu",
        "cpu",
        "--model",
        "other",
        "--server",
        "fake",
        "--server",
        "slow",
        "--workload",
        "single",
    )
    changed = ("--vllm-arg=--enforce-eager", "--vllm-arg=--block-size 32", "--env", "COLOUR=blue")
    how = (
        "--server-python",
        str(python),
        "--boot-timeout",
        "17",
        "--replicates",
        "1",
        "--load-processes",
        "1",
    )
    files = ("--perfgate-config", "given.toml", "--baselines", "kept", "--perfgate-results", "out")
    more = ("--perfgate-history", "kept.sqlite", "--perfgate-html", "page.html", "--junit-xml", "junit.xml")
    result = project.pytest(*spread, *chosen, *changed, *how, *files, *more)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*kept/cpu/other/fake/single.json: no baseline is stored*", "*--new-baselines*"]
    )
    (file,) = (project.path / "out").glob("*.json")
    session = json.loads(file.read_text())
    assert {verdict["outcome"] for verdict in session["verdicts"]} == {"NO_BASELINE"}
    assert sorted(one["cell"]["server"] for one in session["measurements"]) == ["fake", "slow"]
    for one in session["measurements"]:
        assert (one["cell"]["model"], one["cell"]["workload"]) == ("other", "single")
        assert len(one["boots"]) == 1
        assert one["boots"][0]["runs"][0]["metrics"]["output_throughput"] > 0
        server = one["server"]
        assert server["args"]["enforce-eager"] is True
        assert server["args"]["block-size"] == 32
        assert server["env"]["COLOUR"] == "blue"
        assert server["launcher"]["python"] == str(python)
        assert server["boot_timeout_s"] == 17
    cells = ("cpu/other/fake/single", "cpu/other/slow/single")
    page = (project.path / "page.html").read_text()
    junit = ET.parse(project.path / "junit.xml").getroot()
    properties = [(p.get("name"), p.get("value")) for p in junit.iter("property")]
    for cell in cells:
        assert cell in page
        assert ("perfgate.cell", cell) in properties
    assert properties.count(("perfgate.verdict", "NO_BASELINE")) == 2
    with sqlite3.connect(project.path / "kept.sqlite") as history:
        assert session["session"] in "".join(map(str, history.iterdump()))
    history.close()
    assert not (project.path / ".perfgate/results").exists()
    assert not (project.path / ".perfgate/history.sqlite").exists()


@SPREAD
def test_replacing_a_baseline(recorded, spread):
    """--update-baselines replaces the stored file, keeps the note of --baseline-note, and judges against the old one."""
    before = recorded.baseline().read_bytes()
    note = ("--baseline-note", "new driver", "--baseline-note", "new kernel")
    result = recorded.pytest(*spread, "--update-baselines", *note, "--replicates", "2")
    result.assert_outcomes(skipped=1)
    assert recorded.baseline().read_bytes() != before
    after = json.loads(recorded.baseline().read_text())
    assert after["provenance"]["notes"] == ["new driver", "new kernel"]
    (verdict,) = recorded.session()["verdicts"]
    assert verdict["reason"].startswith("baseline replaced; against the old one: ")


@SPREAD
def test_no_time_to_confirm_and_strict(recorded, spread):
    """With --max-minutes too small for one pair nothing is convicted: SUSPECT, skipped, and a failure under --strict-verdicts."""
    arguments = ("--vllm-arg=--fake-tpot-ms=6", "--max-minutes", "0.001", "--replicates", "1")
    recorded.pytest(*spread, *arguments).assert_outcomes(skipped=1)
    assert recorded.session()["verdicts"][0]["outcome"] == "SUSPECT"
    recorded.pytest(*spread, *arguments, "--strict-verdicts").assert_outcomes(failed=1)


@SPREAD
def test_more_load_processes_than_slots(project, spread):
    """--load-processes reaches the client, which refuses more processes than the workload has requests at a time."""
    result = project.pytest(*spread, "--workload", "single", "--load-processes", "2", "--replicates", "1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*workload 'single': 2 load processes for 1 requests at a time*"])


@SPREAD
def test_another_side(project, spread):
    """--against-server measures both entries of each server asked for and stores nothing."""
    side = ("--server", "slow", "--against-server", "fake", "--workload", "single", "--replicates", "2")
    project.pytest(*spread, *side)
    (verdict,) = project.session()["verdicts"]
    (tpot,) = [metric for metric in verdict["metrics"] if metric["metric"] == "mean_tpot_ms"]
    assert tpot["change"] > 1
    old, new = project.session()["measurements"]
    assert (old["cell"]["server"], old["server"]["args"].get("fake-tpot-ms")) == ("slow", None)
    assert new["server"]["args"]["fake-tpot-ms"] == 6.0
    assert [len(one["boots"]) for one in (old, new)] == [2, 2]
    assert not (project.path / ".perfgate/baselines").exists()


@SPREAD
def test_another_python(project, spread):
    """--against measures the server under that Python as the old side and under its own as the new one, and stores nothing."""
    old = project.path / "old-python"
    old.write_text(f'#!/bin/sh\nFAKE_RELEASE=old exec "{sys.executable}" "$@"\n')
    old.chmod(0o755)
    side = ("--against", str(old), "--workload", "single", "--replicates", "2")
    project.pytest(*spread, *side, FAKE_RELEASE="new")
    (verdict,) = project.session()["verdicts"]
    (tpot,) = [metric for metric in verdict["metrics"] if metric["metric"] == "mean_tpot_ms"]
    assert tpot["change"] > 0.5
    before, after = project.session()["measurements"]
    assert before["server"]["launcher"]["python"] == str(old)
    assert after["server"]["launcher"] != before["server"]["launcher"]
    assert [len(one["boots"]) for one in (before, after)] == [2, 2]
    assert not (project.path / ".perfgate/baselines").exists()


@SPREAD
def test_a_gpu_that_is_not_here(project, spread):
    """Without the GPU asked for, the cell skips with the reason; under --require-gpu it fails."""
    elsewhere = ("--gpu", "h100", "--server", "fake", "--model", "fake-model", "--workload", "quick")
    result = project.pytest(*spread, *elsewhere, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs a h100, this machine has no GPU*"])
    project.pytest(*spread, *elsewhere, "--require-gpu").assert_outcomes(failed=1)


@SPREAD
def test_an_unpacked_vllm(project, spread):
    """--vllm-source names the vLLM whose kernels are looked at; a folder that is none fails with words, once and not once a cell."""
    (project.path / "conftest.py").write_text('pytest_plugins = ["fixtures.serving", "fixtures.kernels"]\n')
    shutil.copy(REPOSITORY / "tests/kernels/test_coverage.py", project.path / "tests/test_keys.py")
    cells = ("-m", "kernels", "--gpu", "gb10", "--model", "qwen3.5-9b", "--vllm-source", "/nowhere")
    result = project.pytest(*spread, *cells, "-k", "reaches")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["--vllm-source /nowhere: there is no such folder"])


def test_a_model_without_such_a_layer(project):
    """A dense model fails where coverage is asked for, and is measured where it is not."""
    (project.path / "conftest.py").write_text('pytest_plugins = ["fixtures.serving", "fixtures.kernels"]\n')
    shutil.copy(REPOSITORY / "tests/kernels/test_coverage.py", project.path / "tests/test_keys.py")
    dense = ("--model", "tiny-qwen3")
    result = project.pytest("-m", "kernels", "--gpu", "gb10", *dense)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["model 'tiny-qwen3' has no linear-attention layer in its architecture"])
    collected = project.pytest("-m", "serving", "--collect-only", *dense)
    assert collected.ret == 0
    collected.stdout.no_fnmatch_line("*linear-attention layer*")
