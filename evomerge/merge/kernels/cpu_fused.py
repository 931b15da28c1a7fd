"""The CPU kernel's short cut for what is merged most: up to four bfloat16 sources, in one loop.

Everything stays in registers between reading a source and writing the result. One loop is compiled
per number of sources, kind of mask and consensus; the arithmetic is that of `cpu_loops`, which does
everything else.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportPrivateImportUsage=false
# ruff: noqa: ANN001, ANN201, ANN202, C901, PLR0912, PLR0913, PLR0915, PLR0917
# (what Numba compiles are plain loops without annotations)

from functools import lru_cache

import numpy as np
from numba import carray, njit

from evomerge.merge.kernels.cpu_bits import bits_of, float_of, input_bits, pointer, tensor_word

MOST = 4
"""Sources that are merged this way at most."""
NOTHING, FLOOR, MASK = 0, 1, 2
"""What sparsification does, to all sources: drop nothing, what is small, or at random."""

_ZERO, _ONE = np.float32(0), np.float32(1)
_ROUNDS_TO_INFINITY = np.uint32(0x7F7F8000)
"""Bits of the least float32 that is infinite as a bfloat16; greater ones are infinite or NaN."""

_inlined = njit(nogil=True, error_model="numpy", inline="always")


@_inlined
def _wide(half):
    return float_of(np.uint32(np.uint32(half) << np.uint32(16)))


@lru_cache
def loop(n, kind, based, elects, divides):
    """The loop for `n` sources, compiled when it is first called (and cached on disk).

    Args:
        n: 1 to `MOST`.
        kind: one of the constants above.
        based: tau is from the base.
        elects: consensus is by the sign of the sum.
        divides: by the weights that agree (where it elects), or by `divisor`.
    """
    second, third, fourth = min(1, n - 1), min(2, n - 1), min(3, n - 1)

    @njit(nogil=True, cache=True, error_model="numpy")
    def merge(
        addresses, base, out, start,
        low, elect, weight, keys, limits, divisor, scale,
        target, last,
    ):  # fmt: skip
        """Output elements `target` to `last`, from the sources' `start + target` on; 0 if finite.

        What is not finite is found, and not rounded as it should be.
        """
        first, count = start + target, last - target
        a = carray(pointer(addresses[0] + first * 2, np.uint16), (count,))
        b = carray(pointer(addresses[second] + first * 2, np.uint16), (count,))
        c = carray(pointer(addresses[third] + first * 2, np.uint16), (count,))
        d = carray(pointer(addresses[fourth] + first * 2, np.uint16), (count,))
        r = carray(pointer(base + first * 2, np.uint16), (count,))
        o = carray(pointer(out + target * 2, np.uint16), (count,))
        lows = (low[0], low[second], low[third], low[fourth])
        elects_ = (elect[0], elect[second], elect[third], elect[fourth])
        weights = (weight[0], weight[second], weight[third], weight[fourth])
        words = (keys[0, 1], keys[second, 1], keys[third, 1], keys[fourth, 1])
        bounds = (limits[0], limits[second], limits[third], limits[fourth])
        tensor_key = keys[0, 0]
        bad = np.uint32(0)
        for i in range(count):
            reference = _wide(r[i]) if based else _ZERO
            halves = (a[i], b[i], c[i], d[i])
            word = tensor_word(np.uint32(first + i), tensor_key) if kind == MASK else np.uint32(0)
            x0 = x1 = x2 = x3 = _ZERO
            total = _ZERO
            for k in range(n):
                tau = _wide(halves[k]) - reference
                if kind == FLOOR:
                    x = _ZERO if abs(tau) <= lows[k] else tau * elects_[k]
                elif kind == MASK:
                    x = tau * elects_[k] if input_bits(word, words[k]) < bounds[k] else _ZERO
                else:
                    x = tau * elects_[k]
                if k == 0:
                    x0 = total = x
                elif k == 1:
                    x1 = x
                    total += x
                elif k == 2:
                    x2 = x
                    total += x
                else:
                    x3 = x
                    total += x
            if elects:
                sign = _ONE if total >= _ZERO else -_ONE
                total, below = _ZERO, _ZERO
                for k in range(n):
                    x = (x0, x1, x2, x3)[k]
                    agrees = not (x * sign <= _ZERO)
                    total += x if agrees else _ZERO
                    if divides:
                        below += weights[k] if agrees else _ZERO
                if divides:
                    total /= below if below != _ZERO else _ONE
            elif divides:
                total /= divisor
            value = total * scale
            bits = bits_of(value + reference if based else value)
            bad |= np.uint32((bits & np.uint32(0x7FFFFFFF)) >= _ROUNDS_TO_INFINITY)
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            o[i] = np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
        return bad

    return merge
