"""The prior of an item's parameters: normal, its mean and covariance learnt from all items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitness.irt.numerics import inverse

Array = NDArray[np.float64]

ITEMS = 4.0
"""The hyperprior counts as much as this many items."""
SPREAD = 1.0
"""Standard deviation of slopes and intercepts under the hyperprior."""
SLOPE = 1.0
"""Slope along the first dimension under the hyperprior."""


def item_prior(means: Array, covariances: Array) -> tuple[Array, Array]:
    """Mean [params] and precision [params, params] of the prior of (slopes, intercept).

    The maximum of the expected log density of the items under a normal prior, times a conjugate
    hyperprior (normal-inverse-Wishart; Gelman et al., "Bayesian data analysis", 2013, section 3.6)
    that is worth `ITEMS` items of slope 1 in the first dimension, 0 in the others and intercept 0.

    Args:
        means: [items, params], posterior means of the items' parameters.
        covariances: [items, params, params], their posterior covariances.
    """
    start = np.zeros(means.shape[1])
    start[0] = SLOPE
    total = len(means) + ITEMS
    mean = (means.sum(axis=0) + ITEMS * start) / total
    off, drawn = means - mean, start - mean
    scatter = off.T @ off + covariances.sum(axis=0) + ITEMS * np.outer(drawn, drawn)
    scatter += ITEMS * SPREAD**2 * np.eye(len(mean))
    return mean, inverse(scatter / total)


def first_prior(params: int) -> tuple[Array, Array]:
    """Mean and precision of the prior before any item is known."""
    return item_prior(np.zeros((0, params)), np.zeros((0, params, params)))
