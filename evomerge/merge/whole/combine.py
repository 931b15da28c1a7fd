"""Combinations that weigh whole rows, matrices or ranked elements of the sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import torch
from torch import Tensor

from evomerge.merge.whole.angles import (
    COLLINEAR,
    LEAST_NORM,
    LEAST_NORM_PRODUCT,
    NEGLIGIBLE,
    normalised,
    nuslerp_place,
)
from evomerge.merge.whole.spectral import edit_singular_values
from search_spaces.settings import Scalar

WholeCombine: TypeAlias = Callable[
    [Sequence[Tensor], Sequence[float], Sequence[Mapping[str, Scalar]], Mapping[str, Scalar]],
    Tensor,
]
"""(taus, weights, each source's parameters, the tensor's parameters) -> merged tau, float32."""

_CHUNK = 2**20
_CLAMPED = 1e-4
_LEAST_SCORE = 1e-12


def iso_c(
    taus: Sequence[Tensor],
    weights: Sequence[float],
    own: Sequence[Mapping[str, Scalar]],
    shared: Mapping[str, Scalar],
) -> Tensor:
    """Iso-C (Marczak et al. 2025, eqs. 6-7): sum_i w_i tau_i with equal singular values.

    All singular values become their mean. What is no matrix (or stack of matrices) is the weighted
    mean sum_i w_i tau_i / sum_i w_i, where a divisor below 1e-8 counts as 1. Directions that a sum
    of low rank does not have (singular value 0) are not invented: the mean is then over those that
    it has, so that the nuclear norm stays in either case.
    """
    total = _weighted_sum(taus, weights)
    if total.dim() in (2, 3):
        return edit_singular_values(total, _isotropic)
    divisor = sum(weights)
    return total if abs(divisor) < NEGLIGIBLE else total.div_(divisor)


def _isotropic(values: Tensor) -> Tensor:
    present = values > 0
    mean = values.sum() / present.sum()
    return torch.where(present, mean / values.where(present, 1.0), 0.0)


def pcb(
    taus: Sequence[Tensor],
    weights: Sequence[float],
    own: Sequence[Mapping[str, Scalar]],
    shared: Mapping[str, Scalar],
) -> Tensor:
    """PCB-Merging (Du et al. 2024, eqs. 3-6): elements weighted by competition-balanced scores.

    Of N sources, element by element:

        s_i = exp(N n(|tau_i|)^2) * tanh(tau_i * (tau_1 + ... + tau_N))
        tau = (w_1 s_1 tau_1 + ... + w_N s_N tau_N) / (s_1 + ... + s_N)

    n maps a source's |tau| to [0, 1] by least and greatest. Only its `density` share of highest
    scores stays, mapped to [0, 1] likewise (so the last of them counts 0); 0 / 0 is 0. As in the
    authors' code, |tau_i| is cut to its 1e-4 and 1 - 1e-4 quantiles first, except in the tanh; less
    than 10 000 elements are not cut. Least, greatest, quantiles and shares are of this tensor, the
    paper's are of the whole model. Scores that are all equal count 1.

    `own` brings density (ratio).
    """
    agreement = _weighted_sum(taus, [1.0] * len(taus))
    merged, scores = torch.zeros_like(agreement), torch.zeros_like(agreement)
    for tau, weight, values in zip(taus, weights, own, strict=True):
        magnitudes = _clamped(tau.abs())
        score = torch.tanh(tau * agreement)
        # exp(N (n^2 - 1)): a common factor is lost on mapping to [0, 1], an overflow is not.
        score *= _unit_range(magnitudes).square_().sub_(1).mul_(len(taus)).exp_()
        score = _highest(score, float(values["density"]))
        scores += score
        merged += tau.sign() * magnitudes * score * weight
    return merged.div_(scores.clamp_(min=_LEAST_SCORE))


def _clamped(magnitudes: Tensor) -> Tensor:
    cut = int(_CLAMPED * magnitudes.numel())
    if cut == 0:
        return magnitudes
    return magnitudes.clamp_(_ascending(magnitudes, cut), _ascending(magnitudes, -1 - cut))


def _unit_range(values: Tensor) -> Tensor:
    """A new tensor: the least 0, the greatest 1; all 1 if they are equal."""
    if values.numel() == 0:
        return values.clone()
    least, greatest = values.aminmax()
    return (values - least) / (greatest - least) if greatest > least else torch.ones_like(values)


def _highest(scores: Tensor, density: float) -> Tensor:
    """The `density` share of highest scores mapped to [0, 1], the others 0."""
    count = scores.numel()
    if density <= 0 or count == 0:
        return torch.zeros_like(scores)
    least = _ascending(scores, min(int((1 - density) * count), count - 1))
    if least == scores.max():
        return (scores == least).to(scores.dtype)
    return _unit_range(scores.clamp_(min=least))


def _ascending(values: Tensor, place: int) -> Tensor:
    """The value at `place` (from 0; negative: from the end) of the sorted values."""
    return values.reshape(-1).kthvalue(place % values.numel() + 1).values


def nuslerp(
    taus: Sequence[Tensor],
    weights: Sequence[float],
    own: Sequence[Mapping[str, Scalar]],
    shared: Mapping[str, Scalar],
) -> Tensor:
    """NuSLERP (mergekit) with one angle per row, or per column: slerp of two sources by weights.

    Row by row sin((1 - t) a) / sin(a) tau_1 + sin(t a) / sin(a) tau_2 with the angle a between the
    two and t = w_2 / (w_1 + w_2) (1/2 where they sum to 0); linear where they are (anti)parallel.
    A row runs along the last dimension, a column along the one before it (mergekit: the first; the
    same for matrices). A vector is one row.

    `shared` brings nuslerp_row_wise: with True (sic, as mergekit has it) per column.

    Raises:
        ValueError: not two sources.
    """
    first, second = taus
    place = nuslerp_place(weights)
    along = -2 if shared.get("nuslerp_row_wise") and first.dim() > 1 else -1
    norms = _inner(first, first, along).sqrt_(), _inner(second, second, along).sqrt_()
    norms = [norm.clamp_(min=LEAST_NORM) for norm in norms]
    cosine = _inner(first, second, along).div_(norms[0]).div_(norms[1]).clamp_(-1, 1)
    linear = 1 - cosine.square() <= COLLINEAR
    angle = cosine.masked_fill_(linear, 0).acos_()
    parts = []
    for tau, share in ((first, 1 - place), (second, place)):
        factor = torch.sin(share * angle) / torch.sin(angle)
        parts.append(tau * factor.masked_fill_(linear, share).float())
    return parts[0].add_(parts[1])


def model_stock(
    taus: Sequence[Tensor],
    weights: Sequence[float],
    own: Sequence[Mapping[str, Scalar]],
    shared: Mapping[str, Scalar],
) -> Tensor:
    """Model Stock (Jang et al. 2024, eqs. 3-4) with one angle per row: t * mean of the taus.

    t = N cos / (1 + (N - 1) cos) with the mean cosine over pairs of the row; 0 where the divisor
    vanishes, as in mergekit. The mean is by `weights`. See `angles.model_stock`.

    Raises:
        ValueError: weights that sum to zero.
    """
    count = len(taus)
    if count == 1:
        return taus[0].clone()
    norms = [_inner(tau, tau, -1).sqrt_() for tau in taus]
    cosine = torch.zeros_like(norms[0])
    for i, j in combinations(range(count), 2):
        product = (norms[i] * norms[j]).clamp_(min=LEAST_NORM_PRODUCT)
        cosine += _inner(taus[i], taus[j], -1).div_(product).clamp_(-1, 1)
    cosine /= count * (count - 1) / 2
    divisor = 1 + (count - 1) * cosine
    singular = divisor.abs() < LEAST_NORM_PRODUCT
    t = (count * cosine / divisor.masked_fill_(singular, 1)).masked_fill_(singular, 0)
    return _weighted_sum(taus, normalised(weights)).mul_(t.float())


def _weighted_sum(taus: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """A new tensor, summed from the first source to the last."""
    total = taus[0] * weights[0]
    for tau, weight in zip(taus[1:], weights[1:], strict=True):
        total += tau * weight
    return total


def _inner(a: Tensor, b: Tensor, along: int) -> Tensor:
    """Inner products along dimension -1 or -2, which is kept with length 1; float64."""
    if a.dim() < 2:
        return (a.double() * b).sum(dim=-1, keepdim=True)
    step = max(1, _CHUNK * a.shape[-2] // max(1, a.numel()))  # bound the float64 copies
    parts = [
        (x.double() * y).sum(dim=along, keepdim=True)
        for x, y in zip(a.split(step, dim=-2), b.split(step, dim=-2), strict=True)
    ]
    return torch.cat(parts, dim=-2) if along == -1 else torch.stack(parts).sum(dim=0)


WHOLE_COMBINE: Mapping[str, WholeCombine] = {
    "iso_c": iso_c,
    "pcb": pcb,
    "nuslerp": nuslerp,
    "model_stock": model_stock,
}
"""Choice of the stage `combine` -> function; `nuslerp` where nuslerp_flatten is false, and
`model_stock` where filter_wise is true (`angles.COEFFICIENTS` has them otherwise)."""
