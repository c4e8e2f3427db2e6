"""A warm-up that is broken on purpose, in a copy of vLLM's source, is never called covered."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from perfgate.autotune.coverage import Coverage, Question, determine
from perfgate.catalogue import load_catalogue
from perfgate.targets import GpuSpec, ModelSpec

pytestmark = [pytest.mark.kernels, pytest.mark.truth]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A change inside ``_warmup_prefill_kernels``: what to replace, by what, and what coverage must then say."""

    pattern: str
    replacement: str
    differs: str


MUTATIONS = {
    "gate in bfloat16": Mutation(
        pattern=r"\n(\s+)g = g\.unsqueeze\(0\)",
        replacement=r"\n\1g = g.unsqueeze(0).to(dtype)",
        differs="s.dtype|g.dtype",
    ),
    "64-bit sequence starts": Mutation(
        pattern=r"(cu_seqlens = .*)torch\.int32", replacement=r"\1torch.int64", differs="cu_seqlens.dtype"
    ),
    "no final state": Mutation(
        pattern=r"output_final_state=True", replacement="output_final_state=False", differs="ht.dtype"
    ),
    "another state dtype": Mutation(
        pattern=r"dtype=state_dtype", replacement="dtype=torch.float16", differs="h0.dtype"
    ),
    "raises, caught and logged": Mutation(
        pattern=r"(\n\s+)(self\.chunk_gated_delta_rule\()",
        replacement=r"\1raise RuntimeError('broken')\1\2",
        differs="",
    ),
    "raises, caught in silence": Mutation(
        pattern=r"(?s)(\n\s+)(self\.chunk_gated_delta_rule\()(.*?)(except Exception:\n\s+)logger\.warning\(.*?\n\s+\)",
        replacement=r"\1raise RuntimeError('broken')\1\2\3\4pass",
        differs="",
    ),
    "logs a failure": Mutation(
        pattern=r"(\n\s+)(dtype = \w+\.dtype)",
        replacement=r'\1\2\1logger.warning("GDN warmup failed")',
        differs="",
    ),
    "does nothing": Mutation(
        pattern=r"(\n\s+)(dtype = \w+\.dtype)", replacement=r"\1\2\1return", differs="did not run in warm-up"
    ),
}


def mutated(package: Path, target: Path, mutation: Mutation) -> Path:
    """A folder with a ``vllm`` that is ``package`` but for one changed file; everything else is linked."""
    (file,) = [
        path
        for path in sorted((package / "model_executor").rglob("*.py"))
        if "def _warmup_prefill_kernels" in path.read_text()
    ]
    source = file.read_text()
    start = source.index("def _warmup_prefill_kernels")
    end = source.find("\n    def ", start)
    changed, count = re.subn(mutation.pattern, mutation.replacement, source[start:end], count=1)
    assert count == 1, f"the pattern {mutation.pattern!r} no longer fits {file}"
    here, there = package, target / "vllm"
    there.mkdir(parents=True)
    for part in file.relative_to(package).parts:
        for entry in here.iterdir():
            if entry.name not in (part, "__pycache__"):
                (there / entry.name).symlink_to(entry)
        here, there = here / part, there / part
        if here.is_dir():
            there.mkdir()
    there.write_text(source[:start] + changed + source[end:])
    return target


def ask(source: Path) -> Coverage:
    """Coverage of one GDN model on a GB10."""
    question = Question(
        gpu=load_catalogue("gpus")["gb10"].parse(GpuSpec),
        model=load_catalogue("models")["qwen3.5-35b-a3b"].parse(ModelSpec),
    )
    (found,) = determine([question], vllm_source=source)
    return found


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Coverage]]:
    """The installed vLLM's coverage under each mutation, two at a time."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    folders = {
        name: mutated(package, tmp_path_factory.mktemp("mutant"), mutation)
        for name, mutation in MUTATIONS.items()
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield dict(zip(folders, pool.map(ask, folders.values()), strict=True))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_warm_up_is_not_covered(mutants: dict[str, Coverage], name: str) -> None:
    """Every mutation of the installed vLLM's warm-up turns coverage red, and the field it broke is named."""
    found = mutants[name]
    assert not found.covered
    assert found.status in ("missed", "undetermined")
    if MUTATIONS[name].differs:
        assert found.keys_missed
        assert any(re.search(MUTATIONS[name].differs, missed.differs) for missed in found.keys_missed)


@pytest.mark.parametrize("name", ["raises, caught and logged", "raises, caught in silence", "logs a failure"])
def test_a_failed_warm_up_is_reported(mutants: dict[str, Coverage], name: str) -> None:
    """A warm-up that raised, even in silence, or says that it failed, is quoted in the answer."""
    assert mutants[name].warmup_failures


def test_a_dropped_length_is_missed(vllm_release: Callable[[str], Path], tmp_path: Path) -> None:
    """0.19.1 without T = 16 misses the output kernel's key for block size 16."""
    dropped = Mutation(pattern=r"for T in \(16, ", replacement="for T in (", differs="BT")
    found = ask(mutated(vllm_release("0.19.1") / "vllm", tmp_path / "mutant", dropped))
    (missed,) = found.keys_missed
    assert missed.kernel == "chunk_fwd_kernel_o"
    assert missed.key["BT"] == "16"
    assert "BT: " in missed.differs
