"""A warm-up that is broken on purpose, in a copy of vLLM's source, is never called covered."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from perfgate.autotune.coverage import Coverage, determine
from perfgate.autotune.question import Question
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


def layer_file(package: Path) -> Path:
    """The module that holds the GDN layer and its warm-up."""
    (file,) = [
        path
        for path in sorted((package / "model_executor").rglob("*.py"))
        if "def _warmup_prefill_kernels" in path.read_text()
    ]
    return file


def mutated(package: Path, target: Path, mutation: Mutation) -> Path:
    """A folder with a ``vllm`` that is ``package`` but for one changed function."""
    file = layer_file(package)
    source = file.read_text()
    start = source.index("def _warmup_prefill_kernels")
    end = source.find("\n    def ", start)
    changed = replaced(source[start:end], mutation.pattern, mutation.replacement)
    return copy_with(package, target, {file: source[:start] + changed + source[end:]})


def replaced(source: str, pattern: str, replacement: str) -> str:
    """The source with the first match replaced; there must be one."""
    changed, count = re.subn(pattern, replacement, source, count=1)
    assert count == 1, f"the pattern {pattern!r} no longer fits"
    return changed


def copy_with(package: Path, target: Path, changes: Mapping[Path, str | None]) -> Path:
    """A folder with a ``vllm`` that is ``package`` but for files with another text, or with none; everything else is linked."""

    def fill(here: Path, there: Path, below: Sequence[tuple[tuple[str, ...], str | None]]) -> None:
        there.mkdir(parents=True)
        names = {parts[0] for parts, _text in below}
        for entry in here.iterdir():
            if entry.name not in (*names, "__pycache__"):
                (there / entry.name).symlink_to(entry)
        for name in names:
            inner = [(parts[1:], text) for parts, text in below if parts[0] == name]
            if inner[0][0]:
                fill(here / name, there / name, inner)
            elif inner[0][1] is not None:
                (there / name).write_text(inner[0][1])

    fill(
        package, target / "vllm", [(file.relative_to(package).parts, text) for file, text in changes.items()]
    )
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
def package() -> Path:
    """The installed vLLM."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def mutants(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Coverage]]:
    """The installed vLLM's coverage under each mutation, two at a time."""
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


@pytest.mark.releases
def test_a_layer_that_moved_and_changed_its_name_is_found(package: Path, tmp_path: Path) -> None:
    """File, class and warm-up under other names: the answer is the same, without code for it."""
    file = layer_file(package)
    (name,) = re.findall(r"^class (\w*GatedDeltaNet\w*)\(", file.read_text(), flags=re.MULTILINE)
    module, moved = f"gdn.{file.stem}", file.parent.parent / "somewhere_else.py"
    changes: dict[Path, str | None] = {file: None}
    for path in package.rglob("*.py"):
        source = path.read_text()
        if name in source or module in source:
            renamed = source.replace(name, "Whatever").replace("_warmup_prefill_kernels", "_prime")
            changes[moved if path == file else path] = renamed.replace(module, moved.stem)
    found = ask(copy_with(package, tmp_path / "mutant", changes))
    assert found.layer_class.endswith("somewhere_else.Whatever")
    assert (found.status, found.keys_warmed, found.keys_reachable) == ("covered", 6, 6)


@pytest.mark.releases
def test_a_parameter_that_nobody_knows_is_named(package: Path, tmp_path: Path) -> None:
    """A layer that wants something new is undetermined, and the answer says what it wants."""
    file = layer_file(package)
    changed = replaced(
        file.read_text(), r"(?s)(class \w*GatedDeltaNet.*?def __init__\(\s*self,)", r"\1 novelty: int,"
    )
    found = ask(copy_with(package, tmp_path / "mutant", {file: changed}))
    assert found.status == "undetermined"
    assert "requires novelty" in found.undetermined


@pytest.mark.releases
def test_a_key_that_follows_the_length_is_missed(package: Path, tmp_path: Path) -> None:
    """An autotune key that takes in the number of tokens is missed for every length but the one that was warmed."""
    (file,) = [path for path in package.rglob("chunk_o.py") if "def chunk_fwd_kernel_o" in path.read_text()]
    changed = replaced(file.read_text(), r'key=\["H", "K", "V", "BT"\]', 'key=["T", "H", "K", "V", "BT"]')
    found = ask(copy_with(package, tmp_path / "mutant", {file: changed}))
    assert found.status == "missed"
    assert {missed.kernel for missed in found.keys_missed} == {"chunk_fwd_kernel_o"}
    assert len(found.keys_missed) > 20
