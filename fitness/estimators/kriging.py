"""Kriging: the unanswered items, predicted from the answered ones by how items go together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fitness.estimators.covariance import ItemCovariance, shrunk_covariance
from fitness.estimators.predictor import Array, Positions, Prediction, binomial, unanswered


@dataclass(frozen=True, eq=False)
class LinearReading:
    """start + scores @ weights."""

    start: float
    weights: Array
    spread: float

    def predict(self, scores: Array) -> Prediction:
        """See `Reading.predict`."""
        values = self.start + scores @ self.weights
        return Prediction(values, 2 * self.spread * binomial(values))


@dataclass(frozen=True, eq=False)
class Kriging:
    """The best linear unbiased prediction of the pool's sum (Rasmussen and Williams, "Gaussian
    processes for machine learning", 2006, equation 2.25), under a shrunk covariance of the items.
    """

    covariance: ItemCovariance

    def at(self, items: Positions) -> LinearReading:
        """See `Predictor.at`."""
        covariance = self.covariance
        means, factors, noise = covariance.means, covariance.factors, covariance.noise
        pool = len(means)
        rest = unanswered(items, pool)
        seen, sought = factors[:, items], factors[:, rest].sum(axis=1)
        among = seen.T @ seen + np.diag(noise[items])
        weights = np.linalg.solve(among, seen.T @ sought)
        variance = sought @ sought - weights @ (seen.T @ sought) + noise[rest].sum()
        start = means[rest].sum() - weights @ means[items]
        return LinearReading(
            float(start) / pool, (1 + weights) / pool, float(np.sqrt(max(variance, 0))) / pool
        )


def fit_kriging(responses: Array, parents: Array) -> Kriging:
    """See `Fit`."""
    return Kriging(shrunk_covariance(responses))
