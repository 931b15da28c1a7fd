"""Comparisons: two models' scores on the same items, with an interval and an exact p-value.

Scores are in [0, 1], right or wrong or graded. Several tasks are strata: arrays of one task each, and
the weights of the tasks in the mean, as an objective may be a weighted mean of tasks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fitness.errors import FitnessError

Z95 = 1.959963984540054
"""Half the width of a 95 % interval, in standard errors."""
SUPPORT = 200_000
"""Sums of sign flips that are counted one by one, at most."""
DRAWS = 20_000
"""Sign flips drawn where they cannot be counted."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better one model is than another on items of this kind.

    Attributes:
        difference: weighted mean over tasks of the mean score of a minus b, in [-1, 1].
        se: its standard error, for further items of the same kind.
        low, high: 95 % interval, in [-1, 1].
        p: two-sided, of the hypothesis that a and b are the same on every item but for luck.
    """

    difference: float
    se: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Flips:
    """Items on which two models differ.

    Attributes:
        lost: items scored less after than before (right before and wrong now).
        gained: items scored more (wrong before and right now).
        same: the others.
    """

    lost: int
    gained: int
    same: int


def paired(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Compare model a with model b on the same items.

    The interval is Bonett and Price's adjusted Wald interval ("Adjusted Wald Confidence Interval for a
    Difference of Binomial Proportions Based on Paired Data", 2012): one more item on which a wins
    and one on which b wins, shared among the tasks by weight, so that it is not empty where the
    models agree on all items. For graded scores it is somewhat wider than need be.

    The p-value is that of the sign-flip permutation test: were a and b alike, each item's
    difference could as well have had the other sign. Flips are compared by their difference in
    standard errors, so that tasks in which the models differ in opposite ways do not hide the mean
    (Chung and Romano, "Exact and asymptotically robust permutation tests", 2013). With one task of
    answers that are right or wrong it is McNemar's exact test. All flips are counted where their
    sums have at most `SUPPORT` values; otherwise `DRAWS` are drawn, and p is at least
    1 / (DRAWS + 1).

    Args:
        a, b: by task, scores [items] in [0, 1], aligned: the same items in the same order.
        weights: of the tasks, at least 0, not all 0; need not sum to 1. None: equal.
        seed: of the drawn flips.

    Raises:
        FitnessError: other shapes, no items, scores out of range, weights that do not weigh.
    """
    shares = _shares(weights, len(a))
    differences = [x - y for x, y in zip(*_aligned(a, b), strict=True)]
    plain = math.fsum(w * d.mean() for w, d in zip(shares, differences, strict=True))
    centre, variance = _moments(differences, shares, [d.sum() for d in differences])
    se = math.sqrt(variance)
    low, high = (float(np.clip(centre + z * se, -1, 1)) for z in (-Z95, Z95))
    p = sign_flip_p(differences, shares, seed=seed)
    return Comparison(plain, se, min(low, plain), max(high, plain), p)


def sign_flip_p(
    differences: Sequence[np.ndarray], shares: Sequence[float], *, seed: int = 0
) -> float:
    """The share of sign flips whose difference is at least as many standard errors from 0.

    Args:
        differences: by task, [items].
        shares: the tasks' weights; they sum to 1.
        seed: of the flips, where they are drawn.
    """

    def away(sums: Sequence[Any]) -> Any:
        centre, variance = _moments(differences, shares, sums)
        return np.abs(centre) / np.sqrt(variance)

    # Rounding must not turn what is equal into less.
    least = float(away([d.sum() for d in differences])) * (1 - 1e-9) - 1e-12
    counted = [_sums(np.abs(d[d != 0])) for d in differences]
    every = [each for each in counted if each is not None]
    if len(every) == len(counted) and math.prod(len(sums) for sums, _ in every) <= SUPPORT:
        grid = np.meshgrid(*(sums for sums, _ in every), indexing="ij")
        chances = functools.reduce(np.multiply.outer, (chance for _, chance in every))
        return min(1.0, float(chances[away(grid) >= least].sum()))
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(each[0], DRAWS, p=each[1]) if each else _flipped(d, rng)
        for each, d in zip(counted, differences, strict=True)
    ]
    return (float((away(drawn) >= least).sum()) + 1) / (DRAWS + 1)


def _moments(
    differences: Sequence[np.ndarray], shares: Sequence[float], sums: Sequence[Any]
) -> tuple[Any, Any]:
    """The weighted difference and its variance, two items of opposite differences added.

    `sums` are the tasks' sums of differences; flipping signs changes nothing else.
    """
    centre = variance = 0.0
    for d, share, total in zip(differences, shares, sums, strict=True):
        n = len(d) + 2 * share
        mean = total / n
        centre = centre + share * mean
        variance = variance + share**2 * ((float(d @ d) + 2 * share) / n - mean**2) / n
    return centre, variance


def _sums(size: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Every sum of the sizes with flipped signs and its probability; None if there are too many."""
    sums, chances = np.zeros(1), np.ones(1)
    magnitudes, counts = np.unique(np.round(size, 12), return_counts=True)
    for magnitude, count in zip(magnitudes, counts, strict=True):
        if len(sums) * (count + 1) > SUPPORT:
            return None
        heads = np.arange(count + 1)
        binomial = np.exp([_log_binomial(count, k) for k in heads])
        every = np.add.outer(sums, magnitude * (2.0 * heads - count)).ravel()
        # Sums that meet are one value: scores like 0.5 keep them few.
        _, first, where = np.unique(np.round(every, 9), return_index=True, return_inverse=True)
        chances = np.bincount(where, np.multiply.outer(chances, binomial).ravel())
        sums = every[first]
    return sums, chances / chances.sum()


def _flipped(differences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`DRAWS` sums of the differences with signs drawn."""
    blocks = [
        (rng.integers(0, 2, (1000, len(differences)), dtype=np.int8) * 2.0 - 1.0) @ differences
        for _ in range(DRAWS // 1000)
    ]
    return np.concatenate(blocks)


def _log_binomial(n: int, k: int) -> float:
    """Log of the probability of k heads in n throws."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in the given order (Holm 1979, step-down).

    Calling those at most alpha significant is wrong in even one of them with probability alpha.
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected = [0.0] * len(ps)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = least
    return corrected


def flips(before: Sequence[ArrayLike], after: Sequence[ArrayLike]) -> Flips:
    """Count the items on which a model does worse or better than one before it.

    Args:
        before, after: by task, scores [items] in [0, 1], aligned.

    Raises:
        FitnessError: other shapes, no items, scores out of range.
    """
    pairs = zip(*_aligned(before, after), strict=True)
    d = np.concatenate([y - x for x, y in pairs])
    lost, gained = int((d < 0).sum()), int((d > 0).sum())
    return Flips(lost, gained, len(d) - lost - gained)


def _aligned(
    a: Sequence[ArrayLike], b: Sequence[ArrayLike]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Both models' scores as checked arrays."""
    first, second = ([np.asarray(x, dtype=float) for x in each] for each in (a, b))
    shapes = [x.shape for x in first], [x.shape for x in second]
    alike = shapes[0] == shapes[1] and all(len(s) == 1 and s[0] > 0 for s in shapes[0])
    if not first or not alike:
        raise FitnessError(
            f"scores of shapes {shapes[0]} and {shapes[1]}",
            "each task needs the two models' scores on the same items, at least one",
            "comparison",
            "give aligned lists of arrays",
        )
    if not all(((x >= 0) & (x <= 1)).all() for x in (*first, *second)):
        raise FitnessError(
            "scores outside [0, 1]", "scores are in [0, 1]", "comparison", "scale them"
        )
    return first, second


def _shares(weights: Sequence[float] | None, tasks: int) -> list[float]:
    """The tasks' weights, summing to 1."""
    given = [1.0] * tasks if weights is None else [float(w) for w in weights]
    total = math.fsum(given)
    if len(given) != tasks or not all(w >= 0 for w in given) or not 0 < total < math.inf:
        raise FitnessError(
            f"weights {given} of {tasks} tasks",
            "one weight per task, none negative, not all 0",
            "comparison",
            "correct the weights",
        )
    return [w / total for w in given]
