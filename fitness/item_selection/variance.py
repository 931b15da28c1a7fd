"""Selection by kriging: the items from which the pool's mean is predicted best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitness.item_selection.selection import Positions, Request, completed

Array = NDArray[np.float64]


def pick_by_variance(request: Request) -> Positions:
    """Greedily the item after whose answer the pool's mean score is known best.

    The best linear prediction of the pool's mean from some answers leaves an error whose variance
    depends only on the items' covariance over the models. Each step takes the item that lowers it
    most, given those before (greedy variance reduction as in Krause, Singh and Guestrin,
    "Near-optimal sensor placements in Gaussian processes", 2008, for the pool's mean alone).
    """
    covariance = shrunk_covariance(completed(request.bank.responses))
    least = 1e-9 * covariance.diagonal().max() + np.finfo(float).tiny
    free = np.ones(len(covariance), dtype=bool)
    for item in request.core:
        _condition(covariance, item, least)
        free[item] = False
    added = []
    for _ in range(request.added):
        own = covariance.diagonal()
        gains = np.where(own > least, covariance.sum(axis=0) ** 2 / np.maximum(own, least), 0)
        item = int(np.where(free, gains, -1).argmax())
        added.append(item)
        free[item] = False
        _condition(covariance, item, least)
    return np.array(added, dtype=np.intp)


def _condition(covariance: Array, item: int, least: float) -> None:
    """Make it the covariance given the item's answer, in place."""
    column = covariance[:, item].copy()
    if column[item] > least:
        covariance -= np.outer(column, column / column[item])


def shrunk_covariance(responses: Array) -> Array:
    """Covariance [items, items] of complete responses [models, items], shrunk to its diagonal.

    The off-diagonal entries are multiplied by 1 - lambda, where lambda minimises the expected
    squared error (Schaefer and Strimmer, "A shrinkage approach to large-scale covariance matrix
    estimation", 2005, table 1, target D).
    """
    models = len(responses)
    centred = responses - responses.mean(axis=0)
    if models < 2:
        return np.zeros((responses.shape[1],) * 2)
    covariance = centred.T @ centred / (models - 1)
    squares = (centred**2).T @ centred**2
    # Sum over models of (w - mean w)^2, with w = x_i x_j.
    scatter = squares - covariance**2 * (models - 1) ** 2 / models
    errors = models / (models - 1) ** 3 * scatter
    off = ~np.eye(len(covariance), dtype=bool)
    signal = (covariance[off] ** 2).sum()
    shrink = min(1.0, errors[off].sum() / signal) if signal > 0 else 1.0
    return np.where(off, (1 - shrink) * covariance, covariance)
