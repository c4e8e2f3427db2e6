"""Does a difference lie where it was said to lie? An interval against a band of relative changes.

*Holds*: the whole interval lies inside the band. *Does not hold*: the interval and the band have nothing in common. *Undecidable*:
anything else, and always where the data carry no interval. A band around zero, ``[-m, +m]``, is the claim "no effect": the interval
lying inside it is the test of equivalence by inclusion (Schuirmann 1987; with a two-sided interval of confidence 1 − α it has error α/2,
so it is on the safe side).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from perfgate.statistics.interval import Difference

Answer: TypeAlias = Literal["holds", "does not hold", "undecidable"]
"""What the data say about a claim."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """Relative changes that a claim allows: new / old − 1 of the metric itself, so −0.1 is ten per cent less.

    Attributes:
        least: lower end; −1 means that there is none.
        most: upper end; infinite where there is none.
    """

    least: float = -1.0
    most: float = math.inf

    def __post_init__(self) -> None:
        if self.least < -1 or self.most <= -1:
            given = self.least if self.least < -1 else self.most
            raise ValueError(
                f"nothing can become less by more than all of it, as {given:g} says; 0.05 is five per cent"
            )
        if math.isnan(self.least) or math.isnan(self.most) or not self.least < self.most:
            raise ValueError(
                f"a band runs from a smaller to a larger change, not from {self.least} to {self.most}"
            )
        if self.least <= -1 and math.isinf(self.most):
            raise ValueError("a band that allows every change claims nothing")

    @property
    def logs(self) -> tuple[float, float]:
        """Both ends as logarithms of new / old."""
        lower = math.log1p(self.least) if self.least > -1 else -math.inf
        return lower, math.log1p(self.most)


@dataclass(frozen=True, kw_only=True)
class BandFinding:
    """The answer for one metric, with what it rests on. Changes are fractions of the metric itself.

    Attributes:
        answer: see the module.
        change: point estimate; NaN if a side is empty.
        lower: lower end of the interval; −1 where there is none.
        upper: upper end; infinite where there is none.
        confidence: two-sided, of that interval.
        smallest_detectable: the smallest change (a fraction, upwards) that this much data would have told from none with the asked
            power; infinite where it can tell nothing.
    """

    answer: Answer
    change: float
    lower: float
    upper: float
    confidence: float
    smallest_detectable: float


def judge_band(
    difference: Difference, band: Band, *, confidence: float = 0.95, power: float = 0.8
) -> BandFinding:
    """Holds one difference against its band.

    Args:
        difference: of log(metric), new minus old.
        band: what was claimed.
        confidence: two-sided; for k metrics of one claim give 1 − 0.05/k, so that all intervals cover together (Bonferroni).
        power: to which ``smallest_detectable`` refers.
    """
    lower, upper = difference.interval(confidence)
    least, most = band.logs
    answer: Answer
    if not (math.isfinite(lower) and math.isfinite(upper)):
        answer = "undecidable"
    elif least <= lower and upper <= most:
        answer = "holds"
    elif upper < least or lower > most:
        answer = "does not hold"
    else:
        answer = "undecidable"
    return BandFinding(
        answer=answer,
        change=_fraction(difference.estimate),
        lower=_fraction(lower),
        upper=_fraction(upper),
        confidence=confidence,
        smallest_detectable=_fraction(
            difference.smallest_detectable(alpha=(1 - confidence) / 2, power=power)
        ),
    )


def together(answers: Iterable[Answer]) -> Answer:
    """A claim of several parts holds if all do, and does not hold if one does not; with no parts nothing was decided."""
    given = list(answers)
    if "does not hold" in given:
        return "does not hold"
    if given and all(answer == "holds" for answer in given):
        return "holds"
    return "undecidable"


def _fraction(log_ratio: float) -> float:
    try:
        return math.expm1(log_ratio)
    except OverflowError:
        return math.inf
