"""Element passes to try a kernel on, what each must give, and the battery that every kernel meets.

`truth` is `evomerge.merge.elements` written once more, with whole NumPy arrays and Python's
integers, and shares no code with any kernel.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from hypothesis import strategies as st

from evomerge.merge.elements import (
    COMBINE,
    CONSENSUS,
    REFERENCES,
    ElementPass,
    InputPass,
    Region,
)

Kernel = Callable[
    [ElementPass, torch.Tensor | None, Sequence[torch.Tensor], torch.Tensor, Region], bool
]
Floats = np.ndarray

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPARSIFIERS = ("none", "threshold", "band", "random", "clip", "all")
"""What an input's elements go through; `all`: all of it at once."""
SKELETONS = tuple(
    ElementPass(reference, (), consensus, combine, deltas=deltas)
    for reference, consensus, combine in product(REFERENCES, CONSENSUS, COMBINE)
    for deltas in (False, True)
    if not (reference == "mean" and deltas)
)
"""Every combination of stages, without inputs and numbers."""


def named(skeleton: ElementPass) -> str:
    """For a test's id."""
    deltas = "-deltas" if skeleton.deltas else ""
    return f"{skeleton.reference}-{skeleton.consensus}-{skeleton.combine}{deltas}"


@dataclass(frozen=True)
class Case:
    """Arguments of a kernel, the output's dtype in place of the output."""

    work: ElementPass
    base: torch.Tensor
    inputs: tuple[torch.Tensor, ...]
    dtype: torch.dtype
    region: Region


def make(
    skeleton: ElementPass,
    sparsifier: str,
    seed: int,
    *,
    dtypes: Sequence[torch.dtype],
    region: Region,
    extra: int = 0,
) -> Case:
    """A case with random numbers and elements: ties, zeros of both signs and denormals occur.

    Args:
        dtypes: of the base, of each input (at least one) and of the output.
        extra: elements behind the region's last.
    """
    rng = np.random.default_rng(seed)
    count = _count(region) + extra
    tensors = [_elements(rng, count).to(dtype) for dtype in dtypes[:-1]]
    sources = tuple(_source(rng, sparsifier) for _ in tensors[1:])
    if rng.random() < 0.5:  # as the inputs of a tensor have them: one word in common
        sources = tuple(replace(s, key=s.key and (7, s.key[1])) for s in sources)
    if rng.random() < 0.2:  # weights that cancel
        sources = tuple(replace(s, weight=(-1.0) ** i) for i, s in enumerate(sources))
    work = replace(
        skeleton,
        inputs=sources,
        k=int(rng.integers(1, len(sources) + 2)),
        support=_number(rng.random()),
        divisor=_number(rng.normal()),
        scale=_number(rng.choice([1.0, rng.normal()])),
    )
    return Case(work, tensors[0], tuple(tensors[1:]), dtypes[-1], region)


def broken(case: Case, value: float) -> Case:
    """The same with `value` in a tenth of each tensor's elements."""
    rng = np.random.default_rng(0)
    tensors = [tensor.clone() for tensor in (case.base, *case.inputs)]
    for tensor in tensors:
        tensor[torch.from_numpy(rng.random(len(tensor)) < 0.1)] = value
    return replace(case, base=tensors[0], inputs=tuple(tensors[1:]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any stages, 1 to 5 inputs, mixed dtypes, sub-boxes and odd sizes of up to 5000 elements."""
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 125))
    if draw(st.booleans()):
        rows, columns = 1, draw(st.integers(1, 5000))
    gap = draw(st.integers(0, 30))
    region = Region(rows, columns, columns + gap, draw(st.integers(0, 100)))
    inputs = draw(st.integers(1, 5))
    return make(
        draw(st.sampled_from(SKELETONS)),
        draw(st.sampled_from(SPARSIFIERS)),
        draw(st.integers(0, 2**32 - 1)),
        dtypes=[draw(st.sampled_from(DTYPES)) for _ in range(inputs + 2)],
        region=region,
        extra=draw(st.integers(0, 5)),
    )


def small_cases(skeleton: ElementPass, size: int, sparsifiers: Sequence[str]) -> Iterator[Case]:
    """For one combination of stages: each sparsifier, with 1 to 5 inputs and dtypes in turn."""
    position = SKELETONS.index(skeleton)
    for number, sparsifier in enumerate(sparsifiers, position):
        inputs = 1 + number % 5
        dtypes = [DTYPES[(number // 2 + i * i) % 3] for i in range(inputs + 1)]
        yield make(
            skeleton,
            sparsifier,
            number,
            dtypes=[*dtypes, DTYPES[number % 3]],
            region=Region.whole(size + number % 2),
        )


def check(kernel: Kernel, case: Case, device: str = "cpu") -> None:
    """The kernel's bytes are the truth's, its verdict is right, and it wrote nothing else."""
    expected = truth(case)
    base, *inputs = (tensor.to(device) for tensor in (case.base, *case.inputs))
    before = [_bits(tensor).clone() for tensor in (base, *inputs)]
    size, margin = case.region.rows * case.region.columns, 8
    memory = torch.full((size + 2 * margin,), 77.0, dtype=case.dtype, device=device)
    out = memory[margin : margin + size]
    needed = base if case.work.reference == "base" else None

    finite = kernel(case.work, needed, inputs, out, case.region)

    assert_same(out.cpu(), expected, case)
    assert finite is bool(expected.isfinite().all())
    assert bool((memory[:margin] == 77).all()), "wrote before the output"
    assert bool((memory[margin + size :] == 77).all()), "wrote behind the output"
    for tensor, old in zip((base, *inputs), before, strict=True):
        assert torch.equal(_bits(tensor), old), "changed a source"


def assert_same(result: torch.Tensor, expected: torch.Tensor, case: Case) -> None:
    """Equal bits; any NaN equals any other."""
    differ = (_bits(result) != _bits(expected)) & ~(result.isnan() & expected.isnan())
    if not differ.any():
        return
    place = int(differ.nonzero()[0])
    row, column = divmod(place, case.region.columns)
    index = case.region.start + row * case.region.stride + column
    raise AssertionError(
        f"{int(differ.sum())} of {len(result)} differ; the first, element {index}: "
        f"{result[place].item()!r}, not {expected[place].item()!r}, "
        f"from {[t[index].item() for t in (case.base, *case.inputs)]} by {case.work}"
    )


def truth(case: Case) -> torch.Tensor:
    """What the kernel must write, from whole tensors."""
    region = case.region
    rows, columns = np.arange(region.rows)[:, None], np.arange(region.columns)
    places = (region.start + rows * region.stride + columns).reshape(-1)
    with np.errstate(all="ignore"):
        whole = _whole(case.work, _floats(case.base), [_floats(t) for t in case.inputs])
    return torch.from_numpy(whole[places]).to(case.dtype)


def _whole(work: ElementPass, base: Floats, thetas: Sequence[Floats]) -> Floats:
    r: Floats | None = None
    if work.reference == "base":
        r = base
    if work.reference == "mean":
        r = _sum(thetas) / np.float32(len(thetas))
    taus = thetas if r is None or work.deltas else [theta - r for theta in thetas]
    kept = [_kept(source, tau) for source, tau in zip(work.inputs, taus, strict=True)]
    xs = [_x(*parts) for parts in zip(work.inputs, taus, kept, strict=True)]
    agree = _agree(work, xs)
    ys = [
        np.where(agrees, x * np.float32(source.factor), np.float32(0))
        for source, x, agrees in zip(work.inputs, xs, agree, strict=True)
    ]
    scaled = _combined(work, ys, agree, kept) * np.float32(work.scale)
    return scaled if r is None else r + scaled


def _kept(source: InputPass, tau: Floats) -> np.ndarray:
    magnitude = np.abs(tau)
    kept = ~(magnitude <= np.float32(source.low)) & ~(magnitude > np.float32(source.high))
    if source.key is None:
        return kept
    return kept & (_random_bits(source.key, len(tau)) < source.limit)


def _x(source: InputPass, tau: Floats, kept: np.ndarray) -> Floats:
    clip = np.float32(source.clip)
    clamped = np.where(tau > clip, clip, tau)
    clamped = np.where(tau < -clip, -clip, clamped)
    return np.where(kept, clamped * np.float32(source.elect), np.float32(0))


def _agree(work: ElementPass, xs: Sequence[Floats]) -> list[np.ndarray]:
    total = _sum(xs)
    if work.consensus == "none":
        return [np.ones(len(total), bool)] * len(xs)
    if work.consensus == "support":
        needed = [~(np.abs(x) <= np.float32(work.support) * np.abs(total - x)) for x in xs]
        return [np.sum(needed, axis=0) >= work.k] * len(xs)
    if work.consensus == "count":
        total = np.sum([(x > 0).astype(int) - (x < 0).astype(int) for x in xs], axis=0)
    s = np.where(total >= 0, np.float32(1), np.float32(-1))
    return [~(x * s <= 0) for x in xs]


def _combined(
    work: ElementPass,
    ys: Sequence[Floats],
    agree: Sequence[np.ndarray],
    kept: Sequence[np.ndarray],
) -> Floats:
    if work.combine == "largest":
        stacked = np.stack(ys)
        first = np.abs(stacked).argmax(axis=0)[None]  # of NaN too
        return np.take_along_axis(stacked, first, axis=0)[0]
    total = _sum(ys)
    if work.combine == "sum":
        return total
    if work.combine == "divided":
        return total / np.float32(work.divisor)
    counts = agree if work.combine == "mean" else np.logical_and(agree, kept)
    weights = [np.float32(source.weight) for source in work.inputs]
    d = _sum([np.where(c, w, np.float32(0)) for c, w in zip(counts, weights, strict=True)])
    return total / np.where(d == 0, np.float32(1), d)


def _sum(parts: Sequence[Floats]) -> Floats:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _random_bits(key: tuple[int, int], count: int) -> np.ndarray:
    """`random_masks`, in 64-bit words that are cut to 32 bits after each step."""
    x = np.arange(count, dtype=np.uint64) ^ np.uint64(key[0])
    x = _multiplied(x ^ (x >> 16))
    x = x ^ (x >> 16) ^ np.uint64(key[1])
    return (_multiplied(x) >> 8).astype(np.int64)


def _multiplied(x: np.ndarray) -> np.ndarray:
    x = x * 0x7FEB352D % 2**32
    x = x ^ (x >> 15)
    return x * 0x846CA68B % 2**32


def _count(region: Region) -> int:
    return region.start + (region.rows - 1) * region.stride + region.columns


def _elements(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Gaussian; many on a coarse grid, so that sums cancel and magnitudes tie; denormals."""
    values = rng.normal(size=count)
    coarse = rng.random(count) < 0.4
    values[coarse] = rng.integers(-2, 3, coarse.sum()) / 2
    values[rng.random(count) < 0.1] *= 1e-39
    return torch.from_numpy(values * rng.choice([-1.0, 1.0], count)).float()


def _source(rng: np.random.Generator, sparsifier: str) -> InputPass:
    low, high, clip = (_number(x) for x in np.sort(np.abs(rng.normal(size=3))))
    low, clip = rng.choice([(low, clip), (0.5, 1.0)])  # also at magnitudes that occur
    source = InputPass(
        elect=_number(rng.choice([1.0, 1.0, -1.0, rng.normal()])),  # 1: sums may cancel to nothing
        factor=_number(rng.choice([1.0, rng.normal()])),
        weight=_number(rng.normal()),
    )
    everything = {
        "none": {},
        "threshold": {"low": float(low)},
        "band": {"low": float(low), "high": high},
        "random": _mask(rng),
        "clip": {"clip": float(clip)},
    }
    chosen = everything if sparsifier == "all" else {sparsifier: everything[sparsifier]}
    for changes in chosen.values():
        source = replace(source, **changes)
    return source


def _mask(rng: np.random.Generator) -> dict[str, object]:
    """Also limits that keep nothing, everything, or all up to an element just in or just out."""
    key = (int(rng.integers(2**32)), int(rng.integers(2**32)))
    border = _random_bits(key, 64)[-1] + rng.integers(2)
    limits = [0, 2**24, border, border, *rng.integers(2**24, size=4)]
    return {"key": key, "limit": int(rng.choice(limits))}


def _number(value: float) -> float:
    """A float32 value."""
    return float(np.float32(value))


def _floats(tensor: torch.Tensor) -> Floats:
    return tensor.float().numpy()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)
