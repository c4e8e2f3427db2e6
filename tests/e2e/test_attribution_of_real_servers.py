"""Attribution on a real vLLM on the CPU: of five changed settings, or of the defaults of two releases, those that matter are named.

A dozen boots each, so only when asked for.

pytest -m long tests/e2e/test_attribution_of_real_servers.py
"""

from pathlib import Path

import pytest
from releases import python_with, python_with_moved_defaults, release
from suite_sessions import Sessions

INNOCENT = (
    "--vllm-arg=--seed=7",
    "--vllm-arg=--uvicorn-log-level=warning",
    "--vllm-arg=--disable-uvicorn-access-log",
    "--env=TOKENIZERS_PARALLELISM=false",
)
CELL = ("--gpu", "cpu", "--server", "tiny", "--workload", "cpu-chat")
OLDER = "0.28.0"
ONE_SLOT = "--max-num-seqs 16 → 1"
THREE_SLOTS = "--max-num-seqs 16 → 3"
SMALL_STEPS = "--max-num-batched-tokens 16"

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def attribute(folder: Path, *arguments: str) -> tuple[str, dict]:
    """What a session with --attribute printed, and the attribution it kept."""
    found = Sessions(folder, *CELL).run("--attribute", *arguments, timeout=3600)
    (verdict,) = found.verdicts
    return found.said, verdict["attribution"]


def named_parts(found: dict, metric: str) -> dict[str, dict]:
    """What is named for one metric."""
    (taken,) = [one for one in found["metrics"] if one["metric"] == metric]
    return {
        part["settings"][0]: part for part in taken["parts"] if part["named"] and not part.get("together")
    }


def test_the_one_flag_that_matters_is_named_among_five(tmp_path):
    """--max-num-seqs 1 is named at concurrency 4, alone, with most of the total; the fewer KV tokens of --max-model-len are a note."""
    changed = (*INNOCENT[:3], "--vllm-arg=--max-model-len=2048", "--vllm-arg=--max-num-seqs=1")
    said, found = attribute(tmp_path, *changed)
    assert found["responsible"] == [ONE_SLOT], said
    assert found["ended"] == "explained"
    (sizes,) = [note for note in found["notes"] if note.startswith("KV tokens -")]
    assert "--max-model-len 4096 → 2048" in sizes
    for metric in found["metrics"]:
        (part,) = named_parts(found, metric["metric"]).values()
        assert part["lower"] > 0
        assert part["share"] > 0.7


def test_two_settings_that_matter_are_both_named_among_five(tmp_path):
    """Three slots for four streams and steps of 16 tokens both cost time to the first token: both are named, three others are not."""
    changed = ("--vllm-arg=--max-num-seqs=3", "--vllm-arg=--max-num-batched-tokens=16")
    said, found = attribute(tmp_path, *INNOCENT[:3], *changed)
    assert set(found["responsible"]) == {THREE_SLOTS, SMALL_STEPS}, said
    assert found["ended"] == "explained"
    both = named_parts(found, "mean_ttft_ms")
    assert set(both) == {THREE_SLOTS, SMALL_STEPS}
    assert all(part["lower"] > 0 for part in both.values())


def test_nothing_is_named_where_nothing_matters(tmp_path):
    """Five changes that do nothing end after the A/B, without a name and without a boot beyond it."""
    said, found = attribute(tmp_path, *INNOCENT, "--vllm-arg=--max-num-seqs=15")
    assert (found["responsible"], found["search_boots"]) == ([], 0), said
    assert found["ended"] == "no effect"


def test_of_the_defaults_of_two_releases_the_one_that_matters_is_named(tmp_path):
    """Against a release four versions older, one whose default of --max-num-seqs is 1: pinned to the old value, all of it comes back."""
    moved = python_with_moved_defaults(tmp_path, batched_tokens=1024, sequences=1)
    older = python_with(release(OLDER), tmp_path / "python-older")
    entry = f"""
    [servers.moved]
    extends = "tiny-dense"
    args = {{ max-num-seqs = false }}
    launcher = {{ kind = "local", python = "{moved}" }}
    """
    cell = ("--gpu", "cpu", "--server", "moved", "--workload", "cpu-chat")
    session = Sessions(tmp_path, *cell, config=entry).run("--against", str(older), "--attribute")
    (verdict,) = session.verdicts
    found = verdict["attribution"]
    assert found["kind"] == "versions"
    (named,) = found["responsible"] or [session.said]
    assert named.startswith("--max-num-seqs ")
    assert named.endswith("→ 1)")
    assert any("max_num_batched_tokens: " in setting for setting in found["settings"])
    assert found["ended"] == "explained"
    assert all(part["share"] > 0.7 for part in named_parts(found, "mean_ttft_ms").values())
    assert f"Set {named} to have it back." in session.said
