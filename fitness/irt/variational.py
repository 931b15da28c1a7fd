"""Several dimensions: variational expectation-maximisation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitness.irt.item_model import ItemModel
from fitness.irt.item_prior import first_prior, item_prior
from fitness.irt.numerics import bound_curvature, inverse, settled, sigmoid

Array = NDArray[np.float64]

ROUNDS = 300


class Normals(NamedTuple):
    """Normal posteriors: `means` [n, d] and `covariances` [n, d, d]."""

    means: Array
    covariances: Array

    def second(self) -> Array:
        """E[v v'], flattened to [n, d * d]."""
        outer = self.means[:, :, None] * self.means[:, None, :]
        return (self.covariances + outer).reshape(len(self.means), -1)

    def lifted(self) -> Normals:
        """Those of (v, 1)."""
        means = np.pad(self.means, ((0, 0), (0, 1)), constant_values=1)
        return Normals(means, np.pad(self.covariances, ((0, 0), (0, 1), (0, 1))))


def fit_variational(responses: Array, dims: int) -> ItemModel:
    """The model of responses [models, items], in [0, 1] or nan.

    The posteriors of abilities and of items are taken to be normal and independent, so a logit is a
    product of normals, and the scores' expectations come in closed form (`_linearised`). Given the
    one side, the other side's posteriors solve a regression, one step of which is made at a time.
    """
    asked = (~np.isnan(responses)).astype(np.float64)
    right = np.nan_to_num(responses)
    prior = first_prior(dims + 1)
    abilities = _start(responses, dims)
    count = responses.shape[1]
    items = Normals(np.tile(prior[0], (count, 1)), np.tile(inverse(prior[1]) / 10, (count, 1, 1)))
    for _ in range(ROUNDS):
        before = items.means
        items = _items(abilities, items, right, asked, prior)
        abilities = _abilities(abilities, items, right, asked)
        abilities, items = _moved(abilities, items, *_standardising(abilities))
        prior = item_prior(*items)
        if settled(before, items.means):
            break
    abilities, items = _moved(abilities, items, _principal(items.means[:, :dims]), np.zeros(dims))
    slopes, intercepts = items.means[:, :dims], items.means[:, dims]
    return ItemModel(slopes, intercepts, items.covariances, *abilities)


def _start(responses: Array, dims: int) -> Normals:
    """Abilities to begin with: principal components of the centred responses."""
    filled = np.nan_to_num(responses - np.nanmean(responses, axis=0))
    left, _, right = np.linalg.svd(filled, full_matrices=False)
    # A component is fixed up to its sign: here, the one that solves more items.
    signs = np.where(right[:dims].sum(axis=1) < 0, -1.0, 1.0)
    means = left[:, :dims] * signs * np.sqrt(len(filled))
    return Normals(means, np.tile(np.eye(dims) / 10, (len(means), 1, 1)))


def _linearised(lifted: Normals, items: Normals, asked: Array) -> tuple[Array, Array, Array]:
    """Offset, slope and the slope's bound [models, items] of the best line through the sigmoid.

    For a logit x of mean m and variance v, sigmoid(x) is offset + slope x, with its own expected
    value and derivative: E sigmoid(x) = sigmoid(s m), s = (1 + pi v / 8)^(-1/2) (MacKay, "The
    evidence framework applied to classification networks", 1992, equation 12). The bound is that of
    Jaakkola and Jordan, tightest where xi^2 = E x^2. Items that were not asked have slope 0.
    """
    m = lifted.means @ items.means.T
    squares = lifted.second() @ items.second().T
    shrink = 1 / np.sqrt(1 + np.pi / 8 * np.maximum(squares - m**2, 0))
    score = sigmoid(shrink * m)
    slope = asked * score * (1 - score) * shrink
    return score - slope * m, slope, asked * bound_curvature(np.sqrt(squares))


def _items(
    abilities: Normals, items: Normals, right: Array, asked: Array, prior: tuple[Array, Array]
) -> Normals:
    """Posteriors of the items' (slopes, intercept), one step on, given those of the abilities.

    A mean's step divides the gradient by the bound's curvature, which is at least the likelihood's
    own: it cannot overshoot. The covariance is the inverse of the own curvature.
    """
    mean, precision = prior
    lifted = abilities.lifted()
    offset, slope, bound = _linearised(lifted, items, asked)
    shape = (-1, len(mean), len(mean))
    own = (slope.T @ lifted.second()).reshape(shape) + precision
    most = (bound.T @ lifted.second()).reshape(shape) + precision
    linear = (right - asked * offset).T @ lifted.means + precision @ mean
    gradient = linear - np.einsum("jab,jb->ja", own, items.means)
    return Normals(items.means + np.einsum("jab,jb->ja", inverse(most), gradient), inverse(own))


def _abilities(abilities: Normals, items: Normals, right: Array, asked: Array) -> Normals:
    """Posteriors of the abilities, one step on, as `_items`; their prior is standard normal."""
    dims = abilities.means.shape[1]
    offset, slope, bound = _linearised(abilities.lifted(), items, asked)
    shape = (-1, dims + 1, dims + 1)
    own = (slope @ items.second()).reshape(shape)
    most = (bound @ items.second()).reshape(shape)[:, :dims, :dims] + np.eye(dims)
    linear = (right - asked * offset) @ items.means[:, :dims] - own[:, :dims, dims]
    own = own[:, :dims, :dims] + np.eye(dims)
    gradient = linear - np.einsum("iab,ib->ia", own, abilities.means)
    means = abilities.means + np.einsum("iab,ib->ia", inverse(most), gradient)
    return Normals(means, inverse(own))


def _standardising(abilities: Normals) -> tuple[Array, Array]:
    """The factor and centre for `_moved` that give the abilities mean 0 and unit covariance.

    Parameter-expanded EM (Liu, Rubin and Wu, 1998): the same likelihood, far fewer rounds.
    """
    centre = abilities.means.mean(axis=0)
    off = abilities.means - centre
    return np.linalg.cholesky(off.T @ off / len(off) + abilities.covariances.mean(axis=0)), centre


def _moved(
    abilities: Normals, items: Normals, factor: Array, centre: Array
) -> tuple[Normals, Normals]:
    """Abilities and items under theta = factor theta' + centre; the logits stay."""
    dims = len(centre)
    back = np.linalg.inv(factor)
    move = np.eye(dims + 1)
    move[:dims, :dims] = factor.T
    move[dims, :dims] = centre
    return (
        Normals((abilities.means - centre) @ back.T, back @ abilities.covariances @ back.T),
        Normals(items.means @ move.T, move @ items.covariances @ move.T),
    )


def _principal(slopes: Array) -> Array:
    """The rotation [dims, dims] to the slopes' principal axes, on each of which their sum is > 0."""
    _, axes = np.linalg.eigh(slopes.T @ slopes)
    axes = axes[:, ::-1]
    return axes * np.where((slopes @ axes).sum(axis=0) < 0, -1.0, 1.0)
