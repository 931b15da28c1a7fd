"""Selections by chance: from the whole pool, or from strata of difficulty."""

from __future__ import annotations

import numpy as np

from fitness.item_selection.selection import Positions, Request


def pick_random(request: Request) -> Positions:
    """A simple random sample."""
    order = request.rng.permutation(len(request.bank))
    return order[~np.isin(order, request.core)][: request.added]


def pick_stratified(request: Request) -> Positions:
    """One random item of each stratum of difficulty.

    The pool, ordered by the items' mean scores (equal ones at random), is cut into as many strata
    of equal size as items are wanted. Strata with a core item are full. If more are empty than
    items may be added, because core items share a stratum, those added spread evenly over them.
    """
    size = len(request.bank)
    count = len(request.core) + request.added
    means = np.nanmean(request.bank.responses, axis=0)
    # Sums of the same scores may differ in their last bit: ties are made before they are broken.
    order = np.lexsort((request.rng.permutation(size), means.round(12)))
    strata = np.empty(size, dtype=np.intp)
    strata[order] = np.arange(size) * count // size
    empty = np.setdiff1d(np.arange(count), strata[request.core])
    filled = empty[(np.arange(request.added) * 2 + 1) * len(empty) // (2 * request.added)]
    lottery = request.rng.permutation(size)
    drawn = lottery[np.argsort(strata[lottery], kind="stable")]
    first = np.searchsorted(strata[drawn], filled)
    return request.rng.permutation(drawn[first])
