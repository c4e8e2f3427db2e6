"""Asked versus in effect: what became of every flag and variable that a server was started with.

Four sources are asked in order of trust, as far as the release offers them: ``/server_info`` as JSON, the labels of
``vllm:cache_config_info``, the engine's configuration line, and the rest of the log. A source that does not know a setting passes the
question on; when none knows, the answer is *unknown*, never a guess.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from perfgate.records import Record
from perfgate.server.bootlog import BootLog
from perfgate.server.secrets import MASK, Secrets, is_secret_name
from perfgate.server.spec import ServerSpec, absolute_path


class Effect(StrEnum):
    """What became of a setting."""

    HONOURED = "honoured"
    OVERRIDDEN = "overridden"
    IGNORED = "ignored"
    UNKNOWN = "unknown"


class FlagReport(Record):
    """One requested flag or variable, and what runs."""

    name: str
    """``--mamba-cache-mode``, or the name of a variable."""
    asked: str
    running: str | None = None
    """What runs, where a source says."""
    effect: Effect
    source: str = ""
    """Which source said so."""
    because: str = ""
    """The log line that explains it."""
    accepted: str = ""
    """The reason why the server's entry accepts it; empty where it does not."""

    @property
    def harmful(self) -> bool:
        """Whether a measurement would be of something else than was asked for, and nobody accepted that."""
        return self.effect in (Effect.OVERRIDDEN, Effect.IGNORED) and not self.accepted

    def __str__(self) -> str:
        running = f", {self.running} runs" if self.effect is Effect.OVERRIDDEN else ""
        source = f" ({self.source})" if self.source else ""
        because = f"\n    {self.because}" if self.because else ""
        accepted = f"\n    accepted: {self.accepted}" if self.accepted else ""
        return f"{self.name} {self.asked}: {self.effect}{running}{source}{because}{accepted}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a server says about its settings; each source may be missing."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Flat settings of ``/server_info``."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Variables as vLLM itself resolved them (``vllm_env`` of ``/server_info``)."""
    cache_config: Mapping[str, str] = field(default_factory=dict)
    """Labels of ``vllm:cache_config_info``."""
    log: BootLog = field(default_factory=BootLog)
    process_environment: Mapping[str, str] | None = None
    """The environment that the server process really has; None where it cannot be read."""
    secrets: Secrets = field(default_factory=Secrets)


_ALSO_CALLED: Mapping[str, tuple[str, ...]] = {
    "kv_cache_dtype": ("cache_dtype",),
    "max_model_len": ("max_seq_len",),
    "limit_mm_per_prompt": ("limit_per_prompt",),
    "enable_chunked_prefill": ("chunked_prefill_enabled",),
    "attention_backend": ("attention_config.backend",),
    "mm_encoder_tp_mode": ("multimodal_config.mm_encoder_tp_mode",),
    "cpu_offload_gb": ("uva.cpu_offload_gb",),
}
"""Argument → other names that the resolved configuration has for it; a dotted one is the end of the key."""


def arguments_behind(key: str) -> tuple[str, ...]:
    """The arguments that may set a key of the resolved configuration: ``scheduler_config.async_scheduling`` → ``async_scheduling``."""
    other = (
        name for name, ends in _ALSO_CALLED.items() if any(f".{key}".endswith(f".{end}") for end in ends)
    )
    return (*other, key.rpartition(".")[2])


_OF_THE_FRONT_END = frozenset(
    {
        "allow_credentials", "allowed_headers", "allowed_methods", "allowed_origins", "chat_template",
        "chat_template_content_format", "default_chat_template_kwargs", "disable_fastapi_docs", "disable_frontend_multiprocessing",
        "disable_log_requests", "disable_log_stats", "disable_uvicorn_access_log", "enable_auto_tool_choice",
        "enable_force_include_usage", "enable_log_outputs", "enable_log_requests", "enable_prompt_tokens_details",
        "enable_request_id_headers", "enable_server_load_tracking", "enable_tokenizer_info_endpoint", "exclude_tools_when_tool_choice_none",
        "h11_max_header_count", "h11_max_incomplete_event_size", "log_config_file", "lora_modules", "max_log_len", "middleware",
        "port", "response_role", "return_tokens_as_token_ids", "root_path", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile",
        "ssl_keyfile", "tool_call_parser", "tool_parser_plugin", "tool_server", "trust_request_chat_template", "uvicorn_log_level",
    }
)  # fmt: skip
"""Arguments of the API server, which the engine's configuration never shows: being parsed is being in effect."""

_MARKS_CHANGE = re.compile(
    r"\b(?:is set to|setting|reset|overrid\w*|overwrit\w*|forc\w*|disabl\w*|enabl\w*|fall\w* back|instead|not support\w*"
    r"|unsupported|ignor\w*|no effect|deprecated|adjust\w*|reduc\w*|incompatible)\b",
    re.IGNORECASE,
)
_MARKS_IGNORED = re.compile(
    r"\b(?:ignor\w*|no effect|unknown|unrecognized|not recognized|has been removed)\b", re.IGNORECASE
)
_NO_EVIDENCE = re.compile(r"non-default args:|Initializing a V\d LLM engine")


def flags_in_effect(spec: ServerSpec, evidence: Evidence) -> tuple[FlagReport, ...]:
    """What became of every flag and variable of the server, in the order they are written."""
    reports = [_flag(name, value, evidence) for name, value in spec.args.items()]
    reports += [_variable(name, value, evidence) for name, value in spec.env.items()]
    return tuple(_finished(report, spec, evidence.secrets) for report in reports)


def _finished(report: FlagReport, spec: ServerSpec, secrets: Secrets) -> FlagReport:
    reason = spec.accepts.get(report.name.removeprefix("--"), "")
    secret = is_secret_name(report.name)
    return report.model_copy(
        update={
            "asked": MASK if secret else secrets.mask(report.asked),
            "running": MASK if secret and report.running else report.running and secrets.mask(report.running),
            "because": secrets.mask(report.because),
            "accepted": reason if report.effect in (Effect.OVERRIDDEN, Effect.IGNORED) else "",
        }
    )


def _flag(name: str, value: Any, evidence: Evidence) -> FlagReport:
    negated = name.startswith("no-")
    key = name.removeprefix("no-").replace("-", "_")
    wanted = False if negated else value
    words = {"name": f"--{name}", "asked": "" if value is True else _shown(value)}
    for source, running in _sources(key, evidence):
        agrees = _agrees(wanted, running)
        if agrees is None:
            continue
        if agrees:
            return FlagReport(**words, running=_shown(running), effect=Effect.HONOURED, source=source)
        line = _explanation(key, evidence.log.lines)
        return FlagReport(
            **words, running=_shown(running), effect=Effect.OVERRIDDEN, source=source, because=line
        )
    ignored = _explanation(key, evidence.log.lines, only=_MARKS_IGNORED)
    if ignored:
        return FlagReport(**words, effect=Effect.IGNORED, source="log", because=ignored)
    parsed = (evidence.log.arguments or {}).get(key)
    if key in _OF_THE_FRONT_END and parsed is not None and _agrees(wanted, parsed):
        return FlagReport(
            **words, running=_shown(parsed), effect=Effect.HONOURED, source="arguments in the log"
        )
    return FlagReport(**words, effect=Effect.UNKNOWN)


def _variable(name: str, value: str, evidence: Evidence) -> FlagReport:
    words = {"name": name, "asked": value}
    unknown = next((line for line in evidence.log.lines if _says_unknown(name, line)), "")
    if unknown:
        return FlagReport(**words, effect=Effect.IGNORED, source="log", because=_short(unknown))
    if name in evidence.variables:
        running = evidence.variables[name]
        agrees = running == absolute_path(value) or _agrees_text(value, running)
        if agrees is not None:
            return FlagReport(
                **words,
                running=_shown(running),
                effect=Effect.HONOURED if agrees else Effect.OVERRIDDEN,
                source="/server_info",
                because="" if agrees else _explanation(name.lower(), evidence.log.lines),
            )
    if evidence.process_environment is not None:
        present = evidence.process_environment.get(name)
        if present in (value, absolute_path(value)):
            return FlagReport(**words, running=present, effect=Effect.HONOURED, source="process environment")
        return FlagReport(**words, running=present, effect=Effect.OVERRIDDEN, source="process environment")
    return FlagReport(**words, effect=Effect.UNKNOWN)


def _sources(key: str, evidence: Evidence) -> Iterator[tuple[str, Any]]:
    """(source, what runs) for each source that knows the argument, the most trusted first."""
    names = (key, *_ALSO_CALLED.get(key, ()))
    for name in names:
        if (found := _setting(name, evidence.settings)) is not None:
            yield "/server_info", found
            break
    for name in names:
        if name in evidence.cache_config:
            yield "vllm:cache_config_info", _parsed(evidence.cache_config[name])
            break
    for name in names:
        if name in evidence.log.engine_config:
            yield "engine configuration in the log", _parsed(evidence.log.engine_config[name])
            break
    for pattern, wanted, running in _LOG_FACTS:
        if wanted == key:
            for line in evidence.log.lines:
                if match := pattern.search(line):
                    yield "log", running if running is not None else _parsed(match[1].replace(",", ""))


_LOG_FACTS: tuple[tuple[re.Pattern[str], str, Any], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), key, running)
    for pattern, key, running in (
        (r"Asynchronous scheduling is enabled", "async_scheduling", True),
        (r"Asynchronous scheduling is disabled|Disabling asynchronous scheduling", "async_scheduling", False),
        (r"Chunked prefill is enabled", "enable_chunked_prefill", True),
        (r"Chunked prefill is enabled with max_num_batched_tokens=([\d,]+)", "max_num_batched_tokens", None),
        (r"Using max model len ([\d,]+)", "max_model_len", None),
        (r"Mamba cache mode is set to '(\w+)'", "mamba_cache_mode", None),
    )
)
"""Log line → argument and what runs (None: the pattern's group)."""


def _setting(name: str, settings: Mapping[str, Any]) -> Any:
    """The value of the one key that ends in the name; a table where the name is a section of it; None where none or several do."""
    if not settings:
        return None
    suffix = f".{name}"
    exact = [key for key in settings if key == name or key.endswith(suffix)]
    if len(exact) == 1 or (exact and all(settings[key] == settings[exact[0]] for key in exact)):
        return settings[exact[0]]
    if exact:
        return None
    inner = {
        key.split(f"{name}.", 1)[1]: value for key, value in settings.items() if f".{name}." in f".{key}"
    }
    return inner or None


def _agrees(wanted: Any, running: Any) -> bool | None:
    """Whether what runs is what was asked for; None where the two cannot be compared."""
    if running is None or wanted == "auto":
        return None if running is None else True
    if isinstance(wanted, Mapping):
        return _agrees_table(wanted, running)
    if isinstance(wanted, list):
        return list(map(str, wanted)) == list(map(str, running)) if isinstance(running, list) else None
    if isinstance(running, Mapping):
        return _agrees(wanted, running["count"]) if "count" in running else None
    if isinstance(wanted, bool) or isinstance(running, bool):
        return wanted == running if isinstance(wanted, bool) and isinstance(running, bool) else None
    left, right = _amount(wanted), _amount(running)
    if left is not None and right is not None:
        return left == right
    if (left is None) != (right is None):
        return None  # a name here and the number of an enumeration there
    return _name(wanted) == _name(running)


def _agrees_table(wanted: Mapping[str, Any], running: Any) -> bool | None:
    if isinstance(running, str):
        running = _parsed(running)
    if not isinstance(running, Mapping):
        return None
    answers = [_agrees(value, running.get(key, _inner(key, running))) for key, value in wanted.items()]
    if False in answers:
        return False
    return None if None in answers or not answers else True


def _inner(key: str, running: Mapping[str, Any]) -> Any:
    """A table below the key, put together again from flat keys."""
    below = {
        name.removeprefix(f"{key}."): value for name, value in running.items() if name.startswith(f"{key}.")
    }
    return below or None


def _agrees_text(wanted: str, running: Any) -> bool | None:
    """The same for a variable, whose wanted value is always text."""
    if isinstance(running, bool):
        text = wanted.strip().lower()
        if text in ("1", "true", "yes", "on"):
            return running
        return not running if text in ("0", "false", "no", "off", "") else None
    if isinstance(running, (list, Mapping)):
        return None
    return _agrees(wanted, running)


def _amount(value: Any) -> float | None:
    """A number, also in words: 16k is 16000 and 16K is 16384, as vLLM reads them."""
    if isinstance(value, (int, float)):
        return float(value)
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kKmMgG]?)", str(value).strip())
    if match is None:
        return None
    factor = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]]
    return float(match[1]) * factor


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.").replace("-", "_").casefold()


def _parsed(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _explanation(key: str, lines: Sequence[str], *, only: re.Pattern[str] = _MARKS_CHANGE) -> str:
    """The first log line that speaks of the setting and of a change to it."""
    stem = key.removeprefix("enable_").removeprefix("disable_").removeprefix("vllm_")
    speaks = re.compile(
        r"(?<![a-z0-9])" + r"[ _-]".join(map(re.escape, stem.split("_"))) + r"(?![a-z0-9])", re.IGNORECASE
    )
    for line in lines:
        if not _NO_EVIDENCE.search(line) and speaks.search(line) and only.search(line):
            return _short(line)
    return ""


def _says_unknown(name: str, line: str) -> bool:
    return (
        "Unknown vLLM environment variable" in line and re.search(rf"\b{re.escape(name)}\b", line) is not None
    )


def _short(line: str) -> str:
    return line.strip()[:400]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
