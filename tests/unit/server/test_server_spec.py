"""Server entries: what they accept, how flags change, and the command lines they become."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perfgate.catalogue import load_catalogue
from perfgate.errors import CatalogueError, InputError
from perfgate.server import LocalLauncher, ServerSpec
from perfgate.server.spec import normal_args, opposite


def parse(tmp_path: Path, text: str, name: str = "mine") -> ServerSpec:
    file = tmp_path / "perfgate.toml"
    file.write_text(text, encoding="utf-8")
    return load_catalogue("servers", user_files=[file])[name].parse(ServerSpec)


def test_flags_become_a_command_line():
    """True is a bare flag, false is absent, a list is one flag with several values, a table is JSON."""
    spec = ServerSpec(
        name="s",
        args={
            "max-num-seqs": 32,
            "enforce-eager": True,
            "trust_remote_code": False,
            "gpu-memory-utilization": 0.45,
            "cudagraph-capture-sizes": [1, 2, 4],
            "limit_mm_per_prompt": {"image": 1},
            "kv-cache-dtype": "fp8_e4m3",
        },
    )
    assert spec.flags() == [
        *("--max-num-seqs", "32"),
        "--enforce-eager",
        *("--gpu-memory-utilization", "0.45"),
        *("--cudagraph-capture-sizes", "1", "2", "4"),
        *("--limit-mm-per-prompt", '{"image":1}'),
        *("--kv-cache-dtype", "fp8_e4m3"),
    ]
    assert spec.command(model="/m", port=8123, served_name="s-1") == [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", "/m", "--served-model-name", "s-1"),
        *("--host", "127.0.0.1", "--port", "8123"),
        *spec.flags(),
    ]


def test_the_key_of_a_table_gets_one_word():
    """A dotted key is followed by exactly one word, which vLLM reads as JSON where it can: true is written out, and a list is JSON."""
    args = {"cc.pass_config.x": True, "cc.cudagraph_capture_sizes": [1, 2], "cc.cudagraph_mode": "NONE"}
    assert ServerSpec(name="s", args=args).flags() == [
        *("--compilation-config.pass_config.x", "true"),
        *("--compilation-config.cudagraph_capture_sizes", "[1,2]"),
        *("--compilation-config.cudagraph_mode", "NONE"),
    ]


def test_port_of_the_entry_wins():
    """An entry that fixes its port gets exactly one --port."""
    command = ServerSpec(name="s", args={"port": 8000}).command(model="m", port=8000, served_name="n")
    assert command.count("--port") == 1
    assert command[command.index("--port") + 1] == "8000"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--max-num-seqs=1"], {"max-num-seqs": 1, "enable-prefix-caching": True}),
        (["--max-num-seqs", "1"], {"max-num-seqs": 1, "enable-prefix-caching": True}),
        (["--max-num-seqs 1"], {"max-num-seqs": 1, "enable-prefix-caching": True}),
        (["--max_num_seqs=1"], {"max-num-seqs": 1, "enable-prefix-caching": True}),
        (["--no-enable-prefix-caching"], {"max-num-seqs": 32, "no-enable-prefix-caching": True}),
        (["--enforce-eager", "--max-num-seqs=1"], {"max-num-seqs": 1, "enable-prefix-caching": True, "enforce-eager": True}),
        (["--max-num-seqs=1", "--max-num-seqs=2"], {"max-num-seqs": 2, "enable-prefix-caching": True}),
        (['--limit-mm-per-prompt={"image":1}'], {"max-num-seqs": 32, "enable-prefix-caching": True, "limit-mm-per-prompt": {"image": 1}}),
        (["--x", "-1"], {"max-num-seqs": 32, "enable-prefix-caching": True, "x": -1}),
    ],
)  # fmt: skip
def test_changes_of_the_command_line(changes, expected):
    """Every way to write a flag changes the same setting, and --no-x replaces x."""
    spec = ServerSpec(name="s", args={"max-num-seqs": 32, "enable-prefix-caching": True})
    assert spec.with_changes(changes).args == expected
    assert spec.args == {"max-num-seqs": 32, "enable-prefix-caching": True}


def test_positive_flag_replaces_its_negation():
    """Setting --x takes an inherited --no-x away."""
    spec = ServerSpec(name="s", args={"no-async-scheduling": True})
    assert spec.with_changes(["--async-scheduling"]).args == {"async-scheduling": True}


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5}){0,2}", fullmatch=True), st.integers(0, 99)
    )
)
def test_changes_and_toml_say_the_same(settings):
    """A setting from the command line equals the same setting from TOML, type included."""
    settings = {k: v for k, v in settings.items() if k not in ("model", "host") and not k.startswith("no-")}
    toml = ServerSpec(name="s", args=settings)
    shell = ServerSpec(name="s").with_changes([f"--{name}={value}" for name, value in settings.items()])
    assert toml.args == shell.args
    assert toml.flags() == shell.flags()


@given(st.from_regex(r"(no-)?[a-z]{1,9}(-[a-z]{1,9})?", fullmatch=True))
def test_opposite_is_its_own_inverse(name):
    """no-x and x are each other's opposite."""
    if not name.startswith("no-no"):
        assert opposite(opposite(name)) == name


@pytest.mark.parametrize(
    ("changes", "env", "message"),
    [
        (["max-num-seqs=1"], [], "'max-num-seqs=1' is not a vLLM flag"),
        (["--model=x"], [], "--model cannot be changed"),
        (["--served-model-name", "x"], [], "--served-model-name cannot be changed"),
        (['--limit-mm-per-prompt={"image"'], [], "is not valid JSON"),
        ([], ["VLLM_USE_V1"], "'VLLM_USE_V1' does not set a variable"),
        ([], ["1X=2"], "'1X=2' does not set a variable"),
    ],
)
def test_bad_changes_are_messages(changes, env, message):
    """A mistake on the command line is an input error that quotes it."""
    with pytest.raises(InputError, match=message):
        ServerSpec(name="s").with_changes(changes, env)


def test_environment_changes():
    """NAME=VALUE sets a variable, an empty value included."""
    spec = ServerSpec(name="s", env={"A": "1", "B": "2"}).with_changes(env=["A=3", "C=x=y", "B="])
    assert spec.environment() == {"A": "3", "B": "", "C": "x=y"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[servers.mine]\nargs = { model = "x" }', "key 'args': .*--model is not for an entry to set"),
        ("[servers.mine]\nargs = { served-model-name = 'x' }", "it identifies the server that answers"),
        ("[servers.mine.args]\nasync-scheduling = true\nno-async-scheduling = true", "both --no-async-scheduling and"),
        ("[servers.mine.args]\nmax-num-seqs = 1\nmax_num_seqs = 2", "--max-num-seqs is given twice"),
        ("[servers.mine.args]\nx = []", "--x: an empty list has no values"),
        ("[servers.mine.args]\nx = 2026-01-01", "--x: .* cannot stand on a command line"),
        ('[servers.mine.args]\n"-- x" = 1', "is not the name of a flag"),
        ("[servers.mine.env]\nX = true", "X must be a string or a number"),
        ('[servers.mine.env]\n"a b" = "1"', "'a b' is not the name of an environment variable"),
        ("[servers.mine]\nboot_timeout = 3", "unknown key; did you mean 'boot_timeout_s'"),
        ("[servers.mine]\nboot_timeout_s = 0", "key 'boot_timeout_s'"),
        ('[servers.mine]\nlauncher = { kind = "ssh" }', "key 'launcher'"),
        ('[servers.mine]\nlauncher = { kind = "docker" }', "key 'launcher.docker.image'"),
        ('[servers.mine]\nlauncher = { kind = "docker", image = "-x" }', "key 'launcher.docker.image'"),
        ('[servers.mine]\nlauncher = { kind = "docker", image = "i", mounts = ["a"] }', "'a' is not SOURCE:/TARGET"),
        ('[servers.mine]\nlauncher = { kind = "attach", url = "here" }', "key 'launcher.attach.url'"),
        ('[servers.mine]\nenv = { A = "1" }\nlauncher = { kind = "attach", url = "http://h:1" }', "cannot be set"),
        ('[servers.mine]\naccepts = { x = "" }', "key 'accepts.x'"),
    ],
)  # fmt: skip
def test_mistakes_in_an_entry_name_file_table_and_key(tmp_path, text, message):
    """A mistake in TOML is a catalogue error with file, table and key."""
    with pytest.raises(CatalogueError, match=message) as caught:
        parse(tmp_path, text)
    assert "perfgate.toml: [servers.mine]" in str(caught.value)


def test_false_takes_an_inherited_setting_away(tmp_path):
    """An entry that extends another removes a flag with false and adds its opposite."""
    spec = parse(
        tmp_path,
        '[servers.base.args]\nenforce-eager = true\nmax-num-seqs = 4\n[servers.mine]\nextends = "base"\n'
        "[servers.mine.args]\nenforce-eager = false\nasync-scheduling = true\n",
    )
    assert spec.args == {"max-num-seqs": 4, "async-scheduling": True}


def test_all_shipped_entries_are_valid():
    """Every shipped server parses, and those of the study carry its common flags."""
    servers = {name: entry.parse(ServerSpec) for name, entry in load_catalogue("servers").items()}
    assert servers["tiny"].launcher == LocalLauncher(python=sys.executable)
    study = [spec for spec in servers.values() if spec.gpus == ("gb10",)]
    assert len(study) >= 9
    for spec in study:
        assert spec.args["max-model-len"] == 131072
        assert spec.env["TORCHINDUCTOR_COMPILE_THREADS"] == "1"
        assert json.loads(spec.flags()[spec.flags().index("--limit-mm-per-prompt") + 1]) == {"image": 1}
        assert spec.launcher.kind == "docker"


def test_phases_of_the_study_differ_as_the_study_says():
    """Each phase changes what its description says and nothing else."""
    servers = {name: entry.parse(ServerSpec) for name, entry in load_catalogue("servers").items()}
    common, study2 = servers["study-common"], servers["study-2"]
    assert study2.args == common.args
    assert servers["study-2.5a"].args == {**study2.args, "no-async-scheduling": True}
    assert servers["study-4"].args == {**servers["study-3"].args, "gpu-memory-utilization": 0.55}
    assert servers["study-5a"].args == {**servers["study-4"].args, "enforce-eager": True}
    v1, v2 = servers["production-v1"], servers["production-v2"]
    assert v1.args == servers["study-2.5a"].args
    assert v1.env == {**common.env, "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "1"}
    assert v2.args == {**v1.args, "max-num-batched-tokens": 16384}
    assert v2.env == v1.env


def test_values_that_look_false_stay():
    """Zero and the empty string are values; only false means absent."""
    assert normal_args({"a": 0, "b": "", "c": False}) == {"a": 0, "b": ""}


def test_only_a_chosen_interpreter_is_recorded():
    """What a baseline keeps of a server does not name where this machine's Python lives, unless it was asked for."""
    assert ServerSpec(name="a").public()["launcher"] == {"kind": "local"}
    chosen = ServerSpec(name="a", launcher={"kind": "local", "python": "/opt/old/bin/python"})
    assert chosen.public()["launcher"]["python"] == "/opt/old/bin/python"
    assert ServerSpec.model_validate(ServerSpec(name="a").public()) == ServerSpec(name="a")


@pytest.mark.parametrize("changes", [{"vllm_args": ["--max-num-seqs=1"]}, {"env": ["A=1"]}])
def test_an_attached_server_cannot_be_changed(changes):
    """Flags and variables on top of an attached server are refused: they would be judged as if they were in effect."""
    attached = ServerSpec(name="there", launcher={"kind": "attach", "url": "http://127.0.0.1:1"})
    assert attached.with_changes() is attached
    with pytest.raises(InputError, match="'there' is attached"):
        attached.with_changes(**changes)


@pytest.mark.parametrize("port", ["abc", 0, 65536, True, 1.5])
def test_a_port_is_a_port(port):
    """What is no port is refused when the entry is read, not when a socket is bound."""
    with pytest.raises(ValidationError, match="is no port"):
        ServerSpec(name="s", args={"port": port})
    assert ServerSpec(name="s", args={"port": "8000"}).args["port"] == "8000"


@pytest.mark.parametrize(
    ("words", "args"),
    [
        (["-tp=2"], {"tensor-parallel-size": 2}),
        (["-tp 2"], {"tensor-parallel-size": 2}),
        (["-tp", "2"], {"tensor-parallel-size": 2}),
        (["-O3"], {"optimization-level": 3}),
        (["-O=2"], {"optimization-level": 2}),
        (["-q", "fp8"], {"quantization": "fp8"}),
        (["-cc.mode=3"], {"compilation-config.mode": 3}),
        (["-ep"], {"enable-expert-parallel": True}),
        (["--max-model-len", "-1"], {"max-model-len": -1}),
        (["--max_num_seqs=4", "-dp", "2"], {"max-num-seqs": 4, "data-parallel-size": 2}),
    ],
)
def test_short_forms_are_the_long_flags(words, args):
    """VLLM's short forms are kept as the long flag, so that one replaces the other."""
    assert ServerSpec(name="s").with_changes(words).args == args


def test_short_form_in_an_entry_replaces_the_long_flag():
    """A short form is a flag like any other in TOML, and on the command line it replaces what the entry has."""
    spec = ServerSpec(name="s", args={"-tp": 2, "-cc": {"mode": 3}})
    assert spec.args == {"tensor-parallel-size": 2, "compilation-config": {"mode": 3}}
    assert spec.with_changes(["-tp=4"]).args["tensor-parallel-size"] == 4
    assert spec.flags()[:2] == ["--tensor-parallel-size", "2"]


def test_unknown_short_form_is_no_flag():
    """A short form that vLLM does not have is refused, with how to write a flag."""
    with pytest.raises(InputError, match="'-zz=1' is not a vLLM flag"):
        ServerSpec(name="s").with_changes(["-zz=1"])


def test_inherited_acceptance_can_be_taken_away(tmp_path):
    """An entry that extends another one removes its acceptance with false, as it does a flag."""
    file = tmp_path / "perfgate.toml"
    file.write_text(
        '[servers.old]\naccepts = { mamba-cache-mode = "forced", VLLM_X = "known" }\n'
        '[servers.new]\nextends = "old"\naccepts = { mamba-cache-mode = false }\n'
    )
    assert load_catalogue("servers", user_files=[file])["new"].parse(ServerSpec).accepts == {
        "VLLM_X": "known"
    }
