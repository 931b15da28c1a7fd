"""Fitting items: slopes, intercepts and abilities from who answered what."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitness.errors import FitnessError
from fitness.irt.item_model import ItemModel
from fitness.irt.marginal import fit_marginal
from fitness.irt.variational import fit_variational

Array = NDArray[np.float64]


def fit_items(responses: ArrayLike, dims: int = 1) -> ItemModel:
    """Fit the two-parameter logistic model to responses.

    One dimension: marginal maximum a posteriori by EM over a grid (Bock and Aitkin, "Marginal
    maximum likelihood estimation of item parameters", 1981). More: variational EM with normal
    posteriors of abilities and of items (Cho, Wang, Zhang and Xu, "Gaussian variational estimation
    for multidimensional item response theory", 2021), rotated to principal axes.

    In both, an item's (slopes, intercept) have a normal prior whose mean and covariance are learnt
    from all items together, so that an item that few models saw, or that nobody or everybody
    solves, is drawn towards the others. The prior leaves slopes their sign: an item with a negative
    slope is one that abler models get wrong. A graded score counts as that fraction of a right
    answer. The result depends on nothing but the arguments.

    Args:
        responses: [models, items] in [0, 1], nan where a model was not asked; each model and each
            item has at least one response.
        dims: dimensions of an ability, at least 1. At most one less than models or items.

    Raises:
        FitnessError: responses of another shape or range, or more dimensions than they can carry.
    """
    matrix = np.array(responses, dtype=np.float64)
    _check(matrix, dims)
    return fit_marginal(matrix) if dims == 1 else fit_variational(matrix, dims)


def _check(matrix: Array, dims: int) -> None:
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise FitnessError(
            f"responses of shape {list(matrix.shape)}",
            "it has to be [models, items], at least one of each",
            "fit_items",
            "pass a matrix",
        )
    asked = ~np.isnan(matrix)
    within = asked & (matrix >= 0) & (matrix <= 1)
    if np.any(within != asked) or not (asked.any(axis=0).all() and asked.any(axis=1).all()):
        raise FitnessError(
            "the responses",
            "they lie in [0, 1] or are nan, and each model and each item has at least one",
            "fit_items",
            "scale the scores to [0, 1]; leave models and items without any out",
        )
    if not 1 <= dims <= max(1, min(matrix.shape) - 1):
        raise FitnessError(
            f"dims = {dims}",
            f"{matrix.shape[0]} models and {matrix.shape[1]} items carry 1 to "
            f"{max(1, min(matrix.shape) - 1)}",
            "fit_items",
            "use fewer dimensions, or more models",
        )
