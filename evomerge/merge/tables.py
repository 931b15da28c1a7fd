"""Tables of a tensor's values, so that no candidate sorts: a threshold is one binary search.

A table has a step every 1/2048 of the elements, at most, and one for each value that occurs more
often than that (differences of half-precision weights have few values, so they do). What it says of
the elements at and above a step is exact; what lies between two steps is rounded down to the lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.merge.deltas import Delta
from evomerge.merge.kernels.histograms import LOW_BITS, choose_steps
from evomerge.merge.passes import Bins, count_and_l1, energies, l1_by_random_bits, largest
from evomerge.merge.random_masks import RESOLUTION, MaskKey, random_bits
from evomerge.merge.statistics import variance

STEPS = 2048
"""A threshold leaves out or takes in at most 1/STEPS of a tensor's elements."""

EXACT_UP_TO = 4096
"""Tensors of so few elements have a step for each value."""

_SORTED_UP_TO = 2**16


@dataclass(frozen=True, eq=False)
class Steps:
    """Values from the greatest down.

    Attributes:
        values: float32, shape (steps,), descending.
        counts: int64, shape (steps,): elements at or above the value.
        sums: float64, shape (steps, columns): sums over the elements at or above the value.
    """

    values: np.ndarray
    counts: np.ndarray
    sums: np.ndarray

    @property
    def above_zero(self) -> int:
        """Elements above 0. Exact: 0 is a step of its own."""
        if self.values[-1] > 0:
            return int(self.counts[-1])
        return int(self.counts[-2]) if len(self.counts) > 1 else 0

    def threshold(self, kept: int) -> float:
        """The step that the `kept`-th largest element lies on or next above, 1 <= kept <= count."""
        return float(self.values[self.counts.searchsorted(kept)])

    def sums_from(self, value: float) -> np.ndarray:
        """Sums over the elements >= `value`, shape (columns,)."""
        below = self.values[::-1].searchsorted(np.float32(value))
        return self._first(len(self.values) - int(below))

    def sums_above(self, value: float) -> np.ndarray:
        """Sums over the elements > `value`, shape (columns,)."""
        not_above = self.values[::-1].searchsorted(np.float32(value), "right")
        return self._first(len(self.values) - int(not_above))

    def _first(self, steps: int) -> np.ndarray:
        return self.sums[steps - 1] if steps else np.zeros_like(self.sums[0])


def magnitude_steps(delta: Delta) -> Steps:
    """Steps of |tau|; sums: of |tau|, one column."""
    bits, counts, sums = _groups([delta], spread=False)
    chosen = _chosen(bits, counts)
    return Steps(
        bits[chosen].view(np.float32), counts.cumsum()[chosen], sums.cumsum()[chosen][:, None]
    )


def variance_steps(deltas: Sequence[Delta]) -> Steps:
    """Steps of the variance across deltas; sums: of each delta's tau^2, shape (steps, deltas)."""
    bits, counts, _ = _groups(deltas, spread=True)
    chosen = _chosen(bits, counts)
    values = bits[chosen].view(np.float32)
    return Steps(values, counts.cumsum()[chosen], energies(deltas, values).cumsum(axis=0))


class JointSteps:
    """The magnitudes of several tensors together: steps of all their tables in one order.

    The count at a step is of the elements that the tables count there: up to 1/2048 more may lie
    between steps. That matters where a value occurs very often, and the wanted count is about that
    of the elements above it: then they are counted, once.
    """

    def __init__(self, tables: Sequence[Steps]) -> None:
        values = np.concatenate([table.values for table in tables])
        counts = np.concatenate([np.diff(table.counts, prepend=0) for table in tables])
        ascending, place = np.unique(values, return_inverse=True)
        together = np.zeros(len(ascending), np.int64)
        np.add.at(together, place, counts)
        self._values, self._counts = ascending[::-1].copy(), together[::-1].cumsum()
        self._above: dict[int, int] = {}
        self.nbytes = self._values.nbytes + self._counts.nbytes

    def threshold(self, deltas: Sequence[Delta], kept: int) -> float:
        """The `kept`-th largest |tau| of `deltas`, those of the tables, to 1/1024 of their elements."""
        step = int(self._counts.searchsorted(kept))
        slack = int(self._counts[-1]) // STEPS
        before, here = int(self._counts[step - 1]) if step else 0, int(self._counts[step])
        if here - before > slack and kept <= before + slack and self._count(deltas, step) >= kept:
            return float(self._values[step - 1]) if step else largest([[d] for d in deltas], kept)
        return float(self._values[step])

    def _count(self, deltas: Sequence[Delta], step: int) -> int:
        """Elements above a step."""
        if step not in self._above:
            value = float(self._values[step])
            self._above[step] = sum(count_and_l1(delta, value)[0] for delta in deltas)
        return self._above[step]


@dataclass(frozen=True, eq=False)
class RandomSums:
    """sum |tau| over the elements whose random bits are below a limit.

    Attributes:
        limits: int64, ascending; cumulative: float64, the sum below each.
        linear: whether sums grow evenly between two limits, or at once above the lower.
    """

    limits: np.ndarray
    cumulative: np.ndarray
    linear: bool

    @classmethod
    def of(cls, delta: Delta, key: MaskKey) -> RandomSums:
        """One pass over the delta."""
        if delta.count <= EXACT_UP_TO:
            bits = random_bits(key, 0, delta.count).numpy()
            order = bits.argsort(kind="stable")
            sums = delta.chunk(0, delta.count).abs().cpu().double().numpy()[order]
            return cls(bits[order].astype(np.int64), _from_zero(sums), linear=False)
        sums = l1_by_random_bits(delta, key)
        limits = np.arange(len(sums) + 1) * (2**RESOLUTION // len(sums))
        return cls(limits, _from_zero(sums), linear=True)

    def below(self, limit: int) -> float:
        """The sum for `limit`, 0 to 2**24."""
        if self.linear:
            return float(np.interp(limit, self.limits, self.cumulative))
        return float(self.cumulative[self.limits.searchsorted(limit)])


def _from_zero(sums: np.ndarray) -> np.ndarray:
    return np.concatenate(([0.0], sums.cumsum()))


def _limit(count: int) -> int:
    """Elements of different values that one step may hold."""
    return count // STEPS if count > EXACT_UP_TO else 0


def _chosen(bits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which groups end a step."""
    chosen = np.zeros(len(counts), bool)
    choose_steps(counts, _limit(int(counts.sum())), chosen)
    if len(bits) > 1 and bits[-1] == 0:
        chosen[-2] = True
    return chosen


def _groups(deltas: Sequence[Delta], spread: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elements by value, or by bin where that is fine enough, from the greatest down.

    Returns:
        The bits of each group's least value (uint32), its elements (int64), their sum (float64).
    """
    if deltas[0].count <= _SORTED_UP_TO:
        taus = [delta.chunk(0, delta.count) for delta in deltas]
        values = variance(taus) if spread else taus[0].abs()
        bits, counts = np.unique(values.cpu().numpy().view(np.uint32), return_counts=True)
        bits, counts = bits[::-1].copy(), counts[::-1].astype(np.int64)
        return bits, counts, counts * bits.view(np.float32).astype(np.float64)
    bins = Bins.of([deltas], spread)
    places = bins.occupied
    coarse = (bins.counts[places] > _limit(deltas[0].count)) | (places == 0)
    split = places[coarse & (bins.lows[places] != 0)]
    whole = np.setdiff1d(places, split)
    bits, counts, sums = _whole(bins, whole)
    if len(split):
        rows, low = (inside := bins.inside(split)).nonzero()
        fine_bits = ((split[rows] << LOW_BITS) + low).astype(np.uint32)
        fine_counts = inside[rows, low]
        bits, counts = np.concatenate((bits, fine_bits)), np.concatenate((counts, fine_counts))
        fine_sums = fine_counts * fine_bits.view(np.float32).astype(np.float64)
        sums = np.concatenate((sums, fine_sums))
    order = bits.argsort()[::-1]
    return bits[order], counts[order], sums[order]


def _whole(bins: Bins, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of whole bins."""
    bits, counts = (places << LOW_BITS).astype(np.uint32), bins.counts[places]
    exponents = np.maximum(places >> (23 - LOW_BITS), 1) - 150
    above = np.ldexp(bins.lows[places].astype(np.float64), exponents)
    return bits, counts, counts * bits.view(np.float32).astype(np.float64) + above
