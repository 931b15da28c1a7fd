"""Passes that count and sum over deltas: one read of the sources' storage, float32 arithmetic.

Every loop takes `addresses` and `codes`, int64, shape (deltas, 1 + parts of the reference): where
each tensor's first element lies and how it is stored (`cpu_bits`). What is counted is, per element,
|tau| of the first delta or the population variance across all of them; both are non-negative
float32 values, which order as their bits do. All loops release the GIL.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportPrivateImportUsage=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, ANN202  (what Numba compiles is plain loops)

import numpy as np
from numba import carray, njit

from evomerge.merge.kernels.cpu_bits import (
    BFLOAT16,
    FLOAT32,
    input_bits,
    pointer,
    tensor_word,
    widened,
)

LOW_BITS = 11
"""A bin holds the values that differ in these last bits only: 4096 bins an octave."""

BINS = 2 ** (31 - LOW_BITS)

RANDOM_BINS = 1024
_RANDOM_SHIFT = 14

_BLOCK = 4096
_LANES = 256
"""Sums run in this many lanes, so that they vectorise and are the same on every machine."""

_GROUP = BINS // 32 + 1056
_PACKED_COUNT = 37
_ROUND = 2**25
"""Elements until a packed count (26 bits) or sum of low bits (37 bits) is full."""

PACKED = 32 * _GROUP

_LOW = np.uint32(2**LOW_BITS - 1)
_SHIFT = np.uint32(LOW_BITS)


@njit(nogil=True, cache=True)
def _load(address, code, start, count, out):
    """`count` elements from `start` as float32, exactly."""
    if code == FLOAT32:
        single = carray(pointer(address + start * 4, np.float32), (count,))
        for i in range(count):
            out[i] = single[i]
        return
    half = carray(pointer(address + start * 2, np.uint16), (count,))
    bits = out.view(np.uint32)
    if code == BFLOAT16:
        for i in range(count):
            bits[i] = np.uint32(half[i]) << np.uint32(16)
        return
    for i in range(count):
        out[i] = widened(half[i])


@njit(nogil=True, cache=True, error_model="numpy")
def _tau(addresses, codes, start, count, out, reference, part):
    """One delta's elements; `addresses` and `codes` are its row."""
    _load(addresses[0], codes[0], start, count, out)
    parts = len(addresses) - 1
    if parts == 0:
        return
    _load(addresses[1], codes[1], start, count, reference)
    for p in range(2, parts + 1):
        _load(addresses[p], codes[p], start, count, part)
        for i in range(count):
            reference[i] += part[i]
    if parts > 1:
        divisor = np.float32(parts)
        for i in range(count):
            reference[i] /= divisor
    for i in range(count):
        out[i] -= reference[i]


@njit(nogil=True, cache=True)
def _work(deltas):
    """Room for a block of each delta and three more."""
    return np.zeros((deltas + 3, _BLOCK), np.float32)


@njit(nogil=True, cache=True, error_model="numpy")
def _variances(work, n, count, out):
    """As `statistics.variance`, to the bit; uses `work[n]`."""
    mean = work[n]
    for i in range(count):
        mean[i] = work[0, i]
        out[i] = np.float32(0)
    for k in range(1, n):
        for i in range(count):
            mean[i] += work[k, i]
    for i in range(count):
        mean[i] /= np.float32(n)
    for k in range(n):
        for i in range(count):
            away = work[k, i] - mean[i]
            out[i] += away * away
    for i in range(count):
        out[i] /= np.float32(n)


@njit(nogil=True, cache=True, error_model="numpy")
def _values(addresses, codes, variance, start, count, work):
    """A block's |tau| or variances; taus stay in `work[:deltas]`."""
    n = len(addresses)
    out = work[n + 2]
    for k in range(n):
        _tau(addresses[k], codes[k], start, count, work[k], work[n], work[n + 1])
    if variance:
        _variances(work, n, count, out)
    else:
        for i in range(count):
            out[i] = abs(work[0, i])
    return out


@njit(nogil=True, cache=True)
def _packed_place(place):
    """Where a bin is counted. Differences of half-precision numbers have few digits: bins that end
    in zeros lie side by side, and the groups so that they do not share cache sets.
    """
    return np.int64(place & np.uint32(31)) * _GROUP + np.int64(place >> np.uint32(5))


@njit(nogil=True, cache=True)
def _unpack(packed, least, greatest, counts, lows):
    """Add a round's counts to those of all rounds, and clear them."""
    for place in range(least, greatest + 1):
        at = _packed_place(np.uint32(place))
        counts[place] += packed[at] >> _PACKED_COUNT
        lows[place] += packed[at] & ((1 << _PACKED_COUNT) - 1)
        packed[at] = 0


@njit(nogil=True, cache=True)
def count_bins(addresses, codes, variance, count, packed, counts, lows):
    """Add to `counts` and `lows`, int64, shape (BINS,): elements, and sums of their low bits.

    Args:
        packed: int64, shape (PACKED,), zeros; for counting, zeros again afterwards.

    Returns:
        The least and the greatest bin that holds a value above 0; (BINS, 0) if none does.
    """
    work = _work(len(addresses))
    first, last = np.int64(BINS), np.int64(0)
    for begin in range(0, count, _ROUND):
        end = min(count, begin + _ROUND)
        least, greatest = np.uint32(0xFFFFFFFF), np.uint32(0)
        for start in range(begin, end, _BLOCK):
            c = min(_BLOCK, end - start)
            bits = _values(addresses, codes, variance, start, c, work).view(np.uint32)
            for i in range(c):
                least = min(least, np.uint32(bits[i] - np.uint32(1)))  # 0 wraps to the greatest
                greatest = max(greatest, bits[i])
            for i in range(c):
                at = _packed_place(bits[i] >> _SHIFT)
                packed[at] += np.int64(bits[i] & _LOW) | (1 << _PACKED_COUNT)
        if greatest > 0:
            low, high = np.int64((least + np.uint32(1)) >> _SHIFT), np.int64(greatest >> _SHIFT)
            first, last = min(first, low), max(last, high)
            _unpack(packed, low, high, counts, lows)
        _unpack(packed, 0, 0, counts, lows)
    return first, last


@njit(nogil=True, cache=True)
def count_low_bits(addresses, codes, variance, count, row, counts):
    """Count the values inside chosen bins: `counts[row[bin] - 1, low bits] += 1` where
    `row[bin]` > 0, but for low bits of 0: most elements have them, and what is left has them.
    """
    work = _work(len(addresses))
    for start in range(0, count, _BLOCK):
        c = min(_BLOCK, count - start)
        bits = _values(addresses, codes, variance, start, c, work).view(np.uint32)
        for i in range(c):
            low = bits[i] & _LOW
            if low:
                r = row[bits[i] >> _SHIFT]
                if r > 0:
                    counts[r - 1, low] += 1


@njit(nogil=True, cache=True)
def choose_steps(counts, limit, chosen):
    """Mark which of the groups, in order, end a step: each step has at most `limit` elements.

    A group of more than `limit` elements is a step of its own.

    Args:
        counts: elements per group, int64.
        limit: elements.
        chosen: bool, set where a group is the last of its step.
    """
    inside = 0
    for g in range(len(counts)):
        if g and inside + counts[g] > limit:
            chosen[g - 1] = True
            inside = 0
        inside += counts[g]
    if len(counts):
        chosen[len(counts) - 1] = True


@njit(nogil=True, cache=True)
def sum_energies(addresses, codes, count, steps, sums):
    """Add tau_i^2 to `sums[step, i]`, float64; an element is in the first step not above it.

    Args:
        steps: bits of each step's least variance, descending, uint32; the last is below all.
    """
    first = np.empty(BINS, np.int32)
    s = 0
    for place in range(BINS - 1, -1, -1):
        while s < len(steps) - 1 and steps[s] > (np.uint32(place) << _SHIFT | _LOW):
            s += 1
        first[place] = s
    n = len(addresses)
    work = _work(n)
    for start in range(0, count, _BLOCK):
        c = min(_BLOCK, count - start)
        bits = _values(addresses, codes, True, start, c, work).view(np.uint32)
        for i in range(c):
            s = first[bits[i] >> _SHIFT]
            while steps[s] > bits[i]:
                s += 1
            for k in range(n):
                sums[s, k] += np.float64(work[k, i]) * np.float64(work[k, i])


@njit(nogil=True, cache=True)
def count_and_sum(addresses, codes, count, low, high):
    """How many elements have low < |tau| <= high, and the float64 sum of their |tau|."""
    work = _work(1)
    lanes = np.zeros(_LANES)
    found = 0
    for start in range(0, count, _BLOCK):
        c = min(_BLOCK, count - start)
        values = _values(addresses, codes, False, start, c, work)
        for i in range(c):
            inside = values[i] > low and values[i] <= high
            found += inside
            values[i] = values[i] if inside else np.float32(0)
        values[c:] = 0
        for i in range(0, _BLOCK, _LANES):
            for lane in range(_LANES):
                lanes[lane] += np.float64(values[i + lane])
    return found, lanes.sum()


@njit(nogil=True, cache=True)
def sum_products(addresses, codes, count):
    """Inner products of the deltas, float64, shape (deltas, deltas)."""
    n = len(addresses)
    work = _work(n)
    lanes = np.zeros((n, n, _LANES))
    for start in range(0, count, _BLOCK):
        c = min(_BLOCK, count - start)
        for k in range(n):
            _tau(addresses[k], codes[k], start, c, work[k], work[n], work[n + 1])
            work[k, c:] = 0
        for j in range(n):
            for k in range(j + 1):
                row = lanes[j, k]
                for i in range(0, _BLOCK, _LANES):
                    for lane in range(_LANES):
                        a, b = work[j, i + lane], work[k, i + lane]
                        row[lane] += np.float64(a) * np.float64(b)
    gram = np.empty((n, n))
    for j in range(n):
        for k in range(j + 1):
            gram[j, k] = gram[k, j] = lanes[j, k].sum()
    return gram


@njit(nogil=True, cache=True)
def sum_by_random_bits(addresses, codes, count, first, key, limit, sums):
    """Add |tau| to `sums[random bits >> 14]`, float64, where the random bits are below `limit`.

    Args:
        first: the index in the tensor of the element at `addresses`.
        key: two uint32 words.
        limit: 0 to 2**24.
    """
    work = _work(1)
    bits = np.empty(_BLOCK, np.uint32)
    a, b = np.uint32(key[0]), np.uint32(key[1])
    for start in range(0, count, _BLOCK):
        c = min(_BLOCK, count - start)
        values = _values(addresses, codes, False, start, c, work)
        origin = np.uint32(first + start)
        for i in range(c):
            bits[i] = input_bits(tensor_word(np.uint32(origin + np.uint32(i)), a), b)
        for i in range(c):
            if bits[i] < limit:
                sums[bits[i] >> np.uint32(_RANDOM_SHIFT)] += np.float64(values[i])
