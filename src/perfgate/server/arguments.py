"""The engine arguments of the vLLM that a server runs, asked of its own interpreter: what they are called, and which values they take."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfgate.server.spec import LocalLauncher, ServerSpec

_PARSER = """
import dataclasses, enum, json, sys
from vllm.engine import arg_utils
EngineArgs = arg_utils.EngineArgs
"""

_NAMES = f"""{_PARSER}
found = {{field.name: "" for field in dataclasses.fields(EngineArgs)}}
try:
    parser = EngineArgs.add_cli_args(arg_utils.FlexibleArgumentParser())
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.dest in found:
                found[action.dest] = group.title
except AttributeError:
    pass
print(json.dumps(found))
"""

_TAKEN = f"""{_PARSER}
parser = EngineArgs.add_cli_args(arg_utils.FlexibleArgumentParser())

def inside(hint):
    yield hint
    for part in getattr(hint, "__args__", ()):
        yield from inside(part)

def names(argument, path, value):
    hints = [EngineArgs]
    for key in (argument, *path):
        fields = [field for hint in hints if dataclasses.is_dataclass(hint) for field in dataclasses.fields(hint)]
        hints = [hint for field in fields if field.name == key for hint in inside(field.type)]
    for hint in hints:
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            for name, member in hint.__members__.items():
                if json.loads(json.dumps(member.value, default=str)) == value:
                    yield name

def taken(argument, path, value):
    flag = "--" + argument.replace("_", "-")
    for key in reversed(path):
        value = {{key: value}}
    if value is True or value is False:
        words = [flag if value else flag.replace("--", "--no-", 1)]
    elif isinstance(value, list):
        words = [flag, *(item if isinstance(item, str) else json.dumps(item) for item in value)]
    else:
        words = [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    try:
        parser.parse_args(words)
    except (Exception, SystemExit):
        return False
    return True

answers = []
for argument, path, value in json.load(sys.stdin):
    forms = [*names(argument, path, value), value]
    if isinstance(value, str):
        forms.append(value.removeprefix("torch."))
    answers.append(next(([form] for form in forms if taken(argument, path, form)), []))
print(json.dumps(answers))
"""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A value for an argument, or for one key of the table that an argument takes."""

    argument: str
    path: tuple[str, ...] = ()
    value: Any


def known_arguments(spec: ServerSpec) -> Mapping[str, str] | None:
    """Each engine argument with the section of the configuration that declares it, as ``ModelConfig``; empty where that is not told.

    None where the server's vLLM does not say: a container, another layout.
    """
    if not isinstance(spec.launcher, LocalLauncher):
        return None
    return _known(spec.launcher.python, tuple(sorted(spec.env.items())))


@functools.lru_cache(maxsize=8)
def _known(python: str, env: tuple[tuple[str, str], ...]) -> Mapping[str, str] | None:
    found = _ask(_NAMES, python, dict(env))
    return found if isinstance(found, dict) else None


def as_taken(spec: ServerSpec, asked: Sequence[Asked]) -> Sequence[tuple[Any, ...]] | None:
    """Each value as the parser of the server's vLLM takes it, in a tuple, which is empty where it takes none.

    What a configuration prints is not always what its flag takes: a member of an enumeration is printed as its value and given by its name,
    and a data type is printed with its module. None where the parser cannot be asked.
    """
    if not isinstance(spec.launcher, LocalLauncher):
        return None
    given = json.dumps([(one.argument, one.path, one.value) for one in asked], default=str)
    found = _ask(_TAKEN, spec.launcher.python, spec.env, given)
    return [tuple(one) for one in found] if isinstance(found, list) and len(found) == len(asked) else None


def _ask(program: str, python: str, env: Mapping[str, str], given: str = "") -> Any:
    """What a program prints as JSON on its last line; None where it does not."""
    try:
        answer = subprocess.run(
            [python, "-c", program],
            input=given,
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
            env={**os.environ, **env},
            cwd="/",  # the working directory is on the module path
        )
        return json.loads(answer.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
