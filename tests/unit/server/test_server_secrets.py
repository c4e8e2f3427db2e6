"""Masking: what is a secret, and that none survives."""

import json
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from perfgate.errors import InputError
from perfgate.server import ServerSpec
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


@pytest.mark.parametrize("name", ["authToken", "secretAccessKey", "hftoken", "clientsecret", "db.passphrase"])
def test_names_written_together_or_in_camel_case(name):
    """JSON keys carry secrets under names without separators too."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["detokenizer", "image_token_index", "eos_token_id", "max_tokens", "keyframes"]
)
def test_names_of_what_a_model_reads(name):
    """Tokens of a vocabulary are no secrets."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "args",
    [
        {"hf-overrides": {"nested": [{"auth_token": CANARY}]}},
        {"hf-overrides": json.dumps({"authToken": CANARY})},
        {"otlp-traces-endpoint": f"https://me:{CANARY}@host:4317/v1"},
        {"otlp-traces-endpoint": f"https://host/v1?api_key={CANARY}&x=1"},
        {"api-key": [CANARY, "another-one"]},
    ],
    ids=["table in a list", "JSON text", "password of an address", "query of an address", "list"],
)
def test_secrets_inside_values(args):
    """A secret inside JSON or an address is known by itself, so that it goes wherever the log repeats it alone."""
    assert Secrets.of(args).mask(f"the server said {CANARY}!") == f"the server said {MASK}!"


def test_every_way_to_write_a_secret_down():
    """A secret with quotes and blanks goes as it is, as JSON, as a Python literal and percent-encoded."""
    value = "s'e\"c r\\et/ü"
    text = " ".join((value, json.dumps(value), repr(value), quote(value, safe="")))
    masked_text = Secrets([value]).mask(text)
    assert masked_text.count(MASK) == 4
    assert "c r" not in masked_text
    assert "c%20r" not in masked_text


@pytest.mark.parametrize(
    "text",
    [
        "non-default args: {'hf_token': 'CANARY', 'max_num_seqs': 4}",
        '{"api_key": "CANARY"}',
        "GET https://host/v1?key=CANARY&x=1",
        "https://host/?access_token%3DCANARY",
        "password=CANARY next",
        "Authorization: Basic CANARY0123==",
        "https://:CANARY@host",
        "AWS_SECRET_ACCESS_KEY: CANARY",
    ],
)
def test_secrets_that_free_text_names(text):
    """An assignment to a secret's name is masked although nobody gave the value: the log of a foreign server."""
    shown = Secrets().mask(text)
    assert "CANARY" not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        "api_key=None, hf_token: null, max_num_batched_tokens=2048, long_prefill_token_threshold=0",
        "eos_token='</s>' pad_token_id=151643 tokenizer='x' key as (32, 128)",
        "Using mamba cache mode 'align'; autotune key: chunk_fwd_kernel_o",
    ],
)
def test_text_without_a_secret_stays(text):
    """Nothing that a parser or a person needs is masked."""
    assert Secrets().mask(text) == text


@pytest.mark.parametrize(
    "token",
    [
        "AKIA" + "A1" * 8,
        "AIza" + "b" * 35,
        "xoxb-123456-abcdef",
        "github_pat_" + "x" * 30,
        "eyJhbGciOi.eyJzdWIiOi.c2ln",
    ],
)
def test_tokens_of_well_known_shapes(token):
    """A token goes by its looks, whoever printed it."""
    assert Secrets().mask(f"with {token}.") in (f"with {MASK}.", f"with {MASK}")


def test_keys_of_digits_are_masked():
    """A key that reads like a number is no number."""
    spec = ServerSpec(name="s", args={"api-key": 1234567890123}).with_changes(["--hf-token=99887766"])
    assert spec.environment() == {"VLLM_API_KEY": "1234567890123", "HF_TOKEN": "99887766"}
    assert "1234567890123" not in str(spec.public()) + repr(spec)
    assert spec.secrets().mask("99887766") == MASK
    with pytest.raises(ValueError, match="takes one value here"):
        ServerSpec(name="s", args={"api-key": ["a", "b"]})


def test_log_file_loses_what_looks_like_a_secret(tmp_path):
    """The kept file is cleaned of tokens that nobody named, such as one that the server found by itself."""
    path = tmp_path / "log"
    path.write_bytes(b"\xff found hf_" + b"a" * 30 + b"\n")
    ServerLog(path, Secrets()).mask_file()
    assert path.read_bytes() == b"\xff found ***\n"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ServerSpec(name="s", env={"HF_TOKEN": [CANARY]}),
        lambda: ServerSpec(name="s", args={"api-key": CANARY, "api_key": "another"}),
        lambda: ServerSpec(name="s").with_changes([f"-api-key={CANARY}"]),
        lambda: ServerSpec(name="s").with_changes(env=[f"MY-TOKEN password={CANARY}"]),
    ],
    ids=["value of a variable", "flag given twice", "no flag", "no variable"],
)
def test_errors_about_a_setting_do_not_show_its_secret(wrong):
    """A mistake in a secret setting is named without the secret."""
    with pytest.raises((ValueError, InputError)) as caught:
        wrong()
    shown = (
        caught.value.errors(include_input=False)
        if isinstance(caught.value, ValidationError)
        else caught.value
    )
    assert CANARY not in str(shown)
