"""Responses of simulated models, with the truth they were drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Simulated:
    responses: Array
    theta: Array
    slopes: Array
    intercepts: Array

    @property
    def probabilities(self) -> Array:
        return logistic(self.theta @ self.slopes.T + self.intercepts)


def logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def simulated(models: int, items: int, dims: int = 1, seed: int = 0) -> Simulated:
    """Abilities are standard normal; slopes are positive in the first dimension alone."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((models, dims))
    slopes = rng.standard_normal((items, dims))
    slopes[:, 0] = np.exp(0.4 * slopes[:, 0])
    intercepts = 1.2 * rng.standard_normal(items)
    p = logistic(theta @ slopes.T + intercepts)
    responses = (rng.random(p.shape) < p).astype(np.float64)
    return Simulated(responses, theta, slopes, intercepts)


def rms(errors: Array) -> float:
    return float(np.sqrt(np.mean(errors**2)))
