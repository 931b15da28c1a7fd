"""Ridge regression from the answers to some items to the mean score over all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fitness.estimators.kriging import LinearReading
from fitness.estimators.predictor import Array, Positions, unanswered

PENALTIES = np.geomspace(1e-3, 1e3, 25)
"""Of the mean eigenvalue."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression (Hoerl and Kennard, 1970), for the mean of the unanswered items.

    The penalty is the one with the least leave-one-out error, which needs no refit (Golub, Heath
    and Wahba, "Generalized cross-validation", 1979, equation 1.3).
    """

    responses: Array
    """[models, items]."""

    def at(self, items: Positions) -> LinearReading:
        """See `Predictor.at`."""
        models, pool = self.responses.shape
        rest = unanswered(items, pool)
        if not rest.any():
            return LinearReading(0.0, np.full(pool, 1 / pool), 0.0)
        sought = self.responses[:, rest].sum(axis=1) / pool
        answers = self.responses[:, items]
        centre, mean = answers.mean(axis=0), sought.mean()
        centred, wanted = answers - centre, sought - mean
        sizes, axes = np.linalg.eigh(centred @ centred.T)
        sizes = np.maximum(sizes, 0)
        turned = axes.T @ wanted
        errors = []
        penalties = PENALTIES * max(sizes.mean(), 1e-9)
        for penalty in penalties:
            kept = sizes / (sizes + penalty)
            leverage = axes**2 @ kept + 1 / models
            left_out = (wanted - axes @ (kept * turned)) / np.maximum(1 - leverage, 1e-9)
            errors.append(np.mean(left_out**2))
        best = int(np.argmin(errors))
        slopes = centred.T @ (axes @ (turned / (sizes + penalties[best])))
        start = float(mean - slopes @ centre)
        return LinearReading(start, slopes + 1 / pool, float(np.sqrt(errors[best])) + 1e-6)


def fit_ridge(responses: Array, parents: Array) -> Ridge:
    """See `Fit`."""
    return Ridge(responses)
