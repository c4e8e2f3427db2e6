"""What the options of a session do, and what wrong ones are answered."""

import json
import re
import shutil
import xml.etree.ElementTree as ET

import pytest

from tests.plugin.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--server", "fak"], "unknown server 'fak'*fake"),
        (["--workload", "quik"], "unknown workload 'quik'*quick"),
        (["--gpu", "gb11"], "unknown gpu 'gb11'*gb10"),
        (["--model", "fake-modell"], "unknown model 'fake-modell'*fake-model"),
        (["--vllm-arg=max-num-seqs"], "*is not a vLLM flag*"),
        (["--env", "NOVALUE"], "*NAME=VALUE*"),
        (["--vllm-arg=--port=x"], "*--port 'x' is no port*"),
        (["--server", "attached", "--env=A=1"], "*'attached' is attached*cannot be changed*"),
        (["--replicates", "0"], "*--replicates is 0*"),
        (["--new-baselines", "--update-baselines"], "*give one of them*"),
        (["--perfgate-config", "missing.toml"], "*missing.toml: no such file*"),
    ],
)
def test_bad_input_is_a_message(project, arguments, expected):
    """A wrong name or value ends with a usage error that says what to do, without a traceback."""
    pytest.LineMatcher([project.refused(*arguments)]).fnmatch_lines([f"*{expected}*"])


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("[servers.x\n", "*perfgate.toml: not valid TOML*line*"),
        ("[server.x]\n", "*unknown table [[]server[]]*did you mean*servers*"),
        ("[servers.x]\nmodle = 1\n", "*[[]servers.x[]]*'modle'*did you mean 'model'*"),
        (
            "[workloads.x]\ninput_len = -1\noutput_len = 1\nconcurrency = 1\nnum_prompts = 1\n",
            "*[[]workloads.x[]]*input_len*-1*",
        ),
        ("[servers.x]\nextends = 'y'\n", "*[[]x[]]*extends*unknown server*"),
    ],
)
def test_toml_mistake_names_file_table_and_key(project, broken, expected):
    """A mistake in perfgate.toml is reported with file, table and key."""
    file = project.path / "perfgate.toml"
    file.write_text(file.read_text() + "\n" + broken)
    names = (
        ("--server", "fake", "--workload", "x")
        if "workloads" in broken
        else ("--server", "x", "--workload", "quick")
    )
    pytest.LineMatcher([project.refused(*names)]).fnmatch_lines([expected])


def test_what_cannot_be_booted_is_a_message(project):
    """A URL nobody answers, a model folder without config and a missing interpreter fail their tests with words, not a traceback."""
    (project.path / "hollow").mkdir()
    shutil.copy(REPOSITORY / "tests/serving/test_flags_in_effect.py", project.path / "tests")
    names = ("attached", "hollow", "no-python")
    result = project.pytest(*(word for name in names for word in ("--server", name)))
    result.assert_outcomes(failed=3, errors=3)
    said = " ".join(result.stdout.str().split())
    for words in (
        "server 'attached': http://127.0.0.1:9/v1/models does not answer",
        "model 'hollow': ",
        "server 'no-python': launcher python '/no/python' is not an executable file",
    ):
        # By the test of a running server, by the cell's own, and in the table at the end.
        assert said.partition(" short test summary info ")[0].count(words) == 3, said
    assert "hollow has no config.json" in said
    assert "Traceback" not in said
    assert not re.search(r"\.py:[0-9]", said)
    assert not list((project.path / ".perfgate").rglob("*.log"))


def test_workloads_of_a_server_share_its_boots(project):
    """Two workloads on one server take three boots, not six."""
    result = project.pytest("--new-baselines", "--workload", "quick", "--workload", "single")
    result.assert_outcomes(skipped=2)
    measurements = project.session()["measurements"]
    boots = {boot["id"] for measurement in measurements for boot in measurement["boots"]}
    assert len(measurements) == 2
    assert len(boots) == 3


def test_only_selected_cells_are_measured(project):
    """A cell that -k deselects costs no load."""
    project.pytest("--new-baselines", "--workload", "quick", "--workload", "single", "-k", "single")
    (measurement,) = project.session()["measurements"]
    assert measurement["cell"]["workload"] == "single"


def test_env_reaches_the_server_and_no_secret_reaches_anything_written(project):
    """Tokens, keys and passwords in flags, variables, JSON and addresses are in no result, baseline, log, report, history or output."""
    secrets = {
        "--vllm-arg=--api-key=": "canary-key-0001",
        "--vllm-arg=--hf-overrides=": '{"nested": [{"authToken": "canary-json-0002"}]}',
        "--vllm-arg=--otlp-traces-endpoint=": "https://me:canary-pass-0003@host/v1?api_key=canary-query-0004",
        "--env=HF_TOKEN=": "hf_canary00000005",
        "--env=DB_URL=": "postgres://me:canary-pass-0006@host/x",
        "--env=MY_SECRET=": "canary'qu\"zwq7",
    }
    (project.path / "changed.toml").write_text(
        '[servers.keyed]\nextends = "fake"\nenv = { WANDB_API_KEY = "canary-toml-0008" }\n'
    )
    options = [
        "--junitxml=junit.xml",
        "--perfgate-html=page.html",
        "--perfgate-history=history.sqlite",
        "-vv",
        "--showlocals",
    ]
    files = ["--perfgate-config=perfgate.toml", "--perfgate-config=changed.toml"]
    given = [f"{option}{value}" for option, value in secrets.items()]
    result = project.pytest("--server=keyed", "--replicates=1", "--env=COLOUR=blue", *options, *files, *given)
    assert project.session()["verdicts"][0]["outcome"] == "NO_BASELINE"
    result = project.pytest("--server=keyed", "--replicates=1", "--new-baselines", *options, *files)
    result.assert_outcomes(skipped=1)
    kept = [file for file in project.path.rglob("*") if file.is_file() and file.name != "changed.toml"]
    assert {file.suffix for file in kept} >= {".json", ".log", ".xml", ".html", ".sqlite"}
    shown = {str(file): file.read_bytes().decode(errors="replace") for file in kept}
    shown["output"] = result.stdout.str() + result.stderr.str()
    assert [name for name, text in shown.items() if "canary" in text or "zwq7" in text] == []
    sessions = [json.loads(file.read_text()) for file in (project.path / ".perfgate/results").glob("*.json")]
    assert "blue" in {session["measurements"][0]["server"]["env"].get("COLOUR") for session in sessions}


def test_baselines_folder_is_an_option(project):
    """--baselines names the folder that is written and read."""
    project.pytest("--new-baselines", "--replicates", "2", "--baselines", "kept").assert_outcomes(skipped=1)
    assert (project.path / "kept/cpu/fake-model/fake/quick.json").is_file()


def test_junit_properties_carry_the_verdict(recorded):
    """The JUnit file has verdict, change and interval as properties of the test."""
    recorded.pytest("--junit-xml", "junit.xml", "--vllm-arg=--fake-tpot-ms=6")
    case = ET.parse(recorded.path / "junit.xml").getroot().find(".//testcase")
    properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
    assert properties["perfgate.verdict"] == "REGRESSION"
    assert float(properties["perfgate.mean_tpot_ms.change"]) > 1.0


def test_xdist_keeps_a_server_on_one_worker_and_shows_one_table(project):
    """With -n 2 two servers are measured, each by one worker, and the controller has all verdicts and measurements."""
    arguments = ("--server", "fake", "--server", "slow", "--workload", "quick", "--workload", "single")
    result = project.pytest("--new-baselines", "-n", "2", "--replicates", "2", *arguments)
    result.assert_outcomes(skipped=4)
    session = project.session()
    assert [verdict["outcome"] for verdict in session["verdicts"]] == ["RECORDED"] * 4
    assert len(session["measurements"]) == 4
    for server in ("fake", "slow"):
        boots = {
            b["id"] for m in session["measurements"] if m["cell"]["server"] == server for b in m["boots"]
        }
        assert len(boots) == 2
    # What the workers recorded counts: without a noise model the next session could convict nothing.
    assert (project.path / ".perfgate/baselines/cpu/noise.json").is_file()
    result.stdout.fnmatch_lines(["*perfgate*", "*results: *"])


def test_xdist_regression_fails(recorded):
    """A regression found by an xdist worker fails the session like any other."""
    result = recorded.pytest("-n", "1", "--vllm-arg=--fake-tpot-ms=6")
    result.assert_outcomes(failed=1)
    assert recorded.session()["verdicts"][0]["outcome"] == "REGRESSION"


def test_plain_pytest_boots_nothing(project):
    """Options and hooks cost nothing where no test asks for a server."""
    (project.path / "tests/test_other.py").write_text("def test_one():\n    assert True\n")
    result = project.pytester.runpytest_subprocess("tests/test_other.py")
    result.assert_outcomes(passed=1)
    assert not (project.path / ".perfgate").exists()
