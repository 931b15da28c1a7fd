"""Selections by k-means: one item, an anchor, for each cluster of like items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitness.item_selection.selection import Positions, Request, completed

Array = NDArray[np.float64]

ROUNDS = 100


def pick_by_responses(request: Request) -> Positions:
    """Anchors of clusters of items that the same models solve."""
    return _anchors(completed(request.bank.responses).T, request)


def pick_by_parameters(request: Request) -> Positions:
    """Anchors of clusters of items of like slopes and intercept."""
    model = request.fitted()
    return _anchors(np.column_stack([model.slopes, model.intercepts]), request)


def _anchors(points: Array, request: Request) -> Positions:
    """The items nearest to their clusters' centres, largest cluster first; core items stay centres.

    Args:
        points: [items, features].
        request: what is wanted.
    """
    centres = _seeded(points, request)
    fixed = len(request.core)
    nearest = np.full(len(points), -1)
    for _ in range(ROUNDS):
        squares = _squares(points, centres)
        before, nearest = nearest, squares.argmin(axis=1)
        if np.array_equal(before, nearest):
            break
        sizes = np.bincount(nearest, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        moved = np.flatnonzero(sizes > 0)
        moved = moved[moved >= fixed]
        centres[moved] = sums[moved] / sizes[moved, None]
    sizes = np.bincount(nearest, minlength=len(centres))[fixed:]
    squares = _squares(points, centres[fixed:])
    squares[request.core] = np.inf
    anchors = []
    for cluster in np.argsort(-sizes, kind="stable"):
        anchor = int(squares[:, cluster].argmin())
        anchors.append(anchor)
        squares[anchor] = np.inf
    return np.array(anchors, dtype=np.intp)


def _seeded(points: Array, request: Request) -> Array:
    """Centres to begin with [core + added, features]: the core, then k-means++.

    Each next one is an item drawn with a probability proportional to its squared distance from the
    nearest centre (Arthur and Vassilvitskii, 2007); at random once every item is a centre's twin.
    """
    chosen = list(request.core)
    gaps = np.full(len(points), np.inf)
    if chosen:
        gaps = _squares(points, points[chosen]).min(axis=1)
    for _ in range(request.added):
        free = np.setdiff1d(np.arange(len(points)), chosen)
        weights = gaps[free]
        if np.isinf(weights).all() or weights.sum() <= 0:
            weights = np.ones(len(free))
        chosen.append(int(request.rng.choice(free, p=weights / weights.sum())))
        gaps = np.minimum(gaps, _squares(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _squares(points: Array, centres: Array) -> Array:
    """Squared distances [points, centres]."""
    lengths = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.maximum(lengths - 2 * points @ centres.T, 0)
