"""Numerical parts that the fits share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def inverse(matrices: Array) -> Array:
    """The inverses of symmetric matrices [..., n, n], themselves symmetric to the last bit."""
    inverted = np.linalg.inv(matrices).astype(np.float64, copy=False)
    return (inverted + np.swapaxes(inverted, -1, -2)) / 2


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), several times as fast as by its own formula."""
    return np.tanh(logits / 2) / 2 + 0.5


def bound_curvature(logits: Array) -> Array:
    """Curvature of the quadratic bound of log sigmoid that is tight at these logits, in (0, 1/4].

    tanh(xi / 2) / (2 xi), twice the lambda(xi) of Jaakkola and Jordan ("Bayesian parameter
    estimation via variational methods", 2000, equation 7).
    """
    xi = np.maximum(np.abs(logits), 1e-6)
    return np.tanh(xi / 2) / (2 * xi)


def settled(before: Array, after: Array) -> bool:
    """Whether a fit's parameters have moved too little to matter: 0.001, root mean square."""
    return float(np.sqrt(np.mean((after - before) ** 2))) < 1e-3
