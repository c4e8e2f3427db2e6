import json

import numpy as np
import pytest

from perfgate.client import Endpoint, run_load
from perfgate.errors import InputError
from perfgate.workload import make_prompts
from tests.unit.client.conftest import make_workload

PROMPT = np.array([3, 1, 4], dtype=np.int32)


def sent(endpoint: Endpoint, **changes: object) -> tuple[list[str], dict[str, object]]:
    head, _, body = endpoint.request(PROMPT, make_workload(**changes)).partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), json.loads(body)


def test_a_completions_request_asks_for_exactly_what_is_measured():
    """Token ids as they are, the exact output length, end-of-sequence ignored, a stream with usage."""
    head, body = sent(Endpoint(url="http://host:8000/v1/", model="m"), extra_body={"temperature": 0.0})
    assert head[:2] == ["POST /v1/completions HTTP/1.1", "Host: host:8000"]
    assert body == {
        "model": "m",
        "prompt": [3, 1, 4],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "temperature": 0.0,
    }


def test_a_chat_request_carries_words():
    """A chat request has one user message of as many words, and max_completion_tokens."""
    head, body = sent(Endpoint(url="http://host", model="m", api="chat"))
    assert head[0] == "POST /v1/chat/completions HTTP/1.1"
    assert body["max_completion_tokens"] == 5
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert len(message["content"].split()) == 3


def test_content_length_is_that_of_the_body():
    """The head announces exactly the bytes that follow."""
    raw = Endpoint(url="http://host", model="ä").request(PROMPT, make_workload())
    head, _, body = raw.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")


def test_a_key_is_sent_and_never_shown():
    """The bearer token is in the request's head and in no repr; other headers may be secret too."""
    endpoint = Endpoint(url="http://host", model="m", api_key="hunter2", headers={"X-Token": "sesame"})
    head, _ = sent(endpoint)
    assert "Authorization: Bearer hunter2" in head
    assert "X-Token: sesame" in head
    assert "hunter2" not in repr(endpoint)
    assert "sesame" not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "not one of an HTTP server"),
        ("ftp://host", "not one of an HTTP server"),
        ("http://", "not one of an HTTP server"),
        ("http://host:99999", "99999"),
        ("http://host:0", "port"),
        ("http://user:secret@host", "user name or password"),
        ("http://host/?q=1", "query"),
        ("http://host/a b", "character"),
        ("http://höst", "character"),
        ("http://[::1", "IPv6"),
    ],
)
def test_a_url_that_no_request_can_go_to_is_refused(url, words):
    """A bad URL is a message with the form it should have, and a password in it is not repeated."""
    with pytest.raises(InputError, match=words) as caught:
        Endpoint(url=url, model="m")
    assert "http://HOST:PORT" in str(caught.value) or "api_key" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X-A": "b\r\nX-C: d"}, "cannot be sent"),
        ({"X A": "b"}, "cannot be sent"),
        ({"Host": "x"}, "set by perfgate"),
    ],
)
def test_a_header_that_would_break_the_request_is_refused(headers, words):
    """No header can inject another, or contradict the request's own."""
    with pytest.raises(InputError, match=words):
        Endpoint(url="http://host", model="m", headers=headers)


def test_addresses_of_the_control_plane_do_not_double_v1():
    """With or without /v1 in the URL, the paths are the same."""
    for url in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"):
        assert Endpoint(url=url, model="m").address("/v1/models") == "http://h:1/v1/models"
    assert Endpoint(url="https://h/proxy/v1", model="m").address("/metrics") == "https://h/proxy/metrics"
    assert Endpoint(url="https://h", model="m").port == 443


def outcome(endpoint: Endpoint) -> tuple[str, str]:
    workload = make_workload(num_prompts=2)
    prompts = make_prompts(workload, seed=1, boot="b", run=0, vocab_size=1000)
    run = run_load(endpoint, workload, prompts=prompts.measured, seed=1)
    assert len(set(run.outcome)) == 1
    return run.outcome[0], run.detail[0]


def test_tls_verifies_the_server_by_default(secure):
    """An unknown authority means no connection, and the detail says why."""
    kind, detail = outcome(Endpoint(url=secure, model="m"))
    assert kind == "connect"
    assert "certificate" in detail.lower()


def test_tls_trusts_the_authority_it_is_given(secure, authority, tmp_path):
    """With the authority's file the same server is fine; under another name it is not."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    assert outcome(Endpoint(url=secure, model="m", ca_file=str(file)))[0] == "ok"
    other = secure.replace("localhost", "127.0.0.1")
    assert outcome(Endpoint(url=other, model="m", ca_file=str(file)))[0] == "connect"


def test_tls_can_be_left_unverified_on_request(secure):
    """verify=False accepts any certificate."""
    assert outcome(Endpoint(url=secure, model="m", verify=False)) == ("ok", "")


def test_a_ca_file_that_is_none_is_bad_input(tmp_path):
    """A missing or unreadable authority file is named."""
    with pytest.raises(InputError, match=r"nothing\.pem"):
        Endpoint(url="https://h", model="m", ca_file=str(tmp_path / "nothing.pem")).ssl_context()
    (tmp_path / "text.pem").write_text("not a certificate")
    with pytest.raises(InputError, match=r"text\.pem"):
        Endpoint(url="https://h", model="m", ca_file=str(tmp_path / "text.pem")).ssl_context()
