"""The prior of an item's parameters: normal, its mean and covariance learnt from all items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitness.irt.numerics import inverse

Array = NDArray[np.float64]

ITEMS = 4.0
"""The hyperprior counts as much as this many items,"""
SHARE = 0.2
"""and, for the slopes, as much as this share of the items more: their scale is known from the
models, who are few. Without it slopes and intercepts of an easy pool grow together without end."""
SLOPE, SLOPE_SPREAD = 1.0, 0.5
"""Mean along the first dimension and standard deviation of the slopes under the hyperprior."""
INTERCEPT_SPREAD = 1.0
"""Standard deviation of the intercepts under the hyperprior; their mean is 0."""
SLOPE_BOUND, INTERCEPT_BOUND = 2.0, 4.0
"""Largest mean, in size, and largest standard deviation of the prior. Answers without noise bear any
parameters that are large enough: what is learnt from them would grow with each round."""


def item_prior(means: Array, covariances: Array) -> tuple[Array, Array]:
    """Mean [params] and precision [params, params] of the prior of (slopes, intercept).

    Mean and variances are those of the items, drawn towards the hyperprior's as conjugate updates
    are (Gelman et al., "Bayesian data analysis", 2013, section 3.3), each parameter by its own
    count; the correlations are those of the items.

    Args:
        means: [items, params], posterior means of the items' parameters.
        covariances: [items, params, params], their posterior covariances.
    """
    items, params = means.shape
    start, spread = np.zeros(params), np.full(params, SLOPE_SPREAD**2)
    start[0], spread[-1] = SLOPE, INTERCEPT_SPREAD**2
    counts = np.full(params, ITEMS + SHARE * items)
    counts[-1] = ITEMS
    bound = np.full(params, SLOPE_BOUND)
    bound[-1] = INTERCEPT_BOUND
    mean = np.clip((means.sum(axis=0) + counts * start) / (items + counts), -bound, bound)
    off = means - mean
    scatter = off.T @ off + covariances.sum(axis=0)
    variances = (scatter.diagonal() + counts * spread) / (items + counts)
    variances = np.minimum(variances, bound**2)
    scatter += ITEMS * np.diag(spread)
    scale = np.sqrt(variances / scatter.diagonal())
    return mean, inverse(scatter * scale * scale[:, None])


def first_prior(params: int) -> tuple[Array, Array]:
    """Mean and precision of the prior before any item is known."""
    return item_prior(np.zeros((0, params)), np.zeros((0, params, params)))
