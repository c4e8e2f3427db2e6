"""Server control with real children: every way to start, fail, die and end."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from perfgate.environment import DeviceUse, kept_memory
from perfgate.errors import (
    BootError,
    BootTimeoutError,
    IdentityError,
    InputError,
    PortInUseError,
    ServerDiedError,
    StopError,
)
from perfgate.server import AttachLauncher, DockerLauncher, LocalLauncher, ModelRef, ServerSpec, boot
from perfgate.server.ports import Listener, leased_port, listeners
from perfgate.server.process import Family, tagged_processes
from perfgate.server.running import assert_own_listener

HERE = Path(__file__).parent


def wait_gone(members: tuple[Family, ...], timeout_s: float) -> list[Family]:
    """Those of the processes that still live after at most so many seconds."""
    processes = [psutil.Process(member.pid) for member in members if member.alive()]
    psutil.wait_procs(processes, timeout=timeout_s)
    return [member for member in members if member.alive()]


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def test_server_answers_under_the_name_made_up_for_the_boot(spec, model, tmp_path, boot_id):
    """A booted server serves the boot's own name, from a process of ours, and has the engine below it."""
    phases = []
    with boot(
        spec(),
        model=model,
        log_dir=tmp_path / "logs",
        boot_id=boot_id,
        on_progress=lambda p, _: phases.append(p),
    ) as server:
        server.assert_alive()
        assert server.api.models() == (server.model,)
        assert server.pid in {member.pid for member in tagged_processes(boot_id)}
        assert [engine.title.split()[-1] for engine in server.engines] == ["VLLM::EngineCore"]
        assert server.counters()["vllm:num_preemptions_total"] == 2.0
        assert server.log_path == tmp_path / "logs" / f"{boot_id}.log"
    assert phases[0] == "starting"
    assert phases[-1] == "ready"


def test_nothing_is_left_when_the_context_ends(spec, model, tmp_path, boot_id):
    """After the context no process of the boot lives and its port is free."""
    with boot(spec("shutdown-slowly"), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        members, port = server.process.tree(), port_of(server.url)
        assert len(members) == 2
    assert not [member for member in members if member.alive()]
    assert not listeners(port)
    # The server ended by itself within its grace; only its engine, which ignores SIGINT, had to be ended.
    assert "Shutting down" in server.log_path.read_text()


def test_an_exception_in_the_test_ends_the_server_too(spec, model, tmp_path, boot_id):
    """The tree is ended when the code inside the context raises."""
    with pytest.raises(ZeroDivisionError), boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id):
        raise ZeroDivisionError
    assert not tagged_processes(boot_id)


def test_failed_boot_says_status_cause_and_log(spec, model, tmp_path, boot_id):
    """A server that ends before it is ready raises at once, with status, the engine's own error and the log's tail."""
    with (
        pytest.raises(BootError) as caught,
        boot(spec("fail"), model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pytest.fail("it never was ready")
    message = str(caught.value)
    assert "exit status 1" in message
    assert "cause: ValueError: the engine cannot start" in message
    assert "| (APIServer pid=1) RuntimeError" in message
    assert str(tmp_path / f"{boot_id}.log") in message


def test_leaving_with_status_zero_is_a_failed_boot(spec, model, tmp_path, boot_id):
    """Exit status 0 before readiness is a failure like any other."""
    with (
        pytest.raises(BootError, match="exit status 0"),
        boot(spec("leave"), model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pytest.fail("it never was ready")


def test_boot_that_never_gets_ready_times_out(spec, model, tmp_path, boot_id):
    """A server that lives but does not answer raises after its boot timeout, with its phase, and is gone."""
    with (
        pytest.raises(BootTimeoutError, match=r"within 2 s \(last phase: starting the engine\)") as caught,
        boot(spec("hang", boot_timeout_s=2.0), model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pytest.fail("it never was ready")
    assert "Initializing a V1 LLM engine" in str(caught.value)
    assert not tagged_processes(boot_id)


def test_killed_api_server_is_noticed_and_its_engine_ended(spec, model, tmp_path, boot_id):
    """A crash in mid-run raises with the signal's name, and the orphaned engine is gone after the stop."""
    with boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait(10)
        with pytest.raises(ServerDiedError, match=r"ended with signal SIGKILL \(9\)") as caught:
            server.assert_alive()
        assert "Application startup complete." in str(caught.value)
        assert server.engines[0].alive()
    assert not server.engines[0].alive()


def test_killed_engine_is_noticed_while_the_api_server_answers(spec, model, tmp_path, boot_id):
    """An engine process that ended makes the server dead although its API still answers."""
    with boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        server.assert_alive()
        os.kill(server.engines[0].pid, signal.SIGKILL)
        assert not wait_gone(server.engines, 10)
        assert server.api.healthy()
        with pytest.raises(
            ServerDiedError, match=f"engine process {server.engines[0].pid} .*VLLM::EngineCore"
        ):
            server.assert_alive()


def test_server_shares_the_session_but_not_the_terminal(spec, model, tmp_path, boot_id):
    """Between sessions the kernel would let it starve the client: the server is in ours, and out of reach of a Ctrl-C."""
    with boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        members = server.process.tree()
        assert len(members) == 2
        for member in members:
            assert os.getsid(member.pid) == os.getsid(0)
            assert os.getpgid(member.pid) != os.getpgid(0)


def test_healthy_before_it_can_say_what_it_serves(spec, model, tmp_path, boot_id):
    """A server that answers /health but not yet /v1/models is still booting, not broken."""
    with boot(spec("late-models"), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        assert server.api.models() == (boot_id,)


def test_processes_that_left_session_and_parent_are_ended(spec, model, tmp_path, boot_id):
    """A daemon that forked twice, left the session and ignores SIGTERM is found and killed."""
    with boot(spec("daemon"), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        members = server.process.tree()
        assert len(members) == 3
    assert not [member for member in members if member.alive()]
    assert any("python" in name for name in server.process.killed)


def test_stubborn_server_is_killed_after_its_grace(spec, model, tmp_path, boot_id):
    """A server that ignores SIGINT and SIGTERM is killed, and named."""
    with boot(spec("stubborn", stop_grace_s=0.5), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        pid = server.pid
    assert any(name.startswith(f"{pid} ") for name in server.process.killed)
    assert not tagged_processes(boot_id)


def test_gpu_memory_that_does_not_come_back_is_an_error_with_the_log(
    spec, model, tmp_path, boot_id, monkeypatch
):
    """A device that holds 2 GiB more after the stop than before the boot is named with the amount, what to do, and the end of the log."""
    seen = iter([1 << 30])

    def device(_devices: object) -> tuple[DeviceUse, ...]:
        return (DeviceUse(device="0", used_bytes=next(seen, 3 << 30), pids=frozenset()),)

    booting = sys.modules["perfgate.server.boot"]  # the package has the function under that name
    monkeypatch.setattr(booting, "device_use", device)
    monkeypatch.setattr("perfgate.environment.memory.device_use", device)
    monkeypatch.setattr(booting, "kept_memory", functools.partial(kept_memory, timeout_s=0.2))
    with (
        pytest.raises(StopError, match=r"device 0: 2\.00 GiB more in use than before") as caught,
        boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pass
    assert "non-default args: " in caught.value.message
    assert "nvidia-smi" in str(caught.value)


@pytest.mark.parametrize("moment", ["tree", "_ask_and_wait"])
def test_ctrl_c_in_the_middle_of_a_stop_leaves_nothing(spec, model, tmp_path, boot_id, monkeypatch, moment):
    """An interrupt while the server is being stopped ends it at once: no process, and no supervisor that nobody waits for."""

    def interrupted(*_arguments, **_more):
        monkeypatch.undo()
        raise KeyboardInterrupt

    context = boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id)
    process = context.__enter__().process
    watch = process._warden
    monkeypatch.setattr(process, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        context.__exit__(None, None, None)
    assert watch.returncode is not None
    assert tagged_processes(boot_id) == ()


def test_stop_twice_is_one_stop(spec, model, tmp_path, boot_id):
    """Stopping again, inside the context and at its end, does nothing."""
    with boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        server.stop()
        server.stop()
        with pytest.raises(ServerDiedError, match=r"was stopped|ended with"):
            server.assert_alive()


BOOTER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
from pathlib import Path
from perfgate.server import *
spec = ServerSpec(name="odd", boot_timeout_s=60.0, launcher=LocalLauncher(python=sys.argv[1]), env={"MISBEHAVE": sys.argv[5]})
def tell(phase, elapsed):
    print(phase, flush=True)
with boot(spec, model=ModelRef(name="m", path=sys.argv[2]), log_dir=Path(sys.argv[3]), boot_id=sys.argv[4], on_progress=tell) as server:
    sys.stdin.read()
"""


def start_booter(
    python: str, model: ModelRef, tmp_path: Path, boot_id: str, words: str = ""
) -> subprocess.Popen[str]:
    """A suite of its own, as a process: boots and then waits."""
    return subprocess.Popen(
        [sys.executable, "-c", BOOTER, python, model.path, str(tmp_path), boot_id, words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], phase: str) -> None:
    """Reads the progress of a booter up to this phase."""
    for line in process.stdout:
        if line.strip() == phase:
            return
    pytest.fail(f"the booter ended before {phase!r}: {process.stderr.read()}")


@pytest.mark.parametrize("words", ["", "stubborn daemon"])
def test_no_process_is_left_ten_seconds_after_sigkill_of_the_suite(python, model, tmp_path, boot_id, words):
    """When the suite itself is killed with SIGKILL, its server is gone within 10 s, however stubborn."""
    with start_booter(python, model, tmp_path, boot_id, words) as suite:
        read_until(suite, "ready")
        members = tagged_processes(boot_id)
        assert len(members) >= 2
        suite.kill()
        assert not wait_gone(members, 10)
    assert not tagged_processes(boot_id)


def test_interrupt_while_booting_leaves_nothing(python, model, tmp_path, boot_id):
    """SIGINT during the boot ends suite and server."""
    with start_booter(python, model, tmp_path, boot_id, "hang") as suite:
        read_until(suite, "starting the engine")
        members = tagged_processes(boot_id)
        assert members
        suite.send_signal(signal.SIGINT)
        suite.wait(30)
        assert "KeyboardInterrupt" in suite.stderr.read()
    assert not [member for member in members if member.alive()]


def test_killed_warden_takes_the_server_with_it(spec, model, tmp_path, boot_id):
    """When the warden itself is killed, the API server dies, its death is reported, and the stop ends the rest."""
    with boot(spec("daemon"), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        members = server.process.tree()
        psutil.Process(server.pid).parent().kill()
        assert not wait_gone(tuple(m for m in members if m.pid == server.pid), 10)
        with pytest.raises(ServerDiedError):
            server.assert_alive()
    assert not [member for member in members if member.alive()]


def test_two_suites_never_get_the_same_port():
    """Leases held at once are of different ports, and a leased port cannot be asked for."""
    with leased_port() as one, leased_port() as two:
        assert one != two
        with pytest.raises(PortInUseError, match=f"port {one} is leased"), leased_port(one):
            pytest.fail("leased twice")


def test_taken_port_is_refused_before_the_boot_and_its_holder_named(spec, model, tmp_path, boot_id):
    """A fixed port that somebody listens on is refused with the pid of the listener."""
    with boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id) as old:
        port = port_of(old.url)
        # The lease alone would refuse it already; the listener must be found without it.
        found = listeners(port)
        assert [listener.pid for listener in found] == [old.pid]
    with (
        foreign_server() as (foreign, taken),
        pytest.raises(PortInUseError, match=f"port {taken} is taken by pid {foreign.pid} "),
        boot(spec(args={"port": taken}), model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pytest.fail("two servers on one port")


def test_port_taken_during_the_boot_is_that_error(spec, model, tmp_path, boot_id):
    """A server that finds its port in use ends as a port error, not as a mere failed boot."""
    with (
        pytest.raises(PortInUseError, match="taken while the server booted"),
        boot(spec("taken"), model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pytest.fail("it never was ready")


class foreign_server:  # noqa: N801 - used like a function
    """A server that is not ours: another process that serves another name, port shared by SO_REUSEPORT."""

    def __init__(self, port: int = 0, *, name: str = "old-server") -> None:
        self.port = port or free_port()
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "misbehaving_server.py"),
                *("--model", "old", "--served-model-name", name, "--host", "127.0.0.1"),
                *("--port", str(self.port)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "MISBEHAVE"},
            start_new_session=True,
        )
        read_until(self.process, "Application startup complete.")

    def __enter__(self) -> tuple[subprocess.Popen[str], int]:
        return self.process, self.port

    def __exit__(self, *_: object) -> None:
        for child in psutil.Process(self.process.pid).children():
            child.kill()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def free_port() -> int:
    with leased_port() as port:
        return port


def test_old_server_answering_during_the_boot_is_not_taken_for_ours(spec, model, tmp_path, boot_id):
    """A foreign server on the port of a boot is recognised by its process before the boot is called ready."""
    port = free_port()
    opened = []

    def open_foreign(phase: str, _elapsed: float) -> None:
        if not opened:
            opened.append(foreign_server(port))

    try:
        with (
            pytest.raises(IdentityError, match="which this boot did not start") as caught,
            boot(
                spec("hang", args={"port": port}),
                model=model,
                log_dir=tmp_path,
                boot_id=boot_id,
                on_progress=open_foreign,
            ),
        ):
            pytest.fail("somebody else answered")
        assert f"pid {opened[0].process.pid} " in str(caught.value)
        assert f"last lines of {tmp_path / boot_id}.log:" in str(caught.value)
    finally:
        opened[0].__exit__()


def test_server_that_shares_the_port_later_is_noticed(spec, model, tmp_path, boot_id):
    """A second server that joins the port by SO_REUSEPORT is found out by its process, even under the same name."""
    with boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        with (
            foreign_server(port_of(server.url), name=server.model) as (foreign, _),
            pytest.raises(IdentityError, match=f"(?s)pid {foreign.pid} .*Application startup complete"),
        ):
            server.assert_alive()
        server.assert_alive()


def test_one_of_its_own_processes_that_ends_meanwhile_is_no_stranger(monkeypatch):
    """A frontend of the server that listened when the port was looked up, and is gone when the tree is, is not another server."""
    frontend = Family(pid=4711, created=1.0, title="VLLM::ApiServer")
    alive = [frontend]

    def ends_as_it_is_seen(_port: int) -> tuple[Listener, ...]:
        alive.clear()
        return (Listener(pid=frontend.pid, what="ended meanwhile"),)

    monkeypatch.setattr("perfgate.server.running.listeners", ends_as_it_is_seen)
    server = SimpleNamespace(tree=lambda: tuple(alive))
    assert assert_own_listener(1, server) is None


def killed_in_the_look_up(port: int) -> tuple[Listener, ...]:
    """Who listens there, each killed as soon as it is seen; and its socket, which without its main thread seems to be nobody's."""
    found = listeners(port)
    for listener in found:
        psutil.Process(listener.pid).kill()
    assert not psutil.wait_procs([psutil.Process(x.pid) for x in found if psutil.pid_exists(x.pid)], 10)[1]
    return (*found, Listener(pid=None, what="a process of another user"))


def test_server_that_dies_while_its_port_is_looked_up_has_died(spec, model, tmp_path, boot_id, monkeypatch):
    """Killed between its answer and the end of the look-up, it is not taken for a stranger on its own port."""
    with boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        monkeypatch.setattr("perfgate.server.running.listeners", killed_in_the_look_up)
        with pytest.raises(ServerDiedError, match=r"ended with signal SIGKILL \(9\)"):
            server.assert_alive()


def test_boot_that_dies_while_its_port_is_looked_up_has_failed(spec, model, tmp_path, boot_id, monkeypatch):
    """The same in the moment in which the server gets ready: the boot failed, and nobody else is blamed."""
    monkeypatch.setattr("perfgate.server.running.listeners", killed_in_the_look_up)
    with (
        pytest.raises(BootError, match=r"signal SIGKILL \(9\)"),
        boot(spec(), model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pytest.fail("it was ready")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"launcher": LocalLauncher(python="/nowhere/python")},
            "'/nowhere/python' is not an executable file",
        ),
        ({"launcher": LocalLauncher(python="/etc/passwd")}, "is not an executable file"),
    ],
)
def test_missing_interpreter_is_bad_input(spec, model, tmp_path, change, message):
    """An interpreter that does not exist or cannot be run is named."""
    with pytest.raises(InputError, match=message), boot(spec(**change), model=model, log_dir=tmp_path):
        pytest.fail("nothing to boot")


def test_model_folder_without_config_is_bad_input(spec, tmp_path):
    """A folder that is no model, and one that does not exist, are named before anything is started."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with (
        pytest.raises(InputError, match=r"has no config\.json"),
        boot(spec(), model=ModelRef(name="m", path=str(empty)), log_dir=tmp_path),
    ):
        pytest.fail("nothing to boot")
    with (
        pytest.raises(InputError, match="is not a folder"),
        boot(spec(), model=ModelRef(name="m", path=str(tmp_path / "none")), log_dir=tmp_path),
    ):
        pytest.fail("nothing to boot")


def test_program_that_cannot_be_executed_is_a_boot_error(model, tmp_path, boot_id):
    """A launcher whose file is executable but is no program fails with its name."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00\x01")
    broken.chmod(0o755)
    spec = ServerSpec(name="odd", launcher=LocalLauncher(python=str(broken)))
    with (
        pytest.raises(BootError, match="Exec format error"),
        boot(spec, model=model, log_dir=tmp_path, boot_id=boot_id),
    ):
        pytest.fail("nothing to boot")


def test_attached_server_is_used_and_left_alone(tmp_path, model):
    """An attached server keeps its own name, is checked for identity, and survives the context."""
    with foreign_server() as (process, port):
        spec = ServerSpec(
            name="there", launcher=AttachLauncher(kind="attach", url=f"http://127.0.0.1:{port}/v1")
        )
        with boot(spec, model=model, log_dir=tmp_path) as server:
            server.assert_alive()
            assert server.model == "old-server"
            assert server.born == 1.0
            server.born = 0.5
            with pytest.raises(IdentityError, match="was restarted since"):
                server.assert_alive()
            server.stop()
        assert process.poll() is None


def test_attached_address_that_does_not_answer_is_bad_input(tmp_path, model):
    """A URL that nobody answers is an input error that names it."""
    url = f"http://127.0.0.1:{free_port()}"
    spec = ServerSpec(name="there", launcher=AttachLauncher(kind="attach", url=url))
    with (
        pytest.raises(InputError, match=f"{url}/v1/models does not answer"),
        boot(spec, model=model, log_dir=tmp_path),
    ):
        pytest.fail("nobody there")


def test_attached_server_needs_its_key_variable(tmp_path, model, monkeypatch):
    """An api_key_env that is not set is named."""
    monkeypatch.delenv("SOME_KEY", raising=False)
    launcher = AttachLauncher(kind="attach", url="http://127.0.0.1:1", api_key_env="SOME_KEY")
    with (
        pytest.raises(InputError, match="SOME_KEY"),
        boot(ServerSpec(name="there", launcher=launcher), model=model, log_dir=tmp_path),
    ):
        pytest.fail("no key")


CANARY = "canary-7f3a9d51"


def test_no_secret_leaves(spec, model, tmp_path, boot_id):
    """Keys in args, env and inherited variables show in no process list, error, repr, public form or log file."""
    secret = spec(args={"api-key": CANARY}, env={"HF_TOKEN": f"hf-{CANARY}"})
    with boot(secret, model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        server.assert_alive()
        assert server.api_key == CANARY
        for member in server.process.tree():
            assert CANARY not in " ".join(psutil.Process(member.pid).cmdline())
        assert CANARY in server.log_path.read_text()  # vLLM prints its arguments …
        assert CANARY not in server.log.text()
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait(10)
        with pytest.raises(ServerDiedError) as caught:
            server.assert_alive()
        assert "'api_key': '***'" in str(caught.value)
        shown = [str(caught.value), repr(secret), str(secret), str(secret.public()), repr(server)]
    assert CANARY not in server.log_path.read_text()  # … and the file is cleaned when the server has ended
    assert not [text for text in shown if CANARY in text]


FAKE_DOCKER = """#!{python}
import os, signal, subprocess, sys
folder = {folder!r}
with open(os.path.join(folder, "calls"), "a") as calls:
    print(repr(sys.argv[1:]), file=calls)
if sys.argv[1] == "rm":
    try:
        os.kill(int(open(os.path.join(folder, "container")).read()), signal.SIGKILL)
    except (OSError, ValueError):
        sys.exit("no such container")
    sys.exit()
words = sys.argv[sys.argv.index("--entrypoint") + 3:]
# A container's processes are no children of the client, and do not carry its environment.
env = {{"MISBEHAVE": os.environ.get("MISBEHAVE", "")}}
container = subprocess.Popen([sys.executable, {server!r}, *words], env=env, start_new_session=True)
with open(os.path.join(folder, "container"), "w") as file:
    file.write(str(container.pid))
signal.signal(signal.SIGINT, lambda *_: container.send_signal(signal.SIGINT))
sys.exit(container.wait())
"""


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A client that starts the misbehaving server as its "container"; removing the container is the only way to end it for sure."""
    program = tmp_path / "docker"
    program.write_text(
        FAKE_DOCKER.format(
            python=sys.executable, folder=str(tmp_path), server=str(HERE / "misbehaving_server.py")
        ),
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program


def test_container_is_removed_on_every_way_out(docker, model, tmp_path, boot_id):
    """A docker server is run in the foreground and its container removed by name when it is stopped."""
    spec = ServerSpec(
        name="boxed",
        launcher=DockerLauncher(
            kind="docker", image="vllm/vllm-openai:v0.19.1", docker=str(docker), network="host"
        ),
        env={"MISBEHAVE": "stubborn"},
        stop_grace_s=0.2,
    )
    with boot(spec, model=model, log_dir=tmp_path, boot_id=boot_id) as server:
        server.assert_alive()
        container = psutil.Process(int((tmp_path / "container").read_text()))
    assert not container.is_running() or container.status() == psutil.STATUS_ZOMBIE
    calls = (tmp_path / "calls").read_text().splitlines()
    assert f"'--name', 'perfgate-{boot_id}'" in calls[0]
    assert calls[-1] == repr(["rm", "--force", "--volumes", f"perfgate-{boot_id}"])
