"""The GPU kernel: a whole model's element passes in a launch or a few, written in Triton.

Jobs of one kind (same stages, number of inputs, dtypes) share a launch: what differs from job to
job (addresses, regions, numbers) lies in a small table on the device. Sources are read once, the
result is written once, nothing of a tensor's size is kept in between, and nothing waits for the
device until the caller looks at the flags. With the environment variable TRITON_INTERPRET=1, set
before Triton is imported, the same code runs on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
import triton.language as tl

from evomerge.merge.elements import ElementPass, InputPass, Region
from evomerge.merge.kernels import gpu_elements as elements

TILES = 8
"""Tiles that one program merges, so that finding its job costs little."""

_WARP = 32
_WARPS = 4
_VECTOR = 8
"""Elements that a thread loads at once: 16 bytes of a 16-bit type."""

_FEW = 5
"""Up to so many tensors read, a thread has two vectors of each in flight, above one: what hides
memory's latency and still fits the registers."""

_INDICES = 2**32

_SETTINGS, _NUMBERS = elements.SETTINGS.value, elements.NUMBERS.value
_LOW, _HIGH, _RANDOM = elements.LOW.value, elements.HIGH.value, elements.RANDOM.value
_SHARED = elements.SHARED.value
_CLIP, _FACTOR = elements.CLIP.value, elements.FACTOR.value

_TYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: elements.BFLOAT16.value,
    torch.float16: tl.float16,
}
_LIMITS = {torch.float32: inf, torch.bfloat16: 2.0**128 - 2.0**119, torch.float16: 65520.0}
"""The least magnitude that rounds to infinity."""


@dataclass(frozen=True, slots=True)
class Job:
    """What `run` takes: one tensor to merge. Two jobs' outputs must not overlap."""

    work: ElementPass
    base: torch.Tensor | None
    inputs: Sequence[torch.Tensor]
    out: torch.Tensor
    region: Region


def run(
    work: ElementPass,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out: torch.Tensor,
    region: Region,
) -> bool:
    """Write `out` and wait for it; see `reference.run` for the arguments and what is returned.

    Raises:
        ValueError: random masks on a tensor of more than 2**32 elements.
    """
    return not run_many([Job(work, base, inputs, out, region)]).any().item()


def run_many(jobs: Sequence[Job]) -> torch.Tensor:
    """Start all jobs, on the current stream of their outputs' device; does not wait for them.

    Returns:
        int32, shape (jobs,), on that device: not 0 where a result is not finite in its dtype.

    Raises:
        ValueError: random masks on a tensor of more than 2**32 elements.
    """
    if not jobs:
        return torch.zeros(0, dtype=torch.int32)
    overflowed = torch.zeros(len(jobs), dtype=torch.int32, device=jobs[0].out.device)
    groups: dict[tuple[Any, ...], list[tuple[int, Job]]] = {}
    for place, job in enumerate(jobs):
        if job.out.numel():
            groups.setdefault(_kind(job), []).append((place, job))
    for group in groups.values():
        _launch(group, overflowed)
    return overflowed


def _kind(job: Job) -> tuple[Any, ...]:
    """Equal for the jobs that may share a launch."""
    work = job.work
    return (
        (work.reference, work.consensus, _combination(work)[0], work.deltas),
        tuple(parts & (_RANDOM | _SHARED) for parts in _parts(work)),
        tuple(tensor.dtype for tensor in (*job.inputs, *_base(job), job.out)),
        _tile(job),
        _is_aligned(job),
    )


def _launch(group: Sequence[tuple[int, Job]], overflowed: torch.Tensor) -> None:
    _, first = group[0]
    work, device = first.work, overflowed.device
    tile, elements_of_thread = _tile(first)
    geometry, programs = _geometry(group, tile)
    numbers = _numbers(group)
    parts = np.array([_parts(job.work) for _, job in group])
    job_of_program = torch.repeat_interleave(
        torch.arange(len(group), dtype=torch.int32, device=device),
        _upload(programs, device),
        output_size=int(programs.sum()),
    )
    options: dict[str, Any] = {
        "REFERENCE": work.reference,
        "CONSENSUS": work.consensus,
        "COMBINE": _combination(work)[0],
        "DELTAS": work.deltas,
        "PARTS": tuple(np.bitwise_or.reduce(parts, axis=0).tolist()),
        "DTYPES": tuple(_TYPES[tensor.dtype] for tensor in first.inputs),
        "BASE_DTYPE": _TYPES[_base(first)[0].dtype] if _base(first) else tl.float32,
        "OUT_DTYPE": _TYPES[first.out.dtype],
        "LIMIT": _LIMITS[first.out.dtype],
        "ALIGNED": _is_aligned(first),
        "TILE": tile,
        "TILES": TILES,
        "num_warps": tile // (_WARP * elements_of_thread),
        "enable_fp_fusion": False,  # each operation rounds once
    }
    with torch.cuda.device_of(overflowed):
        elements.merge_tiles[(len(job_of_program),)](
            _upload(geometry, device),
            _upload(numbers, device),
            job_of_program,
            overflowed,
            **options,
        )


def _geometry(group: Sequence[tuple[int, Job]], tile: int) -> tuple[np.ndarray, np.ndarray]:
    """The jobs' rows of `merge_tiles`' table, int64, and how many programs each has."""
    rows, programs, first = [], [], 0
    for place, job in group:
        region = job.region
        tiles_per_row = -(-region.columns // tile)
        tiles = region.rows * tiles_per_row
        addresses = (t.data_ptr() for t in (job.out, *(_base(job) or (job.out,)), *job.inputs))
        shape = (tiles, tiles_per_row, region.columns, region.stride, region.start)
        rows.append((place, first, *shape, *addresses))
        programs.append(-(-tiles // TILES))
        first += programs[-1]
    return np.array(rows, np.int64), np.array(programs, np.int64)


def _numbers(group: Sequence[tuple[int, Job]]) -> np.ndarray:
    """The jobs' rows of `merge_tiles`' numbers: float32, and bits of unsigned integers."""
    works = [job.work for _, job in group]
    sources = [source for work in works for source in work.inputs]
    settings = np.array([(w.scale, _combination(w)[1], w.support, 0) for w in works], np.float32)
    settings.view(np.uint32)[:, 3] = [work.k for work in works]
    numbers = np.empty((len(sources), _NUMBERS), np.float32)
    numbers[:, :6] = [(s.low, s.high, s.clip, s.elect, s.factor, s.weight) for s in sources]
    numbers.view(np.uint32)[:, 6:] = [_mask_words(source) for source in sources]
    return np.hstack((settings, numbers.reshape(len(works), -1)))


def _mask_words(source: InputPass) -> tuple[int, int, int]:
    """The key, its first word after `_tensor_word`'s first step; the limit as a bound on 32 bits."""
    first, second = source.key or (0, 0)
    return first ^ first >> 16, second, (source.limit << 8) % _INDICES


def _combination(work: ElementPass) -> tuple[str, np.float32]:
    """The choice and its divisor; one known beforehand (0 counts as 1) is not found per element."""
    if work.combine != "mean" or work.consensus != "none":
        return work.combine, np.float32(work.divisor)
    total = np.float32(work.inputs[0].weight)
    for source in work.inputs[1:]:
        total += np.float32(source.weight)
    return "divided", total if total != 0 else np.float32(1)


def _parts(work: ElementPass) -> list[int]:
    """Per input, which of its numbers do anything, as bits."""
    found: list[int] = []
    before: int | None = None
    for source in work.inputs:
        masked = source.key is not None and source.limit < 2**24
        found.append(
            _LOW * (source.low >= 0)
            + _HIGH * (source.high != inf)
            + _RANDOM * masked
            + _CLIP * (source.clip != inf)
            + _FACTOR * (source.factor != 1)
            + _SHARED * (masked and source.key is not None and source.key[0] == before)
        )
        if masked and source.key is not None:
            before = source.key[0]
    return found


def _base(job: Job) -> tuple[torch.Tensor, ...]:
    """The base, where it is read."""
    if job.work.reference != "base":
        return ()
    assert job.base is not None
    return (job.base,)


def _tile(job: Job) -> tuple[int, int]:
    """Elements of a tile, a power of two, and of a thread. Narrow rows get narrow tiles."""
    few = len(job.inputs) + len(_base(job)) <= _FEW
    own = _VECTOR * (2 if few else 1)
    tile = own * _WARP * _WARPS
    while job.region.rows > 1 and tile > own * _WARP and tile >= 2 * job.region.columns:
        tile //= 2
    return tile, own


def _is_aligned(job: Job) -> bool:
    """Whether every row can be read in whole vectors."""
    region = job.region
    steps: Iterable[int] = (region.columns, region.start, region.stride * (region.rows > 1))
    tensors = (*job.inputs, *_base(job), job.out)
    return not any(t.data_ptr() % 16 for t in tensors) and not any(s % _VECTOR for s in steps)


def _upload(table: np.ndarray, device: torch.device) -> torch.Tensor:
    """Without waiting: from pinned memory, which torch keeps until the copy is done."""
    tensor = torch.from_numpy(table)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
