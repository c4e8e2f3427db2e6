"""The options of the suite: what there are, which cannot be meant together, what they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perfgate.errors import PerfgateError

if TYPE_CHECKING:
    from perfgate.experiment.options import SuiteOptions


def add_options(parser: pytest.Parser) -> None:
    """Adds the one group of options."""
    add = parser.getgroup("perfgate", "perfgate: did vLLM get slower?").addoption
    add(
        "--gpu",
        default="auto",
        metavar="NAME",
        help="GPU entry; auto asks NVML, cpu is the machine itself (default: auto)",
    )
    add("--model", metavar="NAME", help="model entry (default: the server's, else the GPU's)")
    add(
        "--server",
        action="append",
        default=[],
        metavar="NAME",
        help="server entry; repeatable (default: the GPU's)",
    )
    add(
        "--workload",
        action="append",
        default=[],
        metavar="NAME",
        help="workload entry; repeatable (default: the GPU's)",
    )
    add(
        "--vllm-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="one more flag: --vllm-arg=--max-num-seqs=1; repeatable",
    )
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more variable for the server; repeatable",
    )
    add("--server-python", metavar="PATH", help="the Python that has vLLM, for local launchers")
    add("--boot-timeout", type=float, metavar="SECONDS", help="instead of the server entry's boot_timeout_s")
    add("--replicates", type=int, metavar="N", help="boots of each server (default: the GPU entry's, else 3)")
    add(
        "--load-processes",
        type=int,
        default=1,
        metavar="N",
        help="client processes that share the load (default: 1)",
    )
    add(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="folder of baselines (default: baselines/, for cpu .perfgate/baselines/)",
    )
    add("--new-baselines", action="store_true", help="record the missing baselines, never change one")
    add(
        "--update-baselines",
        action="store_true",
        help="replace the baselines of the judged cells, record the missing",
    )
    add(
        "--baseline-note",
        action="append",
        default=[],
        metavar="TEXT",
        help="why; kept in the recorded baseline",
    )
    add(
        "--against",
        metavar="PYTHON|IMAGE",
        help="A/B: interleave with this other environment, no stored baseline",
    )
    add(
        "--against-server",
        metavar="NAME",
        help="A/B: interleave with this other server entry, no stored baseline",
    )
    add(
        "--sweep",
        action="append",
        default=[],
        metavar="FLAG=VALUE,VALUE",
        help="measure each value on servers of its own and show the Pareto front; several make a grid",
    )
    add(
        "--attribute",
        action="store_true",
        help="A/B against --against-server, --against or the entry without --vllm-arg/--env; then find the settings at fault",
    )
    add("--max-minutes", type=float, metavar="N", help="bound on the confirmation or A/B of each server")
    add("--strict-verdicts", action="store_true", help="INCONCLUSIVE fails instead of being skipped")
    add("--strict-claims", action="store_true", help="a claim that does not hold here fails")
    add("--require-gpu", action="store_true", help="a missing GPU fails instead of skipping")
    add(
        "--kernel-change",
        action="append",
        default=[],
        metavar="NAME",
        help="kernels: measure this entry of changes.toml at kernel and at serving level; repeatable",
    )
    add(
        "--vllm-source",
        type=Path,
        metavar="DIR",
        help="kernels: an unpacked vLLM instead of the installed one",
    )
    add(
        "--perfgate-config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="instead of ./perfgate.toml",
    )
    add(
        "--perfgate-results",
        type=Path,
        metavar="DIR",
        help="folder of the results file (default: .perfgate/results)",
    )
    add(
        "--perfgate-history",
        metavar="FILE|URL",
        help="history of sessions (default: .perfgate/history.sqlite); none for no history",
    )
    add("--perfgate-html", type=Path, metavar="FILE", help="also write the session as one HTML page")


def check_options(config: pytest.Config) -> None:
    """Refuses what cannot be meant.

    Raises:
        pytest.UsageError: with the option and what to give instead.
    """
    if config.getoption("--new-baselines") and config.getoption("--update-baselines"):
        raise pytest.UsageError(
            "--new-baselines never changes a baseline, --update-baselines replaces: give one of them"
        )
    if config.getoption("--against") and config.getoption("--against-server"):
        raise pytest.UsageError(
            "--against changes the environment, --against-server the flags: give one of them"
        )
    if (config.getoption("--against") or config.getoption("--against-server")) and (
        config.getoption("--new-baselines") or config.getoption("--update-baselines")
    ):
        raise pytest.UsageError(
            "an A/B needs no stored baseline and records none: drop --new-baselines/--update-baselines"
        )
    if config.getoption("--replicates") == 1 and (
        config.getoption("--against")
        or config.getoption("--against-server")
        or config.getoption("--attribute")
    ):
        raise pytest.UsageError(
            "--replicates 1: of one boot a side nobody knows whether the boot or the version was slow; give 2 or more"
        )
    _check_sweep(config)
    _check_attribute(config)
    for option in ("--replicates", "--load-processes", "--boot-timeout", "--max-minutes"):
        value = config.getoption(option)
        if value is not None and value <= 0:
            raise pytest.UsageError(f"{option} is {value}; it must be above 0")
    for path in config.getoption("--perfgate-config"):
        if not path.is_file():
            raise pytest.UsageError(f"--perfgate-config {path}: no such file")


def _check_attribute(config: pytest.Config) -> None:
    given = config.getoption
    if not given("--attribute"):
        return
    if given("--new-baselines") or given("--update-baselines"):
        raise pytest.UsageError(
            "--attribute needs no stored baseline and records none: drop --new-baselines/--update-baselines"
        )
    if not (given("--against") or given("--against-server") or given("--vllm-arg") or given("--env")):
        raise pytest.UsageError(
            "--attribute needs a difference: give --vllm-arg or --env, --against-server NAME, or --against PYTHON"
        )


def _check_sweep(config: pytest.Config) -> None:
    given = config.getoption("--sweep")
    if not given:
        return
    for option in ("--new-baselines", "--update-baselines", "--against", "--against-server", "--attribute"):
        if config.getoption(option):
            raise pytest.UsageError(
                f"--sweep compares its points with each other, not with a baseline or another side: drop {option}"
            )
    from perfgate.experiment.sweep_points import parse_sweeps

    try:
        parse_sweeps(given)
    except PerfgateError as error:
        raise pytest.UsageError(str(error)) from error


def suite_options(config: pytest.Config) -> SuiteOptions:
    """What was asked for, as the session of the suite wants it."""
    from perfgate.experiment.gate import Writing
    from perfgate.experiment.options import SuiteOptions

    get = config.getoption
    writing = (
        Writing.UPDATE
        if get("--update-baselines")
        else Writing.NEW
        if get("--new-baselines")
        else Writing.NOTHING
    )
    return SuiteOptions(
        root=config.rootpath,
        command="pytest " + " ".join(config.invocation_params.args),
        gpu=get("--gpu"),
        model=get("--model"),
        servers=tuple(get("--server")),
        workloads=tuple(get("--workload")),
        vllm_args=tuple(get("--vllm-arg")),
        env=tuple(get("--env")),
        python=get("--server-python"),
        boot_timeout_s=get("--boot-timeout"),
        replicates=get("--replicates"),
        load_processes=get("--load-processes"),
        baselines=get("--baselines"),
        results=get("--perfgate-results"),
        config=tuple(get("--perfgate-config")),
        writing=writing,
        against=get("--against"),
        against_server=get("--against-server"),
        attribute=get("--attribute"),
        max_minutes=get("--max-minutes"),
        worker=_worker(config),
        notes=tuple(get("--baseline-note")),
    )


def _worker(config: pytest.Config) -> tuple[int, int]:
    """Which of how many xdist workers this is; (0, 1) without xdist."""
    given = getattr(config, "workerinput", None)
    return (int(given["workerid"].removeprefix("gw")), int(given["workercount"])) if given else (0, 1)
