"""Intervals around estimates: quantiles of the normal and of Student's distribution, and intervals that stay above nothing.

Pure functions of numbers; what is estimated, and from what, is for others to know.
"""

from __future__ import annotations

import math
from statistics import NormalDist

#: Of what is said with an interval, this share of the truth should be inside.
CONFIDENCE = 0.95
#: A factor that nothing known to us needs, so that no interval ends in infinity.
WIDEST = 100.0


def student(degrees: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors a two-sided interval reaches out, with so many degrees of freedom (above 0).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.5, to the third order: 3 % short at two
    degrees, a thousandth from five on. Below two it is that of two.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = max(degrees, 2.0)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def around(value: float, relative_error: float, reach: float) -> tuple[float, float]:
    """The interval around an amount above 0 that is known to a relative standard error: symmetric on the logarithm.

    By the delta method the logarithm's standard error is the relative one (Casella and Berger, Statistical Inference, 2002,
    5.5.4), so the interval never reaches below 0. `reach`: standard errors to each side.
    """
    factor = min(math.exp(min(reach * relative_error, math.log(WIDEST))), WIDEST)
    return value / factor, value * factor
