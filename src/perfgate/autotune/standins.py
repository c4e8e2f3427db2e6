"""Stand-ins for modules that an emulated GPU cannot have: vLLM's compiled code, and Python that only wraps it.

A name asked of a stand-in is a class that says so when called. Nothing that decides an autotune key may come from here.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

_COMPILED = (
    "_C",
    "_C_stable_libtorch",
    "_moe_C",
    "_moe_C_stable_libtorch",
    "cumem_allocator",
    "_flashmla_C",
    "_flashmla_extension_C",
    "_qutlass_C",
    "vllm_flash_attn",
)


# Python that only CUDA wheels hold and that wraps compiled code; a CPU wheel's source can still be examined.
_CUDA_ONLY = ("vllm.third_party.flashmla", "vllm.third_party.deep_gemm", "vllm.third_party.fmha_sm100")
# Packages that releases import unconditionally and that no kernel depends on; used only when not installed.
_UNRELATED = ("diskcache", "gguf")


def _installed(module: str) -> bool:
    """Whether a finder other than ours has `module`."""
    parent = sys.modules.get(module.rpartition(".")[0])
    path = getattr(parent, "__path__", None)
    return any(
        finder.find_spec(module, path) is not None
        for finder in sys.meta_path
        if not isinstance(finder, CompiledModuleFinder) and hasattr(finder, "find_spec")
    )


class StandInModule(types.ModuleType):
    """A compiled module that is not there: any public name is a class that must not be called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__file__ = f"<stand-in for {name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(_self: Any, *_args: Any, **_kwargs: Any) -> None:
            raise RuntimeError(
                f"{self.__name__}.{name} is compiled code and cannot run under an emulated GPU"
            )

        # A class, so that it may also stand in annotations (`X | None`).
        return type(name, (), {"__init__": refuse})


class CompiledModuleFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of vLLM's compiled modules, which an unpacked wheel may not even contain."""

    def find_spec(
        self, fullname: str, _path: Any = None, _target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A specification for a module that is to be stood in for."""
        parts = fullname.split(".")
        if parts[0] in _UNRELATED and not _installed(parts[0]):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname.startswith(_CUDA_ONLY) and not _installed(fullname):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if len(parts) >= 2 and parts[0] == "vllm" and (parts[1] in _COMPILED or _looks_compiled(parts[1])):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """The stand-in."""
        return StandInModule(spec.name)

    def exec_module(self, _module: types.ModuleType) -> None:
        """Nothing to execute."""


def _looks_compiled(name: str) -> bool:
    """`_X_C` and `_X_C_variant` is how vLLM names extension modules, in every release so far."""
    return name.startswith("_") and (name.endswith("_C") or "_C_" in name)
