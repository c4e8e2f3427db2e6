"""Load clients under one measure: each in a process of its own, against the scripted server, telling what it cost and what it saw.

    python tests/bench/clients.py perfgate URL CONCURRENCY REQUESTS TOKENS

prints one JSON object. ``first`` and ``sent`` are means over requests on the monotonic clock that the server stamps with, so their
distance from the server's own means is what the client added, whatever else went on.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.scripted_server import ScriptedServer

CLIENTS = ("perfgate", "aiohttp+uvloop", "vllm bench serve", "aiohttp", "httpx+uvloop", "httpx")
INPUT_LEN = 32


def installed(client: str) -> bool:
    """Whether this environment can run it."""
    needs = {"vllm bench serve": "vllm.benchmarks", "aiohttp": "aiohttp", "aiohttp+uvloop": "aiohttp"}
    try:
        return importlib.util.find_spec(needs.get(client, "httpx")) is not None
    except ModuleNotFoundError:
        return False


def prompts(count: int) -> list[list[int]]:
    return [[(index * 7 + at) % 1000 for at in range(INPUT_LEN)] for index in range(count)]


def body(prompt: list[int], tokens: int) -> dict[str, Any]:
    return {
        "model": "scripted",
        "prompt": prompt,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def perfgate(url: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
    from perfgate.client import Endpoint, run_load
    from perfgate.metrics import summarise
    from perfgate.workload import WorkloadSpec

    workload = WorkloadSpec(
        name="bench", input_len=INPUT_LEN, output_len=tokens, concurrency=concurrency, num_prompts=requests
    )
    run = run_load(
        Endpoint(url=url, model="scripted"),
        workload,
        prompts=np.array(prompts(requests), dtype=np.int32),
        seed=1,
    )
    assert run.ok.all(), run.detail
    found = summarise(run)
    begin = time.perf_counter() - (time.time() - run.started.timestamp())
    return {
        "cpu_s": run.client["cpu_s"],
        "after_s": run.client["read_cpu_s"],
        "ttft_ms": found["mean_ttft_ms"],
        "tpot_ms": found["mean_tpot_ms"],
        "first_s": begin + float(run.first.mean()),
        "lag_ms": run.client["lag_mean_ms"],
    }


async def _inline(
    send: Callable[[dict[str, Any]], Awaitable[list[float]]], concurrency: int, requests: int, tokens: int
) -> dict[str, Any]:
    """A client that handles each message as it comes; ``send`` gives the stamps: sent, then each event."""
    gate = asyncio.Semaphore(concurrency)
    stamps: list[list[float]] = []

    async def one(prompt: list[int]) -> None:
        async with gate:
            stamps.append(await send(body(prompt, tokens)))

    cpu = time.process_time()
    await asyncio.gather(*(one(prompt) for prompt in prompts(requests)))
    cpu = time.process_time() - cpu
    assert all(len(times) == tokens + 1 for times in stamps)
    return {
        "cpu_s": cpu,
        "after_s": 0.0,
        "ttft_ms": sum(times[1] - times[0] for times in stamps) / len(stamps) * 1e3,
        "tpot_ms": sum((times[-1] - times[1]) / (tokens - 1) for times in stamps) / len(stamps) * 1e3,
        "first_s": sum(times[1] for times in stamps) / len(stamps),
    }


def _event(line: str) -> bool:
    return line.startswith("data: {") and bool(json.loads(line[6:]).get("choices"))


async def _aiohttp(url: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def send(content: dict[str, Any]) -> list[float]:
            sent = time.perf_counter()
            async with session.post(url + "/v1/completions", json=content) as answer:
                lines = answer.content
                return [sent] + [time.perf_counter() async for line in lines if _event(line.decode())]

        return await _inline(send, concurrency, requests, tokens)


async def _httpx(url: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
    import httpx

    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits, timeout=600) as session:

        async def send(content: dict[str, Any]) -> list[float]:
            sent = time.perf_counter()
            async with session.stream("POST", url + "/v1/completions", json=content) as answer:
                return [sent] + [time.perf_counter() async for line in answer.aiter_lines() if _event(line)]

        return await _inline(send, concurrency, requests, tokens)


def vllm_bench_serve(url: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
    from vllm.benchmarks import serve
    from vllm.benchmarks.datasets import SampleRequest

    samples = [
        SampleRequest(prompt=one, prompt_len=INPUT_LEN, expected_output_len=tokens)
        for one in prompts(requests)
    ]

    async def main() -> tuple[float, dict[str, Any]]:
        cpu = time.process_time()
        result = await serve.benchmark(
            task_type=serve.TaskType.GENERATION,
            endpoint_type="openai",
            api_url=url + "/v1/completions",
            base_url=url,
            model_id="scripted",
            model_name="scripted",
            tokenizer=None,
            input_requests=samples,
            logprobs=None,
            request_rate=float("inf"),
            burstiness=1.0,
            disable_tqdm=True,
            num_warmups=0,
            profile=False,
            selected_percentile_metrics=["ttft", "tpot", "itl"],
            selected_percentiles=[99.0],
            ignore_eos=True,
            goodput_config_dict={},
            max_concurrency=concurrency,
            lora_modules=None,
            extra_headers=None,
            extra_body=None,
            ready_check_timeout_sec=0,
        )
        return time.process_time() - cpu, result

    # As its own command runs it, on asyncio's own loop; uvloop is the server's affair there.
    cpu, result = asyncio.run(main())
    assert result["completed"] == requests
    firsts = [start + ttft for start, ttft in zip(result["start_times"], result["ttfts"], strict=True)]
    return {
        "cpu_s": cpu,
        "after_s": 0.0,
        "ttft_ms": sum(result["ttfts"]) / requests * 1e3,
        "tpot_ms": sum(map(sum, result["itls"])) / requests / (tokens - 1) * 1e3,
        "first_s": sum(firsts) / len(firsts),
    }


def run(client: str, url: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
    """Runs one client here; its cost in memory is the growth of this process's peak."""
    before = _peak_bytes()
    if client == "perfgate":
        found = perfgate(url, concurrency, requests, tokens)
    elif client == "vllm bench serve":
        found = vllm_bench_serve(url, concurrency, requests, tokens)
    else:
        library, _, loop = client.partition("+")
        work = {"aiohttp": _aiohttp, "httpx": _httpx}[library](url, concurrency, requests, tokens)
        if loop:
            import uvloop

            found = uvloop.run(work)
        else:
            found = asyncio.run(work)
    return {**found, "memory_bytes": _peak_bytes() - before}


def measure(server: ScriptedServer, client: str, *shape: int) -> dict[str, Any]:
    """Runs one client in a process of its own, and holds it against what the server knows."""
    server.truth()
    command = [
        sys.executable,
        __file__,
        client,
        server.url,
        *map(str, shape),
    ]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    truth = server.truth()
    received = np.array(truth["received_ns"])
    first = np.array([writes[0] for writes in truth["writes_ns"]])
    last = np.array([writes[-1] for writes in truth["writes_ns"]])
    assert len(received) == shape[1]
    true_tpot = float(((last - first) / (shape[2] - 1)).mean()) / 1e6
    events = shape[1] * shape[2]
    return {
        "client": client,
        "cpu_us": found["cpu_s"] / events * 1e6,
        "total_us": (found["cpu_s"] + found["after_s"]) / events * 1e6,
        "ttft_ms": found["ttft_ms"],
        "true_ttft_ms": float((first - received).mean()) / 1e6,
        "late_ms": (found["first_s"] - float(first.mean()) / 1e9) * 1e3,
        "tpot_error": found["tpot_ms"] / true_tpot - 1,
        "bytes": found["memory_bytes"] / events,
    }


def _peak_bytes() -> int:
    """Of this program alone: getrusage would go back to the size of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def main() -> None:
    """Keeps to the last core, so that the scripted server may have another to itself."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        found = run(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
