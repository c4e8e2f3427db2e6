"""Coverage for people: one cell in full, many as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from perfgate.autotune.coverage import Coverage
from perfgate.autotune.moe import MoeAnswer, MoeInServer

_MARK = {"covered": "ok", "undetermined": "?"}
_SHORT = {"bfloat16": "bf16", "float32": "f32"}
_JIT_LINES = 12
_LINE = 240


def details(coverage: Coverage) -> str:
    """Everything about one cell."""
    lines = [
        f"vLLM {coverage.vllm}, Triton {coverage.triton}: {coverage.model}, layer {coverage.layer}, tp {coverage.tp}, "
        f"{coverage.state_dtype} state, on an emulated {coverage.gpu}",
        f"{coverage.status.upper()}: {coverage.reason()}",
    ]
    if coverage.undetermined:
        return "\n".join(lines)
    lines.append(
        f"configurations benchmarked: {coverage.configs_benched_at_start} at start, "
        f"{coverage.configs_benched_at_inference} at inference"
    )
    if coverage.default_prefill_backend not in ("", "triton"):
        lines.append(
            f"this release prefills with {coverage.default_prefill_backend} on this GPU by default, which has no Triton "
            "autotuner; the keys are those of --gdn-prefill-backend triton"
        )
    lines += [f"warm-up: {failure}" for failure in coverage.warmup_failures]
    for missed in coverage.keys_missed:
        lines.append(f"missed  {missed.kernel}  first at: {missed.when}  ({missed.configs} configurations)")
        lines.append(f"        {missed.differs}")
    if coverage.jit_missed:
        lines.append(
            f"{len(coverage.jit_missed)} JIT specialisations are compiled at inference (no benchmark, but a pause):"
        )
        for late in coverage.jit_missed[:_JIT_LINES]:
            lines.append(f"jit     {late.kernel}  first at: {late.when}")
            lines.append(f"        {_shortened(late.specialisation)}")
        if len(coverage.jit_missed) > _JIT_LINES:
            lines.append(f"        and {len(coverage.jit_missed) - _JIT_LINES} more; --json has all")
    return "\n".join(lines)


def matrix(found: Sequence[Coverage]) -> str:
    """Models × tensor-parallel sizes down, GPUs × state dtypes across; `ok` or missed/reachable keys, `?` undetermined."""
    columns = list(dict.fromkeys((cell.gpu, cell.state_dtype) for cell in found))
    rows = list(dict.fromkeys((cell.model, cell.layer, cell.tp) for cell in found))
    cells = {(cell.model, cell.layer, cell.tp, cell.gpu, cell.state_dtype): cell for cell in found}
    head = ["model", "layer", "tp", *(f"{gpu} {_SHORT.get(dtype, dtype)}" for gpu, dtype in columns)]
    table = [head]
    for model, layer, tp in rows:
        marks = []
        for gpu, dtype in columns:
            cell = cells.get((model, layer, tp, gpu, dtype))
            marks.append("-" if cell is None else _mark(cell))
        table.append([model, layer, str(tp), *marks])
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    count = {
        state: sum(cell.status == state for cell in found) for state in ("covered", "missed", "undetermined")
    }
    lines.append("")
    lines.append(
        f"vLLM {found[0].vllm}, Triton {found[0].triton}: {len(found)} cells, {count['covered']} covered, "
        f"{count['missed']} with missed keys, {count['undetermined']} undetermined"
    )
    lines += _costs(found)
    reasons = dict.fromkeys(cell.reason() for cell in found if cell.status == "undetermined")
    lines += [f"? {reason}" for reason in reasons]
    return "\n".join(lines)


def _costs(found: Sequence[Coverage]) -> list[str]:
    """What a start and a first request cost on each GPU, over all its determined cells."""
    lines = []
    for gpu in dict.fromkeys(cell.gpu for cell in found):
        known = [cell for cell in found if cell.gpu == gpu and not cell.undetermined]
        if not known:
            continue
        start = _range(cell.configs_benched_at_start for cell in known)
        late = _range(cell.configs_benched_at_inference for cell in known)
        backends = sorted({cell.default_prefill_backend for cell in known} - {"", "triton"})
        default = (
            f"; prefills with {', '.join(backends)} by default, these are the keys of Triton's"
            if backends
            else ""
        )
        lines.append(f"{gpu}: {start} configurations benchmarked at start, {late} at inference{default}")
    compiled = sorted({late.kernel for cell in found for late in cell.jit_missed})
    if compiled:
        lines.append(f"compiled at inference (no benchmark, but a pause): {', '.join(compiled)}")
    return lines


def _range(numbers: Iterable[int]) -> str:
    low, *others = sorted(set(numbers))
    return f"{low} to {others[-1]}" if others else str(low)


def _shortened(text: str) -> str:
    return text if len(text) <= _LINE else text[: _LINE - 2] + " …"


def _mark(coverage: Coverage) -> str:
    if coverage.status == "missed":
        return f"{len(coverage.keys_missed)}/{coverage.keys_reachable}"
    return _MARK[coverage.status]


def moe_lines(
    found: Sequence[MoeAnswer],
    mounted: Mapping[str, Sequence[int]] | None = None,
    in_server: Sequence[MoeInServer] = (),
) -> list[str]:
    """One line a distinct model, tensor-parallel size and GPU; then one each on what a server's log says of it."""
    lines = ["", "tuned MoE configurations:"]
    for answer in dict.fromkeys(found):
        if answer.file is None:
            what = "no experts"
        elif mounted and answer.file in mounted:
            what = f"mounted, batch sizes {', '.join(map(str, mounted[answer.file]))}  ({answer.file})"
        elif answer.shipped:
            what = f"shipped, batch sizes {', '.join(map(str, answer.batch_sizes))}  ({answer.file})"
        else:
            what = f"not shipped, defaults are used  ({answer.file})"
        lines.append(f"  {answer.model} tp {answer.tp} on {answer.gpu}: {what}")
        if mounted and answer.file not in (None, *mounted):
            lines.append(f"    mounted are only {', '.join(mounted)}")
    lines += [
        f"  the server's log, {said.model} tp {said.tp} on {said.gpu}: {said.finding}: {said.text}"
        for said in dict.fromkeys(in_server)
    ]
    return lines
