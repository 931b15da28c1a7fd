"""Selection by Fisher information, at the abilities where the search lives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitness.irt import Ability, ItemModel
from fitness.item_selection.selection import Positions, Request

Array = NDArray[np.float64]


def pick_by_information(request: Request) -> Positions:
    """Greedily the item after whose answer the pool's mean score is known best.

    At a point theta, with posterior covariance S there and g the sum over open items of
    v a (slopes a, score variance v = p (1 - p)), the sum of the open scores has the variance
    g' S g + sum v. An answer to an item takes v (g' S a + 1)^2 / (1 + v a' S a) off it: for what
    it tells of the ability, and because it is itself open no more. Without the 1, it is the
    c-optimal design for g, in one dimension the item of maximum Fisher information. What counts is
    the mean over all points.
    """
    model = request.fitted()
    points, spreads = _points(request, model)
    p = model.probabilities(points)
    noise = p * (1 - p)
    open_ = np.ones(len(model), dtype=bool)
    for item in request.core:
        open_[item] = False
        spreads = _answered(spreads, model.slopes[item], noise[:, item])
    added = []
    for _ in range(request.added):
        gradients = noise[:, open_] @ model.slopes[open_]
        along = np.einsum("kd,kde,je->kj", gradients, spreads, model.slopes, optimize=True)
        across = np.einsum("jd,kde,je->kj", model.slopes, spreads, model.slopes, optimize=True)
        gains = (noise * (along + 1) ** 2 / (1 + noise * across)).mean(axis=0)
        item = int(np.where(open_, gains, -1).argmax())
        added.append(item)
        open_[item] = False
        spreads = _answered(spreads, model.slopes[item], noise[:, item])
    return np.array(added, dtype=np.intp)


def _points(request: Request, model: ItemModel) -> tuple[Array, Array]:
    """Abilities [k, dims] and the covariances [k, dims, dims] before any answer."""
    where = request.ability
    if isinstance(where, Ability):
        return where.mean[None], where.covariance[None]
    points = model.abilities if where is None else np.asarray(where, dtype=np.float64)
    return points, np.tile(np.eye(model.dims), (len(points), 1, 1))


def _answered(spreads: Array, slopes: Array, noise: Array) -> Array:
    """Covariances [k, dims, dims] after an answer to an item (Sherman and Morrison, 1950)."""
    along = spreads @ slopes
    shrink = noise / (1 + noise * (along @ slopes))
    return spreads - shrink[:, None, None] * along[:, :, None] * along[:, None, :]
