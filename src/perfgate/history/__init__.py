"""Every session, kept: lines over time, change points, slow drift, and when a baseline is due for a new recording."""

from perfgate.history.advice import moved_software, refresh_advice
from perfgate.history.changes import Change, Drift, Trend, trend
from perfgate.history.lines import Line, line
from perfgate.history.store import History, Point, Series, remember

__all__ = [
    "Change",
    "Drift",
    "History",
    "Line",
    "Point",
    "Series",
    "Trend",
    "line",
    "moved_software",
    "refresh_advice",
    "remember",
    "trend",
]
