"""Items that the calibration models themselves chose: what that does to their errors.

Items chosen because the calibration models' scores are predicted well from them are less telling of
other models. Errors on held-out models do not show it, as these had their part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fitness.estimators.blending import Lesson, learnt
from fitness.estimators.covariance import ItemCovariance, shrunk_covariance, spread, telling_order
from fitness.estimators.predictor import Array, Positions, Predictor

STAGES = (3, 5, 10, 20, 30, 45, 60, 80, 100, 140, 200)
"""Numbers of items at which the choice is rehearsed."""
DRAWS = 5
"""Random subsets that say how telling such a one is."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Predictors fitted without some models.

    Attributes:
        predictors: one per part of the blend.
        held_out: [models, items], the responses of those left out.
        order: [items up to the last stage], as a selection would choose them without these.
    """

    predictors: tuple[Predictor, ...]
    held_out: Array
    order: Positions

    @classmethod
    def of(cls, predictors: Sequence[Predictor], rest: Array, held_out: Array) -> Fold:
        """From what is left and what is held out, [models, items] each."""
        covariance = shrunk_covariance(rest)
        return cls(tuple(predictors), held_out, telling_order(covariance, _last(rest.shape[1])))


class Optimism:
    """What held-out models teach when the items were chosen without them, by number of items."""

    def __init__(self, responses: Array, folds: Sequence[Fold]) -> None:
        self._covariance: ItemCovariance = shrunk_covariance(responses)
        self._order = telling_order(self._covariance, _last(responses.shape[1]))
        self._stages = [stage for stage in STAGES if stage <= len(self._order)] or [1]
        truth = np.concatenate([fold.held_out.mean(axis=1) for fold in folds])
        self._lessons = [learnt(_rehearsed(folds, stage), truth) for stage in self._stages]

    def lesson(self, count: int) -> Lesson:
        """Of `count` chosen items, between two stages by interpolation."""
        at = np.interp(np.log(count), np.log(self._stages), np.arange(len(self._stages)))
        low = int(at)
        high = min(low + 1, len(self._stages) - 1)
        return self._lessons[low].mixed(self._lessons[high], float(at) - low)

    def share(self, items: Positions) -> float:
        """How far `items` were chosen, from 0 (no better than random ones) to 1 (the best).

        The root: half-way items (k-means) were found to need nearly all of the allowance.
        """
        count = len(items)
        if count > len(self._order):
            return 0.0
        rng = np.random.default_rng(count)
        pool = len(self._covariance.means)
        draws = [rng.permutation(pool)[:count] for _ in range(DRAWS)]
        random = float(np.mean([spread(self._covariance, draw)[1] for draw in draws]))
        best = spread(self._covariance, self._order[:count])[1]
        own = spread(self._covariance, items)[1]
        return float(np.sqrt(np.clip((random - own) / max(random - best, 1e-9), 0, 1)))


def _rehearsed(folds: Sequence[Fold], count: int) -> list[list]:
    found = []
    for fold in folds:
        items = np.sort(fold.order[:count])
        scores = fold.held_out[:, items]
        found.append([p.at(items).predict(scores) for p in fold.predictors])
    return found


def _last(pool: int) -> int:
    return max(1, min(STAGES[-1], pool // 2))
