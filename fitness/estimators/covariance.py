"""How items go together: a covariance learnt from far fewer models than items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOISE = 0.3
"""At least this share of an item's variance is its own."""


@dataclass(frozen=True, eq=False)
class ItemCovariance:
    """The covariance of item scores over models, factors' @ factors + diag(noise).

    Attributes:
        means: [items], the mean score, kept off 0 and 1.
        factors: [factors, items].
        noise: [items], the variance that an item shares with no other.
    """

    means: Array
    factors: Array
    noise: Array


def shrunk_covariance(responses: Array) -> ItemCovariance:
    """The covariance of `responses` [models, items], without nan; at least 2 models.

    One factor is the model's mean score: loadings are drawn half-way to what they would be if every
    item went with it equally, as in Ledoit and Wolf ("Improved estimation of the covariance matrix
    of stock returns with an application to portfolio selection", 2003), whose target is the
    one-factor model. Of what is left, an eigenvalue counts by what it has above the eigenvalues
    that independent items would show (the median one: with more items than models they hardly
    differ; Ledoit and Wolf, 2004, "A well-conditioned estimator", section 2).
    """
    models = len(responses)
    means = (responses.sum(axis=0) + 0.5) / (models + 1)
    variances = means * (1 - means)
    centred = responses - responses.mean(axis=0)
    skill = centred.mean(axis=1)
    skill /= max(np.sqrt(skill @ skill / (models - 1)), 1e-12)
    raw = centred.T @ skill / (models - 1)
    sds = np.sqrt(variances)
    loadings = (raw + sds * (raw @ sds) / (sds @ sds)) / 2
    rest = (centred - np.outer(skill, raw)) / np.sqrt(models - 1)
    _, sizes, axes = np.linalg.svd(rest, full_matrices=False)
    powers = sizes**2
    # One direction is the mean's, another the skill's: what is left has models - 2.
    floor = np.median(powers[: max(models - 2, 1)])
    kept = powers > floor
    scaled = axes[kept] * np.sqrt(powers[kept] - floor)[:, None]
    factors = np.vstack([loadings, scaled])
    shared = np.sum(factors**2, axis=0)
    return ItemCovariance(means, factors, np.maximum(variances - shared, NOISE * variances) + 0.01)


def spread(covariance: ItemCovariance, items: NDArray[np.intp]) -> tuple[Array, float]:
    """Kriging weights [n] for the sum of the other items, and that prediction's deviation.

    Rasmussen and Williams, "Gaussian processes for machine learning", 2006, equations 2.25, 2.26.
    """
    factors, noise = covariance.factors, covariance.noise
    rest = np.ones(len(noise), dtype=bool)
    rest[items] = False
    seen, sought = factors[:, items], factors[:, rest].sum(axis=1)
    common = seen.T @ sought
    weights = np.linalg.solve(seen.T @ seen + np.diag(noise[items]), common)
    variance = sought @ sought - weights @ common + noise[rest].sum()
    return weights, float(np.sqrt(max(variance, 0)))


def telling_order(covariance: ItemCovariance, count: int) -> NDArray[np.intp]:
    """The first `count` items of the order in which each tells most of the pool's sum, greedily.

    Krause, Singh and Guestrin, "Near-optimal sensor placements in Gaussian processes", 2008; for
    the sum alone, by Gram-Schmidt steps on the factors.
    """
    factors, noise = covariance.factors, covariance.noise
    own = np.sum(factors**2, axis=0) + noise
    with_sum = factors.T @ factors.sum(axis=1) + noise
    known = np.zeros((count, len(noise)))
    order = np.zeros(count, dtype=np.intp)
    free = np.ones(len(noise), dtype=bool)
    for step in range(count):
        item = int(np.where(free, with_sum**2 / own, -1).argmax())
        column = factors[:, item] @ factors - known[:step, item] @ known[:step]
        column[item] += noise[item]
        known[step] = column / np.sqrt(own[item])
        with_sum = with_sum - known[step] * (with_sum[item] / np.sqrt(own[item]))
        own = np.maximum(own - known[step] ** 2, 1e-9)
        order[step], free[item] = item, False
    return order
