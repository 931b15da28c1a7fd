"""Predictions put together: joined over models, blended over predictors, scaled to cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t as student

from fitness.estimators.predictor import Array, Prediction

COVERAGE = 0.9
NORMAL = 1.645
"""Half-width of a 90 % interval, in standard errors."""
FEW = 12
"""With fewer models the (m + 1) rule stands on the largest error alone: widen to Student's t."""
PRIOR_MODELS = 10
"""Blending weights start from equal ones, which count as much as this many models."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What errors on held-out models teach.

    Attributes:
        weights: [predictors], of the blend; they sum to 1.
        factor: what to multiply spreads by to get standard errors.
    """

    weights: Array
    factor: float

    def mixed(self, other: Lesson, share: float) -> Lesson:
        """This one and `share`, in [0, 1], of the other."""
        return Lesson(
            self.weights * (1 - share) + other.weights * share,
            self.factor * (1 - share) + other.factor * share,
        )


def learnt(said: Sequence[Sequence[Prediction]], truth: Array) -> Lesson:
    """From predictions [groups][predictors] of held-out models, and their true scores [models]."""
    joined = [_joined(each) for each in zip(*said, strict=True)]
    weights = blending_weights(np.stack([p.values for p in joined], axis=1), truth)
    blend = blended(joined, weights)
    errors = np.abs(np.clip(blend.values, 0, 1) - truth)
    return Lesson(weights, conformal_factor(errors / np.maximum(blend.spreads, 1e-9)))


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

    Least squares (Breiman, "Stacked regressions", 1996); none negative, together 1, drawn towards
    equal ones.
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

    The smallest of rank 0.9 (m + 1), rounded up (Papadopoulos et al., "Normalized nonconformity
    measures for regression conformal prediction", 2008), or the largest; with m below `FEW`, at
    least what Student's t with m degrees of freedom asks for.
    """
    models = len(ratios)
    rank = min(models, math.ceil(COVERAGE * (models + 1) - 1e-9))
    width = float(np.sort(ratios)[rank - 1])
    if models < FEW:
        deviation = float(np.sqrt(np.mean(ratios**2)))
        width = max(width, deviation * float(student.ppf((1 + COVERAGE) / 2, models)))
    return width / NORMAL
