"""Sparsification and rescaling as plain numbers: which band of |tau| stays, and what factor it gets.

One function per choice. What these choose is done element by element in a kernel; choices that look
at an element's neighbours are in `evomerge.merge.whole`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import TypeAlias

import numpy as np

from evomerge.merge.deltas import Delta
from evomerge.merge.elements import InputPass
from evomerge.merge.random_masks import RESOLUTION, mask_key
from evomerge.merge.statistics import Statistics
from search_spaces.settings import Scalar

_NEGLIGIBLE_NORM = 1e-7

KthOverModel: TypeAlias = Callable[[float], float]
"""density -> the least |tau| kept when that share of the source's elements is kept in all tensors."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source's part in a tensor, as sparsification sees it.

    Attributes:
        delta: its tau.
        numbers: its parameters and the tensor's.
        statistics: knows thresholds and norms.
        over_model: for thresholds over the whole model; None where only one tensor is at hand.
    """

    delta: Delta
    numbers: Mapping[str, Scalar]
    statistics: Statistics
    over_model: KthOverModel | None = None

    def number(self, name: str) -> float:
        """A parameter's value."""
        return float(self.numbers[name])


Band: TypeAlias = Callable[[Source], InputPass]
Rescale: TypeAlias = Callable[[Source, InputPass], float]

KEEP_ALL = InputPass()
"""Nothing is dropped. One object: what is this one is known to change nothing."""

_NOTHING = InputPass(low=inf)


def keep_all(source: Source) -> InputPass:
    """Every element."""
    return KEEP_ALL


def largest(source: Source) -> InputPass:
    """The k = max(1, floor(density * count)) elements greatest in |tau| (Yadav et al. 2023, eq. 1).

    `scope` says of what: each tensor by itself, as mergekit does, or the whole model, as the paper.
    Elements that tie with the k-th are kept too, so that what is kept does not depend on an order
    of the elements.
    """
    density, count = source.number("density"), source.delta.count
    if density >= 1 or count == 0:
        return KEEP_ALL
    if density <= 0:
        return _NOTHING
    if source.numbers.get("scope") == "model" and source.over_model is not None:
        return InputPass(low=_below(source.over_model(density)))
    kept = max(1, int(density * count))
    return InputPass(low=_below(source.statistics.threshold(source.delta, kept)))


def middle(source: Source) -> InputPass:
    """The elements between the top `gamma` and the bottom in |tau| (Davari and Belilovsky 2024).

    floor(density * count) elements stay; fewer than gamma * count are dropped at the top where the
    two together exceed the tensor, as in mergekit 0.1.5. Ties with the last that stays are kept,
    ties with the last that is dropped at the top are dropped.
    """
    density, count = source.number("density"), source.delta.count
    if density >= 1 or count == 0:
        return KEEP_ALL
    kept = int(density * count)
    if kept == 0:
        return _NOTHING
    top = min(int(source.number("gamma") * count), count - kept)
    low = _below(source.statistics.threshold(source.delta, top + kept))
    if top == 0:
        return InputPass(low=low)
    high = _below(source.statistics.threshold(source.delta, top))
    return InputPass(low=low, high=max(high, low))


def at_random(source: Source) -> InputPass:
    """Each element with probability `density` (Yu et al. 2024, eq. 1), by `random_masks`."""
    density = source.number("density")
    if density >= 1:
        return KEEP_ALL
    key = mask_key(*source.delta.mask_name)
    return InputPass(key=key, limit=max(0, ceil(density * 2**RESOLUTION)))


def above(source: Source) -> InputPass:
    """Elements with |tau| > epsilon (RAM: what counts as changed at all)."""
    return InputPass(low=_float32(source.number("epsilon")))


def clipped(source: Source) -> InputPass:
    """Every element, cut to [-t, t]: NearSwap moves the base by t at most."""
    return InputPass(clip=_float32(source.number("t")))


def no_rescale(source: Source, band: InputPass) -> float:
    """1."""
    return 1.0


def inverse_density(source: Source, band: InputPass) -> float:
    """1 / density: a random mask leaves the expectation of tau unchanged (Yu et al. 2024, eq. 1)."""
    density = float(source.numbers.get("density", 1.0))
    return 1.0 / density if 0 < density < 1 else 1.0


def l1_norm(source: Source, band: InputPass) -> float:
    """sum |tau| / sum |kept tau|: the L1 norm is unchanged (mergekit's); 1 if either is ~0.

    Elements that are only clipped count as they were.
    """
    if band is KEEP_ALL:
        return 1.0
    before = source.statistics.l1(source.delta)
    if band.key is not None:
        after = source.statistics.l1_random(source.delta, band.key, band.limit)
    else:
        after = source.statistics.l1_above(source.delta, band.low, band.high)
    return ratio(before, after)


def ratio(before: float, after: float) -> float:
    """The factor that takes a norm back from `after` to `before`; 1 if either is ~0."""
    return 1.0 if before < _NEGLIGIBLE_NORM or after < _NEGLIGIBLE_NORM else before / after


BANDS: Mapping[str, Band] = {
    "none": keep_all,
    "magnitude": largest,
    "outliers": middle,
    "random": at_random,
    "above": above,
    "clip": clipped,
}
RESCALE: Mapping[str, Rescale] = {"none": no_rescale, "inverse": inverse_density, "l1": l1_norm}


def _below(threshold: float) -> float:
    """The float32 next below: kernels keep what is greater."""
    return float(np.nextafter(np.float32(threshold), np.float32(-inf)))


def _float32(number: float) -> float:
    return float(np.float32(number))
