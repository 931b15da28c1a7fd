"""Kriging: the unanswered items, predicted from the answered ones by how items go together."""

from __future__ import annotations

from dataclasses import dataclass

from fitness.estimators.covariance import ItemCovariance, shrunk_covariance, spread
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
    """The best linear unbiased prediction of the pool's sum, under a shrunk covariance of items."""

    covariance: ItemCovariance

    def at(self, items: Positions) -> LinearReading:
        """See `Predictor.at`."""
        means = self.covariance.means
        pool = len(means)
        weights, deviation = spread(self.covariance, items)
        start = means[unanswered(items, pool)].sum() - weights @ means[items]
        return LinearReading(float(start) / pool, (1 + weights) / pool, deviation / pool)


def fit_kriging(responses: Array, parents: Array) -> Kriging:
    """See `Fit`."""
    return Kriging(shrunk_covariance(responses))
