"""Make a process without a GPU look, to vLLM and Triton, like one that has it.

Everything a kernel's autotune key or configuration list depends on is answered here before vLLM is imported:
PyTorch's CUDA queries, Triton's active driver, vLLM's platform and its compiled extension modules. Tensors live
in host memory, because key computation reads data pointers and `prepare_chunk_indices` reads values, so meta
tensors would not do. vLLM and FLA freeze what they see at import time: one process emulates one GPU, for good.

Only the runner process imports this module; it never runs inside the parent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from perfgate.autotune.standins import CompiledModuleFinder

# What the driver of these GPUs is built against; FlashInfer's Blackwell kernels ask for 13.
CUDA_RUNTIME = "13.0"
# The largest tensor-parallel size any profile may ask for; also what `device_count()` answers.
DEVICES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmulatedGpu:
    """What vLLM and Triton can ask about one GPU.

    Sizes are in bytes; `capability` is (major, minor). No key depends on the L2 cache so far; where its size is not given, whoever asks for
    it fails, and the cell is undetermined.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    l2_cache: int | None
    memory: int


def emulate(gpu: EmulatedGpu) -> None:
    """Emulate `gpu` in this process, for the rest of its life.

    Must run before anything of vLLM is imported. Raises RuntimeError when it is too late.
    """
    if any(name == "vllm" or name.startswith("vllm.") for name in sys.modules):
        raise RuntimeError("vllm was imported before the GPU was emulated; its platform is already frozen")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    # Records keys through Autotuner.run, which this would replace.
    os.environ.pop("VLLM_TRITON_FORCE_FIRST_CONFIG", None)
    os.environ["VLLM_PLUGINS"] = ""
    _emulate_torch(gpu)
    _emulate_triton(gpu)
    _provide_compiled_modules()
    _emulate_vllm_platform(gpu)


def _emulate_torch(gpu: EmulatedGpu) -> None:
    import torch

    properties = types.SimpleNamespace(
        name=gpu.name,
        major=gpu.capability[0],
        minor=gpu.capability[1],
        total_memory=gpu.memory,
        multi_processor_count=gpu.multiprocessors,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=gpu.shared_memory,
        shared_memory_per_multiprocessor=gpu.shared_memory + 1024,
        warp_size=32,
        max_threads_per_multi_processor=1536 if gpu.capability[0] == 12 else 2048,
        regs_per_multiprocessor=65536,
        is_integrated=False,
        is_multi_gpu_board=False,
        gcnArchName="",
        uuid="00000000-0000-0000-0000-000000000000",
    )

    if gpu.l2_cache is not None:
        properties.L2_cache_size = gpu.l2_cache

    def nothing(*_args: Any, **_kwargs: Any) -> None:
        return None

    def distinct(answer: Any) -> Any:
        """A copy: Dynamo refuses to see one object under two names of PyTorch."""
        if isinstance(answer, type):
            return type(answer.__name__, (answer,), {})
        return types.FunctionType(
            answer.__code__, answer.__globals__, answer.__name__, None, answer.__closure__
        )

    cuda_answers: dict[str, Any] = {
        "is_available": lambda: True,
        "_is_compiled": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": nothing,
        "init": nothing,
        "device_count": lambda: DEVICES,
        "_device_count_nvml": lambda: DEVICES,
        "current_device": lambda: 0,
        "set_device": nothing,
        "device": _DeviceContext,
        "device_of": _DeviceContext,
        "get_device_name": lambda *_a, **_k: gpu.name,
        "get_device_capability": lambda *_a, **_k: gpu.capability,
        "get_device_properties": lambda *_a, **_k: properties,
        "get_arch_list": lambda: [f"sm_{gpu.capability[0]}{gpu.capability[1]}"],
        "mem_get_info": lambda *_a, **_k: (gpu.memory, gpu.memory),
        "memory_stats": lambda *_a, **_k: {},
        "memory_allocated": lambda *_a, **_k: 0,
        "memory_reserved": lambda *_a, **_k: 0,
        "max_memory_allocated": lambda *_a, **_k: 0,
        "empty_cache": nothing,
        "synchronize": nothing,
        "current_stream": lambda *_a, **_k: _Stream(),
        "default_stream": lambda *_a, **_k: _Stream(),
        "Stream": _Stream,
        "ExternalStream": _Stream,
        "Event": _Stream,
        "stream": lambda *_a, **_k: contextlib.nullcontext(),
        "set_stream": nothing,
        "is_current_stream_capturing": lambda: False,
        "is_bf16_supported": lambda *_a, **_k: gpu.capability[0] >= 8,
    }
    for name, answer in cuda_answers.items():
        setattr(torch.cuda, name, distinct(answer))
    if not hasattr(torch._C, "_cuda_getCurrentRawStream"):
        compiled: Any = torch._C
        compiled._cuda_getCurrentRawStream = lambda _device: 0
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None:
        accelerator_answers = {
            "is_available": lambda: True,
            "device_count": lambda: DEVICES,
            "current_device_index": lambda: 0,
            "current_accelerator": lambda *_a, **_k: torch.device("cuda"),
            "set_device_index": nothing,
            "set_device_idx": nothing,
            "device_index": _DeviceContext,
            "synchronize": nothing,
            "empty_cache": nothing,
            "memory_allocated": lambda *_a, **_k: 0,
            "memory_reserved": lambda *_a, **_k: 0,
            "max_memory_allocated": lambda *_a, **_k: 0,
            "memory_stats": lambda *_a, **_k: {},
            "reset_peak_memory_stats": nothing,
            "get_memory_info": lambda *_a, **_k: (gpu.memory, gpu.memory),
            "current_stream": lambda *_a, **_k: _Stream(),
            "set_stream": nothing,
        }
        for name, answer in accelerator_answers.items():
            setattr(accelerator, name, distinct(answer))
    torch.version.cuda = CUDA_RUNTIME
    for name in ("cuda", "pin_memory"):
        setattr(torch.Tensor, name, lambda self, *_a, **_k: self)
    mode = _host_memory_for_cuda()
    mode().__enter__()
    _enter_in_custom_operators(mode)


class _DeviceContext(contextlib.nullcontext[None]):
    """`torch.cuda.device(...)` and `torch.accelerator.device_index(...)`: there is nothing to switch."""

    def __init__(self, *_args: Any) -> None:
        super().__init__()


class _Stream:
    """A stream, and an event: there is nothing to order, so every call returns at once."""

    cuda_stream = 0
    stream_id = 0

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None


def _enter_in_custom_operators(mode: Any) -> None:
    """Have Python implementations of custom operators run under `mode`, which PyTorch leaves while it dispatches."""
    import torch

    compiled: Any = torch._C
    depth = getattr(compiled, "_len_torch_function_stack", lambda: 0)
    library_class: Any = torch.library.Library
    original = library_class.impl

    def implement(library: Any, operator: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        @functools.wraps(function)
        def under_mode(*inputs: Any, **options: Any) -> Any:
            if depth() > 0:
                return function(*inputs, **options)
            with mode():
                return function(*inputs, **options)

        return original(library, operator, under_mode, *args, **kwargs)

    library_class.impl = implement


def _host_memory_for_cuda() -> Any:
    """A torch function mode that turns every CUDA device argument into the host's, and pins nothing."""
    import torch
    from torch.overrides import TorchFunctionMode

    def host(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu") if value.type == "cuda" else value
        if isinstance(value, str) and value.split(":")[0] == "cuda":
            return "cpu"
        return value

    moves = {torch.Tensor.to, torch.Tensor.new_empty, torch.Tensor.new_zeros, torch.Tensor.new_tensor}

    is_cuda = torch.Tensor.is_cuda

    class HostMemory(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if getattr(func, "__self__", None) is is_cuda:
                return True
            if kwargs:
                device = kwargs.get("device")
                if device is not None:
                    # A bare integer means "this CUDA device" to every factory function.
                    kwargs["device"] = "cpu" if isinstance(device, int) else host(device)
                if kwargs.get("pin_memory"):
                    kwargs["pin_memory"] = False
            if func in moves:
                args = tuple(host(argument) for argument in args)
            return func(*args, **(kwargs or {}))

    return HostMemory


def _emulate_triton(gpu: EmulatedGpu) -> None:
    """Give Triton an active NVIDIA driver that answers questions and never loads `libcuda`."""
    import torch

    triton_driver = importlib.import_module("triton.runtime.driver").driver
    target_class = importlib.import_module("triton.backends.compiler").GPUTarget
    backends = importlib.import_module("triton.backends").backends
    if "nvidia" not in backends:
        raise RuntimeError(f"this Triton has no NVIDIA backend (it has: {', '.join(sorted(backends))})")
    major, minor = gpu.capability
    target = target_class("cuda", major * 10 + minor, 32)
    device_properties = {
        "max_shared_mem": gpu.shared_memory,
        "max_num_regs": 65536,
        "multiprocessor_count": gpu.multiprocessors,
        "warpSize": 32,
        "sm_clock_rate": 1_500_000,
        "mem_clock_rate": 2_000_000,
        "mem_bus_width": 256,
    }

    class EmulatedDriver:
        """The questions Triton's runtime and vLLM ask a driver."""

        utils = types.SimpleNamespace(get_device_properties=lambda _index: dict(device_properties))
        launcher_cls = None

        def get_current_target(self) -> Any:
            return target

        def get_current_device(self) -> int:
            return 0

        def set_current_device(self, _device: int) -> None:
            return None

        def get_current_stream(self, _device: int | None = None) -> int:
            return 0

        def get_device_capability(self, _device: int | None = None) -> tuple[int, int]:
            return gpu.capability

        def get_active_torch_device(self) -> Any:
            return torch.device("cpu")

        def get_device_interface(self) -> Any:
            return torch.cuda

        def get_benchmarker(self) -> Callable[..., list[float]]:
            return lambda _call, **_options: [1.0, 1.0, 1.0]

        def get_empty_cache_for_benchmark(self) -> Any:
            return torch.empty(0)

        def clear_cache(self, _cache: Any) -> None:
            return None

    triton_driver.set_active(EmulatedDriver())
    for name, backend in backends.items():
        backend.driver.is_active = staticmethod(lambda name=name: name == "nvidia")


def _provide_compiled_modules() -> None:
    sys.meta_path.insert(0, CompiledModuleFinder())
    import torch

    for namespace in ("_C", "_moe_C", "_C_stable_libtorch"):
        operators = getattr(torch.ops, namespace)
        for operator in _CAPABILITY_QUESTIONS:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(operators, operator, lambda *_a, **_k: False)


# Operators that vLLM asks, at import, whether a quantised GEMM exists for the GPU. No answer changes a GDN key.
_CAPABILITY_QUESTIONS = (
    "cutlass_scaled_mm_supports_fp8",
    "cutlass_scaled_mm_supports_block_fp8",
    "cutlass_scaled_mm_supports_fp4",
    "cutlass_group_gemm_supported",
    "cutlass_sparse_scaled_mm_supported",
)


def _emulate_vllm_platform(gpu: EmulatedGpu) -> None:
    """Install a CUDA platform that does not ask NVML, whatever this release calls it."""
    _answer_distribution_version()
    platforms: Any = importlib.import_module("vllm.platforms")
    # An installed CPU build would otherwise claim the process, or switch Triton off.
    if hasattr(platforms, "vllm_version_matches_substr"):
        platforms.vllm_version_matches_substr = lambda _substr: False
    cuda: Any = importlib.import_module("vllm.platforms.cuda")
    base: Any = getattr(cuda, "NonNvmlCudaPlatform", None)
    if base is None:
        raise LookupError(
            "vllm.platforms.cuda has no NonNvmlCudaPlatform, the CUDA platform that does not ask NVML"
        )
    capability_class = importlib.import_module("vllm.platforms.interface").DeviceCapability
    capability = capability_class(*gpu.capability)

    class EmulatedCudaPlatform(base):  # type: ignore[misc]
        # Custom operators register for the device their tensors live on, and ours live on the host.
        dispatch_key = "CPU"

        @classmethod
        def get_device_capability(cls, *_args: Any, **_kwargs: Any) -> Any:
            return capability

        @classmethod
        def get_device_name(cls, *_args: Any, **_kwargs: Any) -> str:
            return gpu.name

        @classmethod
        def get_device_uuid(cls, *_args: Any, **_kwargs: Any) -> str:
            return "GPU-00000000-0000-0000-0000-000000000000"

        @classmethod
        def get_device_total_memory(cls, *_args: Any, **_kwargs: Any) -> int:
            return gpu.memory

        @classmethod
        def is_fully_connected(cls, *_args: Any, **_kwargs: Any) -> bool:
            return False

        @classmethod
        def device_count(cls) -> int:
            return DEVICES

        @classmethod
        def num_compute_units(cls, *_args: Any, **_kwargs: Any) -> int:
            return gpu.multiprocessors

        @classmethod
        def set_device(cls, *_args: Any, **_kwargs: Any) -> None:
            return None

        @classmethod
        def import_kernels(cls) -> None:
            return None

        @classmethod
        def is_pin_memory_available(cls) -> bool:
            return False

    platforms._current_platform = EmulatedCudaPlatform()


def _answer_distribution_version() -> None:
    """Unpacked sources have no metadata, and those of a CPU build would switch Triton off."""
    original = importlib.metadata.version

    def version(distribution_name: str) -> str:
        if distribution_name == "vllm":
            return str(getattr(sys.modules.get("vllm"), "__version__", "0")).split("+")[0]
        return original(distribution_name)

    importlib.metadata.version = version
