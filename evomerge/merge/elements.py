"""One output tensor as one element-wise pass over its sources: plain numbers, no torch.

Everything that needs more than the element at hand (a threshold, a norm, an angle) is a number by
the time a pass is made, so that a kernel reads each source once, writes the result once and keeps
nothing of a tensor's size.

Arithmetic is float32 and each operation rounds once (no fused multiply-add), in the order written
here, so that every kernel gives the same bytes. With r the reference, per element:

    r      = 0 | base | (theta_1 + ... + theta_n) / n           reference
    tau_i  = theta_i - r                                        (theta_i, where r = 0)
    kept_i = low_i < |tau_i| <= high_i  and  bits_i < limit_i   sparsify
    x_i    = kept_i ? clamp(tau_i, -clip_i, clip_i) * elect_i : 0
    agree_i by consensus:
        none      1
        sum       x_i * s > 0        with s = 1 if x_1 + ... + x_n >= 0 else -1
        count     x_i * s > 0        with s = 1 if sgn x_1 + ... + sgn x_n >= 0 else -1
        support   (number of j with |x_j| > support * |x_1 + ... + x_n - x_j|) >= k
    y_i    = agree_i ? x_i * factor_i : 0
    tau    by combine:
        sum       y_1 + ... + y_n
        mean      (y_1 + ... + y_n) / d,  d = sum of weight_i over agree_i;         0 counts as 1
        survivors (y_1 + ... + y_n) / d,  d = sum of weight_i over agree_i, kept_i; 0 counts as 1
        divided   (y_1 + ... + y_n) / divisor
        largest   the y_i of greatest |y_i|, the first of them
    result = r + scale * tau

Sums run from the first source to the last and start with its term. Divisions round correctly. Where
r = 0 nothing is added, so that zeros keep their sign. A comparison that meets NaN decides to keep:
what is broken in a source shows in the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from evomerge.merge.random_masks import MaskKey

REFERENCES = ("none", "base", "mean")
CONSENSUS = ("none", "sum", "count", "support")
COMBINE = ("sum", "mean", "survivors", "divided", "largest")


@dataclass(frozen=True, slots=True)
class InputPass:
    """What happens to one source's elements. All numbers are float32 values.

    Attributes:
        low, high: an element stays if low < |tau| <= high; (-1, inf) keeps all.
        key, limit: an element stays if its 24 random bits of `key` are below `limit`; None: all do.
        clip: greatest |tau| of what stays.
        elect: factor before consensus (weight times rescaling).
        factor: factor after consensus.
        weight: what the source counts for in divisors.
    """

    low: float = -1.0
    high: float = inf
    key: MaskKey | None = None
    limit: int = 2**24
    clip: float = inf
    elect: float = 1.0
    factor: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ElementPass:
    """How one output tensor is made; see the module.

    Attributes:
        reference: one of `REFERENCES`. `base`: the kernel gets the base's tensor.
        inputs: one per source's tensor that the kernel gets.
        consensus, combine: of `CONSENSUS` and `COMBINE`.
        k, support: of the consensus `support`.
        divisor: of the combination `divided`.
        scale: lambda times the depth's ramp.
        deltas: the kernel gets tau_i in place of theta_i; with the reference `base`, r is added to
            the result all the same. Not with the reference `mean`.
    """

    reference: str
    inputs: tuple[InputPass, ...]
    consensus: str = "none"
    combine: str = "sum"
    k: int = 2
    support: float = 0.4
    divisor: float = 1.0
    scale: float = 1.0
    deltas: bool = False


@dataclass(frozen=True, slots=True)
class Region:
    """Which elements of flat, contiguous tensors a kernel works on: row r, column c is element
    start + r * stride + c. The output holds the rows * columns elements without gaps; random
    numbers go by the element's index in the whole tensor.
    """

    rows: int
    columns: int
    stride: int
    start: int = 0

    @classmethod
    def whole(cls, count: int) -> Region:
        """All of a tensor of `count` elements."""
        return cls(1, count, count)
