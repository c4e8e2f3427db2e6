import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from perfgate.catalogue import load_catalogue
from perfgate.errors import InputError
from perfgate.workload import WorkloadSpec, arrivals, make_prompts, words

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine is no finding."""


def spec(**changes: object) -> WorkloadSpec:
    return WorkloadSpec.model_validate(
        {"name": "w", "input_len": 32, "output_len": 8, "concurrency": 2, "num_prompts": 10, "warmups": 3}
        | changes
    )


def prompts(workload: WorkloadSpec, **changes: object):
    return make_prompts(workload, **({"seed": 42, "boot": "b1", "run": 0, "vocab_size": 1000} | changes))


def test_every_shipped_workload_is_a_valid_specification():
    """Each table of fixtures/workloads.toml parses, and the study's four are among them with its lengths and concurrencies."""
    found = {name: entry.parse(WorkloadSpec) for name, entry in load_catalogue("workloads").items()}
    study = {name: (w.input_len, w.output_len, w.concurrency, w.warmups) for name, w in found.items()}
    assert study["decode"] == (512, 512, 1, 3)
    assert study["prefill"] == (8192, 256, 4, 3)
    assert study["contention"] == (2048, 512, 16, 3)
    assert study["chat"] == (2048, 256, 2, 3)
    assert found["chat-agent"].shared_prefix_len == 1024


def test_the_same_seed_boot_and_run_give_the_same_prompts():
    """Prompts are a function of (seed, boot, run), so that both sides of an A/B can be given the same work."""
    one, two = prompts(spec()), prompts(spec())
    assert (one.measured == two.measured).all()
    assert (one.warmup == two.warmup).all()


@pytest.mark.parametrize("change", [{"seed": 43}, {"boot": "b2"}, {"run": 1}, {"seed": -42}])
def test_another_seed_boot_or_run_shares_no_prompt(change):
    """No prompt of one run comes again in another, or the prefix cache would answer it."""
    one, two = prompts(spec()), prompts(spec(), **change)
    rows = {row.tobytes() for side in (one, two) for row in (*side.measured, *side.warmup)}
    assert len(rows) == 26


def test_no_warmup_is_a_measured_prompt_even_when_prompts_are_short():
    """With barely more prompts possible than asked for, all are still different."""
    made = prompts(spec(input_len=2, num_prompts=90, warmups=8), vocab_size=10)
    rows = {row.tobytes() for row in (*made.measured, *made.warmup)}
    assert len(rows) == 98


def test_prompts_share_the_prefix_and_nothing_after_it():
    """All prompts of a run begin with the shared prefix, warm-ups too, and differ in the token after it or soon."""
    made = prompts(spec(shared_prefix_len=24))
    together = np.concatenate([made.warmup, made.measured])
    assert (together[:, :24] == together[0, :24]).all()
    assert len({row[24:].tobytes() for row in together}) == 13


def test_special_ids_are_never_drawn():
    """Excluded ids and ids below the first are in no prompt."""
    made = prompts(spec(num_prompts=200), first_id=5, excluded=[7, 9], vocab_size=12)
    assert set(np.unique(made.measured)) == {5, 6, 8, 10, 11}


def test_a_vocabulary_too_small_for_so_many_prompts_is_refused():
    """Two tokens of ten ids cannot be 200 different prompts, and the message says so instead of looping."""
    with pytest.raises(InputError, match="203 different prompts cannot be made of 2 tokens out of 10"):
        prompts(spec(input_len=2, num_prompts=200), vocab_size=10)
    with pytest.raises(InputError, match="1 token ids"):
        prompts(spec(), vocab_size=1)


@unhurried
@given(
    rate=st.floats(0.1, 1000),
    burstiness=st.floats(0.05, 100),
    count=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_arrivals_ascend_and_offer_the_rate_asked_for(rate, burstiness, count, seed):
    """Whatever the seed, num_prompts requests are due within num_prompts / rate seconds, in order."""
    due = arrivals(
        spec(concurrency=None, request_rate=rate, burstiness=burstiness, num_prompts=count), seed=seed
    )
    assert due.shape == (count,)
    assert (np.diff(due) >= 0).all()
    assert due[0] >= 0
    assert due[-1] == pytest.approx(count / rate)


def test_gaps_have_the_variation_that_burstiness_means():
    """The gaps' coefficient of variation is 1/√burstiness, as of a gamma distribution of that shape."""
    for burstiness in (0.25, 1.0, 4.0):
        due = arrivals(
            spec(concurrency=None, request_rate=10.0, burstiness=burstiness, num_prompts=20_000), seed=1
        )
        gaps = np.diff(due)
        assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_a_closed_loop_has_no_schedule():
    """Asking for arrivals of a closed loop is an error, not an empty schedule."""
    with pytest.raises(InputError, match="closed loop"):
        arrivals(spec(), seed=1)


@pytest.mark.parametrize(
    ("changes", "words_of_it"),
    [
        ({"request_rate": 1.0}, "exactly one of"),
        ({"concurrency": None}, "exactly one of"),
        ({"max_concurrency": 4}, "belongs to request_rate"),
        ({"shared_prefix_len": 32}, "leaves nothing"),
        ({"extra_body": {"stream": False}}, "may not set stream"),
        ({"slo": {"itl": 5.0}}, "slo"),
        ({"num_prompts": 0}, "num_prompts"),
        ({"output_len": 0}, "output_len"),
        ({"burstiness": 0.0}, "burstiness"),
    ],
)
def test_contradictions_are_refused_when_the_specification_is_made(changes, words_of_it):
    """A specification that cannot be carried out never exists."""
    with pytest.raises(ValidationError, match=words_of_it):
        spec(**changes)


def test_a_chat_prompt_has_a_word_for_each_token():
    """Chat requests carry words, one a token, the same for the same tokens."""
    made = prompts(spec())
    text = words(made.measured[0])
    assert len(text.split()) == 32
    assert text == words(made.measured[0])
