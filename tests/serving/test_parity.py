"""perfgate and ``vllm bench serve`` on the same server: each against a witness, and the one against the other.

Between client and server stands a tap (`parity_tap.py`) that stamps what passes. It tells the server's part of a difference between the
tools from each tool's own: clients that send at other moments get other answers from the same server, and both may report them rightly.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from parity_witness import truth, witness

from perfgate.client import Endpoint, run_load
from perfgate.experiment.models import model_reference, vocabulary
from perfgate.metrics import summarise
from perfgate.server.spec import LocalLauncher
from perfgate.workload import Tokens, WorkloadSpec, make_prompts

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
PER_TOKEN = ("mean_tpot_ms", "mean_itl_ms")
"""A late last event spreads over all of the request's."""
PERFGATE, BENCH, TEXTS = "perfgate", "bench serve", "bench, texts"
"""The third is ``vllm bench serve`` with prompts of its own making, as its command line runs it: texts that the server has to tokenize. The
others send the same token ids."""
ROUND = (PERFGATE, BENCH, TEXTS, BENCH, PERFGATE)
"""So ordered that a drift of the server weighs equally on all."""
ROUNDS = 3
FLOOR = 0.01
"""A hundredth is no disagreement: a read is stamped before its JSON is parsed here, and after it there."""
ADDED_MS = 2.0
"""Most that perfgate may add to a latency, where more than a hundredth; or what a GPU's entry grants its client (``client_lag_ms``)."""


@dataclass(eq=False)
class Side:
    """The runs of one tool: what it reported, and what the witness saw of the very same requests."""

    reported: list[dict] = field(default_factory=list)
    true: list[dict] = field(default_factory=list)

    def logs(self, metric: str) -> np.ndarray:
        return np.log([run[metric] for run in self.reported])

    def mean(self, metric: str) -> float:
        return float(self.logs(metric).mean())

    def truth(self, metric: str) -> float:
        return float(np.log([run[metric] for run in self.true]).mean())

    def error(self, metric: str) -> float:
        """How much too much the tool reports, as a logarithm."""
        return self.mean(metric) - self.truth(metric)

    def added(self, metric: str) -> float:
        """How much too much, in the metric's own unit."""
        pairs = zip(self.reported, self.true, strict=True)
        return float(np.mean([one[metric] - other[metric] for one, other in pairs]))


def workload(concurrency: int) -> WorkloadSpec:
    """A few waves of short requests."""
    return WorkloadSpec(
        name="parity",
        input_len=128,
        output_len=48,
        concurrency=concurrency,
        num_prompts=concurrency * (6 if concurrency < 100 else 3),
    )


@pytest.fixture
def tap(server) -> Iterator:
    """The witness before the server."""
    with witness(server.url) as running:
        yield running


@pytest.fixture
def bench(tap, server, server_target, suite, tmp_path) -> Iterator[Callable[..., dict]]:
    """Runs ``vllm bench serve`` once, with prompts given or of its own, and gives its result."""
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

    def run(asked: WorkloadSpec, seed: int, prompts: Tokens | None) -> dict:
        file = tmp_path / f"bench-{seed}.json"
        arguments = {
            "backend": "openai",
            "base-url": tap.url,
            "endpoint": "/v1/completions",
            "model": server.model,
            "tokenizer": model.path,
            "dataset-name": "random" if prompts is None else "custom",
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
        order = {"arguments": [*words, "--ignore-eos", "--disable-tqdm", "--save-result", "--save-detailed"]}
        if prompts is not None:
            order |= {"prompts": prompts.tolist(), "output_len": asked.output_len}
        process.stdin.write(json.dumps(order) + "\n")
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
def measure(
    tap, bench, server, server_target, suite
) -> Callable[[str, WorkloadSpec, int], tuple[dict, dict]]:
    """Runs one tool once; gives what it reports and what the witness saw."""
    words = vocabulary(model_reference(server_target.model, suite.options.root))

    def run(tool: str, asked: WorkloadSpec, seed: int) -> tuple[dict, dict]:
        prompts = make_prompts(asked, seed=seed, boot=server.boot_id, run=0, **words).measured
        tap.take()
        if tool == PERFGATE:
            endpoint = Endpoint(url=tap.url, model=server.model, headers=server.headers)
            timings = run_load(endpoint, asked, prompts=prompts, seed=seed)
            assert timings.ok.all(), timings.detail
            reported = {**summarise(timings), "total_output_tokens": int(timings.output_tokens.sum())}
        else:
            reported = bench(asked, seed, None if tool == TEXTS else prompts)
        seen = tap.take()
        assert len(seen) == asked.num_prompts
        assert {one["tokens"] for one in seen} == {asked.output_len}
        return reported, truth(seen, asked.concurrency)

    return run


def test_perfgate_reports_what_happened_and_vllm_bench_serve_is_held_against_it(
    measure, server_target, capsys
):
    """Both count every token; perfgate's TTFT, TPOT, ITL and throughput are those that passed between client and server."""
    tables, wrong = [], []
    added = max(ADDED_MS, server_target.gpu.client_lag_ms or 0.0)
    for concurrency in ON_CPU if server_target.gpu.name == "cpu" else ON_GPU:
        asked = workload(concurrency)
        sides = interleaved(measure, asked)
        tokens = asked.num_prompts * asked.output_len
        assert {run["total_output_tokens"] for side in sides.values() for run in side.reported} == {tokens}
        tables.append(table(sides, f"{server_target.cell.server}, concurrency {concurrency}"))
        ours = sides[PERFGATE]
        granted = {
            metric: added / ((asked.output_len - 1) if metric in PER_TOKEN else 1)
            for metric in METRICS
            if metric.endswith("_ms")
        }
        wrong += [
            f"{metric} at concurrency {concurrency}"
            for metric in METRICS
            if abs(ours.error(metric)) > FLOOR and abs(ours.added(metric)) > granted.get(metric, 0.0)
        ]
    with capsys.disabled():
        print("\n".join(tables))
    assert not wrong, f"perfgate is off the truth in {', '.join(wrong)}"


def interleaved(measure, asked: WorkloadSpec) -> dict[str, Side]:
    """Results of the tools, run by turns after each has warmed up what it uses."""
    sides = {tool: Side() for tool in (PERFGATE, BENCH, TEXTS)}
    for seed, tool in enumerate(sides):
        measure(tool, asked, seed)
    for seed, tool in enumerate(ROUND * ROUNDS, start=len(sides)):
        reported, true = measure(tool, asked, seed)
        sides[tool].reported.append(reported)
        sides[tool].true.append(true)
    return sides


def table(sides: dict[str, Side], title: str) -> str:
    """What each reported, what was, and how the difference divides among server and tools."""
    ours, theirs, texts = sides[PERFGATE], sides[BENCH], sides[TEXTS]
    lines = [
        f"\n{title}, {len(ours.reported)} runs each, interleaved; geometric means, differences as logarithms",
        f"{'metric':<20}{PERFGATE:>10}{BENCH:>12}{'difference':>12}{'server':>9}{'tools':>9}{'run SD':>9}  {'the tools':<14}"
        f"{PERFGATE:>10}{BENCH:>12}",
    ]
    for metric in METRICS:
        difference = ours.mean(metric) - theirs.mean(metric)
        server = ours.truth(metric) - theirs.truth(metric)
        tools = difference - server
        noise = math.sqrt((ours.logs(metric).var(ddof=1) + theirs.logs(metric).var(ddof=1)) / 2)
        word = "agree" if abs(tools) <= FLOOR else "within noise" if abs(tools) <= noise else "differ"
        lines.append(
            f"{metric:<20}{math.exp(ours.mean(metric)):>10.2f}{math.exp(theirs.mean(metric)):>12.2f}{difference:>+12.1%}{server:>+9.1%}"
            f"{tools:>+9.1%}{noise:>9.1%}  {word:<14}{ours.error(metric):>+10.2%}{theirs.error(metric):>+12.2%}"
        )
    lines.append(
        "difference = how much the server's answers differed + how much the tools do about the same answers (each is off the witness by"
        " its last column); run SD is what runs of one tool differ by"
    )
    for tool, side in sides.items():
        lines.append(
            f"{tool:<14} mean TTFT {np.mean([run['mean_ttft_ms'] for run in side.reported]):.2f} ms, of which the tool added"
            f" {side.added('mean_ttft_ms'):.2f}; TPOT {side.error('mean_tpot_ms'):+.2%}; slots busy {math.exp(side.truth('busy')):.1%}"
        )
    change = theirs.truth("mean_ttft_ms") - texts.truth("mean_ttft_ms")
    lines.append(f"token ids instead of texts change the server's mean TTFT by {change:+.1%}")
    return "\n".join(lines)
