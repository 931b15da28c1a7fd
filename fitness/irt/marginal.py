"""One dimension: marginal maximum a posteriori by expectation-maximisation over a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, softmax

from fitness.irt.item_model import ItemModel
from fitness.irt.item_prior import first_prior, item_prior

Array = NDArray[np.float64]

GRID = np.linspace(-5, 5, 81)
"""Abilities [nodes]. The sums over them are exact to 1 % down to posteriors of sd 0.09."""
ROUNDS = 200
TOLERANCE = 1e-3
LONGEST = 1.0
"""Longest Newton step of an item's parameters: a longer one may overshoot."""


def fit_marginal(responses: Array) -> ItemModel:
    """The model of responses [models, items], in [0, 1] or nan."""
    asked = (~np.isnan(responses)).astype(np.float64)
    right = np.nan_to_num(responses)
    basis = np.stack([GRID, np.ones_like(GRID)], axis=1)
    mean, precision = first_prior(2)
    items = np.tile(mean, (responses.shape[1], 1))
    covariances = np.tile(np.linalg.inv(precision), (len(items), 1, 1))
    for _ in range(ROUNDS):
        before = items
        posterior = _posterior(items @ basis.T, right, asked)
        items = _rescaled(items, posterior)
        items, covariances = _newton(items, posterior, right, asked, (mean, precision))
        mean, precision = item_prior(items, covariances)
        if np.abs(items - before).max() < TOLERANCE:
            break
    posterior = _posterior(items @ basis.T, right, asked)
    abilities = posterior @ GRID
    variances = posterior @ GRID**2 - abilities**2
    return ItemModel(
        items[:, :1], items[:, 1], covariances, abilities[:, None], variances[:, None, None]
    )


def _posterior(logits: Array, right: Array, asked: Array) -> Array:
    """[models, nodes], rows sum to 1: the E-step (Bock and Aitkin 1981, equation 12)."""
    likelihood = right @ logits + asked @ log_expit(-logits)
    return softmax(likelihood - GRID**2 / 2, axis=1)


def _rescaled(items: Array, posterior: Array) -> Array:
    """The items on the scale on which the abilities have mean 0 and variance 1.

    Parameter-expanded EM (Liu, Rubin and Wu, 1998): the same likelihood, far fewer rounds.
    """
    share = posterior.mean(axis=0)
    mean = share @ GRID
    deviation = np.sqrt(share @ (GRID - mean) ** 2)
    return np.stack([items[:, 0] * deviation, items[:, 1] + items[:, 0] * mean], axis=1)


def _newton(
    items: Array, posterior: Array, right: Array, asked: Array, prior: tuple[Array, Array]
) -> tuple[Array, Array]:
    """One Newton step of every item's (slope, intercept), and their covariances.

    The M-step: a logistic regression on the expected counts at each node (equations 13 to 15),
    with the items' prior. EM ascends with one step of it as with many.
    """
    mean, precision = prior
    basis = np.stack([GRID, np.ones_like(GRID)], axis=1)
    p = expit(items @ basis.T)
    reached = asked.T @ posterior
    gradient = (right.T @ posterior - reached * p) @ basis - (items - mean) @ precision
    products = (basis[:, :, None] * basis[:, None, :]).reshape(len(GRID), -1)
    curvature = ((reached * p * (1 - p)) @ products).reshape(-1, 2, 2) + precision
    covariances = np.linalg.inv(curvature)
    step = np.einsum("jab,jb->ja", covariances, gradient)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return items + step * np.minimum(1, LONGEST / np.maximum(length, LONGEST)), covariances
