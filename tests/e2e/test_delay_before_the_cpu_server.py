"""The whole gate on a real vLLM on the CPU whose answers come later than they did: the delay is found, and nothing else is.

pytest -m long tests/e2e/test_delay_before_the_cpu_server.py
"""

import re

import pytest
from delaying_proxy import VARIABLE, python_with_delay
from suite_sessions import Sessions

pytestmark = [pytest.mark.e2e, pytest.mark.long]

ENTRY = """
[gpus.cpu]
pairs = 2

[servers.proxied]
extends = "tiny"
launcher = {{ kind = "local", python = "{python}" }}
"""


def promised(said: str) -> list[float]:
    """The smallest slowdowns of mean TTFT that a plan says it shows, of the screen and of its confirmation."""
    (plan,) = re.findall(r"^perfgate: screening .*$", said, re.MULTILINE)
    return [
        int(percent) / 100 for percent in re.findall(r"shows a slowdown of [^;]*?mean TTFT \+(\d+)%", plan)
    ]


def test_a_delay_of_twice_the_smallest_detectable_effect_is_found(tmp_path):
    """Answers held back by twice the slowdown of TTFT that the plan promises to show are a confirmed REGRESSION of TTFT, not of TPOT."""
    config = ENTRY.format(python=python_with_delay(tmp_path))
    sessions = Sessions(
        tmp_path, "--gpu", "cpu", "--server", "proxied", "--workload", "cpu-chat", config=config
    )
    recorded = sessions.run("--new-baselines", "--replicates", "4")
    assert recorded.status == 0, recorded.said
    same = sessions.run("--replicates", "1")
    assert same.outcomes[0] in ("PASS", "IMPROVEMENT", "INCONCLUSIVE"), same.said
    shown = promised(same.said)
    assert len(shown) == 2, same.said
    delay_ms = 2 * max(shown) * same.metric("cpu-chat", "mean_ttft_ms")["baseline"]
    (tmp_path / "delay.txt").write_text(f"{shown} {delay_ms}\n")
    late = sessions.run("--replicates", "1", "--env", f"{VARIABLE}={delay_ms:.1f}")
    assert late.outcomes == ["REGRESSION"], late.said
    assert late.status == 1
    assert late.metric("cpu-chat", "mean_ttft_ms")["outcome"] == "REGRESSION"
    assert late.metric("cpu-chat", "mean_tpot_ms")["outcome"] != "REGRESSION", late.said
