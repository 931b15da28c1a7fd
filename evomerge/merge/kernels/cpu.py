"""The CPU kernel: one fused pass on all cores, compiled by Numba, equal to `reference` by the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any

import numpy as np
import torch

from evomerge.merge.elements import COMBINE, CONSENSUS, REFERENCES, ElementPass, InputPass, Region
from evomerge.merge.kernels import cpu_fused as fused
from evomerge.merge.kernels import cpu_loops as loops
from evomerge.merge.kernels.cpu_bits import BFLOAT16, FLOAT16, FLOAT32
from evomerge.merge.threads import pool

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
    kind = _fusible(work, base, inputs, out, region)
    if kind is not None:
        merge, arguments = _fused(work, kind, base, inputs, out, region)
        if _on_all_cores(merge, arguments, out.numel()):
            return True
    # What is not finite is made anew: the short cut does not round it.
    return _on_all_cores(_merge, _arguments(work, base, inputs, out, region), out.numel())


def _on_all_cores(merge: Callable[..., int], arguments: tuple[Any, ...], count: int) -> bool:
    """Call `merge(*arguments, first, last)` for stretches of `count` elements; whether all gave 0."""
    threads = min(torch.get_num_threads(), -(-count // _ALONE))
    if threads <= 1:
        return not merge(*arguments, 0, count)
    step = -(-count // (threads * loops.BLOCK)) * loops.BLOCK
    parts = [
        pool().submit(merge, *arguments, first, min(first + step, count))
        for first in range(step, count, step)
    ]
    try:
        bad = merge(*arguments, 0, min(step, count))
    finally:
        wait(parts)  # they write to memory that the caller may free
    return not any([bad, *(part.result() for part in parts)])


def _fusible(
    work: ElementPass,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out: torch.Tensor,
    region: Region,
) -> int | None:
    """What sparsification does to every source, if the short cut may be taken."""
    tensors = [*inputs, out, *([base] if base is not None and work.reference == "base" else [])]
    if (
        region.rows != 1
        or len(inputs) > fused.MOST
        or work.deltas
        or work.reference == "mean"
        or work.consensus not in ("none", "sum")
        or work.combine not in ("sum", "mean", "divided")
        or (work.consensus == "sum" and work.combine == "divided")
        or any(tensor.dtype != torch.bfloat16 for tensor in tensors)
        or any(i.high != np.inf or i.clip != np.inf or i.factor != 1 for i in work.inputs)
    ):
        return None
    keys = [i.key for i in work.inputs if i.key is not None]
    low = any(i.low >= 0 for i in work.inputs)
    if not keys:
        return fused.FLOOR if low else fused.NOTHING
    one_tensor = len({first for first, _ in keys}) == 1
    small = inputs[0].numel() <= _LIMIT
    return fused.MASK if one_tensor and not low and small else None


def _fused(
    work: ElementPass,
    kind: int,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out: torch.Tensor,
    region: Region,
) -> tuple[Callable[..., int], tuple[Any, ...]]:
    """The short cut's loop, and its arguments before the stretch."""
    combine, divisor = _combination(work)
    based, elects = work.reference == "base", work.consensus == "sum"
    merge: Any = fused.loop(len(inputs), kind, based, elects, combine != "sum")
    tensor_word = next((i.key[0] for i in work.inputs if i.key is not None), 0)
    return merge, (
        np.array([t.data_ptr() for t in inputs], np.int64),
        base.data_ptr() if based and base is not None else inputs[0].data_ptr(),
        out.data_ptr(),
        region.start,
        np.array([i.low for i in work.inputs], np.float32),
        np.array([i.elect for i in work.inputs], np.float32),
        np.array([i.weight for i in work.inputs], np.float32),
        np.array([i.key or (tensor_word, 0) for i in work.inputs], np.uint32),
        np.array([i.limit if i.key else 2**24 for i in work.inputs], np.uint32),
        divisor,
        np.float32(work.scale),
    )


def _combination(work: ElementPass) -> tuple[str, np.float32]:
    """The choice and its divisor; one that is the same for all elements is found here."""
    if work.combine != "mean" or work.consensus != "none":
        return work.combine, np.float32(work.divisor)
    divisor = np.float32(0)
    for i in work.inputs:
        divisor += np.float32(i.weight)
    return "divided", divisor or np.float32(1)


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
    combine, divisor = _combination(work)
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
