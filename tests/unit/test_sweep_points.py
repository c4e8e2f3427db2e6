"""Points of a sweep, the order in which they boot, and what may be concluded."""

import pytest

from perfgate.errors import InputError
from perfgate.experiment.options import SuiteOptions
from perfgate.experiment.suite import Suite
from perfgate.experiment.sweep import _side, round_orders, run_sweep
from perfgate.experiment.sweep_points import grid, parse_sweeps
from perfgate.findings import SweepFinding, SweptCell, SweptPoint, SweptValue
from perfgate.report import sweep as report


def test_a_grid_is_every_combination():
    """Two flags of two values each are four points, each a command line of its own."""
    points = grid(parse_sweeps(["max_num_seqs=1,2", "--enforce-eager=true,false"]))
    assert [point.words for point in points] == [
        ("--max-num-seqs=1", "--enforce-eager"),
        ("--max-num-seqs=1", "--no-enforce-eager"),
        ("--max-num-seqs=2", "--enforce-eager"),
        ("--max-num-seqs=2", "--no-enforce-eager"),
    ]


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        (
            'cc={"mode":0,"cudagraph_mode":"NONE"},{"mode":3}',
            ['--compilation-config={"mode":0,"cudagraph_mode":"NONE"}', '--compilation-config={"mode":3}'],
        ),
        ('x={"a":[1,{"b":"},"}]}, 7', ['--x={"a":[1,{"b":"},"}]}', "--x=7"]),
        ("sizes=[1,2],[4]", ["--sizes=[1,2]", "--sizes=[4]"]),
        ("""x="a,b",'c,d',e""", ["--x=a,b", "--x=c,d", "--x=e"]),
        ("enforce-eager=True,FALSE", ["--enforce-eager", "--no-enforce-eager"]),
        ("no-enforce-eager=true,false", ["--no-enforce-eager", "--enforce-eager"]),
    ],
)
def test_values_are_read_as_they_are_meant(swept, words):
    """Commas of tables, lists and strings split nothing, truth may be capitalized, and no-x is the negation of x."""
    assert [point.words for point in grid(parse_sweeps([swept]))] == [(word,) for word in words]


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        (["cc={mode:0},{mode:3}"], "--sweep cc={mode:0},{mode:3}: '{mode:0}' is not valid JSON"),
        (['cc={"mode":0,7'], "} is missing"),
        (["x=[1]],2"], "nothing is open that ] could close"),
        (['x="a,b'], 'a quotation mark " is not closed'),
        (["x=true,True"], "a value is given twice"),
        (["port=8000,http"], "--port 'http' is no port"),
        (["a/b=1,2"], "not FLAG=VALUE,VALUE"),
        (["no-x=1,2"], "--no-x is --x taken back"),
        (["x=1,2", "no-x=true,false"], "gives x twice, as --no-x too"),
        (["no-x=true,false", "no_x=true,false"], "gives x twice, as --no-x too"),
    ],
)
def test_values_that_no_server_could_have_are_refused(swept, said):
    """What cannot be read, or is no setting of a server entry, is refused by --sweep and what was given, with what to do."""
    with pytest.raises(InputError) as refused:
        parse_sweeps(swept)
    assert said in refused.value.message
    assert refused.value.message.startswith("--sweep ")
    assert refused.value.remedy


@pytest.mark.parametrize(
    "swept",
    [
        "hf-token={0},hf_second",
        "--hf_token={0},hf_second",
        'hf-overrides={{"token":"{0}"}}',
        "otlp-traces-endpoint=http://user:{0}@here,http://there",
        "chat-template=hf_ABCDEFGHIJKLMNOP{0},other",
    ],
)
def test_a_secret_is_not_swept_and_not_said(swept):
    """A secret flag, or a value with a secret in it, is refused without a word of the values."""
    with pytest.raises(InputError, match="secrets are not swept") as refused:
        parse_sweeps([swept.format("s3cr3tvalue")])
    assert "s3cr3t" not in str(refused.value)
    assert "second" not in str(refused.value)


@pytest.mark.parametrize("name", ["VLLM_X", "--VLLM_X", "CUDA_VISIBLE_DEVICES"])
def test_variables_are_not_swept(name):
    """The name of a variable is refused with what to do instead; the short forms -O and -tp are flags."""
    with pytest.raises(InputError, match="only flags are swept") as refused:
        parse_sweeps([f"{name}=0,1"])
    assert "--against-server" in refused.value.remedy
    assert [axis.flag for axis in parse_sweeps(["O=1,2", "-tp=1,2"])] == [
        "optimization-level",
        "tensor-parallel-size",
    ]


def test_what_a_point_changes_is_kept_with_secrets_masked(tmp_path):
    """A swept value in which the server's own secret stands is masked among the changes, as those of --vllm-arg are."""
    options = SuiteOptions(root=tmp_path, command="", gpu="cpu", vllm_args=("--api-key=s3cr3t",))
    (point, _) = grid(parse_sweeps(["otlp-traces-endpoint=http://s3cr3t@here,http://there"]))
    (cell, *_) = _side(Suite(options).targets, point).targets
    assert cell.changes == ("--api-key=***", "--otlp-traces-endpoint=http://***@here")
    assert cell.server.args["otlp-traces-endpoint"] == "http://s3cr3t@here"


def test_no_drift_favours_a_point():
    """Over a pair of rounds every point has the same mean position, so a linear drift hits all alike."""
    orders = round_orders(5, 6, token="t")
    assert all(sorted(order) == list(range(5)) for order in orders)
    for first, second in zip(orders[::2], orders[1::2], strict=True):
        positions = [first.index(point) + 5 + second.index(point) for point in range(5)]
        assert len(set(positions)) == 1
    assert orders == round_orders(5, 6, token="t")
    assert orders != round_orders(5, 6, token="other")


def test_an_attached_server_has_no_points(tmp_path):
    """A server that somebody else started cannot be booted with other flags, and the message says so before anything is measured."""
    toml = tmp_path / "perfgate.toml"
    toml.write_text('[servers.theirs]\nlauncher = { kind = "attach", url = "http://localhost:1" }\n')
    suite = Suite(SuiteOptions(root=tmp_path, command="pytest", gpu="cpu", servers=("theirs",)))
    with pytest.raises(InputError, match="attached"):
        run_sweep(suite, suite.targets, parse_sweeps(["max-num-seqs=1,2"]))
    assert suite.measurements() == ()


def finding(*rows: SweptPoint, winner: str | None = None) -> SweepFinding:
    return SweepFinding(
        server="s",
        axes=parse_sweeps(["a=1,2"]),
        rounds=2,
        asked_rounds=3,
        cells=(SweptCell(cell="cpu/m/s/w", rows=rows, winner=winner),),
    )


def row(point: str, **more) -> SweptPoint:
    values = (
        SweptValue(metric="mean_ttft_ms", value=100.0, lower=90.0, upper=111.0),
        SweptValue(metric="mean_tpot_ms"),
    )
    return SweptPoint.model_validate({"point": point, "boots": 2, "values": values, **more})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (finding(row("a=1"), row("a=2")), "No winner: 2 points are not shown to be dominated (a=1, a=2)."),
        (
            finding(row("a=1"), row("a=2", dominated_by=("a=1",)), winner="a=1"),
            "a=1 is better than every other",
        ),
        (
            finding(row("a=1"), row("a=2", values=(), problem="died")),
            "No winner: only a=1 is not dominated, but not every",
        ),
        (
            finding(*(row(point, boots=0, values=(), problem="died") for point in ("a=1", "a=2"))),
            "No winner: no point was measured.",
        ),
        (
            finding(row("a=1", problem="died"), row("a=2", boots=0, problem="died")),
            "No winner: no point was measured to the end.",
        ),
    ],
)
def test_the_line_under_the_table_claims_no_more_than_was_shown(found, said):
    """A winner is one that beat every other point; standing alone because the others were not measured is none."""
    assert said in report.table(found)
    assert "2 of 3 rounds were measured" in report.table(found)


def test_the_table_has_values_with_intervals_in_both_forms():
    """Terminal and Markdown show value and interval, and nothing where nothing is known."""
    found = finding(row("a=1"), row("a=2", dominated_by=("a=1",)))
    assert "100.0 ms (90.00 … 111.0)" in report.table(found)
    assert "dominated by a=1" in report.markdown(found)
    assert "100.0 ms (90.00 … 111.0)" in report.table(finding(row("a=1", problem="died in its third boot")))
    assert SweepFinding.model_validate_json(found.model_dump_json(), strict=False) == found
