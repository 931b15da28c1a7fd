"""The CPU kernel: one fused pass on all cores, compiled by Numba, equal to `reference` by the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from evomerge.merge.elements import COMBINE, CONSENSUS, REFERENCES, ElementPass, InputPass, Region
from evomerge.merge.kernels import cpu_loops as loops
from evomerge.merge.kernels.cpu_bits import BFLOAT16, FLOAT16, FLOAT32

CODES = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
"""Storage types that kernels read and write."""

_ALONE = 2**16
"""Fewer elements than this are not worth a second thread."""

_LIMIT = 2**32

_merge: Callable[..., Any] = loops.merge


def run(
    work: ElementPass,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out: torch.Tensor,
    region: Region,
) -> bool:
    """Write `out`; see `evomerge.merge.kernels` for the arguments.

    As many threads work as `torch.get_num_threads()` says; the result does not depend on it.

    Raises:
        ValueError: random masks on a tensor of more than 2**32 elements.
    """
    arguments = _arguments(work, base, inputs, out, region)
    count = out.numel()
    threads = min(torch.get_num_threads(), -(-count // _ALONE))
    if threads <= 1:
        return not _merge(*arguments, 0, count)
    step = -(-count // (threads * loops.BLOCK)) * loops.BLOCK
    parts = [
        _pool(threads).submit(_merge, *arguments, first, min(first + step, count))
        for first in range(step, count, step)
    ]
    bad = _merge(*arguments, 0, min(step, count))
    return not bad and not any(part.result() for part in parts)


def _arguments(
    work: ElementPass,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out: torch.Tensor,
    region: Region,
) -> tuple[Any, ...]:
    if base is None and work.reference == "base":
        raise ValueError("the reference is the base, and no base was passed")
    counted = loops.COUNTED * (work.combine == "survivors")
    flags = np.array([_flags(i) | counted for i in work.inputs], np.int64)
    if (flags & loops.RANDOM).any() and inputs[0].numel() > _LIMIT:
        raise ValueError("random masks: a tensor has at most 2**32 elements")
    combine, divisor = work.combine, np.float32(work.divisor)
    if combine == "mean" and work.consensus == "none":
        combine = "divided"
        divisor = np.float32(0)
        for i in work.inputs:
            divisor += np.float32(i.weight)
        divisor = divisor or np.float32(1)
    used = base if work.reference == "base" else None
    return (
        np.array([t.data_ptr() for t in inputs], np.int64),
        np.array([CODES[t.dtype] for t in inputs], np.int64),
        np.array(
            [(i.low, i.high, i.clip, i.elect, i.factor, i.weight) for i in work.inputs], np.float32
        ),
        flags,
        np.array([i.key or (0, 0) for i in work.inputs], np.uint32),
        np.array([i.limit for i in work.inputs], np.uint32),
        0 if used is None else used.data_ptr(),
        FLOAT32 if used is None else CODES[used.dtype],
        out.data_ptr(),
        CODES[out.dtype],
        REFERENCES.index(work.reference),
        CONSENSUS.index(work.consensus),
        COMBINE.index(combine),
        work.deltas,
        np.float32(work.k),
        np.float32(work.support),
        divisor,
        np.float32(work.scale),
        region.stride,
        region.columns,
        region.start,
    )


def _flags(numbers: InputPass) -> int:
    """Which parts of sparsification an input needs."""
    banded = numbers.low >= 0 or numbers.high != np.inf
    return (
        loops.BANDED * banded
        + loops.RANDOM * (numbers.key is not None)
        + loops.CLIPPED * (numbers.clip != np.inf)
    )


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="merge")
