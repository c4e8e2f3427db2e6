"""What a compile is specialised on, in words."""

from __future__ import annotations

import pytest

from perfgate.autotune.recorder import _specialisation

JOB = {
    "signature": {"x": "*bf16", "n": "i32", "BLOCK": "constexpr"},
    "constants": {(2,): 64},
    "configs": [{(0,): [["tt.divisibility", 16]]}],
    "num_warps": 4,
}


@pytest.mark.parametrize(
    ("key", "n"),
    [
        ("[('*bf16', 'D'), ('i32', ''), ('constexpr', 64)]{'debug': False, 'list': [1]}", "i32"),
        (
            "[('*bf16', 'D'), ('i32', 1), ('constexpr', 64)]{'debug': False, 'list': [1]}",
            "i32 equal to 1",
        ),
        ("of another form", "i32"),
        ("[('i32', 1)]{}", "i32"),
    ],
)
def test_an_integer_that_is_one_is_told_from_another(key: str, n: str) -> None:
    """Where an integer 1 stays an argument, only Triton's key has it; a key of another form is not guessed at."""
    assert _specialisation(JOB, key) == (
        ("x", "*bf16 divisible by 16"),
        ("n", n),
        ("BLOCK", "constexpr 64"),
        ("num_warps", "4"),
    )
