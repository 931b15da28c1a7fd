"""The item model: the multidimensional two-parameter logistic model, with its parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ItemModel:
    """Item parameters of a pool and the abilities of the models that calibrated them.

    A model of ability theta is right on item j with the probability (Reckase, "Multidimensional
    item response theory", 2009, equation 4.5; in one dimension, Birnbaum's 2PL)::

        p_j(theta) = 1 / (1 + exp(-(slopes_j . theta + intercept_j)))

    Abilities of the calibration models have mean 0 and unit covariance. The dimensions are ordered:
    the slopes vary most along the first, which points to where more items are solved.

    Attributes:
        slopes: [items, dims]; negative where abler models do worse.
        intercepts: [items], the logit of an average model; greater is easier.
        covariances: [items, dims + 1, dims + 1], of (slopes, intercept), after the fit.
        abilities: [models, dims], posterior means of the calibration models.
        ability_covariances: [models, dims, dims].
    """

    slopes: Array
    intercepts: Array
    covariances: Array
    abilities: Array
    ability_covariances: Array

    @property
    def dims(self) -> int:
        """Dimensions of an ability."""
        return self.slopes.shape[1]

    def __len__(self) -> int:
        """The number of items."""
        return len(self.intercepts)

    def probabilities(self, theta: ArrayLike) -> Array:
        """Expected scores [..., items], in (0, 1), at abilities [..., dims]."""
        return expit(np.asarray(theta, dtype=np.float64) @ self.slopes.T + self.intercepts)

    def information(self, theta: ArrayLike) -> Array:
        """Fisher information [..., items, dims, dims] of each item at abilities [..., dims]."""
        p = self.probabilities(theta)
        outer = self.slopes[:, :, None] * self.slopes[:, None, :]
        return (p * (1 - p))[..., None, None] * outer
