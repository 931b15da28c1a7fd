"""What a merge needs to know of its sources as wholes: thresholds, norms, inner products.

Two ways to know it: `Exact` computes it now, `evomerge.merge.prepared.Prepared` looks it up in
tables. Elements that tie with the k-th largest count as kept, so that what is kept does not depend
on an order of the elements: a threshold is the k-th largest value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol

import numpy as np
import torch

from evomerge.merge import passes
from evomerge.merge.deltas import Delta
from evomerge.merge.random_masks import MaskKey


class Statistics(Protocol):
    """What a merge asks; magnitudes are float32 values, sums float64. Safe to call from threads.

    `deltas` are of one count each, except in `threshold_over`.
    """

    def threshold(self, delta: Delta, kept: int) -> float:
        """The `kept`-th largest |tau|, 1 <= kept <= count."""
        ...

    def threshold_over(self, deltas: Sequence[Delta], kept: int) -> float:
        """The `kept`-th largest |tau| of all deltas taken together."""
        ...

    def l1(self, delta: Delta) -> float:
        """sum |tau|."""
        ...

    def l1_above(self, delta: Delta, low: float, high: float) -> float:
        """sum |tau| over the elements with low < |tau| <= high."""
        ...

    def l1_random(self, delta: Delta, key: MaskKey, limit: int) -> float:
        """sum |tau| over the elements whose random bits of `key` are below `limit` (<= 2**24)."""
        ...

    def gram(self, deltas: Sequence[Delta]) -> np.ndarray:
        """Inner products, shape (deltas, deltas)."""
        ...

    def variance_threshold(self, deltas: Sequence[Delta], share: float) -> float:
        """The k-th largest `variance` across the deltas, k = int(share * number of those above 0).

        0, which keeps all, where share >= 1; inf where k is 0.
        """
        ...

    def energies(self, deltas: Sequence[Delta], least_variance: float) -> list[float]:
        """Per delta, sum of tau^2 where `variance` >= `least_variance`, over its count."""
        ...


def variance(taus: Sequence[torch.Tensor]) -> torch.Tensor:
    """The population variance of each element across `taus`, float32, two passes from the first on.

    What `statistics` counts by: a mask `variance(taus) >= threshold` matches them to the bit.
    """
    count = torch.full_like(taus[0], len(taus))
    mean = taus[0].clone()
    for tau in taus[1:]:
        mean += tau
    mean /= count
    total = torch.zeros_like(mean)
    for tau in taus:
        away = tau - mean
        total += away * away
    return total / count


class Exact:
    """Computed anew at each call, by one or two passes over the sources."""

    def threshold(self, delta: Delta, kept: int) -> float:
        """See `Statistics`."""
        return self.threshold_over([delta], kept)

    def threshold_over(self, deltas: Sequence[Delta], kept: int) -> float:
        """See `Statistics`."""
        return passes.largest([[delta] for delta in deltas], kept)

    def l1(self, delta: Delta) -> float:
        """See `Statistics`."""
        return passes.count_and_l1(delta)[1]

    def l1_above(self, delta: Delta, low: float, high: float) -> float:
        """See `Statistics`."""
        return passes.count_and_l1(delta, low, high)[1]

    def l1_random(self, delta: Delta, key: MaskKey, limit: int) -> float:
        """See `Statistics`."""
        return float(passes.l1_by_random_bits(delta, key, limit).sum())

    def gram(self, deltas: Sequence[Delta]) -> np.ndarray:
        """See `Statistics`."""
        return passes.gram(deltas)

    def variance_threshold(self, deltas: Sequence[Delta], share: float) -> float:
        """See `Statistics`."""
        if share >= 1:
            return 0.0
        bins = passes.Bins.of([deltas], spread=True)
        kept = int(share * bins.above_zero)
        return bins.largest(kept) if kept > 0 else inf

    def energies(self, deltas: Sequence[Delta], least_variance: float) -> list[float]:
        """See `Statistics`."""
        if deltas[0].count == 0:
            return [0.0] * len(deltas)
        least = np.float32(least_variance)
        steps = np.array([least, 0.0], np.float32) if least > 0 else np.zeros(1, np.float32)
        return (passes.energies(deltas, steps)[0] / deltas[0].count).tolist()
