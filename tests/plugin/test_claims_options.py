"""Claims from claims.toml to the outcome of a test, on a fake vLLM whose truth is known."""

import shutil

import pytest

from tests.plugin.conftest import REPOSITORY, SPREAD

CLAIMS = """
[claims.slow-is-slow]
text = "Three times the TPOT costs throughput"
gpus = ["cpu"]
old = { server = "fake" }
new = { server = "slow" }
expect = [{ workload = "single", metric = "mean_tpot_ms", least = 1.0, most = 3.0, measured = 2.0 }]

[claims.slow-is-fast]
extends = "slow-is-slow"
pairs = 2
text = "Three times the TPOT is faster"
expect = [{ workload = "single", metric = "mean_tpot_ms", most = -0.1 }]

[claims.slow-is-slow-to-the-percent]
extends = "slow-is-slow"
pairs = 2
expect = [{ workload = "single", metric = "mean_ttft_ms", least = -0.0001, most = 0.0001 }]

[claims.on-a-gb10]
extends = "slow-is-slow"
gpus = ["gb10"]

[claims.model-elsewhere]
extends = "slow-is-slow"
model = "absent"

[models.absent]
id = "nobody/has-this-model"

[claims.does-not-boot]
extends = "slow-is-slow"
new = { server = "bad" }
"""


@pytest.fixture
def claiming(project):
    """The project with claims of its own."""
    toml = project.path / "perfgate.toml"
    toml.write_text(toml.read_text() + CLAIMS)
    (project.path / "conftest.py").write_text('pytest_plugins = ["fixtures.serving", "fixtures.claims"]\n')
    # Under a name of its own: pytest run in this process has this module as test_claims already.
    shutil.copy(REPOSITORY / "tests/claims/test_claims.py", project.path / "tests/test_asked.py")
    return project


def run(project, names: str, *arguments: str, **environment: str) -> pytest.RunResult:
    return project.pytest("-m", "claims", "-rs", "-k", names, *arguments, **environment)


def test_every_answer_has_its_outcome(claiming):
    """One that holds passes; one that does not, and one that nobody can decide, are skipped with what was measured or could be shown."""
    result = run(claiming, "slow-is")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["skipped"], outcomes.get("failed", 0)) == (1, 2, 0)
    result.stdout.fnmatch_lines_random(
        [
            "*SKIPPED*does not hold here: mean TPOT under single*",
            "*SKIPPED*undecidable here*smallest change this much data could show: mean TTFT*",
        ]
    )
    result.stdout.re_match_lines([r"slow-is-slow +single +mean TPOT .*\+100% to \+300% +\+200\.0% +holds"])
    answers = {found["claim"]: found["answer"] for found in claiming.session()["findings"]["claims"]}
    assert answers == {
        "slow-is-slow": "holds",
        "slow-is-fast": "does not hold",
        "slow-is-slow-to-the-percent": "undecidable",
    }
    old, new = claiming.session()["measurements"][:2]
    assert [one["cell"]["server"] for one in (old, new)] == ["fake", "slow"]
    order = sorted((boot["started"], side) for side, one in (("A", old), ("B", new)) for boot in one["boots"])
    assert "".join(side for _, side in order) == "ABBAAB"


@SPREAD
def test_strict_claims_fail_where_they_do_not_hold(claiming, spread):
    """--strict-claims turns "does not hold" into a failure with the table; a side that does not boot fails in any case."""
    result = run(claiming, "slow-is-fast or does-not-boot", "--strict-claims", *spread)
    assert result.parseoutcomes()["failed"] == 2
    result.stdout.fnmatch_lines(
        ["*Three times the TPOT is faster*", "does not hold here: mean TPOT under single*"]
    )
    result.stdout.fnmatch_lines(["*does-not-boot, new side*", "*unrecognized arguments: --no-such-flag*"])


def test_what_is_not_here_is_said(claiming, tmp_path):
    """Other hardware and a model that is not on the machine skip and say so; want of a GPU fails under --require-gpu."""
    names, elsewhere = "on-a-gb10 or model-elsewhere", str(tmp_path)
    result = run(claiming, names, HF_HUB_CACHE=elsewhere)
    assert result.parseoutcomes()["skipped"] == 2
    result.stdout.fnmatch_lines_random(
        [
            "*SKIPPED*the claim is about gb10, this session about cpu",
            "*SKIPPED*model nobody/has-this-model is not on this machine*",
        ]
    )
    required = run(claiming, names, "--require-gpu", HF_HUB_CACHE=elsewhere).parseoutcomes()
    assert (required["failed"], required["skipped"]) == (1, 1)
    assert not list((claiming.path / ".perfgate").rglob("*.log"))


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("[claims.x]\ntext = 'x'\nnew = { server = 'fake' }\n", "*either expect*or runs_as*"),
        (
            "[claims.x]\nextends = 'slow-is-slow'\nexpect = [{ workload = 'single', metric = 'speed', least = 0 }]\n",
            "*[[]claims.x[]]*unknown metric 'speed'*",
        ),
        (
            "[claims.x]\nextends = 'slow-is-slow'\nexpect = [{ workload = 'single', metric = 'mean_ttft_ms' }]\n",
            "*a band that allows every change claims nothing*",
        ),
    ],
)
def test_a_mistake_in_a_claim_names_file_and_key(claiming, broken, expected):
    """A claim that claims nothing, or about an unknown metric, is a usage error."""
    toml = claiming.path / "perfgate.toml"
    toml.write_text(toml.read_text() + broken)
    pytest.LineMatcher([claiming.refused("-m", "claims")]).fnmatch_lines([f"*perfgate.toml{expected}"])


BROKEN = "[claims.mine]\nextends = 'slow-is-slow'\nexpect = [{ workload = 'single', metric = 'speed', least = 0 }]\n"


@pytest.mark.parametrize(
    "chosen",
    [
        ("-m", "claims", "-k", "slow-is-fast"),
        ("-m", "claims", "-k", "mine"),
        ("-m", "claims or kernels", "-k", "mine"),
        ("-m", "", "tests/test_asked.py", "-k", "mine"),
        ("-m", "", "tests/test_asked.py::test_claim[slow-is-fast]"),
        ("-m", "claims", "-k", "mine", "-n", "1"),
    ],
    ids=["a sound one", "the broken one", "among others", "by path", "by id", "xdist"],
)
def test_a_mistake_in_a_claim_is_told_under_k(claiming, chosen):
    """Whatever -k or an id names, a session that asks for claims hears of the mistake in one."""
    toml = claiming.path / "perfgate.toml"
    toml.write_text(toml.read_text() + BROKEN)
    said = claiming.refused(*chosen)
    pytest.LineMatcher([said]).fnmatch_lines(
        ["*perfgate.toml: [[]claims.mine[]] key 'expect.0.metric'*unknown metric 'speed'*"]
    )


@pytest.mark.parametrize(
    "chosen",
    [
        ("-m", "not claims"),
        ("-m", "", "-k", "elsewhere"),
        ("-m", "not gpu", "-k", "elsewhere"),
        ("-m", "serving"),
    ],
)
def test_a_mistake_in_a_claim_is_no_matter_of_other_sessions(claiming, chosen):
    """A session that does not ask for claims runs as if there were none."""
    toml = claiming.path / "perfgate.toml"
    toml.write_text(toml.read_text() + BROKEN)
    (claiming.path / "tests/test_other.py").write_text(
        "import pytest\n@pytest.mark.serving\ndef test_elsewhere(): pass\n"
    )
    result = claiming.pytest(*chosen, "--deselect", "tests/test_no_slower_than_baseline.py")
    assert result.parseoutcomes()["passed"] == 1


VACUOUS = """
[servers.old-release]
extends = "fake"
env = { FAKE_RELEASE = "old" }

[claims.async-off]
text = "Without async scheduling nothing changes"
pairs = 2
old = { server = "old-release" }
new = { server = "old-release", args = { no-async-scheduling = true } }
expect = [{ workload = "single", metric = "mean_tpot_ms", least = -0.5, most = 0.5 }]

[claims.async-is-off]
text = "This release does not schedule asynchronously by itself"
new = { server = "old-release" }
runs_as = { async-scheduling = false }

[claims.moe-folder]
text = "A tuned MoE file changes nothing"
pairs = 2
old = { server = "fake" }
new = { server = "fake", env = { VLLM_TUNED_CONFIG_FOLDER = "./moe", FAKE_LOG = "Using default MoE config. {missing}" } }
expect = [{ workload = "single", metric = "mean_tpot_ms", least = -0.5, most = 0.5 }]
"""


MISSING = "Config file not found at /moe/E=2,N=5.json"


def test_two_servers_that_run_the_same_decide_nothing(claiming):
    """A default that is what the other side asks for, and a tuned file that is not used, leave nothing to compare; what runs is said."""
    toml = claiming.path / "perfgate.toml"
    toml.write_text(toml.read_text() + VACUOUS.replace("{missing}", MISSING))
    (claiming.path / "moe").mkdir()
    result = run(claiming, "async-off or async-is-off or moe-folder")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "*undecidable here: both sides run the same: --async-scheduling false*",
            "*undecidable here: the new side cannot be had here: no tuned MoE configuration of ./moe is used: *E=2,N=5.json*",
            "*async-is-off: --async-scheduling: not asked for, false runs*",
        ]
    )


TAKEN = """
[servers.blocks]
extends = "fake"
args = { block-size = 32 }

[claims.fewer]
text = "Without its block size it is as fast"
pairs = 2
old = { server = "blocks" }
new = { server = "blocks", args = { block-size = false } }
expect = [{ workload = "single", metric = "mean_tpot_ms", least = -0.5, most = 0.5 }]
"""


def test_false_takes_a_setting_of_the_server_away(claiming):
    """In a side's args false means what it means in a server's."""
    toml = claiming.path / "perfgate.toml"
    toml.write_text(toml.read_text() + TAKEN)
    run(claiming, "fewer").assert_outcomes(passed=1)
    old, new = (one["server"]["args"] for one in claiming.session()["measurements"])
    assert old == {"max-num-seqs": 16, "block-size": 32}
    assert new == {"max-num-seqs": 16}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("new = { server = 'slo' }", "*key 'new.server': unknown server 'slo'*Nearest: slow*"),
        (
            "expect = [{ workload = 'singel', metric = 'mean_tpot_ms', most = -0.1 }]",
            "*key 'expect.0.workload': unknown workload 'singel'*Nearest: single*",
        ),
        ("model = 'fake-modle'", "*key 'model': unknown model 'fake-modle'*Nearest: fake-model*"),
        ("gpus = ['gb1O']", "*key 'gpus': unknown gpu 'gb1O'*Nearest: gb10*"),
        (
            "new = { server = 'fake', args = { block-size = false } }",
            "*key 'new': server 'fake' has no --block-size that false could take away*no-block-size = true*",
        ),
        (
            "new = { server = 'attached', args = { max-num-seqs = 1 } }",
            "*key 'new': server 'attached' is attached*",
        ),
        ("new = { server = 'fake' }", "*old and new are the same, fake*"),
        (
            "new = { server = 'fake', args = { max-num-seqs = 16 } }",
            "*keys 'old' and 'new': 'fake' and 'fake' are the same server*",
        ),
        (
            "expect = [{ workload = 'single', metric = 'request_goodput', most = -0.1 }]",
            "*key 'expect.0.metric': workload 'single' has no slo*",
        ),
        (
            "expect = [{ workload = 'single', metric = 'mean_tpot_ms', least = -5 }]",
            "*0.05 is five per cent*",
        ),
    ],
)
def test_what_a_claim_names_is_looked_up_at_collection(claiming, wrong, expected):
    """Names and settings that cannot be had end the session before a server boots, with file, table and key."""
    toml = claiming.path / "perfgate.toml"
    toml.write_text(toml.read_text() + f"[claims.mine]\nextends = 'slow-is-slow'\n{wrong}\n")
    pytest.LineMatcher([claiming.refused("-m", "claims", "-k", "mine")]).fnmatch_lines(
        [f"*perfgate.toml: [[]claims.mine[]]{expected}"]
    )


def test_a_name_in_a_claim_that_is_not_selected_hinders_nobody(claiming):
    """Only the names of selected claims are looked up; in a worker of xdist the test says it, without a chain of exceptions."""
    toml = claiming.path / "perfgate.toml"
    toml.write_text(toml.read_text() + "[claims.mine]\nextends = 'slow-is-slow'\nnew = { server = 'slo' }\n")
    run(claiming, "on-a-gb10").assert_outcomes(skipped=1)
    result = run(claiming, "mine", "-n", "1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*perfgate.toml: [[]claims.mine[]] key 'new.server': unknown server 'slo'*"])
    result.stdout.no_fnmatch_line("*During handling of the above exception*")
