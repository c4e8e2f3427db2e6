"""What the HTML page holds, without a browser; how it behaves in one is in tests/browser."""

import base64
import hashlib
import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_data import HOSTILE, START, bare, session, verdict

from perfgate.records import BootRecord, Cell, MetricVerdict, Outcome, Provenance
from perfgate.report import html
from perfgate.report.html import HistoryLine, charts
from perfgate.report.html.sections import flatten, timeline


class Elements(HTMLParser):
    """Counts elements and keeps scripts that would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.handlers += [name for name, _ in attrs if name.startswith("on") and name != "on"]


def test_hostile_text_changes_no_element() -> None:
    """The page of a hostile session has exactly the elements of a friendly one, and no event handler."""
    friendly = session(boots=1, runs=1, requests=2)
    hostile = session(boots=1, runs=1, requests=2, hostile=True)
    pages = [Elements(html.page(one.results, baselines=one.baselines)) for one in (friendly, hostile)]
    for tag in ("script", "style", "link", "meta", "a", "details", "figure", "form", "section"):
        assert pages[0].tags[tag] == pages[1].tags[tag], tag
    assert {*pages[1].tags} & {"img", "iframe", "object", "embed", "svg", "base"} == set()
    assert pages[1].handlers == []


@pytest.mark.parametrize("cells", [9, 48])
def test_hostile_text_is_kept_readable(cells: int) -> None:
    """Every hostile text that was given is on the page, escaped, whether cells are packed or not."""
    page = html.page(session(cells=cells, boots=1, runs=1, requests=2, hostile=True).results)
    assert "&lt;/script&gt;&lt;script&gt;window.pwned=1" in page
    assert "<script>window.pwned" not in page
    assert "\\x1b[2J" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\u200b]", page)
    page.encode()


def test_only_the_pages_own_scripts_may_run() -> None:
    """The policy names the hash of both scripts, forbids every other source and any connection."""
    page = html.page(bare())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    text = policy[1].replace("&#39;", "'")
    assert text.startswith("default-src 'none'; ")
    for found in re.findall(r'<script>(.*?)</script>|id="library">(.*?)</script>', page, flags=re.DOTALL):
        digest = base64.b64encode(hashlib.sha256("".join(found).encode()).digest()).decode()
        assert f"'sha256-{digest}'" in text
    assert "unsafe-eval" not in text
    assert "script-src 'unsafe-inline'" not in text


def test_every_cell_has_its_place_and_its_link() -> None:
    """The overview links to each cell, worst first, and headings go down one level at a time."""
    page = html.page(session(cells=12, boots=1, runs=1, requests=2).results)
    assert re.findall(r'href="#cell-(\d+)"', page) == [str(n) for n in range(1, 13)]
    assert re.findall(r'id="cell-(\d+)"', page) == [str(n) for n in range(1, 13)]
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_absent_data_leaves_absent_sections() -> None:
    """Without measurements there are no plots of replicates, requests, boots or flags, and nothing fails."""
    page = html.page(bare())
    for title in ("Replicates", "Distributions", "Request timeline", "Boots", "History", "Environment"):
        assert f"<h4>{title}</h4>" not in page


def test_measurements_without_verdict_are_named() -> None:
    """What was measured and not judged is listed, never silently dropped."""
    results = session(cells=2, boots=1, runs=1, requests=2).results.model_copy(update={"verdicts": ()})
    page = html.page(results)
    assert "Measured, not judged" in page
    assert "That is not a pass." in page


def test_every_section_is_there() -> None:
    """A full session shows diagnosis, replicates, distributions, timeline, boots, history, flags and environment."""
    example = session(cells=1, boots=2, runs=2, requests=8)
    line = HistoryLine(
        cell=example.results.verdicts[0].cell,
        metric="mean_ttft_ms",
        times=(START, START),
        values=(1.0, 2.0),
        changes=(1,),
    )
    page = html.page(example.results, baselines=example.baselines, history=[line])
    assert re.findall(r"<h4>(.*?)</h4>", page) == [
        "Diagnosis", "Replicates", "Distributions", "Request timeline", "Boots", "History", "Flags in effect", "Environment",
    ]  # fmt: skip
    assert "scheduler_config.async_scheduling" in page
    assert "575.51.03" in page


def test_the_timeline_has_the_servers_own_split() -> None:
    """Queue, prefill and decode of the mean request, as the server's histograms give them, stand beside the timeline for both sides."""
    example = session(cells=1, boots=2, runs=2, requests=8)
    (measurement,) = example.results.measurements
    before = example.baselines[measurement.cell].boots
    means = charts.stage_means(measurement.boots)
    runs = [run for boot in measurement.boots for run in boot.runs]
    ttft = sum(run.metrics["mean_ttft_ms"] for run in runs) / len(runs)
    assert means["queue"] == pytest.approx(ttft * 0.1)
    assert means["prefill"] == pytest.approx(ttft * 0.9)
    table = next(
        table for table in timeline(before, measurement.boots).tables if "server counts" in table.caption
    )
    assert [row[0] for row in table.rows] == ["queue", "prefill", "decode"]
    assert float(table.rows[0][2].split()[0]) == pytest.approx(means["queue"], rel=1e-3)
    silent = [
        boot.model_copy(update={"runs": tuple(run.model_copy(update={"server": {}}) for run in boot.runs)})
        for boot in before
    ]
    assert charts.stages(silent, silent) is None
    assert len(timeline(silent, silent).charts) == 1


def test_a_baseline_that_is_due_says_so() -> None:
    """What moved since a baseline was recorded, and its age, stand with its origin; a fresh one is left in peace."""
    example = session(cells=1, boots=3, runs=1, requests=2)
    (cell,) = example.baselines
    page = html.page(example.results, baselines=example.baselines)
    assert "Since it was recorded: vLLM 0.19.1 → 0.25.1, driver 575.51.03 → 580.95.05." in page
    old = example.baselines[cell].model_copy(
        update={"provenance": Provenance(recorded=START - timedelta(days=91), by="x", source="measured")}
    )
    assert "The baseline is 91 days old (2025-11-30)." in html.page(example.results, baselines={cell: old})
    fresh = example.baselines[cell].model_copy(
        update={"fingerprint": example.results.measurements[0].fingerprint}
    )
    assert not re.search(
        "Since it was recorded|days old", html.page(example.results, baselines={cell: fresh})
    )


def test_change_points_are_said_not_only_drawn() -> None:
    """What a line of the history shows stands in words above it."""
    example = session(cells=1, boots=1, runs=1, requests=2)
    line = HistoryLine(
        cell=example.results.verdicts[0].cell, metric="mean_ttft_ms", times=(START, START), values=(1.0, 2.0),
        said=("2026-03-01 slower +100.0%", "drift: slower <b>"),
    )  # fmt: skip
    page = html.page(example.results, history=[line])
    assert "<li>mean TTFT: 2026-03-01 slower +100.0%</li><li>mean TTFT: drift: slower &lt;b&gt;</li>" in page


def test_boot_phases_add_up_to_ready() -> None:
    """Phases of a real H100 boot come in their order, none twice (engine initialisation holds three others), and end when it was ready."""
    metrics = {
        "compile_s": 1.44,
        "graph_capture_s": 4.0,
        "imports_s": 21.3,
        "init_engine_s": 11.01,
        "ready_s": 59.69,
        "warmup_s": 1.59,
        "weights_s": 0.72,
        "kv_cache_tokens": 14126550.0,
    }
    found = charts.phase_seconds(BootRecord(id="b", runs=(), metrics=metrics))
    assert list(found) == [
        "imports", "weights", "compile", "profile and warm-up", "graph capture", "rest of engine initialisation", "other",
    ]  # fmt: skip
    assert found["rest of engine initialisation"] == pytest.approx(3.98)
    assert sum(found.values()) == pytest.approx(59.69)
    assert charts.phase_seconds(BootRecord(id="b", runs=(), metrics={"ready_s": 9.0})) == {
        "time to ready": 9.0
    }
    assert charts.phase_seconds(BootRecord(id="b", runs=())) == {}


def test_an_ab_shows_both_sides_of_the_session() -> None:
    """Where the old side was measured too, it stands beside the fresh boots, and neither the stored baseline nor the screen does."""
    example = session(cells=1, boots=2, runs=1, requests=2)
    other = session(cells=1, boots=2, runs=1, requests=2, seed=9)
    (now,), (other_now,) = example.results.measurements, other.results.measurements
    old = other_now.model_copy(
        update={"side": "old", "fingerprint": now.fingerprint.model_copy(update={"vllm": "0.18.1"})}
    )
    screen = session(cells=1, boots=2, runs=1, requests=2, seed=5).results.measurements[0]
    results = example.results.model_copy(update={"measurements": (screen, now, old)})
    page = html.page(results, baselines=example.baselines)
    found = re.search(r'<script type="application/json" class="data">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    runs = next(plot for plot in json.loads(found[1])["plots"] if plot["kind"] == "replicates")["data"][
        "runs"
    ]
    wanted = [
        values
        for m in (old, now)
        for boot in m.boots
        for values in charts.boot_values(boot, "output_throughput")
    ]
    assert runs["v"] == pytest.approx(wanted, rel=1e-4)
    assert "Both sides were measured in this session" in page
    assert ">0.18.1</td>" in page
    assert "Both sides were measured" not in html.page(example.results, baselines=example.baselines)


def test_an_invalid_run_is_shown_with_its_reason() -> None:
    """Runs that are not believed are named with boot, run and reason, and have no point in any plot."""
    page = html.page(session(cells=2, boots=1, runs=1, requests=2).results)
    assert "boot now-0, run 1: 3 of 64 requests failed" in page


def test_the_margin_band_lies_where_slower_is() -> None:
    """For a time the band reaches above the baseline, for a rate below it, by the ratio of the same slowdown."""
    boots = session(cells=1, boots=2, runs=2, requests=2).results.measurements[0].boots
    time = MetricVerdict(metric="mean_ttft_ms", outcome=Outcome.PASS, baseline=100.0, now=100.0, margin=0.1)
    rate = MetricVerdict(
        metric="output_throughput", outcome=Outcome.PASS, baseline=100.0, now=100.0, margin=0.25
    )
    chart = charts.replicates(time, (), boots)
    assert chart
    assert chart.data["band"] == [{"lo": 100.0, "hi": 110.0}]
    chart = charts.replicates(rate, (), boots)
    assert chart
    assert chart.data["band"] == [{"lo": 80.0, "hi": 100.0}]


def test_an_interval_without_end_reaches_the_edge() -> None:
    """An infinite interval is drawn over the whole plot, never as a short one or none."""
    made = verdict(Outcome.INCONCLUSIVE, cell=Cell(gpu="g", model="m", server="s", workload="w"))
    endless = tuple(m.model_copy(update={"lower": None, "upper": None}) for m in made.metrics)
    chart = charts.overview([made.model_copy(update={"metrics": endless})])[0]
    row, limits = chart.data["rows"][0], chart.data["limits"][0]
    assert (row["lo"], row["hi"]) == pytest.approx((limits["lo"], limits["hi"]), rel=1e-3)


def test_a_change_beyond_the_overview_stops_at_its_edge() -> None:
    """A change of 900% is drawn at the edge of the axis with its own numbers in words, and flattens no other cell."""
    wild = MetricVerdict(
        metric="mean_ttft_ms",
        outcome=Outcome.REGRESSION,
        baseline=1,
        now=10,
        change=9.0,
        lower=8.5,
        upper=9.5,
    )
    chart = charts.overview([verdict(Outcome.REGRESSION).model_copy(update={"metrics": (wild,)})])[0]
    row = chart.data["rows"][0]
    assert row["v"] == row["lo"] == row["hi"] == charts.WIDEST
    assert row["said"] == "+900.0% [+850.0%, +950.0%]"


def test_a_distribution_is_the_empirical_one() -> None:
    """The drawn steps are sorted requests with their true share; the last one is all of them."""
    measurement = session(cells=1, boots=2, runs=2, requests=50).results.measurements[0]
    chart = charts.distributions((), measurement.boots)[0]
    rows = chart.data["rows"]
    times = charts.request_times(measurement.boots)["TTFT"]
    assert len(times) == 200
    assert len(rows) == charts.POINTS
    assert rows[-1]["p"] == 1.0
    assert rows[0]["v"] == pytest.approx(times[0], rel=1e-4)
    for row in rows:
        assert (times <= row["v"] * 1.0001).mean() == pytest.approx(row["p"], abs=0.006)


def test_plot_data_is_packed_without_loss() -> None:
    """Columns, with texts once and positions in their place, give the rows back, missing values as null."""
    rows = [{"a": "x", "v": 1.0}, {"a": "y", "v": 2.0, "late": 3}, {"a": "x", "v": 4.0}]
    chart = charts.Chart(kind="k", title="t", description="d", data={"rows": rows}, labels={})
    packed = json.loads(json.dumps(chart.plain()))["data"]["rows"]
    assert packed == {"a": {"of": ["x", "y"], "at": [0, 1, 0]}, "v": [1.0, 2.0, 4.0], "late": [None, 3, None]}


def test_one_configuration_is_kept_once() -> None:
    """Cells of one server share the list of all settings."""
    page = html.page(session(boots=1, runs=1, requests=2).results)
    kept = re.search(r'<script type="application/json" id="settings">(.*?)</script>', page, flags=re.DOTALL)
    assert kept
    assert len(json.loads(kept[1])) == 1


def test_settings_are_flattened_and_made_visible() -> None:
    """Nested settings become dotted names; control characters in either half are shown."""
    flat = flatten({"b": {"c": 1, "d": {}}, "a\x1b": HOSTILE[5], "n": None})
    assert flat == {"a\\x1b": "\\u202egnirts desrever\\u200b\\ud800", "b.c": "1", "b.d": "{}", "n": "null"}
