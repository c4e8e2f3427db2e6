"""What claims, sweeps and changes of a kernel came to: for a terminal, as Markdown, and as tables for the page."""

from __future__ import annotations

from dataclasses import dataclass

from perfgate.findings import Findings
from perfgate.report import claims, kernelgain, sweep


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table with what is said about it.

    Attributes:
        title: of the part that it belongs to.
        caption: of the table.
        headings: of its columns.
        rows: one text a heading.
        texts: sentences under it.
    """

    title: str
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...] = ()


def sections(found: Findings) -> list[tuple[str, str]]:
    """Title and aligned text of each kind that the session has."""
    kinds = (
        ("claims", [claims.table(found.claims)] if found.claims else []),
        ("sweep", [sweep.table(one) for one in found.sweeps]),
        ("kernel and serving", [kernelgain.table(one) for one in found.changes]),
    )
    return [(title, "\n\n".join(texts)) for title, texts in kinds if texts]


def document(found: Findings) -> str:
    """All of them as Markdown; empty for none."""
    parts = []
    if found.claims:
        parts += ["### Claims", claims.markdown(found.claims)]
    for one in found.sweeps:
        parts += [f"### Sweep of {one.server}", sweep.markdown(one)]
    if found.changes:
        parts += ["### Kernel and serving", *map(kernelgain.markdown, found.changes)]
    return "\n\n".join(parts)


def blocks(found: Findings) -> list[Block]:
    """All of them as tables."""
    made: list[Block] = []
    if found.claims:
        made.append(
            Block(
                title="Claims",
                caption="Findings about flags, held against this machine",
                headings=claims.HEADINGS,
                rows=tuple(claims.rows(found.claims)),
                texts=tuple(claims.reasons(found.claims)),
            )
        )
    for one in found.sweeps:
        made += [
            Block(
                title=f"Sweep of {one.server}",
                caption=cell.cell,
                headings=sweep.HEADINGS,
                rows=tuple(sweep.rows(cell)),
                texts=(*sweep.remarks(cell), *sweep.footnotes(one)),
            )
            for cell in one.cells
        ]
    for change in found.changes:
        title = kernelgain.headline(change)
        made += [
            Block(
                title=title,
                caption=kernelgain.kernel_title(workload),
                headings=kernelgain.KERNEL,
                rows=tuple(kernelgain.kernel_rows(workload)),
            )
            for workload in change.workloads
            if workload.kernel
        ]
        problem = (f"the kernel could not be timed: {change.problem}",) if change.problem else ()
        made.append(
            Block(
                title=title,
                caption="kernel and serving",
                headings=kernelgain.SERVING,
                rows=tuple(kernelgain.serving_rows(change)),
                texts=(*problem, *kernelgain.reasons(change)),
            )
        )
    return made
