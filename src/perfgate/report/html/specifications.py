"""How each kind of plot looks: Vega-Lite without data; the page's script adds data sets and axis titles. Colours are the page's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PHASES = ("waiting to be sent", "queue and prefill", "decode")
"""Of a request, in order."""
STAGES = ("queue", "prefill", "decode")
"""Of a request, as the server counts them."""


def _colour(field: str, domain: Sequence[str], colours: Sequence[str], **more: Any) -> dict[str, Any]:
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(domain), "range": list(colours)},
        **more,
    }


_SIDES = _colour("side", ("baseline", "now"), ("var(--base)", "var(--now)"), title=None)
_TONES = _colour(
    "tone", ("bad", "unsure", "good"), ("var(--bad)", "var(--unsure)", "var(--good)"), legend=None
)
_CATEGORIES = [f"var(--c{n})" for n in range(1, 9)]
_LEGEND = {"orient": "top", "title": None}
_QUANTITY: dict[str, Any] = {"type": "quantitative"}


def _free(field: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "scale": {"zero": False, "nice": True}, **more}


SPECIFICATIONS: Mapping[str, dict[str, Any]] = {
    "forest": {
        "height": {"step": 18},
        "encoding": {
            "y": {
                "field": "cell",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"labelLimit": 170},
            }
        },
        "layer": [
            {
                "data": {"name": "limits"},
                "mark": {"type": "rule", "opacity": 0},
                "encoding": {"x": {"field": "lo", **_QUANTITY}, "x2": {"field": "hi"}, "y": {"value": 0}},
            },
            {
                "mark": {"type": "rule", "color": "var(--text)", "strokeDash": [2, 2]},
                "encoding": {"x": {"datum": 0}, "y": {"value": 0}, "y2": {"value": "height"}},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 3},
                "encoding": {
                    "x": {"field": "lo", **_QUANTITY, "axis": {"format": "+.0%"}},
                    "x2": {"field": "hi"},
                    "color": _TONES,
                },
            },
            {
                "mark": {"type": "tick", "color": "var(--text)", "thickness": 1, "size": 12},
                "encoding": {"x": {"field": "margin", **_QUANTITY}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "x": {"field": "v", **_QUANTITY},
                    "color": _TONES,
                    "shape": {
                        "field": "tone",
                        "type": "nominal",
                        "scale": {
                            "domain": ["bad", "unsure", "good"],
                            "range": ["square", "diamond", "circle"],
                        },
                        "legend": None,
                    },
                    "tooltip": [
                        {"field": "key", "title": "cell"},
                        {"field": "said", "title": "change"},
                        {"field": "verdict"},
                    ],
                },
            },
        ],
    },
    "replicates": {
        "height": 96,
        "encoding": {
            "y": {"field": "side", "type": "nominal", "scale": {"domain": ["baseline", "now"]}, "title": None}
        },
        "layer": [
            {
                "data": {"name": "band"},
                "mark": {"type": "rect", "color": "var(--band)", "opacity": 1},
                "encoding": {
                    "x": _free("lo"),
                    "x2": {"field": "hi"},
                    "y": {"value": 0},
                    "y2": {"value": "height"},
                },
            },
            {
                "data": {"name": "runs"},
                "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.55},
                "encoding": {
                    "x": _free("v"),
                    "yOffset": {"field": "n", "type": "ordinal"},
                    "color": {**_SIDES, "legend": None},
                    "tooltip": [{"field": "boot"}, {"field": "v", "title": "run"}],
                },
            },
            {
                "data": {"name": "means"},
                "mark": {"type": "tick", "thickness": 2, "size": 8},
                "encoding": {
                    "x": _free("v"),
                    "yOffset": {"field": "n", "type": "ordinal"},
                    "color": {**_SIDES, "legend": None},
                    "tooltip": [{"field": "boot"}, {"field": "v", "title": "boot mean"}],
                },
            },
            {
                "data": {"name": "interval"},
                "mark": {"type": "rule", "strokeWidth": 2, "color": "var(--text)"},
                "encoding": {"x": _free("lo"), "x2": {"field": "hi"}},
            },
        ],
    },
    "ecdf": {
        "height": 200,
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "v",
                "type": "quantitative",
                "scale": {"type": "log", "nice": False},
                "axis": {"tickCount": 6},
            },
            "y": {
                "field": "p",
                "type": "quantitative",
                "scale": {"domain": [0, 1]},
                "axis": {"format": ".0%"},
                "title": "requests",
            },
            "color": {**_SIDES, "legend": _LEGEND},
            "strokeDash": {
                "field": "side",
                "type": "nominal",
                "scale": {"domain": ["baseline", "now"], "range": [[5, 3], [1, 0]]},
                "legend": _LEGEND,
            },
        },
    },
    "timeline": {
        "height": 260,
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "from", **_QUANTITY},
            "x2": {"field": "to"},
            "y": {"field": "n", "type": "ordinal", "axis": {"labels": False, "ticks": False}},
            "color": _colour("phase", PHASES, ("var(--c8)", "var(--c2)", "var(--c1)"), legend=_LEGEND),
            "tooltip": [
                {"field": "n", "title": "request"},
                {"field": "phase"},
                {"field": "from"},
                {"field": "to"},
            ],
        },
    },
    "stages": {
        "height": {"step": 22},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "v", "type": "quantitative", "stack": True},
            "y": {"field": "side", "type": "nominal", "sort": None, "title": None},
            # The colours of the timeline beside it.
            "color": _colour("stage", STAGES, ("var(--c5)", "var(--c2)", "var(--c1)"), legend=_LEGEND),
            "order": {"field": "i"},
            "tooltip": [{"field": "side"}, {"field": "stage"}, {"field": "v", "title": "ms"}],
        },
    },
    "phases": {
        "height": {"step": 16},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "v", "type": "quantitative", "stack": True},
            "y": {"field": "boot", "type": "nominal", "sort": {"field": "n"}, "title": None},
            "color": {
                "field": "phase",
                "type": "nominal",
                "sort": None,
                "scale": {"range": _CATEGORIES},
                "legend": {**_LEGEND, "columns": 3},
            },
            "order": {"field": "i"},
            "tooltip": [{"field": "boot"}, {"field": "phase"}, {"field": "v", "title": "seconds"}],
        },
    },
    "history": {
        "height": 160,
        "layer": [
            {
                "data": {"name": "rows"},
                "mark": {
                    "type": "line",
                    "point": {"size": 22, "filled": True, "color": "var(--now)"},
                    "color": "var(--now)",
                },
                "encoding": {"x": {"field": "t", "type": "temporal", "title": None}, "y": _free("v")},
            },
            {
                "data": {"name": "marks"},
                "mark": {"type": "rule", "color": "var(--bad)", "strokeDash": [4, 3], "strokeWidth": 2},
                "encoding": {
                    "x": {"field": "t", "type": "temporal"},
                    "tooltip": [{"field": "t", "type": "temporal", "title": "change"}, {"field": "note"}],
                },
            },
        ],
    },
}
"""Vega-Lite by kind, without data: the page's script adds each plot's data sets and axis titles. Colours are the page's own."""
