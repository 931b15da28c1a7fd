"""Weighted means: each answered item speaks for the pool's items that are like it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from fitness.estimators.predictor import Array, Positions, Prediction, binomial

PER_STRATUM = 2
"""Answered items in a stratum, at least."""


@dataclass(frozen=True, eq=False)
class WeightedReading:
    """sum(weights * scores), with the weights [n] that the answered items have; they sum to 1."""

    weights: Array
    unseen: float

    def predict(self, scores: Array) -> Prediction:
        """See `Reading.predict`."""
        values = scores @ self.weights
        per_answer = np.sqrt(np.sum(self.weights**2) * self.unseen)
        return Prediction(values, per_answer * binomial(values))


@dataclass(frozen=True, eq=False)
class Stratified:
    """The post-stratified mean (Cochran, "Sampling techniques", 1977, section 5A.9).

    The answered items, in the order of their difficulty, are cut into groups of two or three; the
    pool is cut half-way between the groups. Each stratum's mean counts by its share of the pool.
    """

    ease: Array
    """[items], the calibration models' mean score."""

    def at(self, items: Positions) -> WeightedReading:
        """See `Predictor.at`."""
        count, pool = len(items), len(self.ease)
        ordered = np.sort(self.ease[items])
        groups = np.array_split(ordered, max(1, count // PER_STRATUM))
        # Groups of equal difficulty are one stratum: unique cuts only.
        cuts = np.unique([(a[-1] + b[0]) / 2 for a, b in pairwise(groups)])
        of_pool, of_items = (
            np.searchsorted(cuts, self.ease),
            np.searchsorted(cuts, self.ease[items]),
        )
        strata = len(cuts) + 1
        sizes = np.bincount(of_pool, minlength=strata)
        answered = np.bincount(of_items, minlength=strata)
        weights = sizes[of_items] / answered[of_items]
        return WeightedReading(weights / weights.sum(), 1 - count / pool)


@dataclass(frozen=True, eq=False)
class Weighted:
    """The anchor-weighted mean (Vivek et al., "Anchor points", 2024; Polo et al., 2024, eq. 2).

    Each item of the pool is spoken for by the answered item that the calibration models answered
    most alike. If the answered items are the centres of k-means clusters, these are the clusters.
    """

    responses: Array
    """[models, items]."""

    def at(self, items: Positions) -> WeightedReading:
        """See `Predictor.at`."""
        pool = self.responses.shape[1]
        distances = cdist(self.responses.T, self.responses[:, items].T, "sqeuclidean")
        # Items at one distance from several share themselves out, so that order decides nothing.
        near = distances <= distances.min(axis=1, keepdims=True) + 1e-9
        near[items] = np.eye(len(items), dtype=bool)
        shares: NDArray[np.float64] = near / near.sum(axis=1, keepdims=True)
        return WeightedReading(shares.sum(axis=0) / pool, 1 - len(items) / pool)


def fit_stratified(responses: Array, parents: Array) -> Stratified:
    """See `Fit`."""
    return Stratified(responses.mean(axis=0))


def fit_weighted(responses: Array, parents: Array) -> Weighted:
    """See `Fit`."""
    return Weighted(responses)
