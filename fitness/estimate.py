"""Estimates: a full score and its standard error, from few responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fitness.errors import FitnessError

PSEUDO = 2
"""Pseudo-observations at either end of the range: Agresti and Coull's "plus four"."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error (the same unit; 0 if the value is known exactly)."""

    value: float
    se: float


def mean_estimate(
    scores: Sequence[float],
    pool: int | None,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Estimate:
    """The mean of `pool` items' scores, estimated from a random sample of them.

    With n scores x of N = `pool` items, the value is the plain mean and::

        y  = x together with 2 values `low` and 2 values `high`
        se = sqrt((mean(y^2) - mean(y)^2) / n * (1 - n / N))

    For answers that are right or wrong, the variance is that of Agresti and Coull ("Approximate is
    better than exact for interval estimation of binomial proportions", 1998): not 0 when all
    answers agree. Graded scores get a conservative one. The last factor is the finite-population
    correction: with every item answered the score is known exactly, and se is 0.

    Args:
        scores: in [`low`, `high`], at least one.
        pool: items the estimate speaks for; None is infinitely many.
        low, high: range of a score.

    Raises:
        FitnessError: no scores, or more scores than items.
    """
    n = len(scores)
    if n == 0 or (pool is not None and n > pool):
        raise FitnessError(
            f"{n} scores for a pool of {pool} items",
            "at least 1 score is needed and at most one per item",
            "estimate",
            "answer items of the pool once each",
        )
    value = math.fsum(scores) / n
    seen = [*scores, *[low] * PSEUDO, *[high] * PSEUDO]
    centre = math.fsum(seen) / len(seen)
    variance = math.fsum((score - centre) ** 2 for score in seen) / len(seen)
    return Estimate(value, math.sqrt(variance / n * unseen(n, pool)))


def unseen(answered: int, pool: int | None) -> float:
    """Finite-population correction: the share of the pool that was not answered, in [0, 1]."""
    return 1.0 if pool is None else 1.0 - answered / pool


def weighted(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The weighted mean of independent estimates; weights need not sum to 1.

    Raises:
        FitnessError: another number of weights than estimates, or weights that do not weigh.
    """
    total = math.fsum(weights)
    weighing = all(weight >= 0 for weight in weights) and 0 < total < math.inf
    if len(weights) != len(estimates) or not weighing:
        raise FitnessError(
            f"weights {list(weights)} of {len(estimates)} estimates",
            "one weight per estimate, none negative, not all 0",
            "estimate",
            "correct the weights",
        )
    parts = list(zip(estimates, weights, strict=True))
    value = math.fsum(e.value * w for e, w in parts) / total
    return Estimate(value, math.sqrt(math.fsum((e.se * w) ** 2 for e, w in parts)) / total)
