"""Find vLLM's gated-delta-rule layers and its kernel warm-ups by what they do, not by release.

A layer is a class one of whose methods asks `get_forward_context()` for attention metadata and that calls the
chunked delta rule. Where it lives has changed with almost every release (`models/qwen3_next.py`,
`layers/mamba/gdn_linear_attn.py`, `layers/mamba/gdn/*.py`); what it does has not.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LAYERS = ("gdn", "olmo", "kda")

# Every layer's core calls a function, or holds a submodule, whose name starts like this.
_RULE = {"gdn": "chunk_gated_delta_rule", "olmo": "chunk_gated_delta_rule", "kda": "chunk_kda"}
_PLACES = ("model_executor/layers", "model_executor/models", "models")


class UnknownLayoutError(Exception):
    """This vLLM is laid out in a way this module does not know; the message says what was looked for."""


@dataclasses.dataclass(frozen=True)
class FoundClass:
    """A class seen in the source, not yet imported."""

    module: str
    name: str
    bases: tuple[str, ...]
    identifiers: frozenset[str]


@functools.cache
def find_layer(layer: str, package: Path, *, model_type: str = "") -> type:
    """The class that `layer` ("gdn", "olmo" or "kda") is made of in the vLLM under `package`.

    Raises:
        UnknownLayoutError: no class, or several that cannot be told apart, does what the layer does.
    """
    candidates = [found for found in _delta_rule_classes(package) if _kind(found) == layer]
    if len({(found.module, found.name) for found in candidates}) > 1:
        # Layers are shared by models; a copy inside one model's file belongs to that model alone.
        shared = [found for found in candidates if ".layers." in found.module]
        candidates = shared or candidates
    if not candidates:
        raise UnknownLayoutError(
            f"no {layer} layer in {package.resolve()}: looked in {', '.join(_PLACES)} for a class that reads "
            f"get_forward_context() and calls {_RULE[layer]}*"
        )
    if len(candidates) > 1:
        names = ", ".join(f"{found.module}.{found.name}" for found in candidates)
        raise UnknownLayoutError(f"{len(candidates)} classes look like the {layer} layer: {names}")
    (found,) = candidates
    family = model_type.removesuffix("_moe").removesuffix("_text")
    for special in _subclasses(package, found.name):
        if family and family in special.module:
            try:
                return _load(special)
            except ImportError:
                # The model's file may need image libraries; its layer only splits projections differently.
                break
    return _load(found)


@functools.cache
def find_warmups(package: Path) -> tuple[Callable[..., Any], ...]:
    """The parts of this release's `kernel_warmup` that deal with linear-attention layers; often none.

    A part is a function that it imports from a module about them, or one of its own that speaks of them.
    """
    source = package / "model_executor" / "warmup" / "kernel_warmup.py"
    if not source.is_file():
        return ()
    text, home = source.read_text(), f"{package.name}.model_executor.warmup"
    found: dict[str, Callable[..., Any]] = {}
    for node in ast.walk(tree := ast.parse(text)):
        if not isinstance(node, ast.ImportFrom):
            continue
        name = importlib.util.resolve_name("." * node.level + (node.module or ""), home)
        file = package.parent / (name.replace(".", "/") + ".py")
        if ".warmup." in name and file.is_file() and _about_linear_attention(file.read_text()):
            module = importlib.import_module(name)
            found |= {alias.name: getattr(module, alias.name) for alias in node.names}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    called = set(_identifiers(functions[source.stem])) if source.stem in functions else set()
    for own, function in functions.items():
        if own in called and _about_linear_attention(ast.get_source_segment(text, function) or ""):
            found[own] = getattr(importlib.import_module(f"{home}.{source.stem}"), own)
    return tuple(part for part in found.values() if callable(part) and not isinstance(part, type))


def _about_linear_attention(source: str) -> bool:
    return any(word in source for word in ("_gdn_", "GatedDelta", "mamba_utils")) and "kimi_k3" not in source


def _kind(found: FoundClass) -> str | None:
    names = found.identifiers
    if any(name.startswith(_RULE["kda"]) for name in names):
        return "kda" if "bailing" not in found.module else None
    if _RULE["gdn"] in names:
        return "olmo" if "olmo" in found.module else "gdn"
    return None


def _delta_rule_classes(package: Path) -> list[FoundClass]:
    return [
        found
        for found in _classes(package, "get_forward_context")
        if "get_forward_context" in found.identifiers
        and any(name.startswith(tuple(_RULE.values())) for name in found.identifiers)
    ]


def _subclasses(package: Path, base: str) -> list[FoundClass]:
    return [found for found in _classes(package, base) if base in found.bases]


def _classes(package: Path, word: str) -> Iterator[FoundClass]:
    for place in _PLACES:
        for file in _python_files(package / place):
            source = file.read_text()
            if word not in source or (
                "delta_rule" not in source and "kda" not in source and "Delta" not in source
            ):
                continue
            module = ".".join(file.relative_to(package.parent).with_suffix("").parts)
            for node in ast.parse(source, str(file)).body:
                if isinstance(node, ast.ClassDef):
                    bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
                    yield FoundClass(module, node.name, bases, frozenset(_identifiers(node)))


def _python_files(folder: Path) -> list[Path]:
    """All modules below, also behind linked folders, which `Path.rglob` does not enter."""
    walked = os.walk(folder, followlinks=True)
    return sorted(Path(path) / name for path, _, names in walked for name in names if name.endswith(".py"))


def _identifiers(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            yield child.id
        elif isinstance(child, ast.Attribute):
            yield child.attr
        elif isinstance(child, ast.alias):
            yield child.name.rsplit(".", 1)[-1]


def _load(found: FoundClass) -> type:
    loaded = getattr(importlib.import_module(found.module), found.name)
    if not isinstance(loaded, type):
        raise UnknownLayoutError(f"{found.module}.{found.name} is not a class")
    return loaded
