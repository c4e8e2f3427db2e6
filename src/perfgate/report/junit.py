"""A verdict as JUnit properties of the test it belongs to."""

from __future__ import annotations

from perfgate.records import CellVerdict
from perfgate.report import values
from perfgate.report.escape import visible


def properties(verdict: CellVerdict) -> list[tuple[str, str]]:
    """Name and value pairs, all text: the verdict, and for each metric its values, change, interval and own verdict.

    Numbers are written in full so that a machine reads back what was measured; a missing value has no property.
    """
    found = [("perfgate.cell", str(verdict.cell)), ("perfgate.verdict", verdict.outcome.value)]
    if verdict.reason:
        found.append(("perfgate.reason", visible(verdict.reason)))
    if verdict.next_step:
        found.append(("perfgate.next", visible(verdict.next_step)))
    if verdict.command:
        found.append(("perfgate.command", visible(verdict.command)))
    if verdict.baseline_file:
        found.append(("perfgate.baseline_file", visible(verdict.baseline_file)))
    for metric in verdict.metrics:
        stem = f"perfgate.{visible(metric.metric)}"
        found.append((f"{stem}.verdict", metric.outcome.value))
        unit = values.unit(metric.metric)
        if unit:
            found.append((f"{stem}.unit", unit))
        numbers = {
            "baseline": metric.baseline,
            "now": metric.now,
            "change": metric.change,
            "lower": metric.lower,
            "upper": metric.upper,
            "margin": metric.margin,
            "smallest_detectable": metric.smallest_detectable,
        }
        found += [(f"{stem}.{name}", repr(value)) for name, value in numbers.items() if value is not None]
        if metric.change is not None:
            found.append((f"{stem}.interval", values.interval(metric)))
    return found
