"""The batches a server can send through a linear-attention layer, as token counts.

The length classes are those at which a key, a chunk count or an integer specialisation can change: one token, below
16, 16, 17 to 32, 33 to 63, 64, multiples of 16 and of 64 and not, and long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

# 20 and 46 tokens are the prompts a reviewer of vLLM's own fix asked to try.
PREFILL_LENGTHS = (1, 2, 7, 15, 16, 17, 20, 31, 32, 33, 46, 48, 63, 64, 65, 100, 128, 1000, 1024, 2048)
LONGEST_PREFILL = 8192
"""What vLLM schedules in one step by default on GPUs of 70 GiB and more (`--max-num-batched-tokens`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Requests of one step, decodes first as vLLM orders them.

    Attributes:
        name: what a reader of a report is told.
        query: tokens each request computes in this step.
        context: tokens each request computed before.
        table_width: columns of the block table; more than one with speculative decoding.
    """

    name: str
    query: tuple[int, ...]
    context: tuple[int, ...]
    table_width: int = 1

    def __post_init__(self) -> None:
        if (
            not self.query
            or len(self.query) != len(self.context)
            or min(self.query) < 1
            or min(self.context) < 0
        ):
            raise ValueError(f"not a batch: {self!r}")

    @property
    def tokens(self) -> int:
        """Tokens computed in the step, over all requests."""
        return sum(self.query)


def _named(name: str, query: Sequence[int], context: Sequence[int], width: int = 1) -> Batch:
    return Batch(name=name, query=tuple(query), context=tuple(context), table_width=width)


def serving_batches(
    lengths: Sequence[int] = PREFILL_LENGTHS, *, longest: int = LONGEST_PREFILL, wide: int = 4
) -> list[Batch]:
    """Every kind of batch of at most `longest` tokens, for prompts of `lengths` and `longest`; `wide` is the wider block table."""
    batches = [_named(f"prefill of {length}", [length], [0]) for length in dict.fromkeys([*lengths, longest])]
    batches += [
        _named("prefill of 20 after 64 (initial state)", [20], [64]),
        _named("prefill of 64 after 64 (initial state)", [64], [64]),
        _named("prefills of 100 and 200", [100, 200], [0, 0]),
        _named("4 prefills of 2048", [2048] * 4, [0] * 4),
        _named("prefills of 5, 64 and 33, one with initial state", [5, 64, 33], [0, 64, 0]),
        _named("16 prefills of 16", [16] * 16, [0] * 16),
        _named("1 decode", [1], [40]),
        _named("2 decodes", [1, 1], [40, 7]),
        _named("16 decodes", [1] * 16, [40] * 16),
        _named("1 decode and a prefill of 20", [1, 20], [40, 0]),
        _named("3 decodes and prefills of 46 and 300", [1, 1, 1, 46, 300], [40, 7, 900, 0, 0]),
        _named("16 decodes and a prefill of 64", [1] * 16 + [64], [40] * 16 + [0]),
        _named(f"prefill of 46, block table {wide} wide", [46], [0], wide),
        _named(f"2 decodes, block table {wide} wide", [1, 1], [40, 7], wide),
        _named(f"1 decode and a prefill of 64, block table {wide} wide", [1, 64], [40, 0], wide),
    ]
    return [batch for batch in batches if batch.tokens <= longest]
