"""p-IRT: the answers place a candidate's ability; the ability predicts what was not answered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy.special import expit, log_expit, softmax

from fitness.estimators.predictor import Array, Fit, Positions, Prediction
from fitness.irt import ItemModel, fit_items

NODES = {1: np.linspace(-5, 5, 121), 2: np.linspace(-4.5, 4.5, 41)}
"""Abilities per dimension. The scale is that of the calibration models: mean 0, deviation 1."""


def normal_grid(dims: int) -> tuple[Array, Array]:
    """Abilities [nodes, dims] on a lattice, and their log density [nodes] (standard normal)."""
    axes = np.meshgrid(*[NODES[dims]] * dims, indexing="ij")
    thetas = np.stack([axis.ravel() for axis in axes], axis=1)
    return thetas, -np.sum(thetas**2, axis=1) / 2


@dataclass(frozen=True, eq=False)
class PosteriorReading:
    """The posterior at a node is proportional to exp(theta . (slopes' scores) + start)."""

    thetas: Array
    """[nodes, dims]."""
    slopes: Array
    """[n, dims], of the answered items."""
    start: Array
    """[nodes], log prior and what of the log likelihood does not depend on the scores."""
    sums: Array
    """[nodes], expected sum of the unanswered items' scores."""
    variances: Array
    """[nodes], variance of that sum at a given ability."""
    pool: int

    def posterior(self, scores: Array) -> Array:
        """[candidates, nodes], rows sum to 1."""
        return softmax(scores @ self.slopes @ self.thetas.T + self.start, axis=1)

    def predict(self, scores: Array) -> Prediction:
        """See `Reading.predict`."""
        weights = self.posterior(scores)
        rest = weights @ self.sums
        variance = weights @ (self.sums**2 + self.variances) - rest**2
        values = (scores.sum(axis=1) + rest) / self.pool
        return Prediction(values, np.sqrt(np.maximum(variance, 1e-12)) / self.pool)


@dataclass(frozen=True, eq=False)
class IrtPosterior:
    """p-IRT (Polo et al., "tinyBenchmarks", 2024, equation 4), by the whole posterior.

    The unanswered items count by their expected score, averaged over the posterior of the ability
    rather than taken at its best guess. The posterior follows from the answers whoever chose the
    items, so it also holds where they were chosen by earlier answers.
    """

    model: ItemModel
    thetas: Array
    """[nodes, dims], the abilities that are possible."""
    log_prior: Array
    """[nodes], up to a constant."""

    @cached_property
    def totals(self) -> tuple[Array, Array]:
        """Expected sum [nodes] of all items' scores, and its variance [nodes]."""
        p = self.model.probabilities(self.thetas)
        return p.sum(axis=1), np.sum(p * (1 - p), axis=1)

    def at(self, items: Positions) -> PosteriorReading:
        """See `Predictor.at`."""
        slopes = self.model.slopes[items]
        logits = self.thetas @ slopes.T + self.model.intercepts[items]
        p = expit(logits)
        sums, variances = self.totals
        return PosteriorReading(
            self.thetas,
            slopes,
            self.log_prior + log_expit(-logits).sum(axis=1),
            sums - p.sum(axis=1),
            variances - np.sum(p * (1 - p), axis=1),
            len(self.model),
        )


def irt(dims: int) -> Fit:
    """The fit of p-IRT in `dims` dimensions, 1 or 2."""
    return partial(_fit_irt, dims)


def _fit_irt(dims: int, responses: Array, parents: Array) -> IrtPosterior:
    model = fit_model(responses, dims)
    return IrtPosterior(model, *normal_grid(model.dims))


def fit_model(responses: Array, dims: int) -> ItemModel:
    """`fit_items`, in as many dimensions as the responses carry."""
    return fit_items(responses, min(dims, max(1, min(responses.shape) - 1)))
