"""What the vLLM of an interpreter says of its arguments: their sections, and the values that its parser takes."""

from textwrap import dedent

import pytest

from perfgate.server import ServerSpec
from perfgate.server.arguments import Asked, as_taken, known_arguments

ARG_UTILS = """
    import argparse, dataclasses, enum, json

    class Mode(enum.Enum):
        NONE = 0
        BOTH = (2, 1)

    class Backend(enum.Enum):
        FAST = "some.module.Fast"

    @dataclasses.dataclass
    class CompilationConfig:
        mode: Mode | None = None
        passes: int = 0

    def compilation(text):
        made = CompilationConfig(**json.loads(text))
        if isinstance(made.mode, list):
            raise argparse.ArgumentTypeError("no mode")
        return made

    class FlexibleArgumentParser(argparse.ArgumentParser):
        pass

    @dataclasses.dataclass
    class EngineArgs:
        max_num_seqs: int = 1
        capture_sizes: list[int] | None = None
        eager: bool = False
        backend: Backend | None = None
        dtype: str = "auto"
        compilation_config: CompilationConfig | None = None

        @staticmethod
        def add_cli_args(parser):
            group = parser.add_argument_group("SchedulerConfig")
            group.add_argument("--max-num-seqs", type=int)
            group = parser.add_argument_group("CompilationConfig")
            group.add_argument("--capture-sizes", type=int, nargs="+")
            group.add_argument("--compilation-config", type=compilation)
            parser.add_argument("--eager", action=argparse.BooleanOptionalAction)
            parser.add_argument("--backend", type=str)
            parser.add_argument("--dtype", choices=["auto", "bfloat16"])
            return parser
"""


def served_by(folder, source):
    (folder / "vllm" / "engine").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").touch()
    (folder / "vllm" / "engine" / "__init__.py").touch()
    (folder / "vllm" / "engine" / "arg_utils.py").write_text(dedent(source))
    return ServerSpec(name="s", env={"PYTHONPATH": str(folder)})


def test_arguments_are_known_with_their_sections(tmp_path):
    """Each argument comes with the title of the parser's group that declares it."""
    known = known_arguments(served_by(tmp_path, ARG_UTILS))
    assert known["max_num_seqs"] == "SchedulerConfig"
    assert known["compilation_config"] == known["capture_sizes"] == "CompilationConfig"
    assert set(known) == {"max_num_seqs", "capture_sizes", "eager", "backend", "dtype", "compilation_config"}


def test_arguments_are_known_without_a_parser(tmp_path):
    """A layout that has the arguments and no parser has no sections, and takes no questions about values."""
    spec = served_by(
        tmp_path, "import dataclasses\n@dataclasses.dataclass\nclass EngineArgs:\n    a: int = 1\n"
    )
    assert known_arguments(spec) == {"a": ""}
    assert as_taken(spec, [Asked(argument="a", value=1)]) is None


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        (Asked(argument="max_num_seqs", value=8), (8,)),
        (Asked(argument="max_num_seqs", value="many"), ()),
        (Asked(argument="capture_sizes", value=[1, 2]), ([1, 2],)),
        (Asked(argument="eager", value=False), (False,)),
        (Asked(argument="backend", value="some.module.Fast"), ("FAST",)),
        (Asked(argument="dtype", value="torch.bfloat16"), ("bfloat16",)),
        (Asked(argument="compilation_config", path=("mode",), value=[2, 1]), ("BOTH",)),
        (Asked(argument="compilation_config", path=("passes",), value=3), (3,)),
        (Asked(argument="compilation_config", path=("dropped",), value=3), ()),
    ],
)
def test_the_parser_says_how_a_value_is_given(tmp_path, asked, taken):
    """A value is taken as it is, by the name of an enumeration's member or without its module, or not at all."""
    assert as_taken(served_by(tmp_path, ARG_UTILS), [asked]) == [taken]


def test_no_interpreter_and_a_container_are_not_asked(tmp_path):
    """An interpreter that cannot import vLLM's arguments, one that is none, and a container leave everything unknown."""
    docker = {"kind": "docker", "image": "a:1"}
    for launcher in ({"kind": "local", "python": str(tmp_path / "none")}, docker):
        spec = ServerSpec.model_validate({"name": "s", "launcher": launcher})
        assert known_arguments(spec) is None
        assert as_taken(spec, [Asked(argument="a", value=1)]) is None
