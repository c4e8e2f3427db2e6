"""The plain gated delta rule, against a value worked out by hand and against its closed form."""

from __future__ import annotations

import math

import torch

from perfgate.autotune.reference import gated_delta_rule, relative_error


def test_two_tokens_by_hand() -> None:
    """One head of width 1: the state after the second token is decayed, read, and corrected by half of the error."""
    ones = torch.ones(1, 2, 1, 1)
    values = torch.tensor([[[[2.0]], [[4.0]]]])
    decay = torch.tensor([[[0.0], [math.log(0.5)]]])
    strength = torch.tensor([[[1.0], [0.5]]])
    # S1 = 2; S2 = 0.5·2 + 0.5·(4 − 0.5·2) = 2.5; the scale is 1/√1.
    found = gated_delta_rule(ones, ones, values, decay, strength, [2])
    assert found.flatten().tolist() == [2.0, 2.5]


def test_sequences_do_not_see_each_other() -> None:
    """Packed sequences give what each gives alone, whatever their lengths."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 8, 2, 4), torch.nn.functional.normalize(torch.randn(1, 8, 2, 4), dim=-1)
    v, g, beta = torch.randn(1, 8, 4, 3), -torch.rand(1, 8, 4), torch.rand(1, 8, 4)
    together = gated_delta_rule(q, k, v, g, beta, [3, 5])
    first = gated_delta_rule(q[:, :3], k[:, :3], v[:, :3], g[:, :3], beta[:, :3], [3])
    second = gated_delta_rule(q[:, 3:], k[:, 3:], v[:, 3:], g[:, 3:], beta[:, 3:], [5])
    assert torch.equal(together, torch.cat([first, second], dim=1))


def test_full_strength_stores_the_value() -> None:
    """With strength 1, no decay and unit keys, reading back with the key just written gives its value (the delta rule's point)."""
    torch.manual_seed(1)
    k = torch.nn.functional.normalize(torch.randn(1, 6, 1, 8), dim=-1)
    v = torch.randn(1, 6, 1, 8)
    found = gated_delta_rule(k, k, v, torch.zeros(1, 6, 1), torch.ones(1, 6, 1), [6])
    assert relative_error(found, v / math.sqrt(8)) < 1e-5


def test_relative_error_is_of_the_whole() -> None:
    """‖1.1·x − x‖/‖x‖ is 0.1, and one NaN makes it NaN."""
    x = torch.arange(1.0, 9.0)
    assert abs(relative_error(1.1 * x, x) - 0.1) < 1e-6
    x[0] = math.nan
    assert math.isnan(relative_error(x, torch.ones(8)))
