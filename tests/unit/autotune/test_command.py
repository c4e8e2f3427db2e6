"""``perfgate coverage``: which cells it asks for, what it prints, and its exit statuses."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from perfgate.catalogue import load_catalogue
from perfgate.cli import main, parser
from perfgate.commands.coverage import ask_for, resolve
from perfgate.errors import InputError

FILE = "E=256,N=512,device_name=NVIDIA_GB10.json"
MOE = {"file": FILE, "shipped": False, "batch_sizes": []}
KEY = {"kernel": "k", "module": "m", "fields": [["BT", "64"]], "when": "prefill of 1", "configs": 4}


def interpreter(folder: Path, *, warmed: bool, error: str = "") -> str:
    """A stand-in for the Python of the child: answers every cell as if its warm-up had run, or not."""
    cell = {
        "layer_class": "vllm.Layer",
        "default_backend": "flashinfer",
        "warmed": [KEY] if warmed else [],
        "served": [KEY],
        "compiled_warm": [],
        "compiled_serving": [],
        "failures": [],
    }
    if error:
        cell = {"error": error}
    script = folder / "python"
    body = (
        "import json, sys; asked = json.load(open(sys.argv[1])); "
        f"json.dump({{'vllm': '9', 'triton': '3', 'cells': [{cell!r} for _ in asked.get('cells', ())], "
        f"'moe': [{MOE!r} for _ in asked.get('moe', ())]}}, open(sys.argv[2], 'w'))"
    )
    script.write_text(f'#!/bin/sh\nexec python3 -c "{body}" "$5" "$6"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def run(folder: Path, *arguments: str, warmed: bool = True, error: str = "") -> int:
    return main(
        [
            "coverage",
            "--python",
            interpreter(folder, warmed=warmed, error=error),
            *(arguments or ("--gpu", "gb10")),
        ]
    )


def test_covered_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All keys warmed: exit 0, the counts, and a word on the backend that this GPU has by default."""
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert "COVERED: all 1 reachable autotune keys are warmed" in out
    assert "--gdn-prefill-backend triton" in out


def test_missed_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that only serving makes: exit 1 and its kernel."""
    assert run(tmp_path, warmed=False) == 1
    assert "missed  k  first at: prefill of 1  (4 configurations)" in capsys.readouterr().out


def test_undetermined_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown layout: exit 2 and what was looked for, also when other cells are covered."""
    assert run(tmp_path, error="no gdn layer: looked in x") == 2
    assert "looked in x" in capsys.readouterr().out


def test_a_child_that_fails_leaves_its_cells_undetermined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One GPU's process dies: its cells say why, the other GPU's are answered, the JSON has both, and the exit is 2."""
    script = Path(interpreter(tmp_path, warmed=True))
    dies = 'grep -q H100 "$5" && { echo boom >&2; exit 7; }'
    script.write_text(script.read_text().replace("exec", f"{dies}\nexec", 1))
    target = tmp_path / "cells.json"
    arguments = ["--gpu", "gb10", "--gpu", "h100", "--json", str(target)]
    assert main(["coverage", "--python", str(script), *arguments]) == 2
    first, second = json.loads(target.read_text())
    assert (first["undetermined"], second["keys_reachable"]) == ("", 0)
    assert "ended with status 7" in second["undetermined"]
    assert "1 covered, 0 with missed keys, 1 undetermined" in capsys.readouterr().out


def test_files_that_cannot_be_named_take_no_answer_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A release without the function that names MoE configurations: exit 2 and why, and the keys are shown and written all the same."""
    script = Path(interpreter(tmp_path, warmed=True))
    script.write_text(script.read_text().replace(repr(MOE), "{'error': 'no get_config_file_name'}"))
    target = tmp_path / "x.json"
    asked = ["--gpu", "gb10", "--model", "qwen3.5-35b-a3b", "--moe", "--json", str(target)]
    assert main(["coverage", "--python", str(script), *asked]) == 2
    said = capsys.readouterr()
    assert "COVERED" in said.out
    assert "no get_config_file_name" in said.err
    assert json.loads(target.read_text())["keys_warmed"] == 1


def moe_folder(folder: Path, content: str = '{"1": {}, "64": {}, "triton_version": "3"}') -> Path:
    """A folder as a server has it mounted."""
    folder.mkdir()
    (folder / FILE).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("line", "status", "finding"),
    [
        ("Using configuration from /mnt/{} for MoE layer.", 0, "agrees"),
        (
            "Using default MoE config. Performance might be sub-optimal! Config file not found at /mnt/{}",
            1,
            "contradicts",
        ),
        ("nothing of the kind", 2, "silent"),
    ],
)
def test_a_servers_log_is_held_against_what_is_mounted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, status: int, finding: str
) -> None:
    """A mounted file that the server does not use is exit 1, a log that names none is exit 2, and the JSON says the same."""
    log = tmp_path / "server.log"
    log.write_text(line.format(FILE))
    arguments = ["--moe-configs", str(moe_folder(tmp_path / "moe")), "--server-log", str(log), "--json"]
    asked = ["--gpu", "gb10", "--model", "qwen3.5-35b-a3b", "--moe"]
    assert run(tmp_path, *asked, *arguments, str(tmp_path / "x.json")) == status
    out = capsys.readouterr().out
    assert f"mounted, batch sizes 1, 64  ({FILE})" in out
    assert f"on gb10: {finding}: " in out
    assert json.loads((tmp_path / "x.json").read_text())["moe"]["server_log"]["finding"] == finding


def test_a_folder_that_vllm_would_not_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --moe, without a file of the right name, or with one that is no table: exit 2 and which it is."""
    asked = ["--gpu", "gb10", "--moe-configs"]
    assert run(tmp_path, *asked, str(tmp_path)) == 2
    assert "Add --moe" in capsys.readouterr().err
    assert run(tmp_path, "--moe", *asked, str(tmp_path)) == 2
    assert "has no file named E=" in capsys.readouterr().err
    for number, content in enumerate(("[]", "{", '{"one": {}}')):
        folder = moe_folder(tmp_path / f"moe{number}", content)
        assert run(tmp_path, "--moe", *asked, str(folder)) == 2
        assert "is no MoE configuration" in capsys.readouterr().err
    assert run(tmp_path, "--moe", "--gpu", "gb10", "--server-log", str(tmp_path / "absent")) == 2
    assert "--server-log" in capsys.readouterr().err


def test_the_json_holds_one_object_a_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One cell is an object, several are a list; `-` leaves standard output to the JSON."""
    assert run(tmp_path, "--gpu", "gb10", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["keys_warmed"] == 1
    target = tmp_path / "matrix.json"
    assert run(tmp_path, "--matrix", "--json", str(target)) == 0
    cells = json.loads(target.read_text())
    assert len(cells) == 192
    assert "192 covered" in capsys.readouterr().out


def test_a_crash_is_not_a_missed_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw is exit 2 with its traceback; Python's own status of a crash is 1, which means missed."""

    def crash(*_asked: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perfgate.commands.coverage.determine", crash)
    assert main(["coverage", "--gpu", "gb10"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_terminal_without_a_character_is_told_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output that is not UTF-8 loses no answer, and what it is told in place of a character is JSON too."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert run(tmp_path, "--gpu", "gb10", "--json", "-", error="no layer … here") == 2
    assert json.loads(shown.buffer.getvalue())["undetermined"] == "no layer … here"


def test_an_answer_is_shown_though_its_file_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that filled up meanwhile is exit 2, and the minutes spent are not lost; a place that is closed is refused before."""
    target = tmp_path / "full.json"
    target.symlink_to("/dev/full")
    assert run(tmp_path, "--gpu", "gb10", "--json", str(target)) == 2
    said = capsys.readouterr()
    assert "COVERED" in said.out
    assert "No space left on device" in said.err
    monkeypatch.setattr(os, "access", lambda *_asked: False)
    assert run(tmp_path, "--gpu", "gb10", "--json", str(tmp_path / "closed.json")) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no permission to write there" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--gpu is missing"),
        (["--gpu", "gb11"], "unknown gpu 'gb11'"),
        (["--gpu", "cpu"], "cannot be emulated"),
        (["--gpu", "gb10", "--model", "nope"], "unknown model 'nope'"),
        (["--gpu", "gb10", "--model", "tiny-qwen3"], "no linear-attention layer"),
        (["--gpu", "gb10", "--tp", "0"], "must be 1 or more"),
        (["--gpu", "gb10", "--model", "olmo-hybrid-7b", "--tp", "4"], "cannot be split over 4"),
        (["--gpu", "gb10", "--max-tokens", "63"], "between 64 and 131072"),
        (
            ["--gpu", "gb10", "--python", "/nowhere/python"],
            "--python /nowhere/python: there is no such program",
        ),
        (["--gpu", "gb10", "--json", "/nowhere/x.json"], "--json /nowhere/x.json: there is no such folder"),
        (["--gpu", "gb10", "--json", "/"], "--json /: is a folder"),
        (["--gpu", "gb10", "--timeout", "0"], "must be above 0"),
        (["--gpu", "gb10", "--timeout", "nan"], "must be above 0"),
        (["--gpu", "gb10", "--layer", "gdn", "--model", "olmo-hybrid-7b"], "has layer 'olmo', not 'gdn'"),
        (["--gpu", "gb10", "--model", "./folder"], "Add a [models.NAME] table"),
        (["--gpu", "gb10", "--model", "qwen9.5"], 'Add a [models."qwen9.5"] table'),
        (["--gpu", "gb10", "--vllm-source", "/nowhere"], "there is no such folder"),
    ],
)
def test_mistakes_are_messages(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad input is exit 2 with what was given, never a traceback."""
    assert main(["coverage", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_names_are_found_as_people_write_them() -> None:
    """Case, blanks and the hub's organisation do not matter; an unknown name stays itself."""
    gpus, models = load_catalogue("gpus"), load_catalogue("models")
    assert resolve("RTX 5090", gpus) == "rtx5090"
    assert resolve("Qwen/Qwen3.5-35B-A3B", models) == "qwen3.5-35b-a3b"
    assert resolve("H300", gpus) == "H300"


def test_each_layer_has_a_model_of_its_own() -> None:
    """--layer alone picks a model that has it."""

    def ask(*arguments: str) -> list[str]:
        return [question.model.name for question in ask_for(parser().parse_args(["coverage", *arguments]))]

    assert ask("--gpu", "gb10", "--layer", "kda") == ["kimi-linear-48b-a3b"]
    assert ask("--gpu", "gb10", "--layer", "olmo") == ["olmo-hybrid-7b"]
    assert ask("--gpu", "gb10", "--layer", "gdn") == ["qwen3.5-35b-a3b-fp8"]
    with pytest.raises(InputError):
        ask("--layer", "kda")
