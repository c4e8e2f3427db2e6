"""Asked versus in effect: what became of every flag and variable that a server was started with.

Four sources are asked in order of trust, as far as the release offers them: ``/server_info`` as JSON, the labels of
``vllm:cache_config_info``, the engine's configuration line, and the rest of the log. A source that does not know a setting passes the
question on; when none knows, the answer is *unknown*, never a guess. A warning that a flag is ignored outweighs a configuration that
merely repeats it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfgate.effects import Effect, FlagReport
from perfgate.server.bootlog import BootLog
from perfgate.server.flagnames import ALSO_CALLED, OF_THE_FRONT_END
from perfgate.server.reading import Member, agrees, agrees_text, parsed
from perfgate.server.secrets import MASK, Secrets, is_secret_name
from perfgate.server.settings import read
from perfgate.server.spec import ServerSpec, absolute_path


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a server says about its settings; each source may be missing."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Flat settings of ``/server_info``, all of them."""
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Variables as vLLM itself resolved them (``vllm_env`` of ``/server_info``)."""
    cache_config: Mapping[str, str] = field(default_factory=dict)
    """Labels of ``vllm:cache_config_info``."""
    log: BootLog = field(default_factory=BootLog, repr=False)
    process_environment: Mapping[str, str] | None = field(default=None, repr=False)
    """The environment that the server process really has; None where it cannot be read."""
    secrets: Secrets = field(default_factory=Secrets)


_MARKS_CHANGE = re.compile(
    r"\b(?:is set to|setting|reset|overrid\w*|overwrit\w*|forc\w*|disabl\w*|enabl\w*|fall\w* ?back|instead|not support\w*"
    r"|unsupported|ignor\w*|no effect|deprecated|adjust\w*|rais\w*|lower\w*|increas\w*|reduc\w*|decreas\w*|chang\w*|updat\w*|cap\w*"
    r"|truncat\w*|clamp\w*|(?:up|down)?cast\w*|switch\w*|turn\w*|replac\w*|default\w*|incompatible|not compatible)\b",
    re.IGNORECASE,
)
_MARKS_IGNORED = re.compile(
    r"\b(?:ignor\w*|no effect|unrecognized|not recognized|has been removed)\b", re.IGNORECASE
)
_IGNORED_SUBJECT = r"[^.;:]{0,80}\b(?:ignored|ignore it|no effect)\b"
"""What follows a setting's name in the same clause where a warning says that it is ignored."""
_NO_EVIDENCE = re.compile(r"non-default args:|V\d LLM engine \(v")
_AUTOMATIC = (("max_model_len", -1),)
"""Values that leave the choice to vLLM, as "auto" does."""
_LISTED_BY_VLLM = re.compile(r"VLLM_(?!\w*KEY)\w+")
"""Variables that vLLM lists in ``vllm_env`` when it knows them and they are set."""


def flags_in_effect(spec: ServerSpec, evidence: Evidence) -> tuple[FlagReport, ...]:
    """What became of every flag and variable of the server, in the order they are written."""
    sources = _sources(evidence)
    reports = [_flag(name, value, evidence, sources) for name, value in spec.args.items()]
    reports += [_variable(name, value, evidence) for name, value in spec.env.items()]
    return tuple(_finished(report, spec, evidence.secrets) for report in reports)


def running_flag(name: str, evidence: Evidence) -> tuple[Any, ...]:
    """What runs for a flag, asked for or not, as each source says it, the most trusted first; of ``no-x`` what ``x`` runs as.

    Empty where nothing says, and for a secret.
    """
    arguments = evidence.log.arguments or {}
    key = _whole_name(name.removeprefix("no-").replace("-", "_"), arguments)
    if is_secret_name(name):
        return ()
    found = [value for _, value in _answers(key, _sources(evidence), evidence.log)]
    if key in OF_THE_FRONT_END and arguments.get(key) is not None:
        found.append(arguments[key])
    return tuple(found)


def running_variable(name: str, evidence: Evidence) -> Any:
    """What a variable is in the server; None where it is not set or nothing says, and for a secret."""
    if is_secret_name(name):
        return None
    found = evidence.variables.get(name)
    return (evidence.process_environment or {}).get(name) if found is None else found


def stale_accepts(spec: ServerSpec, reports: Sequence[FlagReport]) -> tuple[str, ...]:
    """Accepted overrides that do not happen any more, in words; an unknown effect leaves its acceptance alone."""
    found = []
    for name in spec.accepts:
        concerned = [report for report in reports if name in _acceptable_names(report)]
        if not concerned:
            found.append(f"accepts {name!r}, which the server does not set: remove it")
        elif all(report.effect is Effect.HONOURED for report in concerned):
            found.append(f"accepts {name!r}, which is honoured here ({concerned[0].source}): remove it")
    return tuple(found)


def _acceptable_names(report: FlagReport) -> tuple[str, str]:
    """The names by which an entry may accept it: ``no-x`` and ``x`` are states of one flag."""
    name = report.name.removeprefix("--")
    return name, name.removeprefix("no-")


def _finished(report: FlagReport, spec: ServerSpec, secrets: Secrets) -> FlagReport:
    reason = next((spec.accepts[name] for name in _acceptable_names(report) if name in spec.accepts), "")
    secret = is_secret_name(report.name)
    return report.model_copy(
        update={
            "asked": MASK if secret else secrets.mask(report.asked),
            "running": MASK if secret and report.running else report.running and secrets.mask(report.running),
            "because": secrets.mask(report.because),
            "accepted": reason if report.effect in (Effect.OVERRIDDEN, Effect.IGNORED) else "",
        }
    )


Sources = Sequence[tuple[str, Mapping[str, Any]]]


def _sources(evidence: Evidence) -> Sources:
    return (
        ("/server_info", evidence.settings),
        ("vllm:cache_config_info", read(evidence.cache_config)),
        ("engine configuration in the log", read(evidence.log.engine_config)),
    )


def _flag(name: str, value: Any, evidence: Evidence, sources: Sources) -> FlagReport:
    negated = name.startswith("no-")
    key = _whole_name(name.removeprefix("no-").replace("-", "_"), evidence.log.arguments or {})
    wanted = False if negated else ("auto" if (key, value) in _AUTOMATIC else value)
    words = {"name": f"--{name}", "asked": "" if value is True else _shown(value)}
    if not negated and (line := _warned_ignored(key, evidence.log.lines)):
        return FlagReport(**words, effect=Effect.IGNORED, source="log", because=line)
    for source, running in _answers(key, sources, evidence.log):
        agreed = agrees(wanted, running)
        if agreed is None:
            continue
        if agreed:
            return FlagReport(**words, running=_shown(running), effect=Effect.HONOURED, source=source)
        line = _explanation(key, evidence.log.lines, running)
        return FlagReport(
            **words, running=_shown(running), effect=Effect.OVERRIDDEN, source=source, because=line
        )
    ignored = _spoken_of(key, evidence.log.lines, _MARKS_IGNORED)
    if ignored:
        return FlagReport(**words, effect=Effect.IGNORED, source="log", because=_short(ignored[0]))
    parsed_as = (evidence.log.arguments or {}).get(key)
    if key in OF_THE_FRONT_END and parsed_as is not None and agrees(wanted, parsed_as):
        return FlagReport(
            **words, running=_shown(parsed_as), effect=Effect.HONOURED, source="arguments in the log"
        )
    return FlagReport(**words, effect=Effect.UNKNOWN)


def _whole_name(key: str, arguments: Mapping[str, Any]) -> str:
    """The argument that vLLM took an abbreviated flag for: the only one that it parsed and that begins so."""
    longer = [name for name in arguments if name.startswith(key)]
    return longer[0] if key not in arguments and len(longer) == 1 and "." not in key else key


def _variable(name: str, value: str, evidence: Evidence) -> FlagReport:
    words = {"name": name, "asked": value}
    unknown = next((line for line in evidence.log.lines if _says_unknown(name, line)), "")
    if unknown:
        return FlagReport(**words, effect=Effect.IGNORED, source="log", because=_short(unknown))
    if name in evidence.variables:
        running = evidence.variables[name]
        agreed = running == absolute_path(value) or agrees_text(value, running)
        if agreed is not None:
            return FlagReport(
                **words,
                running=_shown(running),
                effect=Effect.HONOURED if agreed else Effect.OVERRIDDEN,
                source="/server_info",
                because="" if agreed else _explanation(name.lower(), evidence.log.lines, running),
            )
    elif evidence.variables and _LISTED_BY_VLLM.fullmatch(name):
        return FlagReport(
            **words, effect=Effect.UNKNOWN
        )  # it is there, but vLLM does not list it among its own
    if evidence.process_environment is not None:
        present = evidence.process_environment.get(name)
        effect = Effect.HONOURED if present in (value, absolute_path(value)) else Effect.OVERRIDDEN
        return FlagReport(**words, running=present, effect=effect, source="process environment")
    return FlagReport(**words, effect=Effect.UNKNOWN)


def _answers(key: str, sources: Sources, log: BootLog) -> Iterator[tuple[str, Any]]:
    """(source, what runs) for each source that knows the argument, the most trusted first."""
    for source, settings in sources:
        for name in (key, *ALSO_CALLED.get(key, ())):
            if (found := _setting(name, settings)) is not None:
                yield source, found
                break
    told = []
    for pattern, wanted, running in _LOG_FACTS:
        if wanted == key:
            matches = (pattern.search(line) for line in log.lines if not _OF_AN_ENGINE.match(line))
            told += [
                running if running is not None else parsed(found[1].replace(",", ""))
                for found in matches
                if found
            ]
    if told and all(value == told[0] for value in told):
        yield "log", told[0]


_OF_AN_ENGINE = re.compile(r"\((?:Vllm)?(?:EngineCore|Worker)")
"""Engines make configurations of their own for parts of themselves and tell of them too; the API server resolves the one that counts."""


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
    # A draft model has a length, a dtype … of its own, which no flag of that name sets.
    exact = [key for key in exact if not key.startswith("speculative_config.")] or exact
    if len(exact) == 1 or (exact and all(settings[key] == settings[exact[0]] for key in exact)):
        return settings[exact[0]]
    if exact:
        return None
    inner = {
        key.split(f"{name}.", 1)[1]: value for key, value in settings.items() if f".{name}." in f".{key}"
    }
    return inner or None


def _warned_ignored(key: str, lines: Sequence[str]) -> str:
    """The warning that this setting, by its name, is ignored or has no effect."""
    says = re.compile(_spoken(key) + _IGNORED_SUBJECT, re.IGNORECASE)
    return next((_short(line) for line in lines if "warning" in line.lower() and says.search(line)), "")


def _explanation(key: str, lines: Sequence[str], running: Any) -> str:
    """The log line that speaks of the setting and of a change to it; rather one that also shows what runs."""
    found = _spoken_of(key, lines, _MARKS_CHANGE)
    shown = re.compile(
        rf"(?<![\w.]){re.escape(_shown(running).removeprefix('torch.'))}(?![\w.]*\w)", re.IGNORECASE
    )
    return _short(next((line for line in found if shown.search(line)), found[0])) if found else ""


def _spoken_of(key: str, lines: Sequence[str], marks: re.Pattern[str]) -> list[str]:
    speaks = re.compile(_spoken(key), re.IGNORECASE)
    return [
        line for line in lines if not _NO_EVIDENCE.search(line) and speaks.search(line) and marks.search(line)
    ]


def _spoken(key: str) -> str:
    """A pattern for the setting's name as log lines write it: with blanks, hyphens or underscores, without enable or disable."""
    name = key.rpartition(".")[2]
    stem = name.removeprefix("enable_").removeprefix("disable_").removeprefix("vllm_")
    words = (_SPELLED.get(word, re.escape(word)) for word in stem.split("_"))
    return r"(?<![a-z0-9])" + r"[ _-]".join(words) + r"(?![a-z0-9])"


_SPELLED = {"async": "async(?:hronous)?", "cudagraph": "cuda ?graphs?"}
"""Parts of names that log lines spell in other ways."""


def _says_unknown(name: str, line: str) -> bool:
    return (
        "Unknown vLLM environment variable" in line and re.search(rf"\b{re.escape(name)}\b", line) is not None
    )


def _short(line: str) -> str:
    return line.strip()[:400]


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, (str, Member)) else json.dumps(value, default=str)
