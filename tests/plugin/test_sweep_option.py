"""--sweep from the command line to the table, on a fake vLLM whose truth is known."""

import sys

import pytest


@pytest.fixture
def failing(swept):
    """Makes a Python whose boots of these numbers, counted from 1, fail; it says on request how many there were."""

    def make(*numbers):
        python, count = swept.path / "failing-python", swept.path / "boots"
        python.write_text(
            f"""#!/bin/sh
case "$*" in *api_server*)
  echo >> "{count}"
  case $(wc -l < "{count}") in {"|".join(map(str, numbers))}) echo "RuntimeError: no memory for a moment" >&2; exit 1;; esac;;
esac
exec "{sys.executable}" "$@"
"""
        )
        python.chmod(0o755)
        return str(python), lambda: len(count.read_text().splitlines())

    return make


def test_points_are_measured_in_rounds_and_no_winner_is_made_up(swept):
    """Three values take three boots each in mirrored rounds; the slow one is dominated, two equal ones are not told apart."""
    toml = swept.path / "perfgate.toml"
    forgiving = "margins = { mean_ttft_ms = 0.5, mean_tpot_ms = 0.5, output_throughput = 0.5 }"
    toml.write_text(f'{toml.read_text()}\n[workloads.forgiving]\nextends = "single"\n{forgiving}\n')
    result = swept.pytest(
        "--sweep", "fake-tpot-ms=2,6,2.0", "--vllm-arg=--fake-ttft-ms=100", "--workload", "forgiving"
    )
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.re_match_lines([r"fake-tpot-ms=2 .* front$"])
    result.stdout.re_match_lines([r"fake-tpot-ms=6 .* dominated by fake-tpot-ms=2(.0)?$"])
    result.stdout.fnmatch_lines(["*No winner: 2 points*(fake-tpot-ms=2, fake-tpot-ms=2.0)*"])
    (found,) = swept.session()["findings"]["sweeps"]
    rows = {row["point"]: row for row in found["cells"][0]["rows"]}
    assert [point for point, row in rows.items() if row.get("dominated_by")] == ["fake-tpot-ms=6"]
    assert {len(row["values"]) for row in rows.values()} == {3}
    measured = swept.session()["measurements"]
    assert {one["changes"][1]: len(one["boots"]) for one in measured} == {
        "--fake-tpot-ms=2": 3,
        "--fake-tpot-ms=6": 3,
        "--fake-tpot-ms=2.0": 3,
    }
    boots = sorted((boot["started"], one["changes"][1]) for one in measured for boot in one["boots"])
    order = [name for _, name in boots]
    assert order[3:6] == order[:3][::-1]
    assert len(set(order[:3])) == 3
    assert not (swept.path / ".perfgate/baselines").exists()


def test_a_point_that_does_not_boot_fails_and_the_others_are_shown(swept):
    """One bad value fails the test with its log; the good ones are measured, nobody is called the winner, and all that from a worker."""
    result = swept.pytest("--sweep", "max-num-seqs=16,none", "--replicates", "1", "-n", "1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["max-num-seqs=none: server*", "*invalid int value: 'none'*", "max-num-seqs=none*not compared*"]
    )
    (measured,) = swept.session()["measurements"]
    assert measured["changes"] == ["--max-num-seqs=16"]


def test_a_boot_that_fails_by_chance_is_made_again(swept, failing):
    """The very first boot fails once and is made again at once: the point has all its boots, and the line under the table says so."""
    python, boots = failing(1)
    result = swept.pytest("--sweep", "fake-tpot-ms=2,6", "--replicates", "1", "--server-python", python)
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["fake-tpot-ms=*: a boot failed and was made again (server *"])
    assert boots() == 3
    assert [len(one["boots"]) for one in swept.session()["measurements"]] == [1, 1]


def test_a_point_that_fails_twice_keeps_its_values(swept, failing):
    """A point whose second boot fails twice is not tried again; the table has its first boot's values beside the reason, and no winner."""
    python, boots = failing(3, 4)
    result = swept.pytest("--sweep", "fake-tpot-ms=2,6", "--server-python", python)
    result.assert_outcomes(failed=1, deselected=1)
    assert boots() == 3 + 1 + 2
    (found,) = swept.session()["findings"]["sweeps"]
    down, up = sorted(found["cells"][0]["rows"], key=lambda row: row["boots"])
    assert (down["boots"], up["boots"]) == (1, 3)
    assert all(value["value"] > 0 for value in down["values"])
    result.stdout.re_match_lines([rf"{down['point']} +1 +[0-9.]+ ms .*not compared: server .*"])
    result.stdout.fnmatch_lines(
        [f"*No winner: only {up['point']} is not dominated, but not every other point could be*"]
    )


def test_a_workload_without_tokens_to_wait_for_is_judged_by_the_rest(swept):
    """With one output token there is no TPOT: a slow point is dominated by the other metrics, and the table says what is left out."""
    toml = swept.path / "perfgate.toml"
    toml.write_text(f'{toml.read_text()}\n[workloads.prefill]\nextends = "single"\noutput_len = 1\n')
    result = swept.pytest("--sweep", "fake-ttft-ms=20,60", "--workload", "prefill")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "fake-ttft-ms=60*dominated by fake-ttft-ms=20",
            "*No point has mean TPOT, so the points are compared without it.",
        ]
    )
    (found,) = swept.session()["findings"]["sweeps"]
    assert (found["cells"][0]["left_out"], found["cells"][0]["winner"]) == (
        ["mean_tpot_ms"],
        "fake-ttft-ms=20",
    )


def test_a_grid_over_all_workloads_and_too_little_time_for_it(swept):
    """Two options are all combinations, every boot serves both workloads; a grid cut short by --max-minutes is skipped, not passed."""
    result = swept.pytest(
        "--sweep", "max-num-seqs=8,16", "--sweep", "fake-tpot-ms=1,2", "--max-minutes", "0.001",
        "--workload", "quick", "--workload", "single", "-rs",
    )  # fmt: skip
    result.assert_outcomes(skipped=1, deselected=2)
    result.stdout.fnmatch_lines(["*1 of 3 rounds were measured*"])
    measured = swept.session()["measurements"]
    assert len({(*one["changes"], one["cell"]["workload"]) for one in measured}) == len(measured) == 8
    assert len({boot["id"] for one in measured for boot in one["boots"]}) == 4


@pytest.mark.parametrize(
    ("arguments", "chosen"), [([], "test_no_slower_than_baseline"), (["--sweep", "a=1,2"], "test_sweep")]
)
def test_a_sweep_replaces_the_gate(swept, arguments, chosen):
    """With --sweep only the sweep is left of the serving suite, without it everything else."""
    result = swept.pytester.runpytest_inprocess(
        "-m",
        "serving",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        *arguments,
    )
    (line,) = [line for line in result.outlines if "::" in line]
    assert f"::{chosen}[" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sweep", "foo"], "--sweep foo: not FLAG=VALUE,VALUE*"),
        (["--sweep", "=1,2"], "*not FLAG=VALUE,VALUE*"),
        (["--sweep", "max-num-seqs="], "*an empty value*"),
        (["--sweep", "max-num-seqs=1,,2"], "*an empty value*"),
        (["--sweep", "max-num-seqs=1"], "*one point is nothing to compare*"),
        (["--sweep", "max-num-seqs=1,1"], "*a value is given twice*"),
        (["--sweep", "a=1,2", "--sweep", "a=3"], "*gives a twice*"),
        (["--sweep", "VLLM_X=0,1"], "--sweep VLLM_X=0,1: VLLM_X is the name of a variable*--against-server*"),
        (
            ["--sweep", "hf-overrides={mode:0},1"],
            "*--sweep hf-overrides*'{mode:0}' is not valid JSON*quote them*",
        ),
        (["--sweep", "x=true,false", "--sweep", "no-x=true,false"], "*gives x twice, as --no-x too*"),
        (["--sweep", "model=a,b"], "*--model cannot be swept*"),
        (["--sweep", f"a={','.join(map(str, range(65)))}"], "*65 points*"),
        (["--sweep", "a=1,2", "--new-baselines"], "*drop --new-baselines*"),
        (["--sweep", "a=1,2", "--update-baselines"], "*drop --update-baselines*"),
        (["--sweep", "a=1,2", "--against", "/python"], "*drop --against*"),
        (["--sweep", "a=1,2", "--against-server", "slow"], "*drop --against-server*"),
        (["--sweep", "a=1,2", "--attribute", "--vllm-arg=--b"], "*drop --attribute*"),
    ],
)
def test_bad_input_is_a_message(swept, arguments, expected):
    """What cannot be swept ends with a usage error before anything boots."""
    pytest.LineMatcher([swept.refused(*arguments)]).fnmatch_lines([f"*{expected}"])


def test_tables_are_values(swept):
    """Two JSON tables with commas of their own are two points, each booted with its table."""
    result = swept.pytest("--sweep", 'hf-overrides={"a":1,"b":2},{"c":3}', "--replicates", "1")
    result.assert_outcomes(passed=1, deselected=1)
    tables = [one["server"]["args"]["hf-overrides"] for one in swept.session()["measurements"]]
    assert tables == [{"a": 1, "b": 2}, {"c": 3}]


def test_a_secret_is_neither_swept_nor_printed(swept):
    """Tokens as the values of a sweep end with a usage error that does not show them, and no results file does."""
    said = swept.refused("--sweep", "hf-token=hf_first,hf_second")
    assert "--sweep hf-token=***: secrets are not swept" in said
    assert "hf_first" not in said
    assert not (swept.path / ".perfgate").exists()
