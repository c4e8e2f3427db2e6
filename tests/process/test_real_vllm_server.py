"""Server control on the real vLLM: it fails, hangs, crashes, is killed, and shares the machine with another suite.

Boots are shared: one server of this process and one of a second suite, booted at the same time, serve most of the tests, in order.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from perfgate.catalogue import load_catalogue
from perfgate.cli import main
from perfgate.errors import BootError, BootTimeoutError, PortInUseError, ServerDiedError
from perfgate.experiment.models import vocabulary
from perfgate.metrics import METRICS
from perfgate.results import read_results
from perfgate.server import Effect, ModelRef, RunningServer, ServerSpec, boot, settings_hash
from perfgate.server.process import Family, tagged_processes
from perfgate.targets import ModelSpec
from perfgate.tinymodel import dummy_model

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def tiny() -> ServerSpec:
    """The shipped entry for the CPU."""
    return load_catalogue("servers")["tiny"].parse(ServerSpec)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """Its model."""
    spec = load_catalogue("models")["tiny-qwen3next"].parse(ModelSpec)
    folder = dummy_model(spec.name, spec.config, cache_dir=tmp_path_factory.mktemp("models"))
    return ModelRef(name=spec.name, path=str(folder))


SUITE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
from pathlib import Path
from perfgate.catalogue import load_catalogue
from perfgate.errors import PerfgateError
from perfgate.server import ModelRef, ServerSpec, boot
spec = load_catalogue("servers")["tiny"].parse(ServerSpec)
phases = []
def tell(phase, elapsed):
    if phase not in phases:
        phases.append(phase)
        print(phase, flush=True)
try:
    ref = ModelRef(name="tiny", path=sys.argv[1])
    with boot(spec, model=ref, log_dir=Path(sys.argv[2]), boot_id=sys.argv[3], on_progress=tell) as server:
        print(f"serving {server.url} {server.pid}", flush=True)
        while True:
            server.assert_alive()
            server.process.wait(0.2)
except PerfgateError as error:
    print(f"{type(error).__name__}: {error.message.splitlines()[0]}", flush=True)
"""


class Suite:
    """A second suite: a process of its own that boots a server and watches over it."""

    def __init__(self, model: ModelRef, log_dir: Path, boot_id: str) -> None:
        self.boot_id = boot_id
        self.log = log_dir / f"{boot_id}.log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUITE, model.path, str(log_dir), boot_id],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, beginning: str) -> str:
        """The first line of its output that begins so."""
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith(beginning):
                return line.strip()
        pytest.fail(f"{self.boot_id} ended before {beginning!r}: {''.join(said)}{self.process.stderr.read()}")

    def close(self) -> None:
        """Ends it for sure."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def booting(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Suite, Suite]]:
    """Two more suites, which have just begun to boot; one will be interrupted, the other killed."""
    logs = tmp_path_factory.mktemp("booting")
    suites = tuple(Suite(tiny_model, logs, boot_id) for boot_id in ("interrupted-suite", "killed-suite"))
    yield suites
    for suite in suites:
        suite.close()


@pytest.fixture(scope="module")
def both(
    tiny: ServerSpec, tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, Suite]]:
    """Two suites that booted at once: this process with its server, and another one with its own."""
    logs = tmp_path_factory.mktemp("logs")
    other = Suite(tiny_model, logs, "other-suite")
    try:
        overridden = tiny.with_changes(["--mamba-cache-mode=none"])
        with boot(overridden, model=tiny_model, log_dir=logs, boot_id="this-suite") as server:
            yield server, other
    finally:
        other.close()


def wait_gone(members: tuple[Family, ...], timeout_s: float) -> list[str]:
    psutil.wait_procs([psutil.Process(m.pid) for m in members if m.alive()], timeout=timeout_s)
    return [member.title for member in members if member.alive()]


def test_two_suites_at_once_get_servers_of_their_own(both):
    """Two suites that boot at the same time end up on two ports, each with the server it started."""
    server, other = both
    _, url, pid = other.wait_for("serving").split()
    assert url != server.url
    server.assert_alive()
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["other-suite"]
    assert int(pid) not in {member.pid for member in server.process.tree()}
    assert [engine.label for engine in server.engines] == ["VLLM::EngineCore", "VLLM::Worker"]


def test_silent_override_is_caught_on_the_real_server(both):
    """--mamba-cache-mode none with prefix caching runs as align: overridden, with vLLM's own line; everything else is honoured."""
    server, _ = both
    reports = {report.name: report for report in server.flags_in_effect()}
    mamba = reports.pop("--mamba-cache-mode")
    assert (mamba.effect, mamba.running, mamba.source) == (Effect.OVERRIDDEN, "align", "/server_info")
    assert "Mamba cache mode is set to 'align'" in mamba.because
    assert mamba.harmful
    assert {report.effect for report in reports.values()} == {Effect.HONOURED}, reports
    assert set(reports) >= {
        "--enable-prefix-caching",
        "--max-num-seqs",
        "--enforce-eager",
        "VLLM_CPU_KVCACHE_SPACE",
    }


def test_real_boot_has_its_metrics_and_settings(both):
    """The real server's log, metrics page and configuration give the boot's figures and its whole resolved configuration."""
    server, _ = both
    metrics = server.boot_metrics()
    assert (
        {"ready_s", "imports_s", "init_engine_s", "kv_cache_tokens", "kv_cache_gib"}
        <= set(metrics)
        <= set(METRICS)
    )
    assert 0 < metrics["imports_s"] < metrics["ready_s"]
    assert metrics["kv_cache_gib"] == 1.0
    settings = server.resolved_settings()
    assert settings["scheduler_config.max_num_seqs"] == 16
    assert settings["cache_config.mamba_cache_mode"] == "align"
    assert len(settings) > 200
    assert settings_hash(settings)
    assert server.reset_prefix_cache()
    assert server.compile_events(0) == ()
    before = server.usage()
    assert before["cpu_s"] > 5


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_perfgate_load_measures_the_real_server(both, tiny_model, tmp_path, capsys, endpoint):
    """`perfgate load` finds the model, and every request of either endpoint comes back with the tokens that were asked for."""
    server, _ = both
    file = tmp_path / "run.json"
    lengths = ["--input-len=24", "--output-len=12", "--num-prompts=6", "--concurrency=2"]
    ids = vocabulary(tiny_model)
    words = [f"--vocab-size={ids['vocab_size']}", f"--first-token-id={ids['first_id']}"]
    how = [
        f"--url={server.url}",
        f"--endpoint={endpoint}",
        f"--json={file}",
        "--arrays",
        "--goodput",
        "ttft:60000",
    ]
    status = main(["load", *lengths, *words, *how])
    out = capsys.readouterr().out
    reasons = [line for line in out.splitlines() if line.startswith("INVALID")]
    # Other work on these cores may make the client late, and nothing else may be wrong.
    assert all(" late " in reason for reason in reasons), out
    assert status == (2 if reasons else 0)
    (measurement,) = read_results(file).measurements
    (run,) = measurement.boots[0].runs
    assert run.arrays.outcome == ("ok",) * 6
    assert run.arrays.output_tokens == (12,) * 6
    assert measurement.fingerprint.vllm == server.version()
    if endpoint == "completions":
        assert run.arrays.prompt_tokens == (24,) * 6


def test_old_server_on_the_port_is_refused_before_the_boot(both, tiny, tiny_model, tmp_path, monkeypatch):
    """A boot on the port of an old vLLM, whose suite no longer leases it, is refused and the old server's pid is named."""
    server, _ = both
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the leases of a suite that is gone
    port = int(server.url.rsplit(":", 1)[1])
    with (
        pytest.raises(PortInUseError, match=f"port {port} is taken by pid {server.pid} "),
        boot(tiny.with_changes([f"--port={port}"]), model=tiny_model, log_dir=tmp_path),
    ):
        pytest.fail("two servers on one port")


def test_crash_in_mid_run_is_noticed_with_the_signal(both):
    """The API server killed in the middle of a request is reported with its signal, and its engine does not outlive the stop."""
    server, other = both
    members = tagged_processes("other-suite")
    assert {member.label for member in members} >= {"VLLM::EngineCore", "VLLM::Worker"}
    api_server = next(member for member in members if "api_server" in member.title)
    url = next(
        c for c in psutil.Process(api_server.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN
    )
    with in_the_middle_of_a_request(f"http://127.0.0.1:{url.laddr.port}", "other-suite"):
        os.kill(api_server.pid, signal.SIGKILL)
        line = other.wait_for("ServerDiedError")
    assert f"the API server (pid {api_server.pid}) ended with signal SIGKILL (9)" in line
    assert not wait_gone(members, 15)
    server.assert_alive()


def test_killed_engine_is_noticed_while_the_api_server_lives(both):
    """An engine killed in the middle of a request is reported at once, although the API server still lives."""
    server, _ = both
    with in_the_middle_of_a_request(server.url, server.model):
        engine = next(engine for engine in server.engines if engine.label == "VLLM::EngineCore")
        os.kill(engine.pid, signal.SIGKILL)
        wait_gone((engine,), 10)
        assert server.process.alive()
        with pytest.raises(
            ServerDiedError, match=rf"engine process {engine.pid} \(VLLM::EngineCore\) ended while"
        ) as caught:
            server.assert_alive()
    assert f"last lines of {server.log_path}" in str(caught.value)
    members = server.process.tree()
    server.stop()
    assert not [member for member in members if member.alive()]


class in_the_middle_of_a_request:  # noqa: N801 - used like a function
    """A completion that streams in the background; the context begins when its first token has arrived."""

    def __init__(self, url: str, model: str) -> None:
        self.first = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(url, model))

    def run(self, url: str, model: str) -> None:
        body = {"model": model, "prompt": [5] * 64, "max_tokens": 3000, "ignore_eos": True, "stream": True}
        try:
            with (
                httpx.Client(trust_env=False) as client,
                client.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response,
            ):
                for _ in response.iter_lines():
                    self.first.set()
        except httpx.HTTPError:
            pass

    def __enter__(self) -> None:
        self.thread.start()
        assert self.first.wait(60)

    def __exit__(self, *_: object) -> None:
        self.thread.join(60)


def test_bad_flag_is_a_failed_boot_with_its_cause(tiny, tiny_model, tmp_path):
    """A flag that this release does not know ends the boot with vLLM's own words and what to do."""
    with (
        pytest.raises(BootError, match="exit status 2") as caught,
        boot(tiny.with_changes(["--no-such-flag=1"]), model=tiny_model, log_dir=tmp_path, boot_id="bad-flag"),
    ):
        pytest.fail("it never was ready")
    assert "error: unrecognized arguments: --no-such-flag" in str(caught.value)
    assert "does not know the flag" in caught.value.remedy
    assert not tagged_processes("bad-flag")


def test_boot_that_never_gets_ready_is_ended(tiny, tiny_model, tmp_path):
    """A boot over its time limit is ended within seconds, imports and all."""
    begun = time.monotonic()
    with (
        pytest.raises(BootTimeoutError, match="not ready within 3 s"),
        boot(
            tiny.model_copy(update={"boot_timeout_s": 3.0}),
            model=tiny_model,
            log_dir=tmp_path,
            boot_id="never-ready",
        ),
    ):
        pytest.fail("it never was ready")
    assert time.monotonic() - begun < 3 + 10
    assert not tagged_processes("never-ready")


def test_port_taken_while_booting_is_that_error(tiny, tiny_model, tmp_path):
    """VLLM finds its port taken by somebody who came in between: a port error that names the process, not a mere failed boot."""
    port_of_thief: list[int] = []
    thief = socket.socket()

    def steal(_phase: str, _elapsed: float) -> None:
        if not port_of_thief:
            thief.bind(("127.0.0.1", wanted))
            thief.listen()
            port_of_thief.append(wanted)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        wanted = free.getsockname()[1]
    with (
        thief,
        pytest.raises(PortInUseError, match=f"port {wanted} is taken by pid {os.getpid()} "),
        boot(
            tiny.with_changes([f"--port={wanted}"]),
            model=tiny_model,
            log_dir=tmp_path,
            boot_id="robbed",
            on_progress=steal,
        ),
    ):
        pytest.fail("two servers on one port")
    assert not tagged_processes("robbed")


def test_interrupt_during_the_boot_leaves_nothing(booting):
    """SIGINT while the server boots ends the suite with KeyboardInterrupt and every process of the boot."""
    suite, _ = booting
    suite.wait_for("reading the configuration")
    members = tagged_processes(suite.boot_id)
    assert members
    suite.process.send_signal(signal.SIGINT)
    assert suite.process.wait(30) != 0
    assert "KeyboardInterrupt" in suite.process.stderr.read()
    assert not [member for member in members if member.alive()]
    assert not tagged_processes(suite.boot_id)


def test_nothing_is_left_ten_seconds_after_the_suite_is_killed(booting):
    """SIGKILL of the suite while the engine starts: ten seconds later no vLLM process of it lives."""
    _, suite = booting
    suite.wait_for("starting the engine")
    members = tagged_processes(suite.boot_id)
    assert len(members) >= 2
    suite.process.kill()
    assert not wait_gone(members, 10)
    assert not tagged_processes(suite.boot_id)
