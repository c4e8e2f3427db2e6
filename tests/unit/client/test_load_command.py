"""``perfgate load`` as a person calls it, against the scripted server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from perfgate.cli import main
from perfgate.results import read_results

SMALL = ["--input-len=7", "--output-len=5", "--num-prompts=6"]
CLOSED = [*SMALL, "--concurrency=2"]


def script(**how: object) -> str:
    return "--extra-body=" + json.dumps({"script": {"ttft_ms": 60, "itl_ms": 5} | how})


@pytest.fixture
def load(scripted, capsys):
    """Runs the command; gives its status, output and errors."""

    def run(*arguments: str, url: str = "") -> tuple[int, str, str]:
        status = main(["load", f"--url={url or scripted.url}", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def is_sound(status: int, out: str) -> bool:
    """A valid run, or one whose only fault is that this machine was too busy for its client."""
    reasons = [line for line in out.splitlines() if line.startswith("INVALID:")]
    return status == (2 if reasons else 0) and all(" late " in reason for reason in reasons)


def test_a_valid_run_prints_the_familiar_table_and_exits_0(load, tmp_path):
    """The table has the familiar rows, the file has the same numbers, and the model is the one served."""
    file = tmp_path / "run.json"
    status, out, err = load(
        *CLOSED, script(), "--goodput", "ttft:500", "tpot:50", f"--json={file}", "--arrays"
    )
    assert is_sound(status, out)
    (measurement,) = read_results(file).measurements
    (run,) = measurement.boots[0].runs
    assert measurement.cell.model == "scripted"
    assert run.arrays is not None
    assert len(run.arrays.sent) == 6
    assert err == ""
    if status == 0:
        assert "Successful requests:" in out
        assert f"{run.metrics['mean_ttft_ms']:.2f}" in out
        assert run.metrics["request_goodput"] == run.metrics["request_throughput"]


def test_an_invalid_run_exits_2_with_its_reason_and_no_believed_number(load, tmp_path):
    """Without usage the run is invalid: the reason is printed, no latency is, and the file has no metrics."""
    file = tmp_path / "run.json"
    status, out, _ = load(*CLOSED, script(usage="none"), f"--json={file}")
    assert status == 2
    assert "INVALID: 6 of 6 requests: no_usage" in out
    assert "TTFT" not in out
    assert "tok/s" not in out
    (run,) = read_results(file).measurements[0].boots[0].runs
    assert run.metrics == {}
    assert any("no_usage" in reason for reason in run.invalid)


def test_events_may_stand_in_for_usage_on_request(load):
    """With --count-events the same server gives a valid run."""
    assert is_sound(*load(*CLOSED, script(usage="none"), "--count-events")[:2])


def test_every_request_failing_is_never_zeros(load):
    """A server that refuses everything is an invalid run with the server's own words."""
    status, out, _ = load(*CLOSED, script(status=503, body="overloaded"))
    assert status == 2
    assert "INVALID: 6 of 6 requests: http_error (the first, number 0: HTTP 503: overloaded)" in out
    assert "0.00" not in out.split("The client itself")[0].replace("Benchmark duration", "")[-200:]


def test_an_open_loop_and_several_processes_and_chat(load):
    """Rate, burstiness, cap, chat endpoint and load processes come together in one run."""
    status, out, _ = load(
        *SMALL,
        "--request-rate=50",
        "--burstiness=0.5",
        "--max-concurrency=4",
        "--load-processes=2",
        "--endpoint=chat",
        script(),
    )
    assert is_sound(status, out)
    assert "Request rate configured (req/s):" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*SMALL], "exactly one of"),
        ([*CLOSED, "--request-rate=1"], "exactly one of"),
        (["--input-len=0", *CLOSED[1:]], "--input-len"),
        (["--input-len=0", *CLOSED[1:]], "--input-len 0: "),
        ([*SMALL, "--request-rate=inf"], "a closed loop: --concurrency N"),
        ([*SMALL, "--request-rate=1e-300"], "--num-prompts 6 at --request-rate 1e-300 a second"),
        ([*CLOSED, "--num-warmups=-1"], "--num-warmups -1: "),
        ([*CLOSED, "--request-timeout=0"], "--request-timeout 0.0: "),
        ([*CLOSED, "--run-timeout=nan"], "--run-timeout nan: "),
        ([*CLOSED, "--goodput", "ttft:-5"], "--goodput ttft:-5.0: "),
        ([*CLOSED, "--goodput", "ttft:5", "ttft:9"], "ttft was given before"),
        ([*CLOSED, "--goodput", "itl:5"], "--goodput 'itl:5'"),
        ([*CLOSED, "--goodput", "ttft"], "--goodput 'ttft'"),
        ([*CLOSED, "--extra-body={"], "no JSON"),
        ([*CLOSED, "--extra-body=" + "[" * 100_000], "no JSON"),
        ([*CLOSED, '--extra-body={"temperature": NaN}'], "NaN is none of its values"),
        ([*CLOSED, "--extra-body=[1]"], "--extra-body [1]: "),
        ([*CLOSED, '--extra-body={"stream": false}'], "may not set stream"),
        ([*CLOSED, "--model=scriptde"], "It serves scripted."),
        ([*CLOSED, "--api-key-env=NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        ([*CLOSED, "--json=x.json", "--cell=a/b"], "GPU/MODEL/SERVER/WORKLOAD"),
        ([*CLOSED, "--load-processes=9"], "9 load processes"),
        ([*CLOSED, "--vocab-size=3", "--first-token-id=2"], "1 token ids"),
        ([*CLOSED, "--vocab-size=0"], "0 token ids"),
        ([*CLOSED, "--vocab-size=3000000000"], "no vocabulary has more"),
        ([*CLOSED, "--first-token-id=-5"], "Ids begin at 0"),
        ([CLOSED[0], CLOSED[1], "--num-prompts=1000000000", "--concurrency=1"], "do not fit in memory"),
    ],
)
def test_bad_input_is_a_message_and_exit_2(load, arguments, words):
    """Every mistake is answered with what was given and what to write, without a traceback and without load."""
    status, out, err = load(*arguments)
    assert status == 2
    assert words in err
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize(("where", "words"), [("folder", "A folder has"), ("file/run.json", "A file stands")])
def test_a_file_that_cannot_be_written_is_refused_before_the_load(load, scripted, tmp_path, where, words):
    """A run of an hour is not lost for a path: the server gets no request."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    scripted.truth()
    status, out, err = load(*CLOSED, f"--json={tmp_path / where}")
    assert status == 2
    assert str(tmp_path / where) in err
    assert words in err
    assert out == ""
    assert scripted.truth()["received_ns"] == []


@pytest.mark.parametrize("option", ["--arrays", "--cell=a/b/c/d"])
def test_an_option_that_would_do_nothing_is_refused(load, option):
    """What only a file can hold needs a file."""
    status, _, err = load(*CLOSED, option)
    assert status == 2
    assert "without --json" in err


def test_chat_events_stand_in_for_usage_without_those_that_only_name_role_or_end(load):
    """A chat stream of role, five tokens and end is five tokens under --count-events, as it would be with usage."""
    how = script(usage="none", role=True, bare_finish=True)
    assert is_sound(*load(*CLOSED, "--endpoint=chat", how, "--count-events")[:2])


def test_a_reader_that_went_away_does_not_make_an_invalid_run_a_valid_one(scripted):
    """With its output cut off (`| head -1`) the exit status is still that of the run, or says that it was cut off."""
    arguments = [*CLOSED, script(usage="none"), f"--url={scripted.url}"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from perfgate.cli import main; sys.exit(main())",
            "load",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) in [(2, b""), (141, b"")]
    process.stderr.close()


def test_a_url_that_does_not_answer_is_a_message(load):
    """Nobody there: the URL and what to check, not a run of failures."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    status, out, err = load(*CLOSED, url=url)
    assert status == 2
    assert f"{url} does not answer" in err
    assert out == ""


def test_tls_is_verified_unless_told_otherwise(load, secure, authority, tmp_path):
    """An unknown certificate is refused with the two ways on; each of them gives a whole run."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    status, out, err = load(*CLOSED, url=secure)
    assert (status, out) == (2, "")
    assert "certificate verify failed" in err
    assert "--ca-file" in err
    for way in (f"--ca-file={tmp_path / 'ca.pem'}", "--insecure"):
        status, out, err = load(*CLOSED, way, url=secure)
        assert is_sound(status, out), out + err
        assert "Successful requests:                                             6" in out


def test_a_key_is_read_from_the_environment_and_shown_nowhere(load, secure, tmp_path, monkeypatch):
    """The server gets the key with every request; neither output nor file has it, and a wrong one is the server's 401."""
    monkeypatch.setenv("SOME_KEY", "hunter2")
    file = tmp_path / "run.json"
    status, out, err = load(*CLOSED, "--insecure", "--api-key-env=SOME_KEY", f"--json={file}", url=secure)
    assert is_sound(status, out), out + err
    assert "hunter2" not in out + err + file.read_text()
    monkeypatch.setenv("SOME_KEY", "hunter3")
    status, _, err = load(*CLOSED, "--insecure", "--api-key-env=SOME_KEY", url=secure)
    assert status == 2
    assert "401" in err
    assert "hunter3" not in err


def test_what_is_no_name_of_a_variable_is_not_repeated(load, monkeypatch):
    """A key given in place of its variable's name reaches no log, and a key that no header carries is refused by its variable's name."""
    status, _, err = load(*CLOSED, "--api-key-env=sk-hunter2")
    assert status == 2
    assert "hunter2" not in err
    assert "--api-key-env KEY" in err
    for key in ("hunter2\n", "hünter2"):
        monkeypatch.setenv("SOME_KEY", key)
        status, _, err = load(*CLOSED, "--api-key-env=SOME_KEY")
        assert status == 2
        assert "--api-key-env SOME_KEY: its value" in err
        assert "nter2" not in err


def test_a_host_that_is_no_name_is_a_message(load):
    """Names that no resolver can be asked for are answered as those that it does not know."""
    for host in ("a..b", "xn--zzzzzz.-", "a" * 300):
        status, out, err = load(*CLOSED, url=f"http://{host}:80")
        assert (status, out) == (2, "")
        assert "does not answer" in err
        assert "Traceback" not in err


def test_a_server_that_is_none_of_openais_is_a_message(load, scripted):
    """A page that is no list of models is quoted."""
    status, _, err = load(*CLOSED, url=scripted.url + "/elsewhere")
    assert status == 2
    assert "no list of models (HTTP 404)" in err
