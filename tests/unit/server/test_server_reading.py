"""Values as vLLM prints them, and what agrees with what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfgate.server.reading import Member, agrees, agrees_text, parsed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16384", 16384),
        ("-1", -1),
        ("0.45", 0.45),
        ("True", True),
        ("None", None),
        ("auto", "auto"),
        ("'tiny'", "tiny"),
        ("torch.bfloat16", "torch.bfloat16"),
        ("tiny-qwen3next", "tiny-qwen3next"),
        ("1,234", "1,234"),
        ("(2, 1)", [2, 1]),
        ("<CUDAGraphMode.FULL: 2>", Member("FULL", 2)),
        ("<CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>", Member("FULL_AND_PIECEWISE", [2, 1])),
        ("Config(a='x', b=Inner(c=[1, 2]), d=<object at 0x7f>)", {"a": "x", "b": {"c": [1, 2]}, "d": None}),
        ("{'mode': <M.NONE: 0>, 'type': <T.B: 'backed'>}", {"mode": Member("NONE", 0), "type": Member("B", "backed")}),
        ("{'a': ", "{'a': "),
        ("", ""),
        ("f(x) + 1", "f(x) + 1"),
    ],
)  # fmt: skip
def test_reprs_are_read_as_far_as_they_are_values(text, value):
    """Literals, calls, members and torch dtypes become values; anything else stays text."""
    assert parsed(text) == value


@given(st.text(max_size=200))
def test_any_text_can_be_read(text):
    """No text makes the reader fail, and what it reads can be compared with anything."""
    value = parsed(text)
    for wanted in (True, 3, "x", [1], {"a": 1}):
        assert agrees(wanted, value) in (True, False, None)


@pytest.mark.parametrize(
    ("wanted", "running", "answer"),
    [
        ("half", "torch.float16", True),
        ("float", "torch.float32", True),
        ("half", "torch.bfloat16", False),
        ("fp8", "fp8_e4m3", True),
        ("fp8_e5m2", "fp8_e4m3", False),
        ("auto", "anything", True),
        ("16k", 16000, True),
        ("16K", 16384, True),
        ("1e-3", 0.001, True),
        ("true", True, True),
        (True, "False", False),
        ([4, 2, 1], [1, 2, 4], True),
        ([1, 2, 4], [1, 2], False),
        (["1", "2"], [1, 2], True),
        (4, [4], True),
        (4, [1, 2, 4], False),
        (4, [], None),
        ([1, 2], [], False),
        ("FULL", Member("FULL", 2), True),
        ("full", Member("FULL", 2), True),
        ("FULL", Member("NONE", 0), False),
        (2, Member("FULL", 2), True),
        (3, Member("FULL", 2), False),
        ("FULL", 2, None),
        ("FULL_AND_PIECEWISE", [2, 1], None),
        ('{"a": 1}', {"a": 1, "b": 2}, True),
        ('{"a": 1}', {"a": 2}, False),
        ({"a": {"b": 1}}, {"a.b": 1}, True),
        ({"a": 1}, {"b": 1}, None),
        ({"a": 1}, "{'a': 1}", True),
        ({"a": 1}, 7, None),
        ("x", None, None),
        ("-tp", "_tp", True),
    ],
)
def test_what_agrees(wanted, running, answer):
    """Other names, units, orders and kinds of one value agree; different values do not; what cannot be compared says nothing."""
    assert agrees(wanted, running) is answer


@pytest.mark.parametrize(
    ("wanted", "running", "answer"),
    [
        ("1", True, True),
        ("0", True, False),
        ("off", False, True),
        ("2", True, None),
        ("1", 1, True),
        ("a", ["a"], None),
    ],
)
def test_texts_of_variables(wanted, running, answer):
    """A variable's text agrees with what vLLM made of it."""
    assert agrees_text(wanted, running) is answer
