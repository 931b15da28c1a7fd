"""Error bars that hold: a predictor's errors, measured on models it was not fitted to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitness.estimate import Estimate
from fitness.estimators.blending import Lesson, blended, learnt
from fitness.estimators.checks import checked
from fitness.estimators.optimism import Fold, Optimism
from fitness.estimators.predictor import Array, Fit, Positions, Reading

REMEMBERED = 16
"""Item subsets that are kept ready: the rungs of a search."""


def folds(models: int, seed: int) -> list[NDArray[np.intp]]:
    """Which models are held out together: each once, in 8 groups, or 5 where there are many."""
    order = np.random.default_rng(seed).permutation(models)
    return np.array_split(order, min(models, 8 if models < 100 else 5))


@dataclass(frozen=True, eq=False)
class _Ready:
    """All that is known of a subset of items before a candidate comes."""

    readings: tuple[Reading, ...]
    lesson: Lesson

    def estimate(self, scores: Array) -> Estimate:
        parts = [reading.predict(scores[None]) for reading in self.readings]
        blend = blended(parts, self.lesson.weights)
        value = float(np.clip(blend.values[0], 0, 1))
        return Estimate(value, float(blend.spreads[0]) * self.lesson.factor)


class Calibrated:
    """An estimator of one predictor, or of several blended, with conformal intervals.

    For the items that were answered, each calibration model is estimated by predictors that were
    fitted without it (in groups, as in Barber et al., "Predictive inference with the jackknife+",
    2021, section 3.1). From these errors come the blending weights, and the factor that makes
    value +- 1.645 se cover nine true scores of ten. As far as the items look chosen, both come from
    the errors on items that were chosen without the model too (`Optimism`).

    Args:
        fits: one predictor, or several that are blended.
        responses: [models, items], without nan, at least 3 models.
        parents: [k, items], the parents' responses; none for most.
        seed: which models are held out together.
        allowance: how much of what `Optimism` asks for is needed, from 0 to 1.
    """

    def __init__(
        self,
        fits: Sequence[Fit],
        responses: Array,
        parents: Array,
        seed: int,
        allowance: float = 1.0,
    ) -> None:
        self._allowance = allowance
        self._predictors = tuple(fit(responses, parents) for fit in fits)
        self._folds: list[Fold] = []
        for held in folds(len(responses), seed):
            rest = np.delete(responses, held, axis=0)
            predictors = [fit(rest, parents) for fit in fits]
            self._folds.append(Fold.of(predictors, rest, responses[held]))
        self._optimism = Optimism(responses, self._folds)
        self._pool = responses.shape[1]
        self._ready: OrderedDict[bytes, _Ready] = OrderedDict()

    def estimate(self, items: ArrayLike, scores: ArrayLike) -> Estimate:
        """See `Estimator.estimate`."""
        positions, values = checked(items, scores, self._pool)
        if len(positions) == self._pool:
            return Estimate(float(values.mean()), 0.0)
        return self._at(positions).estimate(values)

    def _at(self, items: Positions) -> _Ready:
        key = items.tobytes()
        ready = self._ready.get(key) or self._prepare(items)
        self._ready[key] = ready
        self._ready.move_to_end(key)
        if len(self._ready) > REMEMBERED:
            self._ready.popitem(last=False)
        return ready

    def _prepare(self, items: Positions) -> _Ready:
        said = [
            [p.at(items).predict(fold.held_out[:, items]) for p in fold.predictors]
            for fold in self._folds
        ]
        truth = np.concatenate([fold.held_out.mean(axis=1) for fold in self._folds])
        lesson = learnt(said, truth)
        share = self._allowance * self._optimism.share(items)
        lesson = lesson.mixed(self._optimism.lesson(len(items)), share)
        return _Ready(tuple(p.at(items) for p in self._predictors), lesson)
