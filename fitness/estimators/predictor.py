"""What a predictor is: an estimator's formula, before its errors have been looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a predictor says of some candidates that answered the same items.

    Attributes:
        values: [candidates], their mean scores over the whole pool; may stray out of [0, 1].
        spreads: [candidates], how far off a value may be, as the predictor sees it, greater than 0
            unless every item was answered. Right up to a factor, which `Calibrated` measures.
    """

    values: Array
    spreads: Array


class Reading(Protocol):
    """A predictor made ready for a subset of items."""

    def predict(self, scores: Array) -> Prediction:
        """From `scores` [candidates, n] in [0, 1], in the order of the items."""
        ...


class Predictor(Protocol):
    """A formula fitted to calibration models."""

    def at(self, items: Positions) -> Reading:
        """Ready for `items` [n], positions in the pool, each once, at least one."""
        ...


Fit = Callable[[Array, Array], Predictor]
"""Fits a predictor to responses [models, items] without nan, and parents' responses [k, items]."""


def unanswered(items: Positions, pool: int) -> NDArray[np.bool_]:
    """[pool] True where an item is not among `items`."""
    rest = np.ones(pool, dtype=bool)
    rest[items] = False
    return rest


def binomial(values: Array) -> Array:
    """Standard deviation of one answer at mean scores `values`, kept away from 0."""
    inside = np.clip(values, 0.02, 0.98)
    return np.sqrt(inside * (1 - inside))
