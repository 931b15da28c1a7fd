"""Stages that edit the singular values of a source's delta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from search_spaces.settings import Scalar

Spectral: TypeAlias = Callable[[Tensor, Mapping[str, Scalar]], Tensor]
"""(tau, the tensor's parameters) -> tau with other singular values; tau itself where it is no
matrix or nothing changes. A tensor of three dimensions is a stack of matrices (fused experts)."""

Gains: TypeAlias = Callable[[Tensor], Tensor]
"""Singular values (largest first, float64, shape (k,)) -> factor on each, shape (k,)."""

_CHUNK = 2**20
_EPSILON = torch.finfo(torch.float64).eps


def star(tau: Tensor, shared: Mapping[str, Scalar]) -> Tensor:
    """STAR (Lee et al. 2025, sec. 3.2): small singular values dropped, the nuclear norm kept.

    The first r singular values stay, r the least with s_1 + ... + s_r >= eta * (s_1 + ... + s_k),
    and grow by (s_1 + ... + s_k) / (s_1 + ... + s_r).

    `shared` brings eta (ratio; 1 changes nothing, 0 leaves one singular value).
    """
    eta = float(shared["eta"])
    return tau if eta >= 1 else edit_singular_values(tau, lambda s: _star_gains(s, eta))


def _star_gains(values: Tensor, eta: float) -> Tensor:
    sums = values.cumsum(0)
    kept = int(torch.searchsorted(sums, eta * sums[-1])) + 1
    return _first(values, kept) * (sums[-1] / sums[kept - 1])


def truncate(tau: Tensor, shared: Mapping[str, Scalar]) -> Tensor:
    """The best approximation of lower rank (CART: Choi et al. 2025, sec. 4).

    The first max(1, floor(rank * k)) of k = min(rows, columns) singular values stay as they are.

    `shared` brings rank (ratio of the full rank; 1 changes nothing).
    """
    rank = float(shared["rank"])
    if rank >= 1:
        return tau
    return edit_singular_values(tau, lambda s: _first(s, max(1, int(rank * len(s)))))


def _first(values: Tensor, kept: int) -> Tensor:
    """1 for the first `kept`, else 0."""
    return (torch.arange(len(values), device=values.device) < kept).to(values.dtype)


def edit_singular_values(tau: Tensor, gains: Gains) -> Tensor:
    """U diag(g s) V' of each matrix U diag(s) V' in `tau`, g = gains(s).

    With U on the short side this is (U diag(g) U') tau, and U and s come from the eigenvectors and
    eigenvalues of tau tau': several times faster than a singular value decomposition and, in
    float64, as exact. Singular values below what that resolves (some 10^-7 of the largest, the
    rounding error of a float32 matrix) are passed to `gains` as 0. A zero matrix stays one.

    Args:
        tau: (rows, columns) or (stack, rows, columns); of any other shape it is returned itself.
    """
    if tau.numel() == 0 or tau.dim() not in (2, 3):
        return tau
    edited = torch.empty(tau.shape, device=tau.device)
    stack = zip(tau, edited, strict=True) if tau.dim() == 3 else [(tau, edited)]
    for matrix, out in stack:
        wide = matrix.shape[0] <= matrix.shape[1]
        _edit_wide(matrix if wide else matrix.T, out if wide else out.T, gains)
    return edited


def _edit_wide(matrix: Tensor, out: Tensor, gains: Gains) -> None:
    """Write the edited `matrix`, of no more rows than columns, to `out`."""
    rows = matrix.shape[0]
    gram = torch.zeros(rows, rows, dtype=torch.float64, device=matrix.device)
    blocks = matrix.split(max(1, _CHUNK // rows), dim=1)  # bound the float64 copy
    for block in blocks:
        exact = block.double()
        gram.addmm_(exact, exact.T)
    squares, basis = torch.linalg.eigh(gram)
    squares, basis = squares.flip(0), basis.flip(1)
    largest = squares[0]
    if largest <= 0:
        out.zero_()
        return
    values = squares.where(squares > largest * rows * _EPSILON, 0).sqrt()
    operator = (basis * gains(values)) @ basis.T
    for block, target in zip(blocks, out.split(blocks[0].shape[1], dim=1), strict=True):
        target.copy_(operator @ block.double())


SPECTRAL: Mapping[str, Spectral] = {"star": star, "truncate": truncate}
"""Choice of the stage `spectral` -> function."""
