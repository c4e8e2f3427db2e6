"""Load clients under one measure: each in a process of its own, against the scripted server, telling what it cost and what it saw.

    python tests/bench/clients.py perfgate URL CONCURRENCY REQUESTS TOKENS

prints one JSON object. ``stamps`` are those of each request, in the order of `prompts`: sent, first event, last event, in seconds on the
client's clock. The server knows when it had each request and wrote each event, so what lies between is what the client added, whatever
else went on, and however late the server was itself.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.scripted_server import ScriptedServer

CLIENTS = (
    "perfgate",
    "vllm-rs bench serve",
    "aiohttp+uvloop",
    "vllm bench serve",
    "aiohttp",
    "httpx+uvloop",
    "httpx",
)
INPUT_LEN = 32


def missing(client: str) -> str:
    """Why this environment cannot run it; empty where it can."""
    if client == "vllm-rs bench serve":
        if rust_client() is None:
            return "no vllm-rs: vLLM's wheel for CUDA has it; set VLLM_RUST_FRONTEND_PATH to one"
        return "" if _found("tokenizers") else "needs tokenizers, for the tokenizer that vllm-rs asks for"
    needs = {"vllm bench serve": "vllm.benchmarks", "aiohttp": "aiohttp", "aiohttp+uvloop": "aiohttp"}
    module = needs.get(client, "httpx")
    return "" if _found(module) else f"{module} is not installed"


def rust_client() -> Path | None:
    """The bench client in Rust of vLLM itself: where VLLM_RUST_FRONTEND_PATH says, or beside the installed vLLM."""
    given = os.environ.get("VLLM_RUST_FRONTEND_PATH", "auto")
    if given != "auto":
        return Path(given) if Path(given).is_file() else None
    spec = importlib.util.find_spec("vllm")
    beside = Path(spec.origin).with_name("vllm-rs") if spec is not None and spec.origin else None
    return beside if beside is not None and beside.is_file() else None


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def prompts(count: int) -> list[list[int]]:
    """Their first two tokens are the request's number."""
    return [
        [index // 1000, index % 1000] + [(index * 7 + at) % 1000 for at in range(2, INPUT_LEN)]
        for index in range(count)
    ]


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
    begin = time.perf_counter() - (time.time() - run.started.timestamp())
    return {
        "cpu_s": run.client["cpu_s"],
        "after_s": run.client["read_cpu_s"],
        "stamps": (np.column_stack([run.sent, run.first, run.last]) + begin).tolist(),
        "ttft_ms": float(run.ttft.mean()) * 1e3,
        "tpot_ms": float(run.tpot.mean()) * 1e3,
        "lag_ms": run.client["lag_mean_ms"],
        "dispatch_ms": run.client["dispatch_mean_ms"],
    }


async def _inline(
    send: Callable[[dict[str, Any]], Awaitable[list[float]]], concurrency: int, requests: int, tokens: int
) -> dict[str, Any]:
    """A client that handles each message as it comes; ``send`` gives the stamps: sent, then each event."""
    gate = asyncio.Semaphore(concurrency)

    async def one(prompt: list[int]) -> list[float]:
        async with gate:
            return await send(body(prompt, tokens))

    cpu = time.process_time()
    stamps = await asyncio.gather(*(one(prompt) for prompt in prompts(requests)))
    cpu = time.process_time() - cpu
    assert all(len(times) == tokens + 1 for times in stamps)
    return {
        "cpu_s": cpu,
        "after_s": 0.0,
        "stamps": [[times[0], times[1], times[-1]] for times in stamps],
        "ttft_ms": sum(times[1] - times[0] for times in stamps) / len(stamps) * 1e3,
        "tpot_ms": sum((times[-1] - times[1]) / (tokens - 1) for times in stamps) / len(stamps) * 1e3,
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
    firsts = np.array(result["start_times"]) + np.array(result["ttfts"])
    spans = np.array([sum(gaps) for gaps in result["itls"]])
    return {
        "cpu_s": cpu,
        "after_s": 0.0,
        "stamps": np.column_stack([result["start_times"], firsts, firsts + spans]).tolist(),
        "ttft_ms": float(np.mean(result["ttfts"])) * 1e3,
        "tpot_ms": float(spans.mean()) / (tokens - 1) * 1e3,
    }


def vllm_rs(url: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
    """Its cost is that of the whole program, less that of one run of a single request; its prompts and its clock are its own."""
    from perfgate.tinymodel import dummy_model

    model = dummy_model(
        "tokenizer", {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 2048}
    )
    program = rust_client()
    assert program is not None

    def once(count: int, length: int) -> tuple[float, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.json"
            arguments = {
                "base-url": url,
                "model": "scripted",
                "tokenizer": model,
                "dataset-name": "random",
                "random-input-len": INPUT_LEN,
                "random-output-len": length,
                "num-prompts": count,
                "max-concurrency": concurrency,
                "temperature": 0,
                "ready-check-timeout-sec": 0,
                "result-filename": file,
            }
            words = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
            flags = [
                "--prompt-token-ids",
                "--ignore-eos",
                "--disable-tqdm",
                "--save-result",
                "--save-detailed",
            ]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [str(program), "bench", "serve", *words, *flags], capture_output=True, text=True, check=False
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return cpu, json.loads(file.read_text())

    start, _ = once(1, 1)
    urllib.request.urlopen(url + "/truth", timeout=30).read()  # forgets it
    cpu, result = once(requests, tokens)
    assert result["completed"] == requests
    return {
        "cpu_s": cpu - start,
        "after_s": 0.0,
        "stamps": [],
        "ttft_ms": result["mean_ttft_ms"],
        "tpot_ms": result["mean_tpot_ms"],
    }


def run(client: str, url: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
    """Runs one client here; its cost in memory is the growth of this process's peak."""
    before = _peak_bytes()
    if client == "perfgate":
        found = perfgate(url, concurrency, requests, tokens)
    elif client == "vllm bench serve":
        found = vllm_bench_serve(url, concurrency, requests, tokens)
    elif client == "vllm-rs bench serve":
        found = vllm_rs(url, concurrency, requests, tokens)
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
    return {"client": client, **against(found, server.truth(), *shape)}


def against(
    found: dict[str, Any], truth: dict[str, Any], streams: int, requests: int, tokens: int
) -> dict[str, Any]:
    """What a client reported, less what was: over the same requests, by means, and request by request where it gave its stamps."""
    received = np.array(truth["received_ns"]) / 1e6
    first, last = (np.array([writes[at] for writes in truth["writes_ns"]]) / 1e6 for at in (0, -1))
    assert len(received) == requests
    true_ttft, true_tpot = first - received, (last - first) / (tokens - 1)
    events = requests * tokens
    row = {
        "cpu_us": found["cpu_s"] / events * 1e6,
        "total_us": (found["cpu_s"] + found["after_s"]) / events * 1e6,
        "ttft_ms": found["ttft_ms"],
        "true_ttft_ms": float(true_ttft.mean()),
        "added_ms": found["ttft_ms"] - float(true_ttft.mean()),
        "tpot_error": found["tpot_ms"] / float(true_tpot.mean()) - 1,
        "true_itl_ms": float(true_tpot.mean()),
        "busy": float((last - received).sum() / (last.max() - received.min()) / streams),
        "bytes": found["memory_bytes"] / events,
        "lag_ms": found.get("lag_ms"),
        "dispatch_ms": found.get("dispatch_ms"),
    }
    if found["stamps"]:
        number = np.array([1000 * high + low for high, low in truth["prompts"]])
        sent, saw_first, saw_last = np.array(found["stamps"])[number].T * 1e3
        errors = (saw_last - saw_first) / (tokens - 1) / true_tpot - 1
        added, turn = (saw_first - sent) - true_ttft, np.argsort(sent)
        row |= {
            "sending_ms": float((received - sent).mean()),
            "reading_ms": float((saw_first - first).mean()),
            "worst_tpot_error": float(np.percentile(abs(errors), 99)),
            "worst_added_ms": float(np.percentile(added, 99)),
            "first_wave_added_ms": float(added[turn[:streams]].mean()),
            "later_added_ms": float(added[turn[streams:]].mean()),
        }
    return row


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
