"""What several releases of vLLM say of themselves, on the CPU: flags in effect, boot metrics, and defaults that moved.

Installs the other releases beside this one (about 350 MB each, no dependencies) and boots them: only when asked for.
pytest -m long tests/e2e/test_releases.py
"""

import sys

import pytest
from releases import release
from suite_sessions import Sessions

from perfgate.catalogue import load_catalogue
from perfgate.environment import versions
from perfgate.metrics import METRICS
from perfgate.server import Effect, ModelRef, ServerSpec, boot, moved_settings
from perfgate.targets import ModelSpec
from perfgate.tinymodel import dummy_model

pytestmark = [pytest.mark.e2e, pytest.mark.long]

OLDER = "0.28.0"
BETWEEN = "0.30.0"
"""Releases that run on the torch of the one that is installed."""


def environment(version: str | None) -> list[str]:
    return [] if version is None else [f"PYTHONPATH={release(version)}"]


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str | None, dict]:
    """What each release says of the same server: None is the one that is installed."""
    spec = load_catalogue("servers")["tiny"].parse(ServerSpec)
    model = load_catalogue("models")["tiny-qwen3next"].parse(ModelSpec)
    folder = tmp_path_factory.mktemp("releases")
    path = dummy_model(model.name, model.config, cache_dir=folder)
    found = {}
    for version in (OLDER, BETWEEN, None):
        changed = spec.with_changes(
            ["--mamba-cache-mode=none", "-tp=1"], [*environment(version), "VLLM_NO_SUCH_VARIABLE=1"]
        )
        with boot(changed, model=ModelRef(name=model.name, path=str(path)), log_dir=folder) as server:
            found[version] = {
                "version": server.version(),
                "flags": {report.name: report for report in server.flags_in_effect()},
                "metrics": server.boot_metrics(),
                "settings": server.resolved_settings(),
            }
    return found


@pytest.mark.parametrize("version", [OLDER, BETWEEN, None])
def test_every_release_tells_what_became_of_each_setting(said, version):
    """The forced cache mode is overridden with its line, the misspelt variable ignored, and everything else honoured by the page."""
    flags = dict(said[version]["flags"])
    assert said[version]["version"].startswith(version or versions(sys.executable, {})["vllm"])
    mamba, misspelt = flags.pop("--mamba-cache-mode"), flags.pop("VLLM_NO_SUCH_VARIABLE")
    assert (mamba.effect, mamba.running, mamba.source) == (Effect.OVERRIDDEN, "align", "/server_info")
    assert "align" in mamba.because
    assert (misspelt.effect, misspelt.source) == (Effect.IGNORED, "log")
    assert {report.effect for report in flags.values()} == {Effect.HONOURED}, flags
    assert flags["--tensor-parallel-size"].source == "/server_info"


@pytest.mark.parametrize("version", [OLDER, BETWEEN, None])
def test_every_release_has_its_boot_metrics(said, version):
    """Time to ready, imports, engine start and the KV cache are read from each release's own wording."""
    metrics = said[version]["metrics"]
    assert (
        {"ready_s", "imports_s", "init_engine_s", "kv_cache_tokens", "kv_cache_gib"}
        <= set(metrics)
        <= set(METRICS)
    )
    assert 0 < metrics["imports_s"] < metrics["ready_s"]
    assert metrics["kv_cache_gib"] == 1.0


def test_what_moved_between_two_releases_is_listed_and_little_of_it_is_noise(said):
    """The differences name settings that nobody asked for; names, paths and sizes of one boot are not among them."""
    changes = moved_settings(
        said[OLDER]["settings"], said[None]["settings"], versions=(OLDER, said[None]["version"])
    )
    assert 0 < len(changes) < len(said[None]["settings"]) / 4
    assert all(f"new default between vLLM {OLDER} and " in str(change) for change in changes)
    assert not [change for change in changes if str(release(OLDER)) in str(change)]
    assert moved_settings(said[OLDER]["settings"], said[OLDER]["settings"]) == ()


def test_a_failing_verdict_begins_with_the_defaults_that_moved(said, tmp_path):
    """A baseline of the older release, then one slot of the installed one: the verdict begins with what is set otherwise and what moved."""
    cell = ("--gpu", "cpu", "--server", "tiny", "--workload", "cpu-chat")
    older = f'[servers.tiny.env]\nPYTHONPATH = "{release(OLDER)}"\n[gpus.cpu]\nreplicates = 2\n'
    sessions = Sessions(tmp_path, *cell, config=older)
    assert sessions.run("--new-baselines").outcomes == ["RECORDED"]
    sessions.config.write_text("[gpus.cpu]\nreplicates = 2\n")
    judged = sessions.run("--vllm-arg=--max-num-seqs=1", "--max-minutes", "6")
    (verdict,) = judged.verdicts
    assert verdict["outcome"] in ("REGRESSION", "SUSPECT"), judged.said
    first = next(note for note in verdict["notes"] if note.endswith("not set by you"))
    assert f"new default between vLLM {OLDER} and " in first
    quoted, _, _ = verdict["reason"].partition("slower by")
    assert quoted.startswith("max_num_seqs: 16 → 1, set by you; ")
    assert first in quoted
    assert any("max_num_seqs: 16 → 1, set by you" in note for note in verdict["notes"])
    assert any("mostly queueing" in note for note in verdict["notes"])
