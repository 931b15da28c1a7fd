"""Error bars that hold: a predictor's errors, measured on models it was not fitted to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.stats import t as student

from fitness.estimate import Estimate
from fitness.estimators.checks import checked
from fitness.estimators.predictor import Array, Fit, Positions, Prediction, Predictor, Reading

COVERAGE = 0.9
NORMAL = 1.645
"""Half-width of a 90 % interval, in standard errors."""
FEW = 12
"""With fewer models the (m + 1) rule stands on the largest error alone: widen to Student's t."""
PRIOR_MODELS = 10
"""Blending weights start from equal ones, which count as much as this many models."""
REMEMBERED = 16
"""Item subsets that are kept ready: the rungs of a search."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Predictors fitted without some models, and those models' responses [models, items]."""

    predictors: tuple[Predictor, ...]
    held_out: Array


def folds(models: int, seed: int) -> list[NDArray[np.intp]]:
    """Which models are held out together: each once, in 8 groups, or 5 where there are many."""
    order = np.random.default_rng(seed).permutation(models)
    return np.array_split(order, min(models, 8 if models < 100 else 5))


def refits(fits: Sequence[Fit], responses: Array, parents: Array, seed: int) -> list[Fold]:
    """Each fit, without each group of models in turn."""
    found = []
    for held in folds(len(responses), seed):
        rest = np.delete(responses, held, axis=0)
        found.append(Fold(tuple(fit(rest, parents) for fit in fits), responses[held]))
    return found


@dataclass(frozen=True, eq=False)
class _Ready:
    """All that is known of a subset of items before a candidate comes."""

    readings: tuple[Reading, ...]
    weights: Array
    factor: float

    def estimate(self, scores: Array) -> Estimate:
        blend = blended([reading.predict(scores[None]) for reading in self.readings], self.weights)
        value = float(np.clip(blend.values[0], 0, 1))
        return Estimate(value, float(blend.spreads[0]) * self.factor)


class Calibrated:
    """An estimator of one predictor, or of several blended, with conformal intervals.

    For the items that were answered, each calibration model is estimated by predictors that were
    fitted without it. From these errors come the blending weights (Breiman, "Stacked regressions",
    1996) and the factor that makes value +- 1.645 se cover nine true scores of ten: the 0.9 (m + 1)
    smallest of m |error| / spread (Papadopoulos et al., "Normalized nonconformity measures for
    regression conformal prediction", 2008; the refits as in Barber et al., "Predictive inference
    with the jackknife+", 2021, section 3.1).

    Args:
        fits: one predictor, or several that are blended.
        responses: [models, items], without nan, at least 2 models.
        parents: [k, items], the parents' responses; none for most.
        seed: which models are held out together.
    """

    def __init__(self, fits: Sequence[Fit], responses: Array, parents: Array, seed: int) -> None:
        self._predictors = tuple(fit(responses, parents) for fit in fits)
        self._folds = refits(fits, responses, parents, seed)
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
        parts = [[p.at(items) for p in fold.predictors] for fold in self._folds]
        said = [
            [reading.predict(fold.held_out[:, items]) for reading in readings]
            for fold, readings in zip(self._folds, parts, strict=True)
        ]
        truth = np.concatenate([fold.held_out.mean(axis=1) for fold in self._folds])
        joined = [_joined(each) for each in zip(*said, strict=True)]
        weights = blending_weights(np.stack([p.values for p in joined], axis=1), truth)
        blend = blended(joined, weights)
        errors = np.abs(np.clip(blend.values, 0, 1) - truth)
        factor = conformal_factor(errors / np.maximum(blend.spreads, 1e-9))
        return _Ready(tuple(p.at(items) for p in self._predictors), weights, factor)


def _joined(parts: Sequence[Prediction]) -> Prediction:
    return Prediction(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.spreads for part in parts]),
    )


def blended(parts: Sequence[Prediction], weights: Array) -> Prediction:
    """The weighted mean of predictions; `weights` [parts] sum to 1."""
    return Prediction(
        np.stack([part.values for part in parts], axis=1) @ weights,
        np.stack([part.spreads for part in parts], axis=1) @ weights,
    )


def blending_weights(values: Array, truth: Array) -> Array:
    """The weights [parts] that predict `truth` [models] best from `values` [models, parts].

    Least squares; none negative, together 1, drawn towards equal ones.
    """
    parts = values.shape[1]
    if parts == 1:
        return np.ones(1)
    equal = np.full(parts, 1 / parts)
    errors = values - truth[:, None]
    # With weights that sum to 1 the error is errors @ weights. The prior is PRIOR_MODELS models
    # whose estimates are apart as far as these are.
    apart = np.sqrt(np.mean(values.var(axis=1)) * PRIOR_MODELS * parts)
    together = 1e3 * (np.abs(errors).max() + apart + 1e-9) * np.sqrt(len(truth))
    rows = np.vstack([errors, apart * np.eye(parts), together * np.ones((1, parts))])
    wanted = np.concatenate([np.zeros(len(truth)), apart * equal, [together]])
    weights, _ = nnls(rows, wanted)
    return weights / weights.sum()


def conformal_factor(ratios: Array) -> float:
    """What to multiply spreads by, from |error| / spread [m] of models not fitted to.

    The order statistic 0.9 (m + 1), between two of them by interpolation; if that is beyond the
    largest or m is below `FEW`, at least what Student's t with m degrees of freedom asks for.
    """
    models = len(ratios)
    rank = COVERAGE * (models + 1)
    width = float(np.interp(rank, np.arange(1, models + 1), np.sort(ratios)))
    if models < FEW:
        deviation = float(np.sqrt(np.mean(ratios**2)))
        width = max(width, deviation * float(student.ppf((1 + COVERAGE) / 2, models)))
    return width / NORMAL
