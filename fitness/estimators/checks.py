"""What every estimator refuses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fitness.errors import FitnessError
from fitness.estimators.predictor import Array, Positions


def checked(items: ArrayLike, scores: ArrayLike, pool: int) -> tuple[Positions, Array]:
    """Items [n] in ascending order and their scores [n].

    Raises:
        FitnessError: no items, an item twice or out of range, a score outside [0, 1].
    """
    positions, values = np.asarray(items), np.asarray(scores, dtype=np.float64)
    if positions.ndim != 1 or positions.shape != values.shape or not len(positions):
        raise _error(
            f"items of shape {list(positions.shape)}, scores of shape {list(values.shape)}",
            "there is one score per item, and at least one",
            "pass two lists of one length",
        )
    if positions.dtype.kind not in "iu" or positions.min() < 0 or positions.max() >= pool:
        raise _error(
            f"items {positions.min()} to {positions.max()}",
            f"they are positions in the bank, 0 to {pool - 1}",
            "use the bank that the items were selected from",
        )
    order = np.argsort(positions, kind="stable")
    positions, values = positions[order].astype(np.intp), values[order]
    twice = positions[1:][positions[1:] == positions[:-1]]
    if len(twice):
        raise _error(f"item {twice[0]}", "it is there twice", "give each item's score once")
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise _error(
            f"score {values[wrong][0]} of item {positions[wrong][0]}",
            "a score lies in [0, 1]",
            "leave unanswered items out and scale the others to [0, 1]",
        )
    return positions, values


def _error(passed: str, rule: str, remedy: str) -> FitnessError:
    return FitnessError(passed, rule, "estimate", remedy)
