"""Objectives on several tasks' scores at once: the worst of them, and their spread.

Both are computed from the tasks' estimates, whose errors are independent and taken to be normal.
A statistic of noisy numbers is biased: the least of several estimates lies below the least of the
true scores, and estimates spread more than the scores. The standard errors here are such that value
+- 1.645 se covers the truth in about 90 of 100 cases, or more, when tasks score alike too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from fitness.estimate import Estimate

_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.95)
"""Half a 90 % interval, in standard errors."""


def worst_of(estimates: Sequence[Estimate], *, highest: bool = False) -> Estimate:
    """The least of several tasks' scores (the greatest if `highest`).

    The value is the least estimate. It is too low on average if several tasks are nearly worst; its
    error is that of a minimum of independent normal variables, around the true minimum::

        mu_i = sqrt(max(0, (e_i - min e)^2 - 1.645^2 (s_i^2 + s_min^2)))
        se   = sqrt(Var(M) + E(M)^2),    M = min of Normal(mu_i, s_i)

    The first line takes the noise out of the gaps: tasks that a test cannot tell from the least
    count as equal to it. The moments of M follow from Clark ("The greatest of a finite set of random
    variables", 1961), two variables at a time.

    Args:
        estimates: of the tasks, at least one.
        highest: the worst is the greatest: scores of which lower is better.
    """
    sign = -1.0 if highest else 1.0
    least = min(estimates, key=lambda e: (sign * e.value, -e.se))
    gaps = [
        Estimate(math.sqrt(max(0.0, gap**2 - _Z**2 * (e.se**2 + least.se**2))), e.se)
        for e, gap in ((e, e.value - least.value) for e in estimates if e is not least)
    ]
    mean, variance = 0.0, least.se**2
    for other in sorted(gaps, key=lambda e: e.value):
        mean, variance = _least_of_two(mean, variance, other)
    return Estimate(least.value, math.sqrt(variance + mean**2))


def _least_of_two(mean: float, variance: float, other: Estimate) -> tuple[float, float]:
    """Mean and variance of the lesser of two independent normal variables: Clark 1961, (2)-(4)."""
    a = math.sqrt(variance + other.se**2)
    if a == 0:
        return min((mean, variance), (other.value, 0.0))
    alpha = (other.value - mean) / a
    first, density = _NORMAL.cdf(alpha), _NORMAL.pdf(alpha)
    second = 1.0 - first
    found = mean * first + other.value * second - a * density
    square = (
        (mean**2 + variance) * first
        + (other.value**2 + other.se**2) * second
        - (mean + other.value) * a * density
    )
    return found, max(0.0, square - found**2)


def spread_of(estimates: Sequence[Estimate]) -> Estimate:
    """Standard deviation of several tasks' true scores, in their unit.

    With e the m estimates, s their standard errors, d_i = e_i - mean(e), the variance of the true
    scores is estimated without bias, as a quadratic form of normal variables (Searle, "Linear
    Models", 1971, section 2.5)::

        V      = sum d_i^2 / m  -  (1 - 1/m) sum s_i^2 / m
        Var(V) = a V_true + b,    a = 4/m * sum (d_i s_i)^2 / sum d_i^2
                                  b = 2/m^2 * ((1 - 2/m) sum s_i^4 + (sum s_i^2)^2 / m^2)

    As Var(V) depends on the truth, the 90 % interval is that of Wilson (1927): all V_true with
    (V - V_true)^2 <= 1.645^2 (a V_true + b). The value is sqrt(max(0, V)), and its error the longer
    of the two ways to the interval's ends, after the root, divided by 1.645.

    Args:
        estimates: of the tasks, at least two.
    """
    m = len(estimates)
    centre = math.fsum(e.value for e in estimates) / m
    squares = [(e.value - centre) ** 2 for e in estimates]
    noise = [e.se**2 for e in estimates]
    observed, mean_noise = math.fsum(squares) / m, math.fsum(noise) / m
    found = observed - (1 - 1 / m) * mean_noise
    along = math.fsum(d * s for d, s in zip(squares, noise, strict=True)) / m
    a = 4 / m * (along / observed if observed else mean_noise)
    b = 2 / m**2 * ((1 - 2 / m) * math.fsum(s**2 for s in noise) + mean_noise**2)
    middle = found + _Z**2 * a / 2
    half = _Z * math.sqrt(max(0.0, _Z**2 * a**2 / 4 + a * found + b))
    value = math.sqrt(max(0.0, found))
    upper = math.sqrt(max(0.0, middle + half)) - value
    lower = value - math.sqrt(max(0.0, middle - half))
    return Estimate(value, max(upper, lower) / _Z)
