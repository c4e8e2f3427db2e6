"""The whole gate on a real vLLM on the CPU: five suites of a server that nobody changed, and one whose answers come later than they did.

Fifteen boots and more. pytest -m long tests/e2e/test_gate_on_the_cpu.py
"""

import re

import pytest
from delaying_proxy import VARIABLE, python_with_delay
from suite_sessions import Session, Sessions

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SUITES = 5
REPEATED = 3
"""So many suites may be INVALID, because this machine was too busy for its client, and are made again: they are no evidence either way."""

CONFIG = """
[gpus.cpu]
pairs = 2

[servers.proxied]
extends = "tiny"
launcher = {{ kind = "local", python = "{python}" }}
"""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Sessions:
    """Of a server behind a proxy that holds nothing back unless it is told to, with a baseline of four boots and its noise model."""
    folder = tmp_path_factory.mktemp("gate")
    made = Sessions(
        folder,
        *("--gpu", "cpu", "--server", "proxied", "--workload", "cpu-chat"),
        config=CONFIG.format(python=python_with_delay(folder)),
    )
    recorded = made.run("--new-baselines", "--replicates", "4")
    assert recorded.status == 0, recorded.said
    assert (made.baselines / "cpu" / "noise.json").is_file()
    return made


@pytest.fixture(scope="module")
def same(sessions) -> list[Session]:
    """Five suites of the unchanged server that can be believed."""
    believed: list[Session] = []
    for _ in range(SUITES + REPEATED):
        suite = sessions.run("--replicates", "1")
        if "INVALID" not in suite.outcomes:
            believed.append(suite)
        if len(believed) == SUITES:
            break
    return believed


def promised(said: str) -> list[float]:
    """The smallest slowdowns of mean TTFT that a plan says it shows, of the screen and of its confirmation."""
    (plan,) = re.findall(r"^perfgate: screening .*$", said, re.MULTILINE)
    return [
        int(percent) / 100 for percent in re.findall(r"shows a slowdown of [^;]*?mean TTFT \+(\d+)%", plan)
    ]


def test_the_same_server_in_five_suites_is_never_a_regression(same):
    """Screened against its own baseline, and confirmed on fresh boots where it is suspected, the unchanged server fails no suite."""
    assert len(same) == SUITES, "too many suites were INVALID: the machine is too busy"
    for suite in same:
        assert suite.status == 0, suite.said
        assert suite.outcomes[0] in ("PASS", "IMPROVEMENT", "INCONCLUSIVE"), suite.said


def test_a_delay_of_twice_the_smallest_detectable_effect_is_found(sessions, same):
    """Answers held back by twice the slowdown of TTFT that the plan promises to show are a confirmed REGRESSION of TTFT, not of TPOT."""
    shown = promised(same[0].said)
    assert len(shown) == 2, same[0].said
    delay_ms = 2 * max(shown) * same[0].metric("cpu-chat", "mean_ttft_ms")["baseline"]
    late = sessions.run("--replicates", "1", "--env", f"{VARIABLE}={delay_ms:.1f}")
    assert late.outcomes == ["REGRESSION"], late.said
    assert late.status == 1
    assert late.metric("cpu-chat", "mean_ttft_ms")["outcome"] == "REGRESSION"
    assert late.metric("cpu-chat", "mean_tpot_ms")["outcome"] != "REGRESSION", late.said
