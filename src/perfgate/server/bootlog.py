"""What a vLLM log says about a boot. Lines are matched by meaning, because wording and file:line move between releases.

Whatever is not said is absent from the result: a changed line becomes "unknown", never a guess.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_PHASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), phase)
    for pattern, phase in (
        (r"non-default args|version \d+\.\d+", "reading the configuration"),
        (r"Initializing a V\d LLM engine", "starting the engine"),
        (r"Starting to load model", "loading the weights"),
        (r"Model loading took|Loading weights took", "profiling"),
        (
            r"Warming up model for the compilation|Dynamo bytecode transform|Using cache directory.*torch\.compile",
            "compiling",
        ),
        (r"torch\.compile (?:took|takes)|Warming up done", "profiling"),
        (r"KV cache size", "warming up"),
        (r"Capturing CUDA graphs?", "capturing graphs"),
        (r"init engine .*took", "starting the API server"),
    )
)

_NUMBER = r"([\d,]+(?:\.\d+)?)"
_SECONDS = _NUMBER + r" ?(?:s|secs?|seconds)\b"

_QUANTITIES: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        "weights_s": r"(?:Model loading took .*? and|Loading weights took) " + _SECONDS,
        "model_load_gib": r"Model loading took " + _NUMBER + r" ?GiB",
        "compile_s": r"torch\.compile (?:took|takes) " + _SECONDS,
        "warmup_s": r"Initial profiling/warmup run took " + _SECONDS,
        "graph_capture_s": r"Graph capturing finished in " + _SECONDS,
        "graph_memory_gib": r"Graph capturing finished in .*?took " + _NUMBER + r" ?GiB",
        "init_engine_s": r"init engine \(.*?\) took " + _SECONDS,
        "available_kv_gib": r"Available KV cache memory: " + _NUMBER + r" ?GiB",
        "kv_cache_gib": r"Explicitly set \(" + _NUMBER + r"/[\d.]+\) GiB for KV cache",
        "kv_cache_tokens": r"KV cache size: " + _NUMBER + r" tokens",
    }.items()
}
"""Name → pattern with one group. Where several workers say it, the slowest, or the smallest memory, counts."""

_SMALLEST = frozenset({"available_kv_gib", "kv_cache_tokens", "kv_cache_gib"})

_STAMP = re.compile(r"\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\b")
_ENGINE_CONFIG = re.compile(
    r"Initializing a V\d LLM engine \(v(?P<version>[^)]+)\) with config: (?P<config>.*)$"
)
_ARGUMENTS = re.compile(r"non-default args: (\{.*\})\s*$")
_ACCOUNTING = re.compile(r"CUDA graph memory profiling is (enabled|disabled)")
_UTILIZATION = re.compile(r"--gpu-memory-utilization(?:=| to | from )(\d\.\d+)(?: to (\d\.\d+))?")
_AUTOTUNE_CONFIG = re.compile(r"Autotuning kernel (\S+) with config")
_AUTOTUNE_DONE = re.compile(r"Triton autotuning for function (\S+?),")
_JIT = re.compile(
    r"JIT compilation during inference: ([\w.<>-]+)|Triton autotuning for function (\S+?),|Autotuning kernel (\S+) with"
)
_PREFIX = re.compile(r"^\((?P<who>[A-Za-z_]+)[^)]*\)\s*(?:(?:ERROR|CRITICAL) [\d: -]+\[[^\]]*\]\s*)?")


@dataclass(frozen=True, kw_only=True)
class GraphAccounting:
    """How CUDA graphs are charged to the memory budget, in the log's own numbers."""

    enabled: bool
    utilization: float
    """The ``--gpu-memory-utilization`` that was asked for."""
    equivalent: float | None
    """The value that it equals without the accounting; only said where the accounting is on."""
    suggested: float | None
    """The value that gives the KV cache of the other accounting."""

    def explain(self) -> str:
        """The accounting in one sentence: a change of it is no change of capacity."""
        if self.enabled:
            return (
                f"graph memory is accounted for: --gpu-memory-utilization {self.utilization:g} now equals {_shown(self.equivalent)} "
                f"without the accounting, and {_shown(self.suggested)} would give the KV cache of before; the capacity did not change"
            )
        return (
            f"graph memory is not accounted for: with the accounting, --gpu-memory-utilization {_shown(self.suggested)} would give "
            f"the KV cache that {self.utilization:g} gives now"
        )


@dataclass(frozen=True, kw_only=True)
class BootLog:
    """What the log of one boot says."""

    version: str | None = None
    arguments: Mapping[str, Any] | None = None
    """The arguments that differ from their defaults, as vLLM parsed them; None where the line is missing or cut."""
    engine_config: Mapping[str, str] = field(default_factory=dict)
    """The engine's configuration line, value texts by key."""
    quantities: Mapping[str, float] = field(default_factory=dict)
    accounting: GraphAccounting | None = None
    autotuned: Mapping[str, int] = field(default_factory=dict)
    """Configurations benched by kernel, where Triton was told to print them."""
    first_stamp: tuple[int, int, int, int, int] | None = None
    """Month, day, hour, minute, second of the first stamped line, in the server's own time zone."""
    lines: tuple[str, ...] = ()
    """Every line, for quoting."""

    def imports_s(self, started: datetime) -> float | None:
        """Seconds from the start to the first stamped line: the imports. None where the clocks do not fit together.

        The stamps have whole seconds and no year or zone.
        """
        if self.first_stamp is None:
            return None
        month, day, hour, minute, second = self.first_stamp
        local = started.astimezone()
        try:
            stamp = local.replace(
                month=month, day=day, hour=hour, minute=minute, second=second, microsecond=0
            )
        except ValueError:
            return None
        gap = (stamp - local).total_seconds()
        return max(0.0, gap) if -1.0 <= gap < 3600.0 else None


def parse_boot_log(text: str) -> BootLog:
    """Reads a log; any log, of any length, cut anywhere."""
    lines = tuple(_plain(line) for line in text.splitlines())
    quantities: dict[str, float] = {}
    version: str | None = None
    engine_config: Mapping[str, str] = {}
    arguments: Mapping[str, Any] | None = None
    accounting: GraphAccounting | None = None
    autotuned: dict[str, int] = {}
    stamp: tuple[int, int, int, int, int] | None = None
    for line in lines:
        for name, pattern in _QUANTITIES.items():
            if found := pattern.search(line):
                value = _number(found[1])
                if value is not None:
                    choose = min if name in _SMALLEST else max
                    quantities[name] = choose(quantities.get(name, value), value)
        if not engine_config and (found := _ENGINE_CONFIG.search(line)):
            version, engine_config = found["version"], dict(split_config(found["config"]))
        if arguments is None and (found := _ARGUMENTS.search(line)):
            arguments = _literal(found[1])
        if accounting is None and (found := _ACCOUNTING.search(line)):
            accounting = _accounting(line, enabled=found[1] == "enabled")
        if found := _AUTOTUNE_CONFIG.search(line):
            autotuned[found[1]] = autotuned.get(found[1], 0) + 1
        elif found := _AUTOTUNE_DONE.search(line):
            autotuned.setdefault(found[1], 0)
        if stamp is None and (found := _STAMP.search(line)):
            stamp = (int(found[1]), int(found[2]), int(found[3]), int(found[4]), int(found[5]))
    return BootLog(
        version=version,
        arguments=arguments,
        engine_config=engine_config,
        quantities=quantities,
        accounting=accounting,
        autotuned=autotuned,
        first_stamp=stamp,
        lines=lines,
    )


def compile_events(lines: Iterator[str] | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Kernels that these lines say were compiled or autotuned just then, each once, in order."""
    found: dict[str, None] = {}
    for line in lines:
        if match := _JIT.search(line):
            found[next(group for group in match.groups() if group).rstrip(".")] = None
    return tuple(found)


def phase_of(line: str) -> str | None:
    """The phase that begins with this line, in words; None for any other line."""
    for pattern, phase in _PHASES:
        if pattern.search(line):
            return phase
    return None


def split_config(text: str) -> Iterator[tuple[str, str]]:
    """The top-level ``key=value`` pairs of a configuration line."""
    for piece in _pieces(text):
        key, equals, value = piece.partition("=")
        if equals and key.isidentifier():
            yield key, value.strip()


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a boot failed, as far as the log says."""

    line: str
    remedy: str


_REMEDIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), remedy)
    for pattern, remedy in (
        (
            r"unrecognized arguments|invalid choice|expected one argument|error: argument",
            "This release does not know the flag or its value; see `python -m vllm.entrypoints.openai.api_server --help`.",
        ),
        (
            r"Free memory on device.*less than desired",
            "Another process holds GPU memory: end it, or lower --gpu-memory-utilization.",
        ),
        (r"out of memory", "Lower --gpu-memory-utilization, --max-num-seqs or --max-model-len."),
        (
            r"No module named '?vllm",
            "The launcher's Python has no vLLM; install it there or name another interpreter.",
        ),
        (
            r"(?:cannot|can't|couldn't) (?:find|load|connect)|does not appear to have a file|is not a valid model identifier",
            "Check the model's path or name; a hub id needs the network or a filled cache.",
        ),
    )
)

_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt)\b(?::\s*\S.*)?$")
_USAGE = re.compile(r"^\S+\.py: error: .+|^.*No module named .*vllm.*$")


def failure_cause(text: str) -> Cause | None:
    """The line of a failed boot's log that says why: the engine's own exception before the API server's "see root cause above"."""
    by_engine: list[str] = []
    by_others: list[str] = []
    for raw in map(_plain, text.splitlines()):
        prefix = _PREFIX.match(raw)
        line = (raw[prefix.end() :] if prefix else raw).strip()
        if _EXCEPTION.match(line) or _USAGE.match(line):
            engine = prefix is not None and prefix["who"] != "APIServer"
            (by_engine if engine else by_others).append(line)
    found = by_engine or by_others
    if not found:
        return None
    line = found[-1][:500]
    for pattern, remedy in _REMEDIES:
        if pattern.search(line):
            return Cause(line=line, remedy=remedy)
    return Cause(line=line, remedy="The log says more.")


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _plain(line: str) -> str:
    return _COLOURS.sub("", line) if "\x1b" in line else line


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _literal(text: str) -> Mapping[str, Any] | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        # One argument whose value is no literal (an object) must not cost the others.
        pairs = (pair.partition(": ") for pair in _pieces(text[1:-1]))
        return {key.strip().strip("'\""): _scalar(value.strip()) for key, _, value in pairs if value}
    return value if isinstance(value, dict) else None


def _pieces(text: str) -> list[str]:
    """The text cut at its top-level commas; those inside brackets and quotes cut nothing."""
    depth, quote, begin, found = 0, "", 0, []
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[at - 1] != "\\" else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            found.append(text[begin:at].strip())
            begin = at + 1
    return [*found, text[begin:].strip()]


def _scalar(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _accounting(line: str, *, enabled: bool) -> GraphAccounting | None:
    numbers = [float(number) for match in _UTILIZATION.finditer(line) for number in match.groups() if number]
    if enabled and len(numbers) >= 3:
        return GraphAccounting(
            enabled=True, utilization=numbers[0], equivalent=numbers[1], suggested=numbers[2]
        )
    if not enabled and len(numbers) >= 2:
        return GraphAccounting(enabled=False, utilization=numbers[0], equivalent=None, suggested=numbers[1])
    return None


def _shown(value: float | None) -> str:
    return "an unknown value" if value is None else f"{value:g}"
