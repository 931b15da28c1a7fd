"""Sparsification that ranks elements against their neighbours: within a row, a block or a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.random_masks import RESOLUTION, MaskKey, random_bits
from search_spaces.settings import Scalar

WholeSparsify: TypeAlias = Callable[
    [
        Sequence[Tensor],
        Sequence[Mapping[str, Scalar]],
        Mapping[str, Scalar],
        Sequence[MaskKey],
        Tensor | None,
    ],
    list[Tensor],
]
"""(taus, each source's parameters, the tensor's parameters, each source's mask key, reference) ->
new taus, 0 where an element is dropped. All tensors have one shape."""

_CHUNK = 2**20
"""Elements worked on at a time: bounds what is kept besides the result."""

_SMOOTHING = 1e-8


def della(
    taus: Sequence[Tensor],
    own: Sequence[Mapping[str, Scalar]],
    shared: Mapping[str, Scalar],
    keys: Sequence[MaskKey],
    base: Tensor | None,
) -> list[Tensor]:
    """MagPrune (Deep et al. 2024, sec. 3.1, as in mergekit): likelier kept the larger in its row.

    An element whose |tau| has rank k of C in its row (0 is the least) is kept with probability
    density - epsilon + 2 epsilon k / (C - 1), by one random number per element: what a lower
    density keeps, a higher one keeps too. A row runs along the last dimension; a vector is one row.
    A density of 1 keeps all, of 0 nothing; recipes see to it that others leave room for epsilon.

    Elements of equal |tau| share their mean rank, so nothing depends on how a sort breaks ties. A
    row of one element thus has the probability `density` (mergekit 0.1.5 divides 0 by 0 there, and
    ranks tensors of three dimensions along the middle one).

    `own` brings density and epsilon (ratios).
    """
    return [
        _by_rank(tau, float(values["density"]), float(values["epsilon"]), key)
        for tau, values, key in zip(taus, own, keys, strict=True)
    ]


def _by_rank(tau: Tensor, density: float, epsilon: float, key: MaskKey) -> Tensor:
    if density >= 1 or tau.numel() == 0:
        return tau.clone()
    kept = torch.zeros(tau.shape, device=tau.device)
    if density <= 0:
        return kept
    for part, out, start in _row_chunks(tau, kept):
        bits = random_bits(key, start, part.numel(), part.device).view_as(part)
        probability = _rank_share(part.abs()) * (2 * epsilon) + (density - epsilon)
        kept_here = bits * 2.0**-RESOLUTION < probability
        torch.where(kept_here, part, torch.zeros_like(part), out=out)
    return kept


def _rank_share(magnitudes: Tensor) -> Tensor:
    """Rank within the row over the greatest rank, in [0, 1]; (rows, C) -> float32 (rows, C)."""
    columns = magnitudes.shape[1]
    if columns == 1:
        return torch.full_like(magnitudes, 0.5)
    values, order = magnitudes.sort(dim=1)
    begins = torch.ones(values.shape, dtype=torch.bool, device=values.device)  # a run of ties
    torch.ne(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    first = begins.view(-1).nonzero().view(-1)
    length = first.diff(append=first.new_tensor([values.numel()]))
    middle = (2 * (first % columns) + length - 1).float() / (2 * (columns - 1))
    share = middle.repeat_interleave(length, output_size=values.numel()).view_as(values)
    return torch.empty_like(values).scatter_(1, order, share)


def n_of_m(
    taus: Sequence[Tensor],
    own: Sequence[Mapping[str, Scalar]],
    shared: Mapping[str, Scalar],
    keys: Sequence[MaskKey],
    base: Tensor | None,
) -> list[Tensor]:
    """CABS (Yang et al. 2025, sec. 3): balanced n:m pruning, sources in turn, without overlap.

    Of each m consecutive elements (flat order) a source keeps the ceil(density * m) largest among
    those that no earlier source keeps; only where too few are free does it take the largest of the
    others too. A shorter last block keeps its share, ceil(density * length). Of equal elements the
    first are kept. An element that is 0 takes no place from later sources. The order of the sources
    matters.

    `own` brings density (ratio), `shared` m (count).
    """
    count = taus[0].numel()
    kept = [torch.zeros(tau.shape, device=tau.device) for tau in taus]
    flat = [(tau.reshape(-1), out.view(-1)) for tau, out in zip(taus, kept, strict=True)]
    densities = [float(values["density"]) for values in own]
    for start, stop, width in _blocks(count, int(shared["m"])):
        taken = torch.zeros(stop - start, dtype=torch.bool, device=taus[0].device).view(-1, width)
        for (tau, out), density in zip(flat, densities, strict=True):
            part = tau[start:stop].view(-1, width)
            chosen = _largest(part.abs(), taken, min(ceil(density * width), width))
            out[start:stop] = torch.where(chosen, part, 0.0).view(-1)
            taken |= chosen & (part != 0)
    return kept


def _largest(magnitudes: Tensor, taken: Tensor, kept: int) -> Tensor:
    """Whether an element is among its row's first `kept`: free ones first, then the larger."""
    if kept <= 0:
        return torch.zeros_like(taken)
    # Non-negative floats order as their bits do; taken elements come below all free ones.
    order = magnitudes.view(torch.int32) + taken.int() * -(2**31)
    least = order.kthvalue(order.shape[1] - kept + 1, dim=1, keepdim=True).values
    above, ties = order > least, order == least
    missing = kept - above.sum(dim=1, keepdim=True)
    return above | (ties & (ties.cumsum(dim=1, dtype=torch.int32) <= missing))


def _blocks(count: int, width: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, block length) of chunks of whole blocks, then of the shorter last block."""
    whole, step = count - count % width, max(1, _CHUNK // width) * width
    for start in range(0, whole, step):
        yield start, min(start + step, whole), width
    if whole < count:
        yield whole, count, count - whole


def importance(
    taus: Sequence[Tensor],
    own: Sequence[Mapping[str, Scalar]],
    shared: Mapping[str, Scalar],
    keys: Sequence[MaskKey],
    base: Tensor | None,
) -> list[Tensor]:
    """Arcee Fusion (Arcee AI 2025, as in mergekit): the elements of outlying importance.

    With the reference r (0 for None) and theta = r + tau, importance is |tau| times the
    Kullback-Leibler divergence of softmax(theta) from softmax(r) along the row (the last
    dimension). Kept is what reaches median + 1.5 * (upper - lower quartile) of the tensor.

    Two differences from mergekit 0.1.5: quartiles are exact where it takes a random sample (more
    than 10^6 elements), and divergences are computed in float64, as those of a light fine-tune's
    rows (10^-7 and less) drown in the rounding errors of float32: weights of spread 0.02 with deltas
    of 0.0005 keep 5.6 % of their elements, 9.3 % in float32, most of them others.
    """
    return [_outlying(tau, base) for tau in taus]


def _outlying(tau: Tensor, reference: Tensor | None) -> Tensor:
    if tau.numel() == 0:
        return tau.clone()
    reference = torch.zeros_like(tau) if reference is None else reference
    scores, known = torch.empty(tau.shape, device=tau.device), _rows(reference)
    for part, out, start in _row_chunks(tau, scores):
        first = start // part.shape[1]
        q = known[first : first + len(part)].double()
        p = (q + part).softmax(dim=1) + _SMOOTHING
        q = q.softmax(dim=1) + _SMOOTHING
        divergence = (p * (p / q).log_()).sum(dim=1, keepdim=True).clamp_(min=0)
        out.copy_(part.abs() * divergence)
    last, flat = tau.numel() - 1, scores.view(-1)
    low, median, high = (flat.kthvalue(last * i // 4 + 1).values.item() for i in (1, 2, 3))
    least = float(np.float32(median + 1.5 * (high - low)))
    return torch.where(scores >= least, tau, 0.0)


def _rows(tensor: Tensor) -> Tensor:
    """(rows, last dimension); what has fewer than two dimensions is one row."""
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor.reshape(1, -1)


def _row_chunks(tensor: Tensor, result: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Some rows of `tensor`, the same of `result` (contiguous), and their first element's index."""
    rows, results = _rows(tensor), _rows(result)
    columns = rows.shape[1]
    step = max(1, _CHUNK // columns)
    for start in range(0, len(rows), step):
        yield rows[start : start + step], results[start : start + step], start * columns


WHOLE_SPARSIFY: Mapping[str, WholeSparsify] = {
    "della": della,
    "n_of_m": n_of_m,
    "importance": importance,
}
"""Choice of the stage `sparsify` -> function."""
