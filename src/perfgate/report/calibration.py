"""The tables of ``perfgate calibrate``, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import special

from perfgate.statistics.calibration import Tally, best_power, binomial_interval
from perfgate.statistics.gate import Policy
from perfgate.statistics.interval import Drift, Prior
from perfgate.statistics.planning import Design
from perfgate.statistics.rivals import RIVALS
from perfgate.statistics.simulation import MARGINS, TOLERANCES, Scenario

_GOAL_ALARMS = ("clean", "clean, independent metrics", "3% outliers", "1% drift")
#: Degrees of freedom that a well-fed prior is worth.
_PRIOR_DF = 16.0


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """The counts of one scenario, and the table that it belongs to."""

    table: str
    label: str
    scenario: Scenario
    pairs: int | None
    counts: Tally


@dataclass(frozen=True, kw_only=True)
class _Costs:
    boot_minutes: float
    run_minutes: float
    policy: Policy

    def cell(self, one: Simulated) -> str:
        boots = self.policy.screen_replicates * one.scenario.tests + 2 * one.counts.pairs / one.counts.suites
        return f"{boots:.0f} boots, {boots * (self.boot_minutes + self.run_minutes):.0f} min"


def document(
    results: Sequence[Simulated], *, policy: Policy, seed: int, boot_minutes: float, run_minutes: float
) -> str:
    """All tables, the goals first.

    Args:
        results: every scenario, grouped by table.
        policy: the gate's constants.
        seed: that the suites were drawn from.
        boot_minutes: of one boot, for the cost.
        run_minutes: of one run, for the cost.
    """
    suites = results[0].counts.suites
    sizes = results[0].scenario
    costs = _Costs(boot_minutes=boot_minutes, run_minutes=run_minutes, policy=policy)
    parts = [
        "# Calibration\n",
        f"Written by `perfgate calibrate --suites {suites} --seed {seed}`; {suites:,} simulated suites a row, each of "
        f"{sizes.tests} tests × {sizes.metrics} metrics (tok/s, mean TPOT, mean TTFT; tolerance "
        f"{_fractions(TOLERANCES)}, margin {_fractions(MARGINS)}). Brackets are 95% intervals of the simulation's own "
        "error (Clopper–Pearson).\n",
        f"A suite: a history of {sizes.history_sessions} sessions × {sizes.history_boots} boots a test, from which the "
        f"noise model is fitted anew, a stored baseline of {sizes.baseline} boots, a screen of "
        f"{policy.screen_replicates} boots, and {policy.fewest_pairs} to {policy.most_pairs} interleaved pairs of fresh "
        "boots for what the screen suspects. σ is the standard deviation of one boot mean; tests differ in it (F with "
        f"{sizes.spread_df:.0f} degrees of freedom) and the metrics of a test correlate by {sizes.correlation}. "
        "Outliers slow a boot by 5 to 50%. Drift is the standard deviation of a session, independent per test and "
        "metric, with as much trend within a session. The slowdown hits one test.\n",
        "## Goals\n",
        _goals(results, policy),
        "## False alarms per suite\n",
        "Share of suites with at least one false REGRESSION. *At once*: each test's verdict is given before the next is "
        "screened, so the k-th confirmation of the suite gets 1/2ᵏ of the error. *Looks* are the gate where the old side cannot be booted. "
        "The other tools' rules get one stored run, or one run of each past session (Bencher: every past boot).\n",
        _alarms(results, costs),
        "## Power\n",
        "Share of suites that find the slowed test, by any of its metrics; the whole test is slower by as much. "
        "*At once* is the worst place in the queue: the slowed test comes last.\n",
        _power(results, costs),
        "## Fixed numbers of pairs\n",
        "A whole test slower, and only its tok/s (*single*) with the bound no gate of this shape can pass: variance "
        "known, nothing else to correct for.\n",
        _fixed(results, policy),
        "## False passes at the margin\n",
        "A test whose metrics are slower by exactly their margin: share of PASS per metric, by screen or pairs, and with looks.\n",
        _margin(results),
        "## Smallest detectable slowdown\n",
        f"Shown with 80% power on one metric with a tolerance of 2%, prior worth {_PRIOR_DF:.0f} degrees of freedom.\n",
        _detectable(policy),
    ]
    if any(one.table == "recorded" for one in results):
        parts += [
            "## Recorded A/A data\n",
            "The same gate on suites that resample recorded boots and sessions, whole and with replacement.\n",
            _recorded(results, costs),
        ]
    return "\n".join(parts)


def _fractions(values: Sequence[float]) -> str:
    return "/".join(f"{value:.0%}" for value in values)


def _rate(count: int, of: int) -> str:
    if of == 0:
        return "–"
    low, high = binomial_interval(count, of)
    return f"{count / of:.1%} [{low:.1%}, {high:.1%}]"


def _short(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else "–"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _of(results: Sequence[Simulated], table: str) -> list[Simulated]:
    return [one for one in results if one.table == table]


def _alarms(results: Sequence[Simulated], costs: _Costs) -> str:
    rows = []
    for one in _of(results, "alarms"):
        counts = one.counts
        rows.append(
            [
                one.label,
                f"{one.scenario.sigma:.1%}",
                _rate(counts.alarms, counts.suites),
                _short(counts.online_alarms, counts.suites),
                _short(counts.look_alarms, counts.suites),
                *(_short(int(alarms), counts.suites) for alarms in counts.rival_alarms),
                f"{counts.confirmations / counts.suites:.2f}",
                costs.cell(one),
                "/".join(_percent(passed, counts.clean_cells) for passed in counts.clean_passed.tolist()),
            ]
        )
    header = [
        "noise",
        "σ",
        "perfgate",
        "at once",
        "looks",
        *RIVALS,
        "confirmations",
        "cost",
        "PASS per metric",
    ]
    return _table(header, rows)


def _percent(count: int, of: int) -> str:
    return f"{count / of:.0%}"


def _power(results: Sequence[Simulated], costs: _Costs) -> str:
    rows = []
    for one in _of(results, "power"):
        counts = one.counts
        rows.append(
            [
                f"{one.scenario.sigma:.1%}",
                one.label,
                _rate(counts.found, counts.suites),
                "/".join(_percent(found, counts.suites) for found in counts.metric_found.tolist()),
                _short(counts.online_found, counts.suites),
                _short(counts.look_found, counts.suites),
                *(_short(int(found), counts.suites) for found in counts.rival_found),
                costs.cell(one),
            ]
        )
    return _table(["σ", "slowdown", "perfgate", "per metric", "at once", "looks", *RIVALS, "cost"], rows)


def _fixed(results: Sequence[Simulated], policy: Policy) -> str:
    rows = []
    for one in [*_of(results, "fixed"), *_of(results, "single")]:
        counts, scenario = one.counts, one.scenario
        assert one.pairs is not None
        bound = best_power(
            scenario.sigma,
            math.log1p(scenario.slowdown),
            baseline=scenario.baseline,
            pairs=one.pairs,
            policy=policy,
            screen=policy.screen_replicates,
        )
        rows.append(
            [
                "single" if one.table == "single" else "whole test",
                f"{scenario.sigma:.1%}",
                one.label,
                f"{policy.screen_replicates}+{one.pairs}",
                _rate(counts.found, counts.suites),
                _short(counts.online_found, counts.suites),
                f"{bound:.1%}" if one.table == "single" else "",
            ]
        )
    return _table(["what", "σ", "slowdown", "boots", "found", "at once", "bound"], rows)


def _margin(results: Sequence[Simulated]) -> str:
    rows = []
    for one in _of(results, "margin"):
        counts = one.counts
        rows.append(
            [
                f"{one.scenario.sigma:.1%}",
                *(_rate(passed, counts.suites) for passed in counts.metric_passed.tolist()),
                "/".join(f"{passed / counts.suites:.1%}" for passed in counts.look_passed.tolist()),
            ]
        )
    return _table(["σ", "tok/s", "mean TPOT", "mean TTFT", "looks"], rows)


def _detectable(policy: Policy) -> str:
    tolerance = math.log1p(0.02)
    rows = []
    for sigma in (0.005, 0.01, 0.02, 0.03, 0.05, 0.10):
        prior = Prior(df=_PRIOR_DF, variance=sigma**2)

        def shown(base: int, new: int, alpha: float, drift: Drift | None = None, prior: Prior = prior) -> str:
            design = Design(base_size=base, new_size=new, prior=prior, drift=drift)
            effect = design.smallest_detectable(alpha=alpha, tolerance=tolerance)
            return f"{math.expm1(effect):.1%}"

        one = Drift(sd=0.01)
        last = policy.looks[-1]
        rows.append(
            [
                f"{sigma:.1%}",
                shown(5, policy.screen_replicates, policy.screen_alpha),
                shown(5, policy.screen_replicates, policy.screen_alpha, one),
                *(shown(pairs, pairs, policy.alpha) for pairs in (2, 3, 5, 7)),
                shown(5, last, policy.alpha / 36),
                shown(5, last, policy.alpha / 36, one),
            ]
        )
    header = [
        "σ",
        "screen",
        "screen, 1% drift",
        *(f"{pairs} pairs" for pairs in (2, 3, 5, 7)),
        f"{policy.looks[-1]} against 5 stored",
        "the same, 1% drift",
    ]
    floors = []
    for drift in (0.005, 0.01, 0.02):
        error = math.sqrt(2) * drift
        floors.append(
            f"{drift:.1%}: {math.expm1(error * (special.ndtri(1 - policy.alpha / 36) + special.ndtri(0.8))):.1%}"
        )
    return _table(header, rows) + (
        "\nAgainst a stored baseline no number of boots goes below the drift between two sessions. With endless boots, drift known, "
        f"36 metrics: {', '.join(floors)}. Only measuring both sides now removes this.\n"
    )


def _recorded(results: Sequence[Simulated], costs: _Costs) -> str:
    rows = []
    for one in _of(results, "recorded"):
        counts = one.counts
        rows.append(
            [
                one.label,
                _rate(counts.alarms, counts.suites),
                _rate(counts.found, counts.suites) if one.label.startswith("+") else "–",
                "/".join(f"{passed / counts.suites:.1%}" for passed in counts.metric_passed.tolist()),
                *(
                    _short(int(rival), counts.suites)
                    for rival in (counts.rival_found if one.label.startswith("+") else counts.rival_alarms)
                ),
                f"{counts.confirmations / counts.suites:.2f}",
                costs.cell(one),
            ]
        )
    header = [
        "",
        "false alarms per suite",
        "slowed test found",
        "its PASS per metric",
        *RIVALS,
        "confirmations",
        "cost",
    ]
    return _table(header, rows)


def _goals(results: Sequence[Simulated], policy: Policy) -> str:
    alarms = [one for one in _of(results, "alarms") if one.label in _GOAL_ALARMS]
    clean = [one for one in _of(results, "alarms") if one.label.startswith("clean")]
    fixed = _of(results, "fixed")
    five = [one for one in fixed if one.label == "+5%"]
    ten = [one for one in fixed if one.label == "+10%"]
    rows = [
        _goal(
            "false alarms per suite ≤ 1% (clean, outliers, 1% drift), worst", alarms, _alarm_rate, max, 0.01
        ),
        *(
            _goal(
                f"power at +5% ≥ 95%, σ {_sigmas(part)}, {policy.screen_replicates}+{part[0].pairs} boots, worst",
                part,
                _found_rate,
                min,
                0.95,
            )
            for part in (
                [one for one in five if one.scenario.sigma <= 0.01],
                [one for one in five if one.scenario.sigma == 0.02],
            )
        ),
        _goal(f"power at +10% ≥ 99%, σ {_sigmas(ten)}, 5 pairs, worst", ten, _found_rate, min, 0.99),
        _goal(
            "false passes at the margin ≤ 2.5%, worst metric", _of(results, "margin"), _worst_pass, max, 0.025
        ),
    ]
    most = max(one.counts.confirmations / one.counts.suites for one in clean)
    rows.append(["confirmations per clean suite ≤ 1.5, worst", f"{most:.2f}", "yes" if most <= 1.5 else "no"])
    return _table(["goal", "found", "reached"], rows)


Rate = Callable[[Simulated], tuple[int, int]]


def _goal(
    words: str,
    results: Sequence[Simulated],
    rate: Rate,
    worst: Callable[..., Simulated],
    limit: float,
) -> list[str]:
    """One line: the worst row, and whether its estimate keeps the limit."""
    one = worst(results, key=lambda row: rate(row)[0] / rate(row)[1])
    count, of = rate(one)
    kept = count / of <= limit if worst is max else count / of >= limit
    where = f"{one.label}, σ {one.scenario.sigma:.1%}"
    return [words, f"{_rate(count, of)} ({where})", "yes" if kept else "no"]


def _alarm_rate(one: Simulated) -> tuple[int, int]:
    return one.counts.alarms, one.counts.suites


def _found_rate(one: Simulated) -> tuple[int, int]:
    return one.counts.found, one.counts.suites


def _worst_pass(one: Simulated) -> tuple[int, int]:
    return int(one.counts.metric_passed.max()), one.counts.suites


def _sigmas(results: Sequence[Simulated]) -> str:
    sizes = sorted({one.scenario.sigma for one in results})
    return f"{sizes[0]:.1%}" if len(sizes) == 1 else f"{sizes[0]:.1%} to {sizes[-1]:.1%}"
