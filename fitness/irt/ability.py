"""Ability: where a model stands, from its scores on some items of known parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fitness.errors import FitnessError
from fitness.irt.item_model import ItemModel
from fitness.irt.numerics import inverse

Array = NDArray[np.float64]

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
"""Gauss-Hermite rule: expectations under a standard normal, up to a factor."""
STEPS = 50
TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Prior:
    """A normal prior of the ability: `mean` [dims], `covariance` [dims, dims], positive definite.

    The scale is that of the calibration models, who have mean 0 and unit covariance.
    """

    mean: Array
    covariance: Array


@dataclass(frozen=True, eq=False)
class Ability:
    """The posterior of an ability: `mean` [dims], `covariance` [dims, dims]."""

    mean: Array
    covariance: Array


def ability(
    model: ItemModel, items: NDArray[np.intp], scores: Array, prior: Prior | None = None
) -> Ability:
    """The posterior of a model's ability, from its scores on some items.

    A graded score counts as that fraction of a right answer. In one dimension the mean and the
    variance are those of the posterior itself, by adaptive Gauss-Hermite quadrature (Bock and
    Aitkin, "Marginal maximum likelihood estimation of item parameters", 1981, section 3: the
    expected a posteriori estimate). In more they are the posterior's mode and the inverse of the
    curvature there (Laplace's approximation). The posterior is log-concave, so Newton's method
    with halved steps finds its only mode.

    Args:
        model: the items' parameters.
        items: [n] positions among the model's items, each once; may be none.
        scores: [n] in [0, 1].
        prior: the standard normal if None.

    Raises:
        FitnessError: arguments of other shapes, or values out of range.
    """
    items, scores = np.asarray(items, dtype=np.intp), np.asarray(scores, dtype=np.float64)
    prior = prior or Prior(np.zeros(model.dims), np.eye(model.dims))
    _check(model, items, scores, prior)
    target = _Posterior(model.slopes[items], model.intercepts[items], scores, prior)
    mode = _mode(target)
    covariance = inverse(target.curvature(mode))
    return _quadrature(target, mode, covariance) if model.dims == 1 else Ability(mode, covariance)


class _Posterior:
    """The log posterior density of an ability, up to a constant."""

    def __init__(self, slopes: Array, intercepts: Array, scores: Array, prior: Prior) -> None:
        self.slopes, self.intercepts, self.prior = slopes, intercepts, prior
        self.precision = inverse(prior.covariance)
        self.right = slopes.T @ scores

    def density(self, theta: Array) -> Array:
        """[...] at abilities [..., dims]."""
        logits = theta @ self.slopes.T + self.intercepts
        # log(1 + exp(x)), without overflow and faster than logaddexp.
        missed = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
        off = theta - self.prior.mean
        spread = np.einsum("...i,ij,...j->...", off, self.precision, off)
        return theta @ self.right - missed.sum(axis=-1) - spread / 2

    def gradient(self, theta: Array) -> Array:
        p = expit(self.slopes @ theta + self.intercepts)
        return self.right - self.slopes.T @ p - self.precision @ (theta - self.prior.mean)

    def curvature(self, theta: Array) -> Array:
        p = expit(self.slopes @ theta + self.intercepts)
        return (self.slopes.T * (p * (1 - p))) @ self.slopes + self.precision


def _mode(target: _Posterior) -> Array:
    """The mode [dims], by Newton's method."""
    theta = np.array(target.prior.mean, dtype=np.float64)
    height = target.density(theta)
    for _ in range(STEPS):
        gradient = target.gradient(theta)
        step = np.linalg.solve(target.curvature(theta), gradient)
        if gradient @ step < TOLERANCE**2:
            break
        length = 1.0
        while (there := target.density(theta + length * step)) < height and length > TOLERANCE:
            length /= 2
        theta, height = theta + length * step, max(there, height)
    return theta


def _quadrature(target: _Posterior, mode: Array, covariance: Array) -> Ability:
    """Mean and variance of a one-dimensional posterior, from nodes laid where its mass is."""
    at = mode + NODES[:, None] * np.sqrt(covariance[0, 0])
    log_weights = np.log(WEIGHTS) + NODES**2 / 2 + target.density(at)
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = weights @ at
    return Ability(mean, (weights @ (at - mean) ** 2)[None])


def _check(model: ItemModel, items: NDArray[np.intp], scores: Array, prior: Prior) -> None:
    if items.ndim != 1 or items.shape != scores.shape:
        raise FitnessError(
            f"items of shape {list(items.shape)}, scores of shape {list(scores.shape)}",
            "there is one score per item",
            "ability",
            "pass two lists of one length",
        )
    if len(items) and (items.min() < 0 or items.max() >= len(model)):
        raise FitnessError(
            f"items {items.min()} to {items.max()}",
            f"the model has items 0 to {len(model) - 1}",
            "ability",
            "pass positions in the bank the model was fitted to",
        )
    if not np.all((scores >= 0) & (scores <= 1)):
        raise FitnessError(
            f"scores {scores[~((scores >= 0) & (scores <= 1))][:3].tolist()}",
            "a score lies in [0, 1]",
            "ability",
            "leave unanswered items out and scale the others to [0, 1]",
        )
    if np.shape(prior.mean) != (model.dims,) or np.shape(prior.covariance) != (model.dims,) * 2:
        raise FitnessError(
            f"prior mean of shape {list(np.shape(prior.mean))}, covariance of shape "
            f"{list(np.shape(prior.covariance))}",
            f"the model has {model.dims} dimensions",
            "ability",
            "pass a mean [dims] and a covariance [dims, dims]",
        )
