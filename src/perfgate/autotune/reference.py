"""The gated delta rule as plain PyTorch in float32, one token after the other: slow, and easy to see to be right.

With state S (keys × values) per value head, decay g in log space and write strength β, for each token
    S ← exp(g) S,  S ← S + k ⊗ β (v − kᵀS),  o = qᵀS / √K
(Yang, Kautz, Hatamizadeh: Gated Delta Networks, 2024, eq. 10 written as a recurrence).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any


def gated_delta_rule(q: Any, k: Any, v: Any, g: Any, beta: Any, lengths: Sequence[int]) -> Any:
    """Outputs of sequences packed one after the other, each starting from a zero state.

    Args:
        q: queries. Shape (1, tokens, key heads, K).
        k: keys, as q.
        v: values. Shape (1, tokens, value heads, V); value heads are a multiple of key heads.
        g: log decay. Shape (1, tokens, value heads).
        beta: write strength, as g.
        lengths: tokens of each sequence; their sum is ``tokens``.

    Returns:
        float32 outputs. Shape (1, tokens, value heads, V).
    """
    torch: Any = importlib.import_module("torch")
    groups = v.shape[2] // k.shape[2]
    queries = q[0].float().repeat_interleave(groups, dim=1)
    keys = k[0].float().repeat_interleave(groups, dim=1)
    values, decay, strength = v[0].float(), g[0].float().exp(), beta[0].float()
    scale = k.shape[-1] ** -0.5
    outputs = torch.empty_like(values)
    position = 0
    for length in lengths:
        state = values.new_zeros(v.shape[2], k.shape[-1], v.shape[-1])
        for token in range(position, position + length):
            state = state * decay[token][:, None, None]
            read = torch.einsum("hk,hkv->hv", keys[token], state)
            write = strength[token][:, None] * (values[token] - read)
            state = state + keys[token][:, :, None] * write[:, None, :]
            outputs[token] = scale * torch.einsum("hk,hkv->hv", queries[token], state)
        position += length
    return outputs[None]


def relative_error(found: Any, expected: Any) -> float:
    """‖found − expected‖₂ / ‖expected‖₂ over all elements; NaN anywhere gives NaN."""
    difference = (found.float() - expected.float()).norm()
    return float(difference / expected.float().norm())
