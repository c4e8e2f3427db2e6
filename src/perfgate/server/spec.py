"""What a server is: a named set of flags, an environment, a launcher and a model.

Flags are kept by their long name without dashes (``max-num-seqs``). ``true`` is a bare flag, ``false`` takes an
inherited one away, a list is one flag with several values, a table is a JSON value, and a dotted name is one key of it. ``no-x`` and
``x`` are the two states of one flag: setting one unsets the other.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from perfgate.errors import InputError
from perfgate.records import Name, Record
from perfgate.server.flagnames import ALIASES, long_name
from perfgate.server.secrets import MASK, Secrets, is_secret_name, masked

Value: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any]

OWN_FLAGS: Mapping[str, str] = {
    "model": "set the entry's key `model`",
    "served-model-name": "perfgate makes one up for each boot: it identifies the server that answers",
    "host": "perfgate serves on the loopback interface",
}
"""Flags that are not for an entry to set, and what to do instead."""

THROUGH_ENVIRONMENT: Mapping[str, str] = {"api-key": "VLLM_API_KEY", "hf-token": "HF_TOKEN"}
"""Secret flags that vLLM also reads from its environment, where no process list shows them."""

_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_LONG = re.compile(r"--([A-Za-z][A-Za-z0-9_.-]*)(?:(=|\s+)(.*))?", re.DOTALL)
_SHORT = re.compile(
    rf"-({'|'.join(sorted(ALIASES, key=len, reverse=True))}|(?:{'|'.join(ALIASES)})\.[\w.]+)(?:(=|\s+|(?<=-O)(?=\S))(.*))?",
    re.DOTALL,
)
"""``-tp 2``, ``-tp=2``, ``-O3``, ``-cc.mode=3``."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class LocalLauncher(Record):
    """vLLM in a Python environment of this machine."""

    kind: Literal["local"] = "local"
    python: str = Field(default_factory=lambda: sys.executable)
    """The interpreter of the environment that has vLLM; perfgate's own where not given."""


class DockerLauncher(Record):
    """vLLM in a container of this machine."""

    kind: Literal["docker"]
    image: Annotated[str, StringConstraints(min_length=1, pattern=r"^[^-\s]\S*$")]
    """Name with tag or, better, with digest."""
    gpus: str | None = "all"
    """Value of ``--gpus``; a lease of device ids replaces it. None for a container without GPUs."""
    mounts: tuple[str, ...] = ()
    """Bind mounts, ``SOURCE:TARGET[:ro]``; a tuned MoE configuration, for example."""
    cache_volumes: dict[str, str] = Field(default_factory=dict)
    """Named volumes that outlive the container: volume name → path in the container."""
    ipc: str | None = "host"
    network: str | None = None
    """``host``, or None to publish the port on the loopback interface only."""
    python: str = "python3"
    """The interpreter inside the image."""
    extra: tuple[str, ...] = ()
    """More arguments of ``docker run``, as they are."""
    docker: str = "docker"
    """The client: ``docker`` or a compatible one."""

    @field_validator("mounts")
    @classmethod
    def _mount_has_two_ends(cls, mounts: tuple[str, ...]) -> tuple[str, ...]:
        for mount in mounts:
            parts = mount.split(":")
            if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
                raise ValueError(f"{mount!r} is not SOURCE:/TARGET or SOURCE:/TARGET:ro")
        return mounts


class AttachLauncher(Record):
    """A server that somebody else started and stops."""

    kind: Literal["attach"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+(/\S*)?$")]
    api_key_env: str | None = None
    """The environment variable that holds the API key."""


Launcher: TypeAlias = Annotated[LocalLauncher | DockerLauncher | AttachLauncher, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A model: its name in the catalogue, and the folder or hub id that vLLM is given."""

    name: str
    path: str


class ServerSpec(Record):
    """One entry of ``servers.toml``."""

    name: Name
    description: str = ""
    model: str | None = None
    """Catalogue name, folder or hub id; the GPU's own model where not given."""
    gpus: tuple[str, ...] = ()
    """The GPU entries it is meant for; empty for any."""
    args: dict[str, Value] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    launcher: Launcher = Field(default_factory=LocalLauncher)
    boot_timeout_s: float = Field(default=900.0, gt=0, le=24 * 3600)
    stop_grace_s: float = Field(default=15.0, ge=0, le=600)
    """How long an interrupted server may take to end by itself before it is killed."""
    accepts: dict[str, Annotated[str, StringConstraints(min_length=1)]] = Field(default_factory=dict)
    """Flags whose being overridden or ignored is known and accepted, each with the reason."""

    @field_validator("args", mode="before")
    @classmethod
    def _normal_args(cls, args: Any) -> Any:
        return normal_args(args) if isinstance(args, Mapping) else args

    @field_validator("env", mode="before")
    @classmethod
    def _normal_env(cls, env: Any) -> Any:
        if not isinstance(env, Mapping):
            return env
        normal: dict[str, Any] = {}
        for name, value in env.items():
            if not _VARIABLE.fullmatch(str(name)):
                raise ValueError(f"{name!r} is not the name of an environment variable")
            if value is False:
                continue
            if value is True or not isinstance(value, (str, int, float)):
                raise ValueError(f"{name} must be a string or a number (given: {_quoted(name, value)})")
            normal[name] = str(value)
        return normal

    @field_validator("accepts", mode="before")
    @classmethod
    def _normal_accepts(cls, accepts: Any) -> Any:
        if not isinstance(accepts, Mapping):
            return accepts
        return {str(name) if name.isupper() else flag_name(str(name)): v for name, v in accepts.items()}

    @field_validator("gpus", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _attached_takes_no_flags(self) -> ServerSpec:
        if self.launcher.kind == "attach" and self.env:
            raise ValueError("an attached server is already running: its environment cannot be set")
        return self

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields with secrets masked."""
        return iter(self.public().items())

    def __str__(self) -> str:
        return f"{self.name}: {' '.join(self.flags(mask=True))}"

    def public(self) -> dict[str, Any]:
        """The specification as plain data with every secret masked: what results and reports show.

        An interpreter that is perfgate's own is left out: where that lives differs from machine to machine.
        """
        data: dict[str, Any] = masked(self.model_dump(mode="json"), self.secrets())
        if data["launcher"].get("python") == sys.executable:
            del data["launcher"]["python"]
        return data

    def secrets(self) -> Secrets:
        """The secret values among its arguments and environment."""
        return Secrets.of(self.args, self.env)

    def with_changes(self, vllm_args: Sequence[str] = (), env: Sequence[str] = ()) -> ServerSpec:
        """The specification with flags and variables of the command line on top.

        Args:
            vllm_args: ``--max-num-seqs=1``, ``--flag value`` (one string or two) or ``--no-x``, in order; a later one wins.
            env: ``NAME=VALUE`` each.

        Raises:
            InputError: what is given is no flag, or no assignment.
        """
        if not vllm_args and not env:
            return self
        if self.launcher.kind == "attach":
            raise InputError(
                f"server {self.name!r} is attached: it is already running, and its flags and environment cannot be changed",
                remedy="Drop --vllm-arg and --env, or choose a server that perfgate boots.",
            )
        args = dict(self.args)
        for name, value in parse_flags(vllm_args):
            args.pop(opposite(name), None)
            args.pop(name, None)
            args[name] = value
        variables = dict(self.env)
        for assignment in env:
            name, equals, text = assignment.partition("=")
            if not equals or not _VARIABLE.fullmatch(name):
                raise InputError(
                    f"{Secrets().mask(assignment)!r} does not set a variable",
                    remedy="Write it as NAME=VALUE.",
                )
            variables[name] = text
        try:
            return self.model_validate({**self._fields(), "args": args, "env": variables})
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InputError(
                f"server {self.name!r} cannot be changed so: {problem}", remedy="See --vllm-arg and --env."
            ) from error

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    def flags(self, *, mask: bool = False) -> list[str]:
        """The vLLM flags of the entry as they stand on a command line, secrets that travel in the environment left out."""
        words: list[str] = []
        for name, value in self.args.items():
            if name in THROUGH_ENVIRONMENT:
                continue
            words.append(f"--{name}")
            inner = "." in name  # vLLM takes exactly one word for the key of a table
            if value is True and not inner:
                continue
            if mask and is_secret_name(name):
                words.append(MASK)
            elif isinstance(value, list) and not inner:
                words.extend(_word(item) for item in value)
            else:
                words.append(_word(value))
        return words

    def command(self, *, model: str, port: int, served_name: str, host: str = "127.0.0.1") -> list[str]:
        """The arguments after the interpreter: module, model, flags, and the identity of this boot."""
        own = [
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            model,
            "--served-model-name",
            served_name,
            "--host",
            host,
        ]
        flags = self.flags()
        return [*own, *flags] if "port" in self.args else [*own, "--port", str(port), *flags]

    def environment(self) -> dict[str, str]:
        """The variables of the entry, with those secret flags that travel in the environment."""
        secret = {
            variable: str(self.args[flag])
            for flag, variable in THROUGH_ENVIRONMENT.items()
            if flag in self.args
        }
        return {**secret, **self.env}

    def local_environment(self) -> dict[str, str]:
        """`environment` for a process of this machine, paths that begin with ``./``, ``../`` or ``~/`` made absolute.

        A server runs in a folder of its own, so such a path can only mean the folder that perfgate was started in, as a bind mount's does.
        """
        return {name: absolute_path(value) for name, value in self.environment().items()}


def absolute_path(value: str) -> str:
    """The value of a variable as a process of this machine gets it; only what is written as a relative path or from home changes."""
    return str(Path(value).expanduser().absolute()) if value.startswith(("./", "../", "~/")) else value


def flag_name(flag: str) -> str:
    """The name of a flag as it is kept: the long one, no leading dashes, hyphens for underscores outside dotted JSON keys."""
    head, dot, tail = long_name(flag.removeprefix("-").removeprefix("-")).partition(".")
    return head.replace("_", "-") + dot + tail


def opposite(name: str) -> str:
    """``no-x`` for ``x`` and ``x`` for ``no-x``."""
    return name[3:] if name.startswith("no-") else f"no-{name}"


def normal_args(args: Mapping[str, Any]) -> dict[str, Value]:
    """Arguments by flag name; false ones are left out.

    Raises:
        ValueError: a name that is no flag, one that perfgate sets itself, a value no command line can carry, or both ``x`` and ``no-x``.
    """
    normal: dict[str, Value] = {}
    for given, written in args.items():
        name, value = flag_name(str(given)), written
        if not _FLAG.fullmatch(name):
            raise ValueError(f"{given!r} is not the name of a flag")
        if name in OWN_FLAGS:
            raise ValueError(f"--{name} is not for an entry to set: {OWN_FLAGS[name]}")
        if value is None or not isinstance(value, (bool, int, float, str, list, dict)):
            raise ValueError(f"--{name}: {_quoted(name, value)} cannot stand on a command line")
        if isinstance(value, list) and not value:
            raise ValueError(f"--{name}: an empty list has no values; use false to leave the flag away")
        if name in THROUGH_ENVIRONMENT and isinstance(value, list):
            raise ValueError(
                f"--{name} takes one value here, because it travels in {THROUGH_ENVIRONMENT[name]}"
            )
        if is_secret_name(name) and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)  # a key of digits is masked like any other
        if name in normal and normal[name] != value:
            raise ValueError(
                f"--{name} is given twice, with {_quoted(name, normal[name])} and {_quoted(name, value)}"
            )
        if name == "port" and value is not False and not _is_port(value):
            raise ValueError(
                f"--port {value!r} is no port: give 1 to 65535, or leave it out, and a free one is found"
            )
        if value is not False:
            normal[name] = value
    for name in normal:
        if name.startswith("no-") and opposite(name) in normal:
            raise ValueError(
                f"both --{name} and --{opposite(name)} are set; set the inherited one to false in this entry"
            )
    return normal


def _is_port(value: Any) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", str(value)) is not None and 0 < int(str(value)) < 65536


def _quoted(name: str, value: Any) -> str:
    """A value as an error shows it."""
    return MASK if is_secret_name(name) else repr(value)


def parse_flags(words: Sequence[str]) -> Iterable[tuple[str, Value]]:
    """Name and value of each flag of a command line.

    Args:
        words: ``--max-num-seqs=1``, ``--flag value`` (one string or two) or ``--no-x``, in order.

    Raises:
        InputError: a word that is no flag, a flag that perfgate sets itself, or a table that is no JSON.
    """
    pending: str | None = None
    for word in (word.strip() for word in words):
        if pending is not None and not word.startswith("--") and not _SHORT.fullmatch(word):
            yield pending, _value(word)
            pending = None
            continue
        if pending is not None:
            yield pending, True
            pending = None
        match = _LONG.fullmatch(word) or _SHORT.fullmatch(word)
        if match is None:
            raise InputError(
                f"{Secrets().mask(word)!r} is not a vLLM flag",
                remedy="Write it as --name, --name=value or '--name value'.",
            )
        name, separator, text = match.groups()
        name = flag_name(name)
        if name in OWN_FLAGS:
            raise InputError(f"--{name} cannot be changed", remedy=f"{OWN_FLAGS[name].capitalize()}.")
        if separator is not None:
            yield name, _value(text)
        else:
            pending = name
    if pending is not None:
        yield pending, True


def _value(text: str) -> Value:
    """A number or JSON table where the text is one, so that it equals the same setting written in TOML."""
    if re.fullmatch(r"-?(0|[1-9][0-9]*)", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]+\.[0-9]+", text):
        return float(text)
    if text.startswith("{"):
        try:
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{Secrets().mask(text)!r} is not valid JSON: {error}",
                remedy="""Quote a table for the shell: '--flag={"key": 1}'.""",
            ) from error
        if isinstance(table, dict):
            return table
    return text


def _word(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def model_path(model: str, near: Path) -> str:
    """A model that is a folder is made absolute, because the server runs in a folder of its own; a hub id stays as it is."""
    candidate = near / Path(model).expanduser()
    return str(candidate.resolve()) if candidate.is_dir() else model
