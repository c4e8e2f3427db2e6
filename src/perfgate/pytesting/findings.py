"""Findings on their way from a test to the session's results: as properties of its report, which cross processes and reach JUnit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

# Imported by every pytest run of an environment that has perfgate: what is heavy waits.
if TYPE_CHECKING:
    from perfgate.findings import ChangeFinding, ClaimFinding, Findings, SweepFinding

PROPERTIES = {"perfgate.claim": "claims", "perfgate.sweep": "sweeps", "perfgate.kernel_gain": "changes"}
"""Name of the property → field of `perfgate.findings.Findings`."""


def report_finding(
    request: pytest.FixtureRequest, name: str, finding: ClaimFinding | SweepFinding | ChangeFinding
) -> None:
    """Puts a finding on the report of the test that found it.

    Args:
        request: of the test.
        name: one of `PROPERTIES`.
        finding: what was found.
    """
    if name not in PROPERTIES:
        raise ValueError(f"{name!r} is none of {', '.join(PROPERTIES)}")
    request.node.user_properties.append((name, finding.model_dump_json()))


def findings_of(report: pytest.TestReport) -> Findings | None:
    """The findings on a report; None where there are none."""
    found: dict[str, list[object]] = {}
    for name, value in report.user_properties:
        if name in PROPERTIES:
            found.setdefault(PROPERTIES[name], []).append(json.loads(str(value)))
    if not found:
        return None
    from perfgate.findings import Findings

    return Findings.model_validate_json(json.dumps(found))
