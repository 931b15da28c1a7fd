"""The plain mean of the answers."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from fitness.estimate import Estimate, mean_estimate
from fitness.estimators.checks import checked


@dataclass(frozen=True)
class Mean:
    """The mean of a simple random sample, with the finite-population correction.

    Its error bar holds for items drawn at random and for no others.
    """

    pool: int

    def estimate(self, items: ArrayLike, scores: ArrayLike) -> Estimate:
        """See `Estimator.estimate`."""
        positions, values = checked(items, scores, self.pool)
        if len(positions) == self.pool:
            return Estimate(float(values.mean()), 0.0)
        return mean_estimate(values.tolist(), self.pool)
