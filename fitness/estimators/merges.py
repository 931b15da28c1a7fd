"""Estimators for merges: what the parents can do is known before the child has answered."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from fitness.estimators.posterior import IrtPosterior, fit_model, normal_grid
from fitness.estimators.predictor import Array
from fitness.irt import ItemModel, ability

MIXTURES = 1001
"""Combinations of the parents that are looked at."""
TRUST = 0.7
"""Prior probability that a candidate is what its parents say."""
ROOM = 0.3
"""Standard deviation of a child around the parents' hull, in deviations of calibration models."""


def fit_mp_irt(responses: Array, parents: Array) -> IrtPosterior:
    """mp-IRT (Mencattini et al., "MERGE3", 2025, equation 5): ability is a convex combination.

    Every combination of the parents' abilities is as likely as another. The hull is a hard ceiling:
    a child above all parents is not seen as such, whatever it answers.
    """
    model = fit_model(responses, 2)
    thetas = _combinations(len(parents)) @ _abilities(model, parents)
    return IrtPosterior(model, thetas, np.zeros(len(thetas)))


def fit_soft_mp_irt(responses: Array, parents: Array) -> IrtPosterior:
    """The soft form of mp-IRT: a child may leave the hull if its answers say so.

    The prior is a mixture: with probability `TRUST` a normal around the parents' mean that covers
    their hull with `ROOM` to spare, else that of any model. Where the answers contradict the first
    part, the posterior leaves it for the second within a few items.
    """
    model = fit_model(responses, 2)
    abilities = _abilities(model, parents)
    thetas, anyone = normal_grid(model.dims)
    centre = abilities.mean(axis=0)
    off = abilities - centre
    # A uniform mixture of k parents has this covariance (that of a flat Dirichlet distribution).
    hull = off.T @ off / (len(parents) * (len(parents) + 1))
    spread = hull + ROOM**2 * np.eye(model.dims)
    away = thetas - centre
    near = -np.einsum("gi,ij,gj->g", away, np.linalg.inv(spread), away) / 2
    parts = (near - logsumexp(near) + np.log(TRUST), anyone - logsumexp(anyone) + np.log(1 - TRUST))
    return IrtPosterior(model, thetas, np.logaddexp(*parts))


def _abilities(model: ItemModel, parents: Array) -> Array:
    """[parents, dims], from all their answers."""
    items = np.arange(len(model))
    return np.stack([ability(model, items, row).mean for row in parents])


def _combinations(parents: int) -> Array:
    """[`MIXTURES`, parents], rows sum to 1, spread over the simplex."""
    if parents == 2:
        first = np.linspace(0, 1, MIXTURES)
        return np.stack([first, 1 - first], axis=1)
    rng = np.random.default_rng(0)
    return np.vstack([np.eye(parents), rng.dirichlet(np.ones(parents), MIXTURES - parents)])
