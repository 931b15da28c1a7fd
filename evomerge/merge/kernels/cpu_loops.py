"""The CPU kernel's loops: an `ElementPass` over a stretch of elements, compiled by Numba.

Blocks of 256 elements pass through short loops that the compiler vectorises; a block of all sources
stays in the first-level cache, so memory sees each source read once and the result written once.
Numba neither reorders nor fuses float operations unless told to, and is not told to. Comparisons
are written so that NaN decides to keep: what is broken in a source shows in the result.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportPrivateImportUsage=false
# ruff: noqa: ANN001, ANN201, ANN202, PLR0124, PLR0912, PLR0913, PLR0917, C901
# (what Numba compiles are plain loops without annotations; y != y is how it asks for NaN)

import numpy as np
from numba import carray, njit

from evomerge.merge.elements import COMBINE, CONSENSUS, REFERENCES
from evomerge.merge.kernels.cpu_bits import (
    BFLOAT16,
    FLOAT32,
    bits_of,
    float_of,
    input_bits,
    narrowed,
    pointer,
    tensor_word,
    widened,
)

BLOCK = 256
LOW, HIGH, CLIP, ELECT, FACTOR, WEIGHT = range(6)
"""Columns of the inputs' numbers."""
BANDED, RANDOM, CLIPPED, COUNTED = 1, 2, 4, 8
"""Bits of an input's flags: the parts of sparsification it needs; whether `kept` is asked for."""

_NONE, _BASE, _MEAN = (REFERENCES.index(r) for r in ("none", "base", "mean"))
_ALL, _SUM, _COUNT, _SUPPORT = (CONSENSUS.index(c) for c in ("none", "sum", "count", "support"))
_PLAIN, _OVER_AGREEING, _OVER_KEPT, _DIVIDED, _LARGEST = (
    COMBINE.index(c) for c in ("sum", "mean", "survivors", "divided", "largest")
)
_ZERO, _ONE = np.float32(0), np.float32(1)

_inlined = njit(nogil=True, error_model="numpy", inline="always")


@_inlined
def _from_float32(number):
    return number


@_inlined
def _from_bfloat16(half):
    return float_of(np.uint32(np.uint32(half) << np.uint32(16)))


@_inlined
def _from_float16(half):
    return widened(half)


def _loader(size, word, widen):
    """out = elements from `start` on, as float32."""

    @_inlined
    def load(address, start, count, out):
        data = carray(pointer(address + start * size, word), (count,))
        for i in range(count):
            out[i] = widen(data[i])

    return load


def _taker(size, word, widen):
    """parts[k] = what sparsification leaves of theta - reference, times `elect`."""

    @_inlined
    def take(address, start, count, reference, numbers, flags, words, keys, limits, k, parts, kept):
        data = carray(pointer(address + start * size, word), (count,))
        elect, low, high = numbers[k, ELECT], numbers[k, LOW], numbers[k, HIGH]
        if flags[k] == 0:
            for i in range(count):
                parts[k, i] = (widen(data[i]) - reference[i]) * elect
        elif flags[k] == BANDED:
            for i in range(count):
                tau = widen(data[i]) - reference[i]
                stays = not ((abs(tau) <= low) | (abs(tau) > high))
                parts[k, i] = tau * elect if stays else _ZERO
        elif flags[k] == RANDOM:
            key, limit = keys[k, 1], limits[k]
            for i in range(count):
                tau = widen(data[i]) - reference[i]
                stays = input_bits(words[i], key) < limit
                parts[k, i] = tau * elect if stays else _ZERO
        else:
            key, limit = keys[k, 1], limits[k]
            clip = numbers[k, CLIP]
            for i in range(count):
                tau = widen(data[i]) - reference[i]
                stays = not ((abs(tau) <= low) | (abs(tau) > high))
                stays &= input_bits(words[i], key) < limit
                cut = clip if tau > clip else (-clip if tau < -clip else tau)
                parts[k, i] = cut * elect if stays else _ZERO
                kept[k, i] = _ONE if stays else _ZERO

    return take


_load_float32 = _loader(4, np.float32, _from_float32)
_load_bfloat16 = _loader(2, np.uint16, _from_bfloat16)
_load_float16 = _loader(2, np.uint16, _from_float16)
_take_float32 = _taker(4, np.float32, _from_float32)
_take_bfloat16 = _taker(2, np.uint16, _from_bfloat16)
_take_float16 = _taker(2, np.uint16, _from_float16)


@_inlined
def _load(address, code, start, count, out):
    if code == FLOAT32:
        _load_float32(address, start, count, out)
    elif code == BFLOAT16:
        _load_bfloat16(address, start, count, out)
    else:
        _load_float16(address, start, count, out)


@_inlined
def _total(parts, count, total):
    for i in range(count):
        total[i] = parts[0, i]
    for k in range(1, len(parts)):
        for i in range(count):
            total[i] += parts[k, i]


@_inlined
def _elect(parts, count, consensus, elected):
    """elected = +1 or -1: the sign that consensus elects."""
    if consensus == _SUM:
        _total(parts, count, elected)
    else:
        for i in range(count):
            elected[i] = _ZERO
        for k in range(len(parts)):
            for i in range(count):
                x = parts[k, i]
                elected[i] += np.float32(x > _ZERO) - np.float32(x < _ZERO)
    for i in range(count):
        elected[i] = _ONE if elected[i] >= _ZERO else -_ONE


@_inlined
def _find_needed(parts, count, least, support, total, needed):
    """needed = 1 where at least `least` sources need the element, else 0."""
    _total(parts, count, total)
    for i in range(count):
        needed[i] = _ZERO
    for k in range(len(parts)):
        for i in range(count):
            x = parts[k, i]
            needed[i] += np.float32(not (abs(x) <= support * abs(total[i] - x)))
    for i in range(count):
        needed[i] = _ONE if needed[i] >= least else _ZERO


@_inlined
def _agree(parts, kept, count, consensus, combine, numbers, elected):
    """parts = y; kept = 1 where a source counts in divisors. `elected`: signs, or what is needed."""
    for k in range(len(parts)):
        factor = numbers[k, FACTOR]
        if consensus == _ALL:
            for i in range(count):
                parts[k, i] *= factor
        elif consensus != _SUPPORT:
            for i in range(count):
                kept[k, i] = _ZERO if parts[k, i] * elected[i] <= _ZERO else _ONE
                parts[k, i] = parts[k, i] * factor if kept[k, i] > _ZERO else _ZERO
        else:
            for i in range(count):
                parts[k, i] = parts[k, i] * factor if elected[i] > _ZERO else _ZERO
                kept[k, i] = elected[i] * (kept[k, i] if combine == _OVER_KEPT else _ONE)


@_inlined
def _combine(parts, kept, count, numbers, combine, divisor, total, below):
    """total = the merged tau of the y in `parts`."""
    if combine == _LARGEST:
        for i in range(count):
            total[i] = parts[0, i]
        for k in range(1, len(parts)):
            for i in range(count):
                y = parts[k, i]
                total[i] = y if (abs(y) > abs(total[i])) | (y != y) else total[i]
        return
    _total(parts, count, total)
    if combine == _DIVIDED:
        for i in range(count):
            total[i] /= divisor
    elif combine != _PLAIN:
        for i in range(count):
            below[i] = _ZERO
        for k in range(len(parts)):
            weight = numbers[k, WEIGHT]
            for i in range(count):
                below[i] += weight if kept[k, i] > _ZERO else _ZERO
        for i in range(count):
            total[i] /= below[i] if below[i] != _ZERO else _ONE


def _elector(n):
    """The election by sum and its combination (`sum` or `mean`) for `n` <= 4 sources, in one loop."""
    one, two, three = min(1, n - 1), min(2, n - 1), min(3, n - 1)

    @_inlined
    def combine_elected(parts, count, numbers, divides, total):
        w = (
            numbers[0, WEIGHT] if divides else _ZERO,
            numbers[one, WEIGHT] if divides else _ZERO,
            numbers[two, WEIGHT] if divides else _ZERO,
            numbers[three, WEIGHT] if divides else _ZERO,
        )
        for i in range(count):
            elected = parts[0, i]
            for k in range(1, n):
                elected += parts[k, i]
            sign = _ONE if elected >= _ZERO else -_ONE
            above, below = _ZERO, _ZERO
            for k in range(n):
                agrees = not (parts[k, i] * sign <= _ZERO)
                above += parts[k, i] if agrees else _ZERO
                below += w[k] if agrees else _ZERO
            # Without weights the divisor is 0 and counts as 1: a sum.
            total[i] = above / (below if below != _ZERO else _ONE)

    return combine_elected


_elect_2, _elect_3, _elect_4 = (_elector(n) for n in (2, 3, 4))


@_inlined
def _tau(
    parts, kept, count, numbers, consensus, combine,
    least, support, divisor, plain_factors, total, below,
):  # fmt: skip
    """total = the merged tau of the x in `parts`."""
    n = len(parts)
    if consensus == _SUM and combine in (_PLAIN, _OVER_AGREEING) and plain_factors and 2 <= n <= 4:
        if n == 2:
            _elect_2(parts, count, numbers, combine == _OVER_AGREEING, total)
        elif n == 3:
            _elect_3(parts, count, numbers, combine == _OVER_AGREEING, total)
        else:
            _elect_4(parts, count, numbers, combine == _OVER_AGREEING, total)
        return
    if consensus == _SUPPORT:
        _find_needed(parts, count, least, support, below, total)
    elif consensus != _ALL:
        _elect(parts, count, consensus, total)
    if consensus != _ALL or not plain_factors:
        _agree(parts, kept, count, consensus, combine, numbers, total)
    _combine(parts, kept, count, numbers, combine, divisor, total, below)


@_inlined
def _store(address, code, start, count, total, scale, added):
    """Write added + scale * total, rounded to storage; returns 0 if all of it is finite there."""
    bad = np.uint32(0)
    exponent = np.uint32(0x7F800000)
    if code == FLOAT32:
        numbers = carray(pointer(address + start * 4, np.float32), (count,))
        for i in range(count):
            value = total[i] * scale + added[i]
            bad |= np.uint32((bits_of(value) & exponent) == exponent)
            numbers[i] = value
        return bad
    halves = carray(pointer(address + start * 2, np.uint16), (count,))
    if code == BFLOAT16:
        for i in range(count):
            bits = bits_of(total[i] * scale + added[i])
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            rounded = np.uint32(bits + np.uint32(0x7FFF) + odd)
            # The carry would turn some NaNs into numbers.
            nan = (bits & np.uint32(0x7FFFFFFF)) > exponent
            rounded = np.uint32(0x7FC00000) if nan else rounded
            bad |= np.uint32((rounded & exponent) == exponent)
            halves[i] = np.uint16(rounded >> np.uint32(16))
        return bad
    for i in range(count):
        half = narrowed(total[i] * scale + added[i])
        bad |= np.uint32((half & np.uint16(0x7C00)) == np.uint16(0x7C00))
        halves[i] = half
    return bad


@njit(nogil=True, cache=True, error_model="numpy")
def merge(
    addresses, codes, numbers, flags, keys, limits,
    base, base_code, out, out_code,
    reference, consensus, combine, deltas,
    least, support, divisor, scale,
    stride, columns, start, first, last,
):  # fmt: skip
    """Output elements `first` to `last` of a region; returns 0 if every one is finite.

    Arrays run over the inputs: `numbers` has a column per constant above, `keys` and `limits` are
    of random masks. `base` is an address, 0 where there is none.
    """
    n = len(addresses)
    parts = np.empty((n, BLOCK), np.float32)
    kept = np.empty((n, BLOCK), np.float32)
    total = np.empty(BLOCK, np.float32)
    below = np.empty(BLOCK, np.float32)
    words = np.empty(BLOCK, np.uint32)
    drawn_by = np.uint32(0)
    # What is taken from each source, and what is added in the end: x - 0 and x + -0 are x, also
    # where x is -0.
    taken = np.zeros(BLOCK, np.float32)
    added = np.full(BLOCK, -_ZERO, np.float32)
    plain_factors = np.all(numbers[:, FACTOR] == _ONE)
    bad = np.uint32(0)
    place = first
    while place < last:
        row, column = place // columns, place % columns
        count = min(BLOCK, last - place, columns - column)
        index = start + row * stride + column
        if reference == _BASE:
            _load(base, base_code, index, count, added)
            if not deltas:
                for i in range(count):
                    taken[i] = added[i]
        elif reference == _MEAN:
            for k in range(n):
                _load(addresses[k], codes[k], index, count, parts[k])
            _total(parts, count, taken)
            for i in range(count):
                taken[i] /= np.float32(n)
                added[i] = taken[i]
        drawn = False
        for k in range(n):
            if flags[k] & (RANDOM | CLIPPED | COUNTED) and not (drawn and keys[k, 0] == drawn_by):
                drawn, drawn_by = True, keys[k, 0]
                for i in range(count):
                    words[i] = tensor_word(np.uint32(index + i), drawn_by)
            if codes[k] == BFLOAT16:
                _take_bfloat16(
                    addresses[k], index, count, taken, numbers, flags, words,
                    keys, limits, k, parts, kept,
                )  # fmt: skip
            elif codes[k] == FLOAT32:
                _take_float32(
                    addresses[k], index, count, taken, numbers, flags, words,
                    keys, limits, k, parts, kept,
                )  # fmt: skip
            else:
                _take_float16(
                    addresses[k], index, count, taken, numbers, flags, words,
                    keys, limits, k, parts, kept,
                )  # fmt: skip
        _tau(
            parts, kept, count, numbers, consensus, combine,
            least, support, divisor, plain_factors, total, below,
        )  # fmt: skip
        bad |= _store(out, out_code, place, count, total, scale, added)
        place += count
    return bad
