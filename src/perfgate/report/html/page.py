"""Puts the page together: content, template, style, scripts, and the policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from perfgate.records import Baseline, Cell, SessionResults
from perfgate.report import findings, values
from perfgate.report.escape import visible
from perfgate.report.html import charts
from perfgate.report.html.charts import HistoryLine
from perfgate.report.html.content import by_cell, cell_content
from perfgate.report.html.sections import SettingsPool
from perfgate.report.html.specifications import SPECIFICATIONS
from perfgate.report.terminal import summary_line

VEGA_LITE = "6.4"
PACKED = 40
"""Cells from which their contents are kept as text until they are opened: a browser needs seconds for two hundred of them."""


def page(
    results: SessionResults,
    *,
    baselines: Mapping[Cell, Baseline] | None = None,
    history: Sequence[HistoryLine] = (),
) -> str:
    """The session as one HTML document that needs no network and no other file.

    Args:
        results: the session; measurements without a verdict and verdicts without a measurement are both shown.
        baselines: what each cell was judged against, as far as it is at hand.
        history: past sessions by cell and metric, with change points.
    """
    measurements, old = (by_cell(results.measurements, side) for side in ("now", "old"))
    ordered = values.worst_first(results.verdicts)
    pool = SettingsPool()
    cells = [
        cell_content(
            verdict,
            number=number,
            measurement=measurements.get(verdict.cell),
            old=old.get(verdict.cell),
            baseline=(baselines or {}).get(verdict.cell),
            history=[line for line in history if line.cell == verdict.cell],
            pool=pool,
            at=results.started,
            opened=number == 1 and charts.tone(verdict.outcome) != "good",
        )
        for number, verdict in enumerate(ordered, start=1)
    ]
    judged = {verdict.cell for verdict in ordered}
    overview = charts.overview(ordered)
    library, script = _library(), _file("page.js")
    return _environment().get_template("page.html").render(
        results=results,
        summary=summary_line(ordered) if ordered or not results.findings else "nothing was judged against a baseline",
        counts=[(outcome, count, charts.tone(outcome)) for outcome, count in values.counts(ordered).items()],
        cells=cells,
        packed=len(cells) >= PACKED,
        unjudged=[str(measurement.cell) for measurement in results.measurements if measurement.cell not in judged],
        findings=findings.blocks(results.findings),
        overview=overview,
        overview_data=[chart.plain() for chart in overview],
        specifications=dict(SPECIFICATIONS),
        settings=pool.kept,
        style=Markup(_file("page.css")),
        library=Markup(library),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src '{_hash(library)}' '{_hash(script)}'",
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("perfgate.report", "html"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_function"] = _compact
    environment.policies["json.dumps_kwargs"] = {}
    environment.filters.update(
        embedded=_embedded, percent=values.percent, interval=values.interval, label=values.label
    )
    return environment


def _embedded(markup: Markup) -> Markup:
    """Markup as a JSON text inside a script element, which nothing in it can end."""
    text = json.dumps(str(markup)).replace("</", "<\\/").replace("<!--", "\\u003c!--")
    return Markup(text)


def _shown(value: object) -> object:
    """Text from outside with its control characters made visible; escaping comes after this."""
    return visible(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@cache
def _library() -> str:
    """Vega, Vega-Lite and its embedder as one script; building it takes about two seconds."""
    import vl_convert  # 80 MB of library, for nothing but this

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))
    # An end tag inside a string would end the element that holds the script.
    return bundle.replace("</script", "<\\/script")


@cache
def _file(name: str) -> str:
    return files("perfgate.report.html").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
