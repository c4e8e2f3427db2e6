"""``perfgate baselines``: which cells have one."""

import pytest

from perfgate.catalogue import shipped_directory
from perfgate.cli import main

USER = """
[gpus.gb10]
servers = ["production-v2", "fresh"]
workloads = ["decode"]

[servers.fresh]
extends = "production-v2"
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A user's project with the study's baselines and one server more."""
    (tmp_path / "perfgate.toml").write_text(USER)
    (tmp_path / "baselines").symlink_to(shipped_directory().parent / "baselines")
    monkeypatch.chdir(tmp_path)


def test_every_cell_is_listed_with_what_is_stored(capsys):
    """One line a cell: boots, date and source of its baseline, or that there is none."""
    assert main(["baselines", "--gpu", "gb10"]) == 0
    has, has_not = capsys.readouterr().out.splitlines()
    assert has.startswith("gb10/qwen3.5-35b-a3b-fp8/production-v2/decode  1 boot, undated, DGX Spark")
    assert has_not == "gb10/qwen3.5-35b-a3b-fp8/fresh/decode  no baseline"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 1),
        (["--server", "production-v2"], 0),
        (["--server=fresh", "--vllm-arg=--max-num-seqs=1", "-k", "decode", "-n", "2"], 1),
        (["--server=production-v2", "--vllm-arg", "--max-num-seqs=1", "--attribute", "-x"], 0),
        (["--server=production-v3"], 2),
    ],
)
def test_a_pytest_command_line_chooses_the_cells(options, status, capsys):
    """After ``--`` stands what pytest is given: its choice of cells counts, everything else is pytest's own."""
    assert main(["baselines", "--missing", "--quiet", "--gpu", "gb10", "--", *options]) == status
    assert capsys.readouterr().out == ""
