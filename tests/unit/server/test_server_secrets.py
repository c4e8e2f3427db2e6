"""Masking: what is a secret, and that none survives."""

import pytest

from perfgate.server.logtail import ServerLog
from perfgate.server.secrets import MASK, Secrets, is_secret_name, masked

CANARY = "canary-9e1c77f2"


@pytest.mark.parametrize(
    "name", ["api-key", "hf-token", "HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password"]
)
def test_names_of_secrets(name):
    """A whole word that means a secret makes the name one."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max-num-batched-tokens", "tokenizer", "tokenizer-mode", "ssl-keyfile", "monkey", "kv-cache-dtype"],
)
def test_names_that_only_look_like_secrets(name):
    """Flags about tokens and key files are no secrets."""
    assert not is_secret_name(name)


def test_known_values_and_known_shapes_are_masked():
    """Values of secret names go wherever they stand; tokens of known shape go without being known."""
    secrets = Secrets.of({"api-key": CANARY, "max-num-seqs": 4}, {"nested": {"token": "inner-secret"}})
    text = f"key {CANARY}, again '{CANARY}'; inner-secret; hf_{'a' * 30}; Bearer abc.def; http://me:pw@host/ max 4"
    assert (
        secrets.mask(text)
        == f"key {MASK}, again '{MASK}'; {MASK}; {MASK}; Bearer {MASK}; http://{MASK}@host/ max 4"
    )


def test_longest_secret_is_masked_first():
    """A secret that contains another leaves nothing of itself behind."""
    assert Secrets(["abcd", "abcd-efgh"]).mask("abcd-efgh abcd") == f"{MASK} {MASK}"


def test_very_short_values_do_not_destroy_text():
    """A one-letter secret is masked by name, not everywhere in the text."""
    assert Secrets.of({"api-key": "1"}).mask("11 of 1") == "11 of 1"
    assert masked({"api-key": "1"}) == {"api-key": MASK}


def test_inherited_values_count_only_when_they_are_as_long_as_keys():
    """A word in some inherited variable does not blank the log; a real key there does."""
    secrets = Secrets.of({}, inherited={"SOME_KEY": "true", "HF_TOKEN": CANARY})
    assert secrets.mask(f"true {CANARY}") == f"true {MASK}"


def test_plain_data_is_masked_by_name_and_by_value():
    """Nested results lose the values of secret names and known secrets inside other strings; numbers stay."""
    data = {
        "env": {"HF_TOKEN": CANARY},
        "args": [f"--x={CANARY}"],
        "eos_token": None,
        "eos_token_id": 2,
        "api_key": "",
    }
    assert masked(data, Secrets([CANARY])) == {
        "env": {"HF_TOKEN": MASK},
        "args": [f"--x={MASK}"],
        "eos_token": None,
        "eos_token_id": 2,
        "api_key": "",
    }


def test_log_tail_new_lines_and_file_are_masked(tmp_path):
    """Every way to read a log masks; the file itself is cleaned on request, undecodable bytes kept."""
    path = tmp_path / "log"
    path.write_bytes(b"\xff one " + CANARY.encode() + b"\ntwo\npart")
    log = ServerLog(path, Secrets([CANARY]))
    assert log.new_lines() == [f"\ufffd one {MASK}", "two"]
    with path.open("ab") as stream:
        stream.write(b"ial " + CANARY.encode() + b"\n")
    assert log.new_lines() == [f"partial {MASK}"]
    assert log.tail(1) == f"partial {MASK}"
    assert CANARY not in log.text()
    log.mask_file()
    assert path.read_bytes() == b"\xff one ***\ntwo\npartial ***\n"


def test_missing_and_empty_logs_say_so(tmp_path):
    """A log that is not there, or empty, is said to be."""
    assert ServerLog(tmp_path / "none", Secrets()).tail() == "(no log: No such file or directory)"
    (tmp_path / "empty").touch()
    assert ServerLog(tmp_path / "empty", Secrets()).tail() == "(the log is empty)"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("long-prefill-token-threshold", False),
        ("dbo-decode-token-threshold", False),
        ("max-token-budget", False),
        ("HF_TOKEN", True),
        ("api-token", True),
        ("max-api-key-id", True),
    ],
)
def test_a_count_of_tokens_is_no_secret(name, secret):
    """A flag that counts tokens is shown, so that a verdict can name it; a token that opens something is not."""
    assert is_secret_name(name) is secret
