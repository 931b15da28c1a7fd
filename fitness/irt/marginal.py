"""One dimension: marginal maximum a posteriori by expectation-maximisation over a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, softmax

from fitness.irt.item_model import ItemModel
from fitness.irt.item_prior import first_prior, item_prior
from fitness.irt.numerics import bound_curvature, inverse, settled, sigmoid

Array = NDArray[np.float64]

GRID = np.linspace(-5, 5, 81)
"""Abilities [nodes]. The sums over them are exact to 1 % down to posteriors of sd 0.09."""
ROUNDS = 200
BASIS = np.stack([GRID, np.ones_like(GRID)], axis=1)
PRODUCTS = (BASIS[:, :, None] * BASIS[:, None, :]).reshape(len(GRID), -1)
STEPS = 2
"""Steps of one M-step."""


def fit_marginal(responses: Array) -> ItemModel:
    """The model of responses [models, items], in [0, 1] or nan."""
    asked = (~np.isnan(responses)).astype(np.float64)
    right = np.nan_to_num(responses)
    prior = first_prior(2)
    items = np.tile(prior[0], (responses.shape[1], 1))
    covariances = np.tile(inverse(prior[1]), (len(items), 1, 1))
    for _ in range(ROUNDS):
        before = items
        posterior = _posterior(items @ BASIS.T, right, asked)
        items, covariances = _raised(items, posterior, right, asked, prior)
        items, covariances, _ = _standardised(items, covariances, posterior)
        prior = item_prior(items, covariances)
        if settled(before, items):
            break
    posterior = _posterior(items @ BASIS.T, right, asked)
    items, covariances, nodes = _standardised(items, covariances, posterior)
    abilities = posterior @ nodes
    variances = posterior @ nodes**2 - abilities**2
    return ItemModel(
        items[:, :1], items[:, 1], covariances, abilities[:, None], variances[:, None, None]
    )


def _posterior(logits: Array, right: Array, asked: Array) -> Array:
    """[models, nodes], rows sum to 1: the E-step (Bock and Aitkin 1981, equation 12)."""
    likelihood = right @ logits + asked @ log_expit(-logits)
    return softmax(likelihood - GRID**2 / 2, axis=1)


def _standardised(items: Array, covariances: Array, posterior: Array) -> tuple[Array, Array, Array]:
    """Items, their covariances and the grid, on the scale that the abilities' posterior asks for.

    On it the calibration models have mean 0 and variance 1; the logits stay. Within EM this is
    parameter expansion (Liu, Rubin and Wu, 1998): the same likelihood, far fewer rounds.
    """
    share = posterior.mean(axis=0)
    mean = share @ GRID
    deviation = np.sqrt(share @ (GRID - mean) ** 2)
    move = np.array([[deviation, 0], [mean, 1]])
    return items @ move.T, move @ covariances @ move.T, (GRID - mean) / deviation


def _raised(
    items: Array, posterior: Array, right: Array, asked: Array, prior: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Every item's (slope, intercept) after the M-step, and their covariances.

    The M-step is a logistic regression on the expected counts at each node (equations 13 to 15),
    with the items' prior. Its steps divide by the curvature of Jaakkola and Jordan's bound, which
    is at least the likelihood's own: unlike Newton's they never overshoot, so EM always ascends.
    """
    mean, precision = prior
    reached, solved = asked.T @ posterior, right.T @ posterior
    for _ in range(STEPS):
        logits = items @ BASIS.T
        p = sigmoid(logits)
        gradient = (solved - reached * p) @ BASIS - (items - mean) @ precision
        bound = _curvatures(reached * bound_curvature(logits), precision)
        items = items + np.linalg.solve(bound, gradient[:, :, None])[:, :, 0]
    p = sigmoid(items @ BASIS.T)
    return items, inverse(_curvatures(reached * p * (1 - p), precision))


def _curvatures(weights: Array, precision: Array) -> Array:
    """[items, 2, 2] from weights [items, nodes]."""
    return (weights @ PRODUCTS).reshape(-1, 2, 2) + precision
