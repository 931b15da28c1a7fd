"""Passes over deltas of any dtype on any device: `kernels.histograms` fed piece by piece.

float32, bfloat16 and float16 on the CPU are read where they lie; other tensors come over as float32
pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch

from evomerge.merge.deltas import Delta
from evomerge.merge.kernels import cpu_bits, histograms
from evomerge.merge.kernels.histograms import BINS, LOW_BITS, RANDOM_BINS
from evomerge.merge.random_masks import MaskKey
from evomerge.merge.threads import pool

_CODES = {
    torch.float32: cpu_bits.FLOAT32,
    torch.bfloat16: cpu_bits.BFLOAT16,
    torch.float16: cpu_bits.FLOAT16,
}
_ITEM_BYTES = (4, 2, 2)
"""Bytes of an element, by code."""

_STRETCH = 2**21
"""Elements that one thread looks at."""

_PIECE = _STRETCH
"""Elements of what cannot be read in place that come over at a time."""
_SORTED = 2**18
"""Up to this many elements, partial sorting is quicker than counting bins."""

DeltaSet = Sequence[Delta]
"""Deltas of one tensor that are looked at together; of one alone where |tau| is looked at."""


@dataclass(frozen=True)
class Bins:
    """How often which values occur: |tau|, or variances across the deltas of a set.

    Attributes:
        sets: where the values come from.
        spread: whether they are variances.
        counts, lows: per bin of `histograms`, elements and the sum of their low bits, int64.
        span: first and last bin (+ 1) that values above 0 lie in.
    """

    sets: Sequence[DeltaSet]
    spread: bool
    counts: np.ndarray
    lows: np.ndarray
    span: tuple[int, int]

    @classmethod
    def of(cls, sets: Sequence[DeltaSet], spread: bool = False) -> Bins:
        """One pass over the deltas."""

        def count(addresses: np.ndarray, codes: np.ndarray, first: int, many: int) -> Any:
            counts, lows = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
            packed = np.zeros(histograms.PACKED, np.int64)
            return (
                counts,
                lows,
                histograms.count_bins(addresses, codes, spread, many, packed, counts, lows),
            )

        counts, lows = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        least, greatest = BINS, 0
        for deltas in sets:  # integers: how many stretches a tensor is cut into does not matter
            size = max(_STRETCH, -(-deltas[0].count // _threads()))
            for more, low, span in _each(deltas, count, size):
                counts += more
                lows += low
                least, greatest = min(least, int(span[0])), max(greatest, int(span[1]))
        return cls(sets, spread, counts, lows, (least, greatest + 1))

    @property
    def occupied(self) -> np.ndarray:
        """The bins that hold elements, greatest first."""
        inside = self.span[0] + self.counts[slice(*self.span)].nonzero()[0][::-1]
        return inside if not self.counts[0] or self.span[0] == 0 else np.append(inside, 0)

    @property
    def above_zero(self) -> int:
        """How many values are above 0."""
        total = sum(deltas[0].count for deltas in self.sets)
        zeros = self.inside(np.zeros(1, np.int64))[0, 0] if self.lows[0] else self.counts[0]
        return int(total - zeros)

    def inside(self, chosen: np.ndarray) -> np.ndarray:
        """Elements by their low bits, shape (chosen bins, 2**LOW_BITS), int64; another pass."""
        rows = np.zeros(BINS, np.int32)
        rows[chosen] = 1 + np.arange(len(chosen))
        counts = np.zeros((len(chosen), 2**LOW_BITS), np.int64)
        for addresses, codes, _, count in (p for deltas in self.sets for p in _pieces(deltas)):
            histograms.count_low_bits(addresses, codes, self.spread, count, rows, counts)
        counts[:, 0] = self.counts[chosen] - counts.sum(axis=1)
        return counts

    def largest(self, kept: int) -> float:
        """The `kept`-th largest value, exactly; another pass where its bin holds several."""
        occupied = self.occupied
        cumulative = self.counts[occupied].cumsum()
        place = int(cumulative.searchsorted(kept))
        wanted = occupied[place]
        if self.lows[wanted] == 0:
            return _value(int(wanted) << LOW_BITS)
        rank = kept - (int(cumulative[place - 1]) if place else 0)
        ranks = self.inside(wanted[None])[0, ::-1].cumsum()
        low = 2**LOW_BITS - 1 - int(ranks.searchsorted(rank))
        return _value((int(wanted) << LOW_BITS) + low)


def largest(sets: Sequence[DeltaSet], kept: int) -> float:
    """The `kept`-th largest |tau| of all deltas."""
    total = sum(deltas[0].count for deltas in sets)
    if total > _SORTED:
        return Bins.of(sets).largest(kept)
    values = torch.cat([deltas[0].chunk(0, deltas[0].count).abs().cpu() for deltas in sets])
    return float(np.partition(values.numpy(), total - kept)[total - kept])


def count_and_l1(delta: Delta, low: float = -1.0, high: float = inf) -> tuple[int, float]:
    """How many elements have low < |tau| <= high, and the sum of their |tau|."""
    low32, high32 = np.float32(low), np.float32(high)

    def count(addresses: np.ndarray, codes: np.ndarray, first: int, many: int) -> Any:
        return histograms.count_and_sum(addresses, codes, many, low32, high32)

    found, total = 0, 0.0
    for more, summed in _each([delta], count):
        found, total = found + int(more), total + float(summed)
    return found, total


def l1_by_random_bits(delta: Delta, key: MaskKey, limit: int = 2**24) -> np.ndarray:
    """sum |tau| per bin of the 24 random bits, those below `limit` only; float64, (RANDOM_BINS,)."""
    words = np.array(key, np.uint32)

    def add(addresses: np.ndarray, codes: np.ndarray, first: int, many: int) -> Any:
        sums = np.zeros(RANDOM_BINS)
        histograms.sum_by_random_bits(addresses, codes, many, first, words, limit, sums)
        return sums

    return sum(_each([delta], add), start=np.zeros(RANDOM_BINS))


def gram(deltas: DeltaSet) -> np.ndarray:
    """Inner products of the taus, float64, shape (deltas, deltas)."""

    def multiply(addresses: np.ndarray, codes: np.ndarray, first: int, many: int) -> Any:
        return histograms.sum_products(addresses, codes, many)

    return sum(_each(deltas, multiply), start=np.zeros((len(deltas), len(deltas))))


def energies(deltas: DeltaSet, steps: np.ndarray) -> np.ndarray:
    """Sums of tau_i^2 by step: the first of `steps` (float32, descending to 0) not above the
    element's variance. Shape (steps, deltas), float64.
    """
    bits = steps.view(np.uint32)

    def add(addresses: np.ndarray, codes: np.ndarray, first: int, many: int) -> Any:
        sums = np.zeros((len(steps), len(deltas)))
        histograms.sum_energies(addresses, codes, many, bits, sums)
        return sums

    return sum(_each(deltas, add), start=np.zeros((len(steps), len(deltas))))


def _each(
    deltas: DeltaSet, work: Callable[[np.ndarray, np.ndarray, int, int], Any], size: int = _STRETCH
) -> Iterator[Any]:
    """`work(addresses, codes, first, count)` for stretches of the deltas, on all cores, in order.

    Stretches are the same for any number of threads, and so are sums over them.
    """
    threads = _threads()
    for addresses, codes, first, count in _pieces(deltas):
        spans = [(start, min(size, count - start)) for start in range(0, count, size)]
        sizes = np.array(_ITEM_BYTES)[codes]
        jobs = [(addresses + start * sizes, codes, first + start, many) for start, many in spans]
        if len(jobs) < 2 or threads < 2:
            yield from (work(*job) for job in jobs)
        else:
            yield from pool().map(lambda job: work(*job), jobs)


def _threads() -> int:
    """Each has counts of its own, tens of megabytes."""
    return min(torch.get_num_threads(), 8)


def _pieces(deltas: DeltaSet) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """(addresses, codes, index of the first element, elements): whole tensors, if they can be read.

    What the addresses point at lives until the next piece is asked for.
    """
    rows = [(delta.theta, *delta.reference) for delta in deltas]
    tensors = [tensor for row in rows for tensor in row]
    readable = all(t.device.type == "cpu" and t.dtype in _CODES for t in tensors)
    if readable and len({len(row) for row in rows}) == 1:
        addresses = np.array([[t.data_ptr() for t in row] for row in rows], np.int64)
        codes = np.array([[_CODES[t.dtype] for t in row] for row in rows], np.int64)
        yield addresses, codes, 0, deltas[0].count
        return
    for start in range(0, deltas[0].count, _PIECE):
        stop = min(start + _PIECE, deltas[0].count)
        taus = [delta.chunk(start, stop).cpu().contiguous() for delta in deltas]
        addresses = np.array([[tau.data_ptr()] for tau in taus], np.int64)
        yield addresses, np.zeros_like(addresses), start, stop - start


def _value(bits: int) -> float:
    return float(np.array(bits, np.uint32).view(np.float32))
