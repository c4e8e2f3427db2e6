"""Numbers in, numbers out: comparisons, noise, gates. Imports nothing else of perfgate and does no I/O."""

from perfgate.statistics.gate import Policy
from perfgate.statistics.interval import Difference, Drift, Outcome, Prior, compare, smallest_detectable
from perfgate.statistics.judgement import Judgement, judge
from perfgate.statistics.mixture import TwoStates, two_states
from perfgate.statistics.planning import Design, abba, runs_per_boot
from perfgate.statistics.procedure import CellPlan, Confirmation, Looks, Plan, Question, Screen
from perfgate.statistics.quantile import QuantileBounds, quantile_bounds

__all__ = [
    "CellPlan",
    "Confirmation",
    "Design",
    "Difference",
    "Drift",
    "Judgement",
    "Looks",
    "Outcome",
    "Plan",
    "Policy",
    "Prior",
    "QuantileBounds",
    "Question",
    "Screen",
    "TwoStates",
    "abba",
    "compare",
    "judge",
    "quantile_bounds",
    "runs_per_boot",
    "smallest_detectable",
    "two_states",
]
