"""--kernel-change from the command line to both tables, on a fake vLLM and a kernel that takes as long as it is told."""

import shutil

import pytest

from tests.plugin.conftest import REPOSITORY, SPREAD

CHANGES = """
[changes.half]
text = "A kernel five times as fast takes two thirds of the TPOT away"
old = { server = "fake", args = { fake-tpot-ms = 24.0 } }
new = { server = "fake", args = { fake-tpot-ms = 8.0 } }
workloads = ["single"]
kernel = "vllm.kernel:make"
old_options = { us = 2000 }
new_options = { us = 400 }
calls = 10
steps = "decode"
pairs = 2
processes = 2
"""


@pytest.fixture
def changing(project):
    """The project with a change and the two-level test."""
    toml = project.path / "perfgate.toml"
    toml.write_text(toml.read_text().replace("num_prompts = 8", "num_prompts = 2") + CHANGES)
    (project.path / "conftest.py").write_text(
        'pytest_plugins = ["fixtures.serving", "fixtures.kernelgain"]\n'
    )
    shutil.copy(
        REPOSITORY / "tests/kernels/test_kernel_gain_reaches_serving.py",
        project.path / "tests/test_change.py",
    )
    return project


def rewritten(project, *pairs):
    toml = project.path / "perfgate.toml"
    content = toml.read_text()
    for old, new in pairs:
        assert old in content
        content = content.replace(old, new)
    toml.write_text(content)


def test_a_kernel_that_is_not_there_costs_no_boot(changing):
    """A misspelt kernel fails with what to do before anything is booted."""
    rewritten(changing, ("vllm.kernel:make", "vllm.kernel:mke"))
    result = changing.pytest("-m", "kernels", "-p", "benchmark", "--kernel-change", "half")
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*servers' Python has no vllm.kernel:mke*"])
    result.stdout.no_fnmatch_line("*interleaved pairs*")


def test_a_faster_server_alone_does_not_pass(changing):
    """A kernel that raises when it is timed leaves a TPOT of a third undecided: the test is skipped, and strictly it fails."""
    rewritten(changing, ("new_options = { us = 400 }\n", ""))
    asked = ("-m", "kernels", "-p", "benchmark", "--kernel-change", "half")
    result = changing.pytest(*asked)
    assert (result.parseoutcomes()["skipped"], result.parseoutcomes().get("passed", 0)) == (1, 0)
    (found,) = changing.session()["findings"]["changes"]
    assert "left no answer" in found["problem"]
    assert [metric["arrival"] for metric in found["workloads"][0]["metrics"]] == ["undecided"] * 3
    assert changing.pytest(*asked, "--strict-verdicts").parseoutcomes()["failed"] == 1


@SPREAD
def test_a_kernel_and_its_serving_are_measured_and_connected(changing, spread):
    """Both levels of one change: the kernel at the one token of a decode step, Amdahl's promise, and the TPOT that it keeps."""
    result = changing.pytest("-m", "kernels", "-p", "benchmark", "--kernel-change", "half", *spread)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes.get("failed", 0)) == (1, 0)
    result.stdout.fnmatch_lines(["half on cpu:*", "*1 *200?.? µs *40?.? µs *"])
    result.stdout.re_match_lines(
        [r"single +mean TPOT .* 8\d\.\d% .* -6\d\.\d% .* -6\d\.\d% .*reaches serving$"]
    )
    (found,) = changing.session()["findings"]["changes"]
    (workload,) = found["workloads"]
    assert [(size["tokens"], len(size["old"]), len(size["new"])) for size in workload["kernel"]] == [
        (1, 2, 2)
    ]
    tpot = {metric["metric"]: metric for metric in workload["metrics"]}["mean_tpot_ms"]
    assert tpot["arrival"] == "reaches serving"
    assert tpot["serving"]["lower"] < tpot["serving"]["estimate"] == pytest.approx(-0.66, abs=0.05)


def test_serving_is_judged_although_the_server_counts_no_steps(changing):
    """A vLLM without the histogram of engine steps: the kernel cannot be timed and the table says why, the verdict on serving is kept."""
    toml = changing.path / "perfgate.toml"
    toml.write_text(toml.read_text().replace("{ fake-tpot-ms", "{ fake-no-steps = true, fake-tpot-ms"))
    result = changing.pytest("-m", "kernels", "-p", "benchmark", "--kernel-change", "half")
    (found,) = changing.session()["findings"]["changes"]
    assert found["problem"].startswith("single: no engine step is counted in vllm:iteration_tokens_total")
    (workload,) = found["workloads"]
    assert not workload.get("kernel")
    tpot = {metric["metric"]: metric for metric in workload["metrics"]}["mean_tpot_ms"]
    assert tpot["serving"]["estimate"] == pytest.approx(-0.66, abs=0.05)
    assert (tpot.get("expected"), tpot.get("share")) == (None, None)
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) + outcomes.get("skipped", 0) == 1
