from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from perfgate.client import Endpoint, run_load
from perfgate.timings import Timings
from perfgate.workload import WorkloadSpec, make_prompts
from tests.bench.scripted_server import ScriptedServer


@pytest.fixture(scope="session")
def scripted() -> Iterator[ScriptedServer]:
    """A scripted server in its own process, without delays of its own."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def load(scripted: ScriptedServer) -> Callable[..., Timings]:
    """Runs a small workload against the scripted server; ``script`` says how it answers, the rest changes the workload."""

    def run(
        *,
        script: dict[str, Any] | None = None,
        url: str = "",
        options: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Timings:
        workload = make_workload(script=script, **changes)
        prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000)
        scripted.truth()  # forgets what went before
        return run_load(
            Endpoint(url=url or scripted.url, model="scripted", api=workload.api),
            workload,
            prompts=prompts.measured,
            warmup_prompts=prompts.warmup,
            seed=1,
            **(options or {}),
        )

    return run


def make_workload(*, script: dict[str, Any] | None = None, **changes: Any) -> WorkloadSpec:
    """A workload of 6 requests of 5 tokens, two at a time."""
    given = {
        "name": "test",
        "input_len": 7,
        "output_len": 5,
        "concurrency": 2,
        "num_prompts": 6,
        "request_timeout_s": 20.0,
        "run_timeout_s": 30.0,
        "extra_body": {"script": script} if script else {},
    }
    return WorkloadSpec.model_validate(given | changes)
