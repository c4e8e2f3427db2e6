"""Timing one kernel: what lies between the two events of a round, and what the shipped factories ask of vLLM."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

from perfgate.autotune import kernelbench
from perfgate.autotune.device import DeviceLayer


class Device:
    """Writes down in which order a GPU is told what; its clock goes on by a millisecond a launch and a minute for all else."""

    def __init__(self):
        self.said = []
        self.clock = 0.0

    class _Event:
        def __init__(self, device):
            self.device, self.at = device, None

        def record(self):
            self.device.said.append("event")
            self.at = self.device.clock

        def elapsed_time(self, end):
            return end.at - self.at

    def Event(self, *, enable_timing):  # noqa: N802 - as torch calls it
        assert enable_timing
        return self._Event(self)

    def synchronize(self):
        self.said.append("synchronize")

    def _sleep(self, cycles):
        assert cycles > 0
        self.said.append("wait")
        self.clock += 60_000.0

    def zero_(self):
        self.said.append("flush")
        self.clock += 60_000.0

    def launch(self):
        self.said.append("launch")
        self.clock += 1.0


class Torch:
    """As much of torch as the timing uses."""

    def __init__(self, device):
        self.cuda = device
        self.int8 = "int8"

    def empty(self, size, *, dtype, device):
        assert (dtype, device) == (self.int8, "cuda")
        return self.cuda


def test_a_round_is_the_launch_alone():
    """The cache is flushed and the GPU kept waiting before the first event, so that only the kernel's own millisecond is counted."""
    device = Device()
    seconds = kernelbench.time_kernel(Torch(device), device.launch, device, rounds=3)
    assert seconds == [0.001] * 3
    warm = device.said[: 2 * kernelbench.WARMUPS]
    assert warm == ["synchronize", "launch"] * kernelbench.WARMUPS
    assert device.said[len(warm) :] == [*(["flush", "wait", "event", "launch", "event"] * 3), "synchronize"]


class Layer(DeviceLayer):
    """A layer whose step is the device's launch."""

    def __init__(self, device):
        self.device = device

    def step(self, batch):
        return self.device.launch


def test_a_layer_is_timed_as_a_kernel_is(monkeypatch):
    """The stored time of a layer's prefill is the GPU's: the Python above the kernels, many times as long, is not in it."""
    device = Device()
    monkeypatch.setitem(sys.modules, "torch", Torch(device))
    assert Layer(device).prefill_times(20, rounds=4) == [0.001] * 4
    assert device.said.count("wait") == 4


def functions(module):
    """Parameters of every function of a module of the installed vLLM, which cannot be imported without a GPU."""
    root = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])
    tree = ast.parse((root / module).read_text(encoding="utf-8"))
    return {
        node.name: [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM is installed")
def test_the_mixture_of_experts_is_called_as_vllm_defines_it():
    """Five tensors in this order and a quantisation, made from two scales and a block shape."""
    found = functions("model_executor/layers/fused_moe/fused_moe.py")["fused_experts"]
    assert found[:5] == ["hidden_states", "w1", "w2", "topk_weights", "topk_ids"]
    assert "quant_config" in found
    made = functions("model_executor/layers/fused_moe/config.py")["fp8_w8a8_moe_quant_config"]
    assert {"w1_scale", "w2_scale", "block_shape"} <= set(made)
