"""The Triton side of the GPU kernel: an `ElementPass` over one tile of elements, in registers.

Only `evomerge.merge.kernels.gpu` calls this; it lays out the tables read here. What a launch fixes
(stages, dtypes, which parts of sparsification occur) are compile-time constants in capitals, so
that nothing unused is loaded or computed.
"""

# Triton's language only looks like Python: no annotations, constants in capitals, many arguments,
# tuples that grow by `+`, NaN found by comparison, and types that checkers cannot know.
# ruff: noqa: ANN001, ANN201, ANN202, N803, N806, PLR0913, PLR0917, RUF005, PLR0124
# pyright: basic, reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

import os

import triton
import triton.language as tl

GEOMETRY = tl.constexpr(9)
"""64-bit words per job before its inputs' addresses: place in `overflowed`, first program, tiles,
tiles per row, columns, stride, start, addresses of the output and the base."""

SETTINGS = tl.constexpr(4)
"""32-bit words per job before its inputs' numbers: scale, divisor, support, k."""

NUMBERS = tl.constexpr(9)
"""32-bit words per input: low, high, clip, elect, factor, weight, the key's two words, the limit."""

LOW, HIGH, RANDOM = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)
CLIP, FACTOR = tl.constexpr(8), tl.constexpr(16)
"""Bits that say which of an input's numbers do anything."""

SHARED = tl.constexpr(32)
"""The bit that says that the key's first word is that of the random input before."""


BFLOAT16 = tl.constexpr(tl.uint16)
"""How bfloat16 is loaded and stored: as its bits, the upper half of a float32's."""

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def merge_tiles(
    geometry,
    numbers,
    job_of_program,
    overflowed,
    REFERENCE: tl.constexpr,
    CONSENSUS: tl.constexpr,
    COMBINE: tl.constexpr,
    DELTAS: tl.constexpr,
    PARTS: tl.constexpr,
    DTYPES: tl.constexpr,
    BASE_DTYPE: tl.constexpr,
    OUT_DTYPE: tl.constexpr,
    LIMIT: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    """Each program merges up to `TILES` tiles, each `TILE` neighbours of one row of one job.

    Args:
        geometry: int64, (jobs, GEOMETRY + inputs).
        numbers: float32 (some words are integers' bits), (jobs, SETTINGS + NUMBERS * inputs).
        job_of_program: int32, (programs,).
        overflowed: int32: a job's place is set to 1 where one of its results is not finite.
        PARTS, DTYPES: per input, which of its numbers matter, and its storage type: float32,
            float16 or `BFLOAT16`.
        LIMIT: where magnitudes begin that are not finite once rounded to the output's type.
        ALIGNED: addresses are multiples of 16 bytes; columns, stride and start of 8 elements.
    """
    N: tl.constexpr = len(DTYPES)
    program = tl.program_id(0)
    job = tl.load(job_of_program + program).to(tl.int64)
    geometry += job * (GEOMETRY + N)
    numbers += job * (SETTINGS + NUMBERS * N)
    tile = (program - tl.load(geometry + 1).to(tl.int32)) * TILES
    tiles = tl.load(geometry + 2).to(tl.int32)
    tiles_per_row = tl.load(geometry + 3).to(tl.int32)
    columns, stride = tl.load(geometry + 4), tl.load(geometry + 5)
    start = tl.load(geometry + 6)
    out = _pointer(tl.load(geometry + 7), OUT_DTYPE, ALIGNED)
    row = (tile // tiles_per_row).to(tl.int64)
    column = (tile % tiles_per_row).to(tl.int64) * TILE

    lane = tl.arange(0, TILE)
    greatest = tl.zeros((TILE,), tl.float32)
    for _ in range(tile, tl.minimum(tile + TILES, tiles)):
        left = columns - column
        source, target = start + row * stride + column, row * columns + column
        if ALIGNED:
            left = tl.multiple_of(left, 8)
            source, target = tl.multiple_of(source, 8), tl.multiple_of(target, 8)
        inside = lane < left
        thetas = ()
        for i in tl.static_range(N):
            theta = _pointer(tl.load(geometry + GEOMETRY + i), DTYPES[i], ALIGNED) + source
            thetas = thetas + (tl.load(theta + lane, mask=inside, other=0),)
        base = tl.zeros((TILE,), tl.float32)
        if REFERENCE == "base":
            pointer = _pointer(tl.load(geometry + 8), BASE_DTYPE, ALIGNED) + source
            base = _widen(tl.load(pointer + lane, mask=inside, other=0))
        index = source.to(tl.uint32) + lane.to(tl.uint32)
        result = _merge(thetas, base, index, numbers, REFERENCE, CONSENSUS, COMBINE, DELTAS, PARTS)
        tl.store(out + target + lane, _narrow(result, OUT_DTYPE), mask=inside)
        # Lanes outside count too: made of zeros, they are finite unless all elements are not.
        greatest = tl.maximum(greatest, tl.abs(result), propagate_nan=tl.PropagateNan.ALL)
        column += TILE
        if column >= columns:
            row, column = row + 1, column * 0
    bad = tl.max((~(greatest < LIMIT)).to(tl.int32), axis=0)
    tl.store(overflowed + tl.load(geometry), 1, mask=bad != 0)


@triton.jit
def _pointer(address, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _widen(stored):
    """Stored elements as float32."""
    if stored.dtype == BFLOAT16:
        wide = (stored.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = stored.to(tl.float32)
    return wide


@triton.jit
def _narrow(result, DTYPE: tl.constexpr):
    """Rounded to the storage type, to nearest, ties to even."""
    if DTYPE != BFLOAT16:
        narrow = result.to(DTYPE)
    elif _INTERPRETED:  # its own conversion truncates
        bits = result.to(tl.uint32, bitcast=True)
        bits = tl.where(result == result, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        narrow = (bits >> 16).to(BFLOAT16)
    else:
        narrow = result.to(tl.bfloat16).to(BFLOAT16, bitcast=True)
    return narrow


@triton.jit
def _merge(
    thetas,
    base,
    index,
    numbers,
    REFERENCE: tl.constexpr,
    CONSENSUS: tl.constexpr,
    COMBINE: tl.constexpr,
    DELTAS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """r + scale * tau; the formulas and their order are those of `evomerge.merge.elements`."""
    N: tl.constexpr = len(thetas)
    r = base
    if REFERENCE == "mean":
        r = _widen(thetas[0])
        for i in tl.static_range(1, N):
            r += _widen(thetas[i])
        r = tl.math.div_rn(r, tl.full(r.shape, N, tl.float32))
    spread = index ^ (index >> 16)
    word = spread
    xs, kept = (), ()
    for i in tl.static_range(N):
        tau = _widen(thetas[i])
        if REFERENCE != "none" and not DELTAS:
            tau -= r
        own = numbers + SETTINGS + NUMBERS * i
        if (RANDOM & PARTS[i]) and not (SHARED & PARTS[i]):
            word = _tensor_word(spread, own)
        keep = _keep(tau, word, own, PARTS[i])
        if CLIP & PARTS[i]:
            clip = tl.load(own + 2)
            tau = tl.where(tau > clip, clip, tl.where(tau < -clip, -clip, tau))
        xs = xs + (tl.where(keep, tau * tl.load(own + 3), 0.0),)
        kept = kept + (keep,)
    agree = _agree(xs, numbers, CONSENSUS)
    tau = _combine(xs, agree, kept, numbers, COMBINE, PARTS) * tl.load(numbers)
    if REFERENCE != "none":
        tau = r + tau
    return tau


@triton.jit
def _keep(tau, word, own, PARTS: tl.constexpr):
    """Which elements stay. Constants are folded, so that an untouched input costs nothing."""
    keep = tl.full(tau.shape, 1, tl.int1)
    if LOW & PARTS:
        keep &= ~(tl.abs(tau) <= tl.load(own))
    if HIGH & PARTS:
        keep &= ~(tl.abs(tau) > tl.load(own + 1))
    if RANDOM & PARTS:
        words = own.to(tl.pointer_type(tl.uint32))
        x = (word ^ tl.load(words + 7)) * 0x7FEB352D
        keep &= ((x ^ (x >> 15)) * 0x846CA68B) < tl.load(words + 8)
    return keep


@triton.jit
def _tensor_word(spread, own):
    """What the random numbers of a tensor's inputs have in common; see `random_masks`.

    Its first step, x ^= x >> 16 of index ^ key, is linear over bits: it is taken of the index once
    (`spread`) and of the key beforehand.
    """
    x = (spread ^ tl.load(own.to(tl.pointer_type(tl.uint32)) + 6)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _agree(xs, numbers, CONSENSUS: tl.constexpr):
    """Per input, the elements that the consensus leaves."""
    N: tl.constexpr = len(xs)
    agree = ()
    if CONSENSUS == "none":
        for _ in tl.static_range(N):
            agree = agree + (tl.full(xs[0].shape, 1, tl.int1),)
    elif CONSENSUS == "support":
        support = tl.load(numbers + 2)
        total = _sum(xs)
        needed = tl.zeros(total.shape, tl.int32)
        for i in tl.static_range(N):
            needed += (~(tl.abs(xs[i]) <= tl.abs(total - xs[i]) * support)).to(tl.int32)
        enough = needed >= tl.load((numbers + 3).to(tl.pointer_type(tl.int32)))
        for _ in tl.static_range(N):
            agree = agree + (enough,)
    else:
        if CONSENSUS == "sum":
            elected = _sum(xs) >= 0
        else:
            balance = tl.zeros(xs[0].shape, tl.int32)
            for i in tl.static_range(N):
                balance += (xs[i] > 0).to(tl.int32) - (xs[i] < 0).to(tl.int32)
            elected = balance >= 0
        sign = tl.where(elected, 1.0, -1.0)
        for i in tl.static_range(N):
            agree = agree + (~(xs[i] * sign <= 0),)
    return agree


@triton.jit
def _combine(xs, agree, kept, numbers, COMBINE: tl.constexpr, PARTS: tl.constexpr):
    """One tau of all."""
    N: tl.constexpr = len(xs)
    ys = ()
    for i in tl.static_range(N):
        y = xs[i]
        if FACTOR & PARTS[i]:
            y = y * tl.load(numbers + SETTINGS + NUMBERS * i + 4)
        ys = ys + (tl.where(agree[i], y, 0.0),)
    if COMBINE == "largest":
        tau = ys[0]
        for i in tl.static_range(1, N):
            tau = tl.where((tl.abs(ys[i]) > tl.abs(tau)) | (ys[i] != ys[i]), ys[i], tau)
        return tau
    tau = _sum(ys)
    if COMBINE == "divided":
        divisor = tl.zeros(tau.shape, tl.float32) + tl.load(numbers + 1)
        tau = _divide(tau, divisor, (tau == 0) & (divisor != 0))
    elif COMBINE != "sum":
        weights = ()
        for i in tl.static_range(N):
            counts = agree[i]
            if COMBINE == "survivors":
                counts = counts & kept[i]
            weight = tl.load(numbers + SETTINGS + NUMBERS * i + 5)
            weights = weights + (tl.where(counts, weight, 0.0),)
        divisor = _sum(weights)
        tau = _divide(tau, tl.where(divisor == 0, 1.0, divisor), tau == 0)
    return tau


@triton.jit
def _divide(numerator, divisor, zero):
    """The correctly rounded quotient. Of a zero by a finite number it is taken by multiplication:
    the GPU divides zeros (most of what a consensus leaves) on its slow path.
    """
    quotient = tl.math.div_rn(tl.where(zero, 1.0, numerator), divisor)
    return tl.where(zero, numerator * divisor, quotient)


@triton.jit
def _sum(parts):
    """From the first to the last."""
    total = parts[0]
    for i in tl.static_range(1, len(parts)):
        total += parts[i]
    return total
