"""Combinations that are a weighted sum with weights from the angles between the sources.

Means on a sphere lie in the span of the sources, so their coefficients follow from the inner
products alone. What a rule iterates on are coefficients (a few numbers), not vectors, in float64;
the sources are read twice, once for the inner products and once for the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import acos, cos, pi, sin, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.settings import Scalar

Matrix: TypeAlias = NDArray[np.float64]
Coefficients: TypeAlias = Callable[[Matrix, Sequence[float], Mapping[str, Scalar]], list[float]]
"""(inner products of the n sources, float64 (n, n); weights; the tensor's parameters) -> the
coefficient of each source, unnormalised, in the merged tensor."""

COLLINEAR = 2.0**-24
"""1 - cos^2 up to this counts as 0: float32's cos^2, which mergekit compares, is then exactly 1."""

LEAST_NORM = 1e-7
LEAST_NORM_PRODUCT = 1e-6
NEGLIGIBLE = 1e-8
_RESOLVED = 1e-7
"""Lengths and angles below are rounding errors: squared, float64's epsilon times a few."""
_NEGLIGIBLE_TOTAL = 1e-6
_SLERP_IS_LERP = 0.9995


def slerp(gram: Matrix, weights: Sequence[float], shared: Mapping[str, Scalar]) -> list[float]:
    """Spherical interpolation of two sources, the base and another (Shoemake 1985, sec. 3.3).

    sin((1 - t) a) / sin(a) and sin(t a) / sin(a) with the angle a between them; linear where
    |cos a| > 0.9995. As in mergekit, a zero vector (norm up to 1e-8) is at a right angle to any
    other. `weights` are not used; `shared` brings t in [0, 1].

    Raises:
        ValueError: not two sources.
    """
    _expect_two(gram)
    place = float(shared["t"])
    norms = [norm if norm > NEGLIGIBLE else 1.0 for norm in _norms(gram)]
    cosine = _clip(gram[0, 1] / norms[0] / norms[1])
    return _interpolated(cosine, place, linear=abs(cosine) > _SLERP_IS_LERP)


def nuslerp(gram: Matrix, weights: Sequence[float], shared: Mapping[str, Scalar]) -> list[float]:
    """NuSLERP (mergekit): spherical interpolation of two sources at w_2 / (w_1 + w_2).

    At 1/2 where the weights sum to 0. Linear only where the two are (anti)parallel to float32's
    last bit. `combine.nuslerp` has one angle per row.

    Raises:
        ValueError: not two sources.
    """
    _expect_two(gram)
    norms = [max(norm, LEAST_NORM) for norm in _norms(gram)]
    cosine = _clip(gram[0, 1] / norms[0] / norms[1])
    return _interpolated(cosine, nuslerp_place(weights), linear=1 - cosine**2 <= COLLINEAR)


def multislerp(gram: Matrix, weights: Sequence[float], shared: Mapping[str, Scalar]) -> list[float]:
    """Multi-SLERP (Goddard 2024, mergekit): the direction of the weighted mean of unit vectors.

    The rule goes from that direction m along the weighted mean of the unit vectors' tangents at m.
    That mean is 0 identically: sum_i w_i (u_i - (u_i . m) m) with m = sum_i w_i u_i / |sum_i w_i
    u_i|. So the merged tensor is m times the weighted mean of the norms. (mergekit computes the
    rounding error of 0; the limit is the same.) Two opposite vectors whose weights balance are
    interpolated linearly, and so are vectors that are all shorter than eps; a single source is
    itself; zero vectors alone give 0 (mergekit refuses more than two of these or of much shorter
    vectors, as of a tensor that no source changed).

    `shared` brings normalize_weights (divide them by their sum) and eps (added to norms; a mean
    shorter than it counts as 0).

    Raises:
        ValueError: weights that sum to zero, or (for more than two sources) unit vectors whose
            weighted mean is zero.
    """
    if len(gram) == 1:
        return [1.0]
    eps = float(shared["eps"])
    w = np.asarray(normalised(weights) if shared["normalize_weights"] else weights, np.float64)
    norms = _norms(gram)
    if not norms.any():
        return [0.0] * len(gram)
    onto = w / (norms + eps) if eps else w * _inverse(norms)
    length = _length(onto, gram)
    if length < max(eps, _RESOLVED):
        if len(gram) == 2 or norms.max() < eps:
            return w.tolist()
        raise ValueError(
            "unit vectors whose weighted mean is zero have no direction to merge to; "
            "change the weights of sources that are opposite to each other"
        )
    return (onto * (w @ norms / length)).tolist()


def karcher(gram: Matrix, weights: Sequence[float], shared: Mapping[str, Scalar]) -> list[float]:
    """Karcher mean of the unit vectors, times the weighted mean of the norms (Karcher 1977, eq. 1.2).

    From the normalised mean, steps along the mean of the unit vectors' logarithms, until a step is
    shorter than tol (radians) or after max_iter steps. Weights are divided by their sum (mergekit's
    are equal). Zero vectors give no direction (mergekit compares norms with tol, an angle; nothing
    else differs). A vector opposite to the mean gives no direction either: all are equally near.

    `shared` brings max_iter (count) and tol (radians).

    Raises:
        ValueError: weights that sum to zero.
    """
    count = len(gram)
    if count == 1:
        return [1.0]
    alphas, norms = np.asarray(normalised(weights)), _norms(gram)
    inverse = _inverse(norms)
    if not inverse.any():
        return [0.0] * count
    cosines = gram * np.outer(inverse, inverse)
    present = alphas * (norms > 0)
    shares = np.asarray(normalised(present.tolist()))
    mean = _karcher_mean(cosines, shares, int(shared["max_iter"]), float(shared["tol"]))
    return (mean * inverse * (alphas @ norms)).tolist()


def _karcher_mean(cosines: Matrix, shares: Matrix, most: int, tolerance: float) -> Matrix:
    """Coefficients of the unit vectors in their mean; a share of 0 is of no vector."""
    mean = shares.copy()
    length = _length(mean, cosines)
    if length < max(tolerance, _RESOLVED):
        mean = np.zeros_like(shares)
        mean[np.flatnonzero(np.diag(cosines))[0]] = length = 1.0
    mean /= length
    for _ in range(most):
        step = _mean_logarithm(mean, cosines, shares, tolerance)
        length = _length(step, cosines)
        if length < max(tolerance, _RESOLVED):
            break
        mean = cos(length) * mean + sin(length) / length * step
        mean /= _length(mean, cosines)
    return mean


def _mean_logarithm(mean: Matrix, cosines: Matrix, shares: Matrix, tolerance: float) -> Matrix:
    """sum_i share_i log_mean(u_i), log_m(u) = a / sin(a) (u - cos(a) m) with the angle a."""
    step = np.zeros_like(mean)
    for i, cosine in enumerate(cosines @ mean):
        angle = acos(_clip(cosine))
        if shares[i] == 0 or min(angle, pi - angle) < max(tolerance, _RESOLVED):
            continue
        factor = shares[i] * angle / sin(angle)
        step -= factor * _clip(cosine) * mean
        step[i] += factor
    return step


def model_stock(
    gram: Matrix, weights: Sequence[float], shared: Mapping[str, Scalar]
) -> list[float]:
    """Model Stock (Jang et al. 2024, eqs. 3-4) on deltas: t times their mean.

    t = N cos / (1 + (N - 1) cos), cos the mean cosine over pairs; 0 where the divisor vanishes.
    The mean is by `weights` (the paper's are equal). As in mergekit, a product of two norms counts
    as 1e-6 at least: tensors that hardly changed stay nearer to the base than the paper has them.

    Raises:
        ValueError: weights that sum to zero.
    """
    count = len(gram)
    shares = normalised(weights)
    if count == 1:
        return [1.0]
    norms = _norms(gram)
    cosines = gram / np.maximum(np.outer(norms, norms), LEAST_NORM_PRODUCT)
    cosine = float(np.clip(cosines, -1, 1)[np.triu_indices(count, 1)].mean())
    divisor = 1 + (count - 1) * cosine
    t = 0.0 if abs(divisor) < LEAST_NORM_PRODUCT else count * cosine / divisor
    return [t * share for share in shares]


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum.

    Raises:
        ValueError: they sum to zero.
    """
    total = sum(weights)
    if abs(total) < NEGLIGIBLE:
        raise ValueError(f"weights {[f'{w:g}' for w in weights]} sum to zero; change one of them")
    return [weight / total for weight in weights]


def nuslerp_place(weights: Sequence[float]) -> float:
    """Where between two sources (0: the first) their weights put the result."""
    first, second = weights
    total = first + second
    return 0.5 if abs(total) < _NEGLIGIBLE_TOTAL else second / total


def _interpolated(cosine: float, place: float, linear: bool) -> list[float]:
    if linear:
        return [1 - place, place]
    angle = acos(cosine)
    return [sin((1 - place) * angle) / sin(angle), sin(place * angle) / sin(angle)]


def _expect_two(gram: Matrix) -> None:
    if len(gram) != 2:
        raise ValueError(f"{len(gram)} sources: this rule interpolates between two; pass two")


def _norms(gram: Matrix) -> Matrix:
    return np.sqrt(np.maximum(np.diag(gram), 0.0))


def _inverse(norms: Matrix) -> Matrix:
    """1 / norm, 0 for 0."""
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def _length(coefficients: Matrix, gram: Matrix) -> float:
    return sqrt(max(0.0, float(coefficients @ gram @ coefficients)))


def _clip(cosine: float) -> float:
    return min(1.0, max(-1.0, float(cosine)))


COEFFICIENTS: Mapping[str, Coefficients] = {
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
}
"""Choice of the stage `combine` -> function (see `combine.WHOLE_COMBINE` for angles per row)."""
