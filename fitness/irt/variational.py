"""Several dimensions: variational expectation-maximisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitness.irt.item_model import ItemModel
from fitness.irt.item_prior import first_prior, item_prior
from fitness.irt.numerics import bound_curvature, inverse

Array = NDArray[np.float64]

ROUNDS = 300
TOLERANCE = 2e-3


def fit_variational(responses: Array, dims: int) -> ItemModel:
    """The model of responses [models, items], in [0, 1] or nan.

    log sigmoid(x) has the quadratic lower bound of Jaakkola and Jordan ("Bayesian parameter
    estimation via variational methods", 2000, equation 10), tight where x^2 = xi^2. Under it the
    posteriors of abilities and of items are normal and each follows from the other in closed form.
    """
    asked = (~np.isnan(responses)).astype(np.float64)
    centred = np.where(asked > 0, np.nan_to_num(responses) - 0.5, 0.0)
    thetas = _start(responses, dims)
    spreads = np.tile(np.eye(dims) / 10, (len(thetas), 1, 1))
    prior = first_prior(dims + 1)
    items = np.tile(prior[0], (responses.shape[1], 1))
    covariances = np.tile(inverse(prior[1]) / 10, (len(items), 1, 1))
    for _ in range(ROUNDS):
        before = items
        curvature = asked * _curvature(thetas, spreads, items, covariances)
        items, covariances = _items(thetas, spreads, centred, curvature, prior)
        curvature = asked * _curvature(thetas, spreads, items, covariances)
        thetas, spreads = _abilities(items, covariances, centred, curvature)
        change = _standardising(thetas, spreads)
        thetas, spreads, items, covariances = _moved(thetas, spreads, items, covariances, change)
        prior = item_prior(items, covariances)
        if np.abs(items - before).max() < TOLERANCE:
            break
    turn = _principal(items), np.zeros(dims)
    thetas, spreads, items, covariances = _moved(thetas, spreads, items, covariances, turn)
    return ItemModel(items[:, :-1], items[:, -1], covariances, thetas, spreads)


def _start(responses: Array, dims: int) -> Array:
    """Abilities [models, dims] to begin with: principal components of the centred responses."""
    filled = np.nan_to_num(responses - np.nanmean(responses, axis=0))
    left, sizes, right = np.linalg.svd(filled, full_matrices=False)
    left, sizes, right = left[:, :dims], sizes[:dims], right[:dims]
    # A component is fixed up to its sign: here, the one that solves more items.
    signs = np.where(right.sum(axis=1) < 0, -1.0, 1.0)
    return left * signs * np.sqrt(len(filled))


def _second(means: Array, covariances: Array) -> Array:
    """E[v v'] flattened, [n, d * d]."""
    return (covariances + means[:, :, None] * means[:, None, :]).reshape(len(means), -1)


def _lifted(thetas: Array, spreads: Array) -> tuple[Array, Array]:
    """Mean and covariance of (ability, 1)."""
    models, dims = thetas.shape
    mean = np.concatenate([thetas, np.ones((models, 1))], axis=1)
    covariance = np.zeros((models, dims + 1, dims + 1))
    covariance[:, :dims, :dims] = spreads
    return mean, covariance


def _curvature(thetas: Array, spreads: Array, items: Array, covariances: Array) -> Array:
    """Curvature [models, items] of the bound, tightest where xi^2 is the logit's expected square."""
    squares = _second(*_lifted(thetas, spreads)) @ _second(items, covariances).T
    return bound_curvature(np.sqrt(squares))


def _items(
    thetas: Array, spreads: Array, centred: Array, curvature: Array, prior: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Posteriors of the items' (slopes, intercept), given those of the abilities."""
    mean, precision = prior
    lifted = _lifted(thetas, spreads)
    params = len(mean)
    total = (curvature.T @ _second(*lifted)).reshape(-1, params, params) + precision
    covariances = inverse(total)
    linear = centred.T @ lifted[0] + precision @ mean
    return np.einsum("jab,jb->ja", covariances, linear), covariances


def _abilities(
    items: Array, covariances: Array, centred: Array, curvature: Array
) -> tuple[Array, Array]:
    """Posteriors of the abilities, given those of the items; the prior is standard normal."""
    params = items.shape[1]
    dims = params - 1
    total = (curvature @ _second(items, covariances)).reshape(-1, params, params)
    spreads = inverse(total[:, :dims, :dims] + np.eye(dims))
    linear = centred @ items[:, :dims] - total[:, :dims, dims]
    return np.einsum("iab,ib->ia", spreads, linear), spreads


def _standardising(thetas: Array, spreads: Array) -> tuple[Array, Array]:
    """The map theta -> factor^-1 (theta - centre) that gives the abilities unit covariance.

    Parameter-expanded EM (Liu, Rubin and Wu, 1998): the same likelihood, far fewer rounds.
    """
    centre = thetas.mean(axis=0)
    off = thetas - centre
    return np.linalg.cholesky(off.T @ off / len(off) + spreads.mean(axis=0)), centre


def _moved(
    thetas: Array,
    spreads: Array,
    items: Array,
    covariances: Array,
    change: tuple[Array, Array],
) -> tuple[Array, Array, Array, Array]:
    """Abilities and items under theta = factor theta' + centre; the logits stay."""
    factor, centre = change
    dims = len(centre)
    back = np.linalg.inv(factor)
    move = np.eye(dims + 1)
    move[:dims, :dims] = factor.T
    move[dims, :dims] = centre
    return (
        (thetas - centre) @ back.T,
        back @ spreads @ back.T,
        items @ move.T,
        move @ covariances @ move.T,
    )


def _principal(items: Array) -> Array:
    """The rotation [dims, dims] to the slopes' principal axes, on each of which their sum is > 0."""
    slopes = items[:, :-1]
    _, axes = np.linalg.eigh(slopes.T @ slopes)
    axes = axes[:, ::-1]
    return axes * np.where((slopes @ axes).sum(axis=0) < 0, -1.0, 1.0)
