"""What a source adds to the reference, read in chunks, and where its k-th largest element lies.

Chunks keep the float32 working set in cache and bound memory: a merge never holds a float32 copy of
a source. Magnitude tables are built once per source tensor, so that no candidate sorts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

CHUNK = 2**16
"""Elements worked on at a time (256 KB in float32)."""

_SORTED_UP_TO = 2**18
_COARSE_SHIFT = 15
"""A non-negative float32's bits above this are its bin: exponent and 8 bits of mantissa."""

DeltaKey = tuple[str, ...]
"""Names that identify a delta across candidates: (base, its tensor, source, its tensor)."""


def chunks(count: int) -> Iterator[tuple[int, int]]:
    """The (start, stop) of each chunk of `count` elements."""
    return ((start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


class Delta:
    """One source's difference from the reference: tau = theta - r, flat, float32, by chunk.

    Args:
        theta: the source's tensor, any shape and floating dtype.
        base: the base's tensor of the same shape, or None.
        reference: a stage function, (theta chunk, base chunk) -> float32 tau chunk.
        mask_name: what keys the random mask: seed, the input's position, the output tensor's name.
        key: identifies the delta in a `MagnitudeTables`; None: not to be remembered.
    """

    def __init__(
        self,
        theta: torch.Tensor,
        base: torch.Tensor | None,
        reference: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
        mask_name: tuple[int, int, str],
        key: DeltaKey | None = None,
    ) -> None:
        self._theta = theta.reshape(-1)
        self._base = None if base is None else base.reshape(-1)
        self._reference = reference
        self.mask_name, self.key = mask_name, key
        self.count = self._theta.numel()

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """Elements `start` to `stop`. May share memory with the source: do not write to it."""
        base = None if self._base is None else self._base[start:stop]
        return self._reference(self._theta[start:stop], base)

    def magnitudes(self) -> Iterator[torch.Tensor]:
        """|tau|, chunk by chunk."""
        return (self.chunk(start, stop).abs() for start, stop in chunks(self.count))


@dataclass
class MagnitudeTables:
    """Exact k-th largest |tau| of deltas that come back with every candidate.

    A small tensor keeps its sorted magnitudes. A large one keeps a histogram of the high bits of
    |tau| (a few dozen KB), and a lookup reads the tensor once more to rank the bin that matters.
    """

    _tables: dict[DeltaKey, torch.Tensor | _Histogram] = field(default_factory=dict)

    def threshold(self, delta: Delta, kept: int) -> float:
        """The `kept`-th largest |tau| of `delta`, 1 <= kept <= its count."""
        table = self._tables.get(delta.key) if delta.key else None
        if table is None:
            table = _sorted(delta) if delta.count <= _SORTED_UP_TO else _Histogram.of(delta)
            if delta.key:
                self._tables[delta.key] = table
        if isinstance(table, torch.Tensor):
            return table[delta.count - kept].item()
        return table.threshold(delta, kept)


def _sorted(delta: Delta) -> torch.Tensor:
    return torch.cat(list(delta.magnitudes())).sort().values


@dataclass(frozen=True)
class _Histogram:
    """Occupied bins, greatest first, and how many elements lie in them and all before."""

    bins: torch.Tensor
    cumulative: torch.Tensor

    @classmethod
    def of(cls, delta: Delta) -> _Histogram:
        counts = torch.zeros(2 ** (31 - _COARSE_SHIFT), dtype=torch.int64)
        for part in delta.magnitudes():
            counts += torch.bincount(_bin(part).cpu(), minlength=len(counts))
        bins = counts.nonzero().reshape(-1).flip(0)
        return cls(bins, counts[bins].cumsum(0))

    def threshold(self, delta: Delta, kept: int) -> float:
        place = int(torch.searchsorted(self.cumulative, kept))
        rank = kept - (int(self.cumulative[place - 1]) if place else 0)
        wanted = int(self.bins[place])
        ties = torch.cat([part[_bin(part) == wanted] for part in delta.magnitudes()])
        return ties.kthvalue(len(ties) - rank + 1).values.item()


def _bin(magnitudes: torch.Tensor) -> torch.Tensor:
    """Non-negative floats order as their bits do."""
    return magnitudes.view(torch.int32) >> _COARSE_SHIFT
