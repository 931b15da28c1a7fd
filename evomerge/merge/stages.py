"""The stages of merge rules: one function per choice declared in `search_spaces.rules.STAGES`.

All arithmetic is float32 and every operation rounds once (no fused multiply-add), so that a result
depends neither on chunk borders nor on the device. Tensors here are flat chunks of one tensor,
shape (elements,); lists run over the plan's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import acos, inf, sin, sqrt
from typing import TypeAlias

import numpy as np
import torch
from torch.nn.functional import hardshrink

from evomerge.merge.deltas import Delta, MagnitudeTables, chunks
from evomerge.merge.random_masks import keep_mask, mask_key

Chunk: TypeAlias = torch.Tensor
Sparse: TypeAlias = Callable[[Chunk, int], Chunk]
"""(tau, its first element's index) -> a new tau with zeros where it is dropped."""

_NEGLIGIBLE_NORM = 1e-7
_NEGLIGIBLE_WEIGHT = 1e-8
_NEARLY_COLLINEAR = 0.9995


# --- reference: (theta, base) -> tau --------------------------------------------------------------


def no_reference(theta: Chunk, base: Chunk | None) -> Chunk:
    """tau = theta."""
    return theta.float()


def base_reference(theta: Chunk, base: Chunk | None) -> Chunk:
    """tau = theta - base (a task vector)."""
    assert base is not None
    return theta.float() - base.float()


# --- sparsify: (delta, density, tables) -> Sparse, or None to keep everything ---------------------


def keep_all(delta: Delta, density: float, tables: MagnitudeTables) -> Sparse | None:
    """Every element."""
    return None


def keep_largest(delta: Delta, density: float, tables: MagnitudeTables) -> Sparse | None:
    """The k = max(1, floor(density * count)) elements greatest in |tau| (Yadav et al. 2023, eq. 1).

    Per tensor, as mergekit does; the paper trims over the whole model. Elements that tie with the
    k-th are kept too, so that what is kept does not depend on an order of the elements.
    """
    if density >= 1 or delta.count == 0:
        return None
    if density <= 0:
        return lambda tau, start: torch.zeros_like(tau)
    threshold = tables.threshold(delta, max(1, int(density * delta.count)))
    dropped = float(np.nextafter(np.float32(threshold), np.float32(-inf)))
    return lambda tau, start: hardshrink(tau, dropped)  # 0 where |tau| <= dropped


def keep_at_random(delta: Delta, density: float, tables: MagnitudeTables) -> Sparse | None:
    """Each element with probability `density` (Yu et al. 2024, eq. 1), by `random_masks`."""
    if density >= 1:
        return None
    key = mask_key(*delta.mask_name)

    @lru_cache(maxsize=1)  # rescaling and merging ask for the same mask in turn
    def mask(start: int, count: int, device: torch.device) -> Chunk:
        return keep_mask(key, start, count, density, device)

    return lambda tau, start: tau * mask(start, len(tau), tau.device)


# --- rescale: (delta, sparse, density) -> factor on what was kept ---------------------------------


def no_rescale(delta: Delta, sparse: Sparse | None, density: float) -> float:
    """1."""
    return 1.0


def inverse_density(delta: Delta, sparse: Sparse | None, density: float) -> float:
    """1 / density: the expectation of tau is unchanged (Yu et al. 2024, eq. 1)."""
    return 1.0 if sparse is None or density <= 0 else 1.0 / density


def l1_norm(delta: Delta, sparse: Sparse | None, density: float) -> float:
    """sum |tau| / sum |kept tau|: the L1 norm is unchanged (mergekit's DARE); 1 if either is ~0."""
    if sparse is None:
        return 1.0
    before = after = 0.0
    for start, stop in chunks(delta.count):
        tau = delta.chunk(start, stop)
        # In float64: the same to the last bit of a float32 for any number of threads.
        before += tau.abs().sum(dtype=torch.float64).item()
        after += sparse(tau, start).abs_().sum(dtype=torch.float64).item()
    return 1.0 if before < _NEGLIGIBLE_NORM or after < _NEGLIGIBLE_NORM else before / after


# --- consensus: weighted taus -> per input 1.0 where it agrees else 0.0; None: all agree ---------


def no_consensus(weighted: Sequence[Chunk]) -> list[Chunk] | None:
    """Everything stays."""
    return None


def sign_of_sum(weighted: Sequence[Chunk]) -> list[Chunk] | None:
    """Elements with the sign of sum_i w_i tau_i (Yadav et al. 2023, eq. 2); 0 is positive."""
    return _agree(weighted, _total(weighted))


def sign_of_most(weighted: Sequence[Chunk]) -> list[Chunk] | None:
    """Elements with the sign that most of w_i tau_i have; a draw is positive."""
    return _agree(weighted, _total([part.sign() for part in weighted]))


def _agree(weighted: Sequence[Chunk], elected: Chunk) -> list[Chunk]:
    sign = torch.ge(elected, 0, out=torch.empty_like(elected)).mul_(2).sub_(1)
    # Masks are floats: torch's element-wise kernels are several times slower on bools.
    return [torch.gt(part * sign, 0, out=torch.empty_like(part)) for part in weighted]


# --- combine: (weighted taus, weights, agreement) -> merged tau -----------------------------------


def weighted_sum(
    weighted: Sequence[Chunk], weights: Sequence[float], agree: Sequence[Chunk] | None
) -> Chunk:
    """sum_i w_i tau_i over the elements that agree."""
    if agree is None:
        return _total(weighted)
    return _total([part * kept for part, kept in zip(weighted, agree, strict=True)])


def weighted_mean(
    weighted: Sequence[Chunk], weights: Sequence[float], agree: Sequence[Chunk] | None
) -> Chunk:
    """sum_i w_i tau_i / sum_i w_i over the elements that agree (Yadav et al. 2023, eq. 3).

    A divisor of 0 (per element; without consensus: below 1e-8) counts as 1.
    """
    total = weighted_sum(weighted, weights, agree)
    if agree is None:
        divisor = sum(weights)
        return total if abs(divisor) < _NEGLIGIBLE_WEIGHT else total / divisor
    surviving = _total([kept * w for kept, w in zip(agree, weights, strict=True)])
    nothing = torch.eq(surviving, 0, out=torch.empty_like(surviving))
    return total / surviving.add_(nothing)


def slerp_weights(first: torch.Tensor, second: torch.Tensor, t: float) -> tuple[float, float]:
    """The two weights of spherical interpolation at `t` in [0, 1] (0: `first`; Shoemake 1985).

    The tensors count as vectors; the weights go to the unnormalised ones. Nearly parallel, nearly
    opposite and zero vectors are interpolated linearly.
    """
    dot = square_a = square_b = 0.0
    first, second = first.reshape(-1), second.reshape(-1)
    for start, stop in chunks(first.numel()):
        a, b = first[start:stop].double(), second[start:stop].double()
        dot += torch.dot(a, b).item()
        square_a += torch.dot(a, a).item()
        square_b += torch.dot(b, b).item()
    norms = sqrt(square_a) * sqrt(square_b)
    if norms == 0 or abs(dot) > _NEARLY_COLLINEAR * norms:
        return 1.0 - t, t
    omega = acos(dot / norms)
    return sin((1.0 - t) * omega) / sin(omega), sin(t * omega) / sin(omega)


def _total(parts: Sequence[Chunk]) -> Chunk:
    """The sum, in order; with one part that part itself."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


Reference = Callable[[Chunk, "Chunk | None"], Chunk]
Sparsify = Callable[[Delta, float, MagnitudeTables], "Sparse | None"]
Rescale = Callable[[Delta, "Sparse | None", float], float]
Consensus = Callable[[Sequence[Chunk]], "list[Chunk] | None"]
Combine = Callable[[Sequence[Chunk], Sequence[float], "Sequence[Chunk] | None"], Chunk]

REFERENCE: Mapping[str, Reference] = {"none": no_reference, "base": base_reference}
SPARSIFY: Mapping[str, Sparsify] = {
    "none": keep_all,
    "magnitude": keep_largest,
    "random": keep_at_random,
}
RESCALE: Mapping[str, Rescale] = {"none": no_rescale, "inverse": inverse_density, "l1": l1_norm}
CONSENSUS: Mapping[str, Consensus] = {
    "none": no_consensus,
    "sum": sign_of_sum,
    "count": sign_of_most,
}
COMBINE: Mapping[str, Combine] = {
    "sum": weighted_sum,
    "mean": weighted_mean,
    "slerp": weighted_sum,  # of `slerp_weights`
}
IMPLEMENTED: Mapping[str, Mapping[str, Callable]] = {
    "reference": REFERENCE,
    "sparsify": SPARSIFY,
    "rescale": RESCALE,
    "consensus": CONSENSUS,
    "combine": COMBINE,
}
"""Stage -> choice -> function; the same keys as `STAGES` (tested)."""
