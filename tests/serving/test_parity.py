"""Do perfgate and ``vllm bench serve`` agree about the same server, within the noise of measuring it twice?"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from perfgate.client import Endpoint, run_load
from perfgate.experiment.models import model_reference, vocabulary
from perfgate.metrics import summarise
from perfgate.server.spec import LocalLauncher
from perfgate.workload import WorkloadSpec, make_prompts

pytestmark = [pytest.mark.parity, pytest.mark.e2e, pytest.mark.stage("after_load")]

ON_CPU = (4,)
ON_GPU = (16, 256)
"""Concurrencies; at 256 a client that is too slow shows."""
METRICS = (
    "output_throughput",
    "request_throughput",
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "mean_itl_ms",
    "p99_itl_ms",
)
ROUNDS = 3
"""Each round is perfgate, bench, bench, perfgate, so that a drift of the server weighs equally on both."""
LEVEL = 1e-3
"""Chance, a metric, that two tools which agree are said not to."""
BLIND = 0.5
"""Where equal tools could differ by more than this, agreement says nothing."""
FLOOR = 0.01
"""A hundredth is no disagreement: a read is stamped before its JSON is parsed here, and after it there."""


def workload(concurrency: int) -> WorkloadSpec:
    """A few waves of short requests."""
    return WorkloadSpec(
        name="parity",
        input_len=128,
        output_len=48,
        concurrency=concurrency,
        num_prompts=concurrency * (6 if concurrency < 100 else 4),
    )


@pytest.fixture
def bench(server, server_target, suite, tmp_path) -> Iterator[Callable[[WorkloadSpec, int], dict]]:
    """Runs ``vllm bench serve`` once with a workload and a seed and gives its result."""
    python = server.spec.launcher.python if isinstance(server.spec.launcher, LocalLauncher) else None
    model = model_reference(server_target.model, suite.options.root)
    log = (tmp_path / "bench.log").open("w")
    process = subprocess.Popen(
        [python or sys.executable, str(Path(__file__).with_name("bench_serve.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )

    def expect(word: str) -> None:
        answer = process.stdout.readline().strip()  # ends at once if the process does
        assert answer == word, f"vllm bench serve: {(tmp_path / 'bench.log').read_text()[-3000:]}"

    def run(asked: WorkloadSpec, seed: int) -> dict:
        file = tmp_path / f"bench-{seed}.json"
        arguments = {
            "backend": "openai",
            "base-url": server.url,
            "endpoint": "/v1/completions",
            "model": server.model,
            "tokenizer": model.path,
            "dataset-name": "random",
            "random-input-len": asked.input_len,
            "random-output-len": asked.output_len,
            "num-prompts": asked.num_prompts,
            "max-concurrency": asked.concurrency,
            "seed": seed,
            "temperature": 0,
            "ready-check-timeout-sec": 0,
            "result-filename": str(file),
        }
        words = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
        process.stdin.write(
            json.dumps([*words, "--ignore-eos", "--disable-tqdm", "--save-result", "--save-detailed"]) + "\n"
        )
        process.stdin.flush()
        expect("done")
        return json.loads(file.read_text())

    try:
        expect("ready")
        yield run
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        log.close()


@pytest.fixture
def perfgate(server, server_target, suite) -> Callable[[WorkloadSpec, int], dict]:
    """Runs the same workload through perfgate."""
    words = vocabulary(model_reference(server_target.model, suite.options.root))

    def run(asked: WorkloadSpec, seed: int) -> dict:
        prompts = make_prompts(asked, seed=seed, boot=server.boot_id, run=0, **words)
        endpoint = Endpoint(url=server.url, model=server.model, headers=server.headers)
        timings = run_load(endpoint, asked, prompts=prompts.measured, seed=seed)
        assert timings.ok.all(), timings.detail
        return {**summarise(timings), "total_output_tokens": int(timings.output_tokens.sum())}

    return run


def test_perfgate_and_vllm_bench_serve_agree_within_their_noise(perfgate, bench, server_target, capsys):
    """Token counts are equal; throughput, TTFT, TPOT and ITL differ by no more than two equal tools would on this machine."""
    tables, disagreements, blind = [], [], []
    for concurrency in ON_CPU if server_target.gpu.name == "cpu" else ON_GPU:
        asked = workload(concurrency)
        ours, theirs = interleaved(perfgate, bench, asked)
        tokens = asked.num_prompts * asked.output_len
        assert {one["total_output_tokens"] for one in ours + theirs} == {tokens}
        lines = []
        for metric in METRICS:
            one, other = (np.log([run[metric] for run in side]) for side in (ours, theirs))
            runs = len(one)
            difference = one.mean() - other.mean()
            spread = math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
            allowed = max(FLOOR, stats.t.isf(LEVEL / 2, 2 * runs - 2) * spread * math.sqrt(2 / runs))
            lines.append(
                f"{metric:<22}{math.exp(one.mean()):>12.2f}{math.exp(other.mean()):>12.2f}"
                f"{difference:>+12.1%}{spread:>10.1%}{allowed:>10.1%}"
            )
            if abs(difference) > allowed:
                disagreements.append(f"{metric} at concurrency {concurrency}")
            elif allowed > BLIND and not metric.startswith("p99"):
                blind.append(f"{metric} at concurrency {concurrency}")
        tables += [
            f"\n{server_target.cell.server}, concurrency {concurrency}, {len(ours)} runs each, interleaved; geometric means",
            f"{'metric':<22}{'perfgate':>12}{'bench serve':>12}{'difference':>12}{'run SD':>10}{'allowed':>10}",
            *lines,
        ]
    table = "\n".join(tables)
    with capsys.disabled():
        print(table)
    assert not disagreements, table
    if blind:
        pytest.skip(f"INCONCLUSIVE: this machine is too noisy to tell about {', '.join(blind)}{table}")


def interleaved(perfgate, bench, asked: WorkloadSpec) -> tuple[list[dict], list[dict]]:
    """Results of both tools, run by turns after each has warmed up what it uses."""
    perfgate(asked, 0)
    bench(asked, 1000)
    ours, theirs = [], []
    for number in range(1, ROUNDS + 1):
        ours.append(perfgate(asked, 2 * number))
        theirs += [bench(asked, 1000 + 2 * number), bench(asked, 1001 + 2 * number)]
        ours.append(perfgate(asked, 2 * number + 1))
    return ours, theirs
