"""The readable truth: an `ElementPass` in torch, chunk by chunk, on any device.

Each line is one of the formulas of `evomerge.merge.elements`. Two rules that they leave open, so
that kernels agree on every bit:

* A comparison that meets NaN decides to keep: what is broken in a source shows in the result.
* Sums start with their first term, and where r = 0 nothing is added: zeros keep their sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

import torch

from evomerge.merge.elements import ElementPass, InputPass, Region
from evomerge.merge.random_masks import random_bits

CHUNK = 2**16
"""Elements worked on at a time (256 KB in float32)."""

Chunk: TypeAlias = torch.Tensor
"""Part of the region, shape (rows, columns): elements in float32, or decisions (bool)."""


def run(
    work: ElementPass,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out: torch.Tensor,
    region: Region,
) -> bool:
    """Write the pass's result over `region` to `out`.

    Args:
        work: what to do. Its numbers are taken as float32.
        base: flat, contiguous, shape (elements,), float32, bfloat16 or float16. Read only with the
            reference `base`.
        inputs: one per `work.inputs`, each as `base`; their dtypes may differ.
        out: flat, contiguous, shape (region.rows * region.columns,); each result is rounded once to
            its dtype (of the same three), to nearest, ties to even.
        region: which elements.

    Returns:
        Whether every result is finite in `out`'s dtype.
    """
    target = out.view(region.rows, region.columns)
    finite = torch.ones((), dtype=torch.bool, device=out.device)
    for window in _windows(region):
        thetas = [window.of(tensor) for tensor in inputs]
        r = _reference(work, None if base is None else window.of(base), thetas)
        taus = thetas if r is None or work.deltas else [theta - r for theta in thetas]
        kept = [_kept(i, tau, window) for i, tau in zip(work.inputs, taus, strict=True)]
        tau = _merged(work, taus, kept) * work.scale
        result = target[window.row : window.row + window.rows, window.columns]
        result.copy_(tau if r is None else r + tau)
        finite &= result.isfinite().all()
    return bool(finite)


@dataclass(frozen=True, slots=True)
class _Window:
    """Some rows and columns of a region, at most `CHUNK` elements apart."""

    region: Region
    row: int
    rows: int
    columns: slice

    @property
    def first(self) -> int:
        """The index of the first element in the whole tensor."""
        return self.region.start + self.row * self.region.stride + self.columns.start

    def of(self, tensor: torch.Tensor) -> Chunk:
        """The window of a flat tensor, in float32."""
        offset = tensor.storage_offset() + self.first
        return tensor.as_strided(self._shape, (self.region.stride, 1), offset).float()

    def bits(self, key: tuple[int, int], device: torch.device) -> torch.Tensor:
        """The 24 random bits of the window's elements, int32."""
        count = (self.rows - 1) * self.region.stride + self._shape[1]
        return random_bits(key, self.first, count, device).as_strided(
            self._shape, (self.region.stride, 1)
        )

    @property
    def _shape(self) -> tuple[int, int]:
        return self.rows, self.columns.stop - self.columns.start


def _windows(region: Region) -> Iterator[_Window]:
    rows = max(1, CHUNK // max(1, region.stride))
    for row in range(0, region.rows, rows):
        for column in range(0, region.columns, CHUNK):
            columns = slice(column, min(column + CHUNK, region.columns))
            yield _Window(region, row, min(rows, region.rows - row), columns)


def _reference(work: ElementPass, base: Chunk | None, thetas: Sequence[Chunk]) -> Chunk | None:
    """r, or None for 0."""
    if work.reference == "base":
        assert base is not None
        return base
    return _sum(thetas) / _divisor(len(thetas), thetas[0]) if work.reference == "mean" else None


def _kept(source: InputPass, tau: Chunk, window: _Window) -> Chunk:
    magnitude = tau.abs()
    kept = ~(magnitude <= source.low) & ~(magnitude > source.high)
    if source.key is not None:
        kept &= window.bits(source.key, tau.device) < source.limit
    return kept


def _merged(work: ElementPass, taus: Sequence[Chunk], kept: Sequence[Chunk]) -> Chunk:
    xs = [
        torch.where(keep, _clamp(tau, source.clip) * source.elect, 0.0)
        for source, tau, keep in zip(work.inputs, taus, kept, strict=True)
    ]
    agree = _agree(work, xs)
    ys = [
        torch.where(agrees, x * source.factor, 0.0)
        for source, x, agrees in zip(work.inputs, xs, agree, strict=True)
    ]
    if work.combine == "largest":
        return _largest(ys)
    total = _sum(ys)
    if work.combine == "sum":
        return total
    if work.combine == "divided":
        return total / _divisor(work.divisor, total)
    counted = agree
    if work.combine == "survivors":
        counted = [agrees & keep for agrees, keep in zip(agree, kept, strict=True)]
    divisor = _sum(
        [
            torch.where(counts, torch.full_like(total, source.weight), 0.0)
            for source, counts in zip(work.inputs, counted, strict=True)
        ]
    )
    return total / torch.where(divisor == 0, 1.0, divisor)


def _agree(work: ElementPass, xs: Sequence[Chunk]) -> list[Chunk]:
    if work.consensus == "none":
        return [torch.ones_like(x, dtype=torch.bool) for x in xs]
    if work.consensus == "support":
        total = _sum(xs)
        needed = [~(x.abs() <= (total - x).abs() * work.support) for x in xs]
        return [torch.stack(needed).sum(0) >= work.k] * len(xs)
    votes = xs if work.consensus == "sum" else [(x > 0).float() - (x < 0).float() for x in xs]
    elected = _sum(votes)
    sign = torch.where(elected >= 0, torch.ones_like(elected), -1.0)
    return [~(x * sign <= 0) for x in xs]


def _largest(ys: Sequence[Chunk]) -> Chunk:
    largest = ys[0]
    for y in ys[1:]:
        largest = torch.where((y.abs() > largest.abs()) | y.isnan(), y, largest)
    return largest


def _clamp(tau: Chunk, clip: float) -> Chunk:
    """Written out: which zero `torch.clamp` returns for (-0, 0) is not defined."""
    if clip == inf:
        return tau
    return torch.where(tau > clip, clip, torch.where(tau < -clip, -clip, tau))


def _sum(parts: Sequence[Chunk]) -> Chunk:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _divisor(number: float, like: Chunk) -> Chunk:
    """As a tensor: on a GPU, torch divides by a plain number by multiplying with its inverse."""
    return torch.full((), number, dtype=torch.float32, device=like.device)
