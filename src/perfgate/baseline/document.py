"""A baseline as bytes: strict reading, diff-friendly writing."""

from __future__ import annotations

from perfgate.documents import Kind, decode, encode
from perfgate.errors import BaselineAccessError, BaselineCorruptError, BaselineSchemaError
from perfgate.metrics import METRICS
from perfgate.records import Baseline

BASELINE = Kind(
    word="baseline",
    corrupt=BaselineCorruptError,
    schema=BaselineSchemaError,
    access=BaselineAccessError,
    remedy="Restore the file (git checkout), or record the cell again: delete the file and run with --new-baselines.",
    marks=frozenset({"provenance"}),
)


def encode_baseline(baseline: Baseline) -> bytes:
    """The baseline as pretty JSON with sorted keys and a final newline."""
    return encode(baseline)


def decode_baseline(content: bytes, *, source: str) -> Baseline:
    """The baseline that the bytes hold.

    Beyond the schema, a primary metric of zero is refused: it is what failed requests leave behind, it has no logarithm, and nothing
    could ever be slower than it.

    Raises:
        BaselineCorruptError: naming file, field and remedy.
        BaselineSchemaError: another schema number.
    """
    baseline = decode(content, Baseline, kind=BASELINE, source=source)
    for boot_number, boot in enumerate(baseline.boots):
        for run_number, run in enumerate(boot.runs):
            for name, value in run.metrics.items():
                if value == 0 and name in METRICS and METRICS[name].primary:
                    raise BaselineCorruptError(
                        f"{source}: field $.boots[{boot_number}].runs[{run_number}].metrics.{name}: "
                        f"zero is no measurement of a time or a rate",
                        remedy=BASELINE.remedy,
                    )
    return baseline
