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
