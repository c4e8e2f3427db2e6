"""One self-contained HTML page a session: verdicts, plots and the numbers behind them, without a network.

The plots are Vega-Lite, drawn as SVG in the reader's browser when a cell is opened: two hundred cells cost one library and their
data, not two hundred drawings. Its bundle comes from the ``vl-convert-python`` package. A content security policy names the hashes
of the page's own scripts, so that text from outside cannot run even if it got past the template's escaping; every number that a
plot shows is in a table too, which needs no script.
"""

from perfgate.report.html.charts import HistoryLine
from perfgate.report.html.page import page

__all__ = ["HistoryLine", "page"]
