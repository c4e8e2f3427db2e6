"""The exact programs that launchers start, without starting any."""

import os
import stat
import sys
from pathlib import Path

import pytest

from perfgate.errors import InputError
from perfgate.server import DockerLauncher, LocalLauncher, ModelRef, ServerSpec
from perfgate.server.launch import docker_plan, image_digest, local_plan

CANARY = "canary-51d3b0aa"
COMMON = {"port": 8123, "served_name": "s-1", "boot_id": "s-1", "extra_env": {}}


def docker_argv(
    launcher: DockerLauncher, tmp_path: Path, *, gpu_ids=None, model="org/model", **spec
) -> list[str]:
    plan = docker_plan(
        ServerSpec(name="s", launcher=launcher, **spec),
        launcher,
        model=ModelRef(name="m", path=model),
        log=tmp_path / "log",
        gpu_ids=gpu_ids,
        **COMMON,
    )
    assert plan.cleanup == ["docker", "rm", "--force", "--volumes", "perfgate-s-1"]
    return list(plan.argv)


def test_docker_command_line(tmp_path):
    """Image, GPUs, mounts, volumes, environment and flags stand where docker wants them."""
    argv = docker_argv(
        DockerLauncher(
            kind="docker",
            image="vllm/vllm-openai:cu130-nightly",
            mounts=("/data/moe:/opt/moe",),
            cache_volumes={"vllm-cache": "/root/.cache/vllm"},
            extra=("--shm-size", "16g"),
        ),
        tmp_path,
        args={"max-num-seqs": 32},
        env={"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    )
    assert argv == [
        *("docker", "run", "--rm", "--name", "perfgate-s-1", "--gpus", "all", "--ipc", "host"),
        *("--publish", "127.0.0.1:8123:8123"),
        *("--env", "PERFGATE_BOOT", "--env", "PYTHONUNBUFFERED", "--env", "SPT_NOENV"),
        *(
            "--env",
            "TORCHINDUCTOR_COMPILE_THREADS",
            "--env",
            "VLLM_NO_USAGE_STATS",
            "--env",
            "VLLM_SERVER_DEV_MODE",
        ),
        *("--volume", "/data/moe:/opt/moe", "--volume", "vllm-cache:/root/.cache/vllm"),
        *("--shm-size", "16g"),
        *("--entrypoint", "python3", "vllm/vllm-openai:cu130-nightly"),
        *("-m", "vllm.entrypoints.openai.api_server", "--model", "org/model", "--served-model-name", "s-1"),
        *("--host", "0.0.0.0", "--port", "8123", "--max-num-seqs", "32"),
    ]


@pytest.mark.parametrize(
    ("gpus", "leased", "expected"),
    [
        ("all", None, ["--gpus", "all"]),
        ("all", [0], ["--gpus", '"device=0"']),
        ("all", [0, 2], ["--gpus", '"device=0,2"']),
        (None, None, []),
        (None, [0], []),
    ],
)
def test_docker_gets_exactly_the_leased_gpus(tmp_path, gpus, leased, expected):
    """A lease of devices replaces ``all``, in the quoting that docker's own parser needs."""
    argv = docker_argv(
        DockerLauncher(kind="docker", image="i", gpus=gpus, ipc=None), tmp_path, gpu_ids=leased
    )
    given = argv[argv.index("perfgate-s-1") + 1 : argv.index("--publish")]
    assert given == expected


def test_docker_host_network_serves_on_loopback_only(tmp_path):
    """With the host's network nothing is published and vLLM itself binds the loopback interface."""
    argv = docker_argv(DockerLauncher(kind="docker", image="i", network="host"), tmp_path)
    assert "--publish" not in argv
    assert argv[argv.index("--host") + 1] == "127.0.0.1"


def test_docker_mounts_a_model_folder_and_expands_paths(tmp_path, monkeypatch):
    """A model folder is mounted read-only under its own path; ``~`` and relative sources become absolute."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moe").mkdir()
    launcher = DockerLauncher(kind="docker", image="i", mounts=("~/cache:/cache", "./moe:/moe:ro"))
    argv = docker_argv(launcher, tmp_path, model=str(tmp_path))
    volumes = [argv[at + 1] for at, word in enumerate(argv) if word == "--volume"]
    assert volumes == [f"{tmp_path}:{tmp_path}:ro", "/home/somebody/cache:/cache", f"{tmp_path}/moe:/moe:ro"]


def test_docker_source_that_is_only_read_must_exist(tmp_path, monkeypatch):
    """Docker would make an empty folder of a missing source, and the server would silently run without it; a cache may be made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    missing = DockerLauncher(kind="docker", image="i", mounts=("./moe:/moe:ro",))
    with pytest.raises(InputError, match=r"mount source '\./moe' does not exist"):
        docker_argv(missing, tmp_path)
    assert docker_argv(DockerLauncher(kind="docker", image="i", mounts=("./cache:/cache",)), tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "ssh://gb10")
    assert docker_argv(missing, tmp_path), "what another machine has is not known here"


def test_docker_secrets_travel_by_name(tmp_path):
    """Values of variables and keys stand in the client's environment and never on its command line."""
    spec = ServerSpec(
        name="s",
        args={"api-key": CANARY, "hf-token": f"hf-{CANARY}"},
        env={"OTHER": CANARY},
        launcher=DockerLauncher(kind="docker", image="i"),
    )
    plan = docker_plan(
        spec, spec.launcher, model=ModelRef(name="m", path="m"), log=tmp_path / "log", gpu_ids=None, **COMMON
    )
    assert not [word for word in plan.argv if CANARY in word]
    assert plan.env["VLLM_API_KEY"] == CANARY
    assert plan.env["HF_TOKEN"] == f"hf-{CANARY}"
    assert {"VLLM_API_KEY", "HF_TOKEN", "OTHER"} <= set(plan.argv)


def test_local_plan_is_the_interpreter_as_given(tmp_path, monkeypatch):
    """A virtual environment's link is not resolved, pytest's variables stay out, leased devices and the entry's variables go in."""
    link = tmp_path / "venv-python"
    link.symlink_to(sys.executable)
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    spec = ServerSpec(name="s", launcher=LocalLauncher(python=str(link)), env={"A": "entry", "B": "entry"})
    plan = local_plan(
        spec,
        spec.launcher,
        model=ModelRef(name="m", path="m"),
        log=tmp_path / "log",
        gpu_ids=[1, 3],
        **{**COMMON, "extra_env": {"B": "boot"}},
    )
    assert plan.argv[0] == str(link)
    assert plan.env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert plan.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (plan.env["A"], plan.env["B"]) == ("entry", "boot")
    assert plan.env["VLLM_SERVER_DEV_MODE"] == "1"
    assert plan.env["PATH"] == os.environ["PATH"]
    assert "PYTEST_XDIST_WORKER" not in plan.env


def test_image_digest_is_asked_of_docker(tmp_path):
    """The digest comes from ``docker image inspect``; no docker, or an unknown image, is None."""
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\n[ "$1 $2" = "image inspect" ] && [ "$5" = known ] && echo repo@sha256:abc\n'
    )
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    assert image_digest(DockerLauncher(kind="docker", image="known", docker=str(docker))) == "repo@sha256:abc"
    assert image_digest(DockerLauncher(kind="docker", image="other", docker=str(docker))) is None
    assert image_digest(DockerLauncher(kind="docker", image="known", docker=str(tmp_path / "none"))) is None
