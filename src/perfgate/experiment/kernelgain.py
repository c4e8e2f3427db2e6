"""Measures a change to a kernel at both levels: an A/B of servers, then the kernel at the batch sizes that they used."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfgate.autotune.kernelbench import ENTRY
from perfgate.autotune.process import TIMEOUT_S, ask
from perfgate.autotune.question import Question, cell
from perfgate.catalogue import load_catalogue
from perfgate.changes import ChangeSpec
from perfgate.claims import ALPHA, Side, lent_prior
from perfgate.diagnosis import RUNNING_PEAK
from perfgate.errors import CoverageError, InputError, ServerError
from perfgate.experiment.claims import DEFAULT_PAIRS, missing_files, side_targets
from perfgate.experiment.interleaved import SideRun, differing, run_rounds
from perfgate.findings import ChangedMetric, ChangedWorkload, ChangeFinding, Estimate, KernelTimes
from perfgate.iterations import BatchSize, Decoding, Iterations, iterations
from perfgate.kernelgain import (
    Gain,
    KernelLevel,
    Range,
    expected_slowdown,
    judge_gain,
    kernel_level,
    measured_slowdown,
    share_of_time,
)
from perfgate.lease import lease_devices
from perfgate.metrics import METRICS
from perfgate.noise import NoiseModel
from perfgate.records import BootRecord, Measurement, RunRecord
from perfgate.selection import CPU, Target, user_files
from perfgate.server import LocalLauncher
from perfgate.statistics.planning import abba
from perfgate.targets import GpuSpec
from perfgate.verdict import boot_means, invalidity

if TYPE_CHECKING:
    from perfgate.experiment.suite import Suite

SERVING = ("output_throughput", "mean_tpot_ms", "mean_ttft_ms")
_INHERITED = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
"""What `ask` takes out of a child's environment although a server has it."""
_OF = {"mean_tpot_ms": "time of its decode steps", "mean_ttft_ms": "time to first tokens"}
_GENERATED = "vllm:generation_tokens_total"
_DRAFTS = ("vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total")

Times = Mapping[int, tuple[Sequence[float], Sequence[float]]]
"""Old and new seconds of one call by tokens; one value a process."""


@dataclass(frozen=True, kw_only=True)
class WorkloadGain:
    """Both levels under one workload."""

    workload: str
    iterations: Iterations
    kernel: KernelLevel | None
    """None where it was not timed, or where no step called it."""
    gains: tuple[Gain, ...]


class ReplayedClock:
    """A timer for pytest-benchmark that shows times measured elsewhere: `take` makes it go on by the next one."""

    def __init__(self) -> None:
        self._now = 0.0
        self._left: list[float] = []

    def __call__(self) -> float:
        """Seconds."""
        return self._now

    def take(self) -> None:
        """One round."""
        self._now += self._left.pop(0)

    def feeding(self, seconds: Sequence[float]) -> Callable[[], None]:
        """A setup for ``pedantic`` that fills the clock before its first round."""
        left = list(seconds)

        def feed() -> None:
            if left:
                self._left = left[:]
                left.clear()

        return feed


def load_change(root: Path, config: tuple[Path, ...], name: str) -> ChangeSpec:
    """The change of that name.

    Raises:
        UnknownNameError: no such entry.
        CatalogueError: a mistake in it.
    """
    return load_catalogue("changes", user_files=user_files(root, config))[name].parse(ChangeSpec)


def change_not_here(suite: Suite, change: ChangeSpec) -> str | None:
    """Why this session cannot measure the change, or None.

    Raises:
        InputError: a server whose kernels cannot be timed from here.
    """
    if change.gpus and suite.gpu not in change.gpus:
        return f"the change is for {' or '.join(change.gpus)}, this session is about {suite.gpu}"
    for target in (*_targets(suite, change, change.old), *_targets(suite, change, change.new)):
        _python(target)
        absent = suite.absent_hardware(target) or missing_files(target, suite.options.root)
        if absent is not None:
            return absent
    return None


def measure_change(
    suite: Suite,
    change: ChangeSpec,
    *,
    bench: Callable[..., Times],
) -> ChangeFinding:
    """Serving first, because it says at which batch sizes the kernel is to be timed.

    Args:
        suite: the session; keeps all measurements.
        change: what is measured.
        bench: times the kernel of both servers at some batch sizes, at none it only finds it; `bench_kernel`.

    Raises:
        ServerError: a side does not boot, does not run as asked, or cannot be believed.
        InputError: no such kernel, which costs no boot, or a server whose kernels cannot be timed from here.
    """
    before, after = _targets(suite, change, change.old), _targets(suite, change, change.new)
    old = SideRun(targets=before, watched=differing(before[0].server, after[0].server))
    new = SideRun(targets=after, watched=differing(after[0].server, before[0].server))
    gpu = suite.catalogues.gpus[suite.gpu].parse(GpuSpec)
    pairs = suite.options.replicates or change.pairs or gpu.pairs or DEFAULT_PAIRS
    order = abba(pairs)
    _check(change, (*before, *after), bench)
    suite.announce(f"change {change.name}: {pairs} interleaved pairs, {2 * pairs} boots, then the kernel")
    try:
        run_rounds(
            suite.lab,
            (old, new),
            [order[2 * pair : 2 * pair + 2] for pair in range(pairs)],
            label=f"{suite.session}-{change.name}",
            max_minutes=suite.options.max_minutes or math.inf,
            need_all=True,
        )
    finally:
        suite.keep((*old.measured.values(), *new.measured.values()))
    for words, side in (("old", old), ("new", new)):
        reason = side.problem or next(
            filter(None, (invalidity(one.boots) for one in side.measured.values())), None
        )
        if reason is not None or not side.measured:
            raise ServerError(f"change {change.name}, {words} side: {reason or 'nothing was measured'}")
    suite.lab.close()
    steps: dict[str, Iterations] = {}
    problems: list[str] = []
    for target in before:
        name = target.cell.workload
        try:
            steps[name] = _called(change, target, old.measured[name].boots)
        except InputError as error:
            # Serving is judged all the same: its boots were measured.
            problems.append(f"{name}: {error}")
            steps[name] = Iterations(sizes=(), tokens=0.0, fits=False)
    sizes = sorted({size.tokens for found in steps.values() for size in found.sizes})
    times: Times = {}
    if sizes:
        with lease_devices(suite.lab.settings.devices, 1) as leased:
            suite.announce(
                f"change {change.name}: timing {change.kernel} at {', '.join(map(str, sizes))} tokens"
            )
            try:
                device = None if leased == (CPU,) else leased[0]
                times = bench(change, (before[0], after[0]), sizes, device=device)
            except CoverageError as error:
                # What the servers showed is not lost with it: it can backfire.
                problems.append(str(error))
    workloads: list[WorkloadGain] = []
    for target in before:
        name = target.cell.workload
        sides = (old.measured[name], new.measured[name])
        try:
            found = judge_workload(target, *sides, steps[name], times, change=change, noise=suite.noise)
        except InputError as error:
            problems.append(f"{name}: {error}")
            found = judge_workload(target, *sides, steps[name], {}, change=change, noise=suite.noise)
        workloads.append(found)
    return finding(change, suite.gpu, workloads, times, problem="; ".join(problems))


def _check(change: ChangeSpec, targets: Sequence[Target], bench: Callable[..., Times]) -> None:
    """Finds before the first boot what would leave the change undecided after the last.

    Raises:
        InputError: a kernel that a server's Python does not have.
    """
    try:
        bench(change, (targets[0], targets[-1]), ())
    except CoverageError as error:
        raise InputError(
            f"change {change.name!r}: the servers' Python has no {change.kernel}", remedy=error.remedy
        ) from error


def finding(
    change: ChangeSpec, gpu: str, workloads: Sequence[WorkloadGain], times: Times, *, problem: str = ""
) -> ChangeFinding:
    """Both levels as they are kept in the session's results."""
    return ChangeFinding(
        change=change.name,
        text=change.text,
        gpu=gpu,
        kernel=change.kernel,
        problem=problem,
        workloads=tuple(
            ChangedWorkload(
                workload=one.workload,
                exact=one.iterations.fits,
                kernel=_kernel_times(one, times),
                metrics=tuple(_changed(gain) for gain in one.gains),
            )
            for one in workloads
        ),
    )


def _kernel_times(one: WorkloadGain, times: Times) -> tuple[KernelTimes, ...]:
    if one.kernel is None:
        return ()
    return tuple(
        KernelTimes(
            tokens=size.tokens,
            fewest=size.lower,
            most=int(size.upper) if math.isfinite(size.upper) else None,
            steps=size.steps,
            old=tuple(times[size.tokens][0]),
            new=tuple(times[size.tokens][1]),
            faster=one.kernel.by_size[size.tokens] - 1,
        )
        for size in one.iterations.sizes
    )


def _changed(gain: Gain) -> ChangedMetric:
    return ChangedMetric(
        metric=gain.metric,
        arrival=gain.arrival,
        reason=gain.reason,
        serving=_estimate(gain.measured),
        expected=_estimate(gain.expected) if gain.expected is not None else None,
        kernel=_estimate(gain.kernel, -1.0) if gain.kernel is not None else None,
        share=_estimate(gain.share) if gain.share is not None else None,
        decides=gain.decides,
        confidence=gain.confidence,
        borrowed=gain.borrowed,
    )


def _estimate(found: Range, shift: float = 0.0) -> Estimate:
    known = found.known
    return Estimate(
        estimate=found.estimate + shift,
        lower=found.lower + shift if known else None,
        upper=found.upper + shift if known else None,
    )


def _called(change: ChangeSpec, target: Target, boots: Sequence[BootRecord]) -> Iterations:
    """The engine steps that call the kernel."""
    runs = [run for boot in boots for run in boot.valid_runs()]
    found = iterations([run.server for run in runs], _decoding(target, runs))
    kept = {
        "all": found.sizes,
        "prefill": tuple(size for size in found.sizes if not size.decode),
        "decode": tuple(size for size in found.sizes if size.decode),
    }[change.steps]
    return replace(found, sizes=kept)


def _decoding(target: Target, runs: Sequence[RunRecord]) -> Decoding:
    """What workload, client and server say of decode steps.

    A request gets 1 + accepted tokens from each decode step that it is in, so generated − requests − accepted is how often requests were
    in one; drafts over that are what a step computes beside.

    Raises:
        InputError: it is not known how many requests decode together.
    """
    workload = target.workload
    peak = max((run.server.get(RUNNING_PEAK, 0.0) for run in runs), default=0.0)
    streams = workload.concurrency or round(peak) or workload.max_concurrency
    if not streams:
        raise InputError(
            "how many requests decode together is not known, so decode steps cannot be told from prefill",
            remedy="Give the workload a concurrency or a max_concurrency.",
        )
    requests = math.fsum(run.requests or 0 for run in runs)
    tokens = max(0.0, math.fsum(map(_generated, runs)) - requests)
    drafted, accepted = (math.fsum(run.server.get(name, 0.0) for run in runs) for name in _DRAFTS)
    turns = tokens - accepted
    if not drafted or turns <= 0:
        return Decoding(streams=streams, tokens=tokens, requests=requests)
    return Decoding(
        streams=streams,
        tokens=tokens,
        requests=requests,
        computed=1 + drafted / turns,
        gained=tokens / turns,
    )


def _generated(run: RunRecord) -> float:
    """Tokens, as the server counted them; where it did not, as the client did: its tok/s times its seconds."""
    counted = run.server.get(_GENERATED)
    return counted or run.metrics.get("output_throughput", 0.0) * (run.duration_s or 0.0)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What one of a change's metrics is judged with."""

    alpha: float
    """Its error."""
    noise: NoiseModel | None
    apart: str
    """Why the kernel is no part of it; empty where it is."""

    @property
    def half(self) -> float:
        """Confidence of each of the two intervals of what is expected."""
        return 1 - self.alpha / 2


def judge_workload(
    target: Target,
    old: Measurement,
    new: Measurement,
    steps: Iterations,
    times: Times,
    *,
    change: ChangeSpec,
    noise: NoiseModel | None = None,
) -> WorkloadGain:
    """Both levels of one workload, and a verdict for each primary metric.

    The kernel's share is its seconds over those of the metric, a boot each (`share_of_time`):

    * tok/s: all its steps over engines × seconds of the runs, because with data parallelism engines make steps at the same time;
    * TPOT: its decode steps over what these took; with g tokens from a step for a request (1, and the accepted drafts), g × TPOT each;
    * TTFT: its prefill steps over requests × TTFT. A TTFT also waits for other prefills, so this is only the least its share can be.

    With k metrics over all workloads of the change each has an error of 0.05/k, as those of a claim have.

    Args:
        target: the cell.
        old: interleaved with the new side.
        new: likewise.
        steps: those of the old side that call the kernel.
        times: the kernel's; empty where it was not timed.
        change: says how often a step calls the kernel, and how many workloads are looked at.
        noise: lends its variance where it is of the same hardware; Welch's comparison without one.

    Raises:
        InputError: more time in the kernel than there was, or a size without times.
    """
    calls, alpha = change.calls, ALPHA / (len(SERVING) * len(change.workloads))
    look = {metric: _Look(alpha=alpha, noise=noise, apart=apart) for metric, apart in _apart(steps).items()}
    if not times or not steps.sizes:
        bare = [_gain(target, metric, old, new, None, None, look[metric]) for metric in SERVING]
        return WorkloadGain(workload=target.cell.workload, iterations=steps, kernel=None, gains=tuple(bare))
    kernel = kernel_level(steps.sizes, times, calls=calls, confidence=look["output_throughput"].half)
    boots = [(boot, _called(change, target, [boot])) for boot in old.boots if boot.valid_runs()]
    share = share_of_time(
        [_kernel_seconds(called.sizes, times, calls) for _, called in boots],
        [
            called.engines * math.fsum(run.duration_s or 0.0 for run in boot.valid_runs())
            for boot, called in boots
        ],
        confidence=look["output_throughput"].half,
    )
    gains = [_gain(target, "output_throughput", old, new, kernel.speedup, share, look["output_throughput"])]
    for metric, decode in (("mean_tpot_ms", True), ("mean_ttft_ms", False)):
        sizes = [size for size in steps.sizes if size.decode is decode]
        spent = [_spent(boot, called, metric, times, calls) for boot, called in boots]
        known = [(part, whole) for part, whole in spent if whole > 0]
        if not sizes or not known:
            gains.append(_gain(target, metric, old, new, None, None, look[metric]))
            continue
        part = share_of_time(*zip(*known, strict=True), what=_OF[metric], confidence=look[metric].half)
        if not decode:
            part = replace(part, upper=1.0)
        level = kernel_level(sizes, times, calls=calls, confidence=look[metric].half)
        gains.append(_gain(target, metric, old, new, level.speedup, part, look[metric]))
    return WorkloadGain(workload=target.cell.workload, iterations=steps, kernel=kernel, gains=tuple(gains))


def _spent(
    boot: BootRecord, called: Iterations, metric: str, times: Times, calls: int
) -> tuple[float, float]:
    """Seconds in the kernel, and of the serving that it is a part of: decode steps for TPOT, first tokens for TTFT; 0 where unknown."""
    runs = [run for run in boot.valid_runs() if metric in run.metrics]
    mean = math.fsum(run.metrics[metric] for run in runs) / len(runs) / 1e3 if runs else 0.0
    decode = metric == "mean_tpot_ms"
    sizes = [size for size in called.sizes if size.decode is decode]
    whole = (
        math.fsum(size.steps for size in sizes) * called.gained
        if decode
        else math.fsum(run.requests or 0 for run in boot.valid_runs())
    )
    return _kernel_seconds(sizes, times, calls), whole * mean


def _apart(steps: Iterations) -> dict[str, str]:
    """Why the kernel is no part of a metric, by metric; empty where it is one, or where steps are not counted."""
    if not steps.sizes:
        counted = steps.fits or steps.tokens > 0
        return dict.fromkeys(SERVING, "no engine step calls the kernel" if counted else "")
    apart = dict.fromkeys(SERVING, "")
    for metric, decode, word in (("mean_tpot_ms", True, "decode"), ("mean_ttft_ms", False, "prefill")):
        if not any(size.decode is decode for size in steps.sizes):
            apart[metric] = f"no {word} step calls the kernel"
    return apart


def bench_kernel(
    change: ChangeSpec,
    sides: Sequence[Target],
    sizes: Sequence[int],
    *,
    device: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Times:
    """Times the kernel in fresh processes of both sides, A B B A …; the median of a process's rounds is one replicate.

    Args:
        change: names the kernel.
        sides: a cell of the old and of the new server; a server's environment is its processes'.
        sizes: tokens of a step. With none, one process a side only imports the kernel, and no GPU is touched.
        device: value of ``CUDA_VISIBLE_DEVICES``, in the order of the PCI bus; the caller's where not given.
        timeout_s: for each process.

    Raises:
        InputError: a server that is not local: its Python cannot be started here.
        CoverageError: a process failed.
    """
    found: dict[int, tuple[list[float], list[float]]] = {tokens: ([], []) for tokens in sizes}
    options = (change.old_options, change.new_options)
    with tempfile.TemporaryDirectory(prefix="perfgate-kernel-") as caches:
        for side in abba(change.processes) if sizes else (0, 1):
            server, python = sides[side].server, _python(sides[side])
            # The server's environment, but for one Triton cache a side: what a process has tuned the next one finds.
            kept = {"TRITON_CACHE_DIR": f"{caches}/{side}/triton", "VLLM_CACHE_ROOT": f"{caches}/{side}/vllm"}
            kept |= {"TRITON_CACHE_AUTOTUNING": "1"}
            kept |= {name: os.environ[name] for name in _INHERITED if name in os.environ}
            if device is not None:
                kept |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": device}
            answer = ask(
                {
                    "factory": change.kernel,
                    "sizes": list(sizes),
                    "model": _facts(sides[side]),
                    "options": options[side],
                },
                python=python,
                timeout_s=timeout_s,
                entry=ENTRY,
                environment={**kept, **server.local_environment()},
            )
            for tokens in sizes:
                found[tokens][side].append(float(answer["medians"][str(tokens)]))
    return found


def _python(target: Target) -> str:
    launcher = target.server.launcher
    if isinstance(launcher, LocalLauncher):
        return launcher.python
    raise InputError(
        f"server {target.server.name!r} is started by {launcher.kind}: its kernels cannot be timed from here",
        remedy="Give the change servers with a local launcher.",
    )


def _facts(target: Target) -> dict[str, Any]:
    model = target.model
    given = target.server.args.get("tensor-parallel-size", 1)
    ranks = given if isinstance(given, int) else 1
    facts = {**model.config, **model.architecture, "name": model.name, "ranks": ranks}
    try:
        facts["cell"] = cell(Question(gpu=target.gpu, model=model, tp=ranks))
    except InputError:
        facts["cell"] = None
    return facts


def _gain(
    target: Target,
    metric: str,
    old: Measurement,
    new: Measurement,
    kernel: Range | None,
    share: Range | None,
    look: _Look,
) -> Gain:
    known, confidence = METRICS[metric], 1 - look.alpha
    before, after = old.replicates(metric), new.replicates(metric)
    prior = lent_prior(metric, new, look.noise, runs=min(map(len, (*before, *after)), default=1))
    gain = judge_gain(
        target.cell.workload,
        known,
        measured_slowdown(known, boot_means(before), boot_means(after), prior=prior, confidence=confidence),
        expected=expected_slowdown(share, kernel) if share is not None and kernel is not None else None,
        kernel=kernel,
        share=share,
        apart=look.apart,
        margin=target.margins().get(metric),
        tolerance=target.gpu.tolerances.get(metric),
    )
    return replace(gain, confidence=confidence, borrowed=prior is not None)


def _kernel_seconds(sizes: Sequence[BatchSize], times: Times, calls: int) -> float:
    """Seconds in the kernel; a size of one boot that differs a little from that of all boots takes the nearest one's time."""
    total = 0.0
    for size in sizes:
        nearest = min(times, key=lambda tokens: abs(math.log(tokens / size.tokens)))
        old = times[nearest][0]
        total += size.steps * calls * math.fsum(old) / len(old)
    return total


def _targets(suite: Suite, change: ChangeSpec, side: Side) -> tuple[Target, ...]:
    return side_targets(suite, change.name, side, model=change.model, workloads=change.workloads)
