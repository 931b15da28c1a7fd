"""Parts of tensors: what a box cuts out, and where its elements lie."""

from __future__ import annotations

from math import prod

from evomerge.merge.elements import Region
from fitness.engine import Box


def boxed(shape: tuple[int, ...], box: Box) -> tuple[int, ...]:
    """The shape of part `box` of a tensor of `shape`."""
    if not box:
        return shape
    spans = [range(*part.indices(size)) for part, size in zip(box, shape, strict=False)]
    return (*(len(span) for span in spans), *shape[len(spans) :])


def region_of(shape: tuple[int, ...], box: Box) -> Region | None:
    """The elements of part `box`, where it cuts one axis, as ranks do; else None."""
    cuts = [part.indices(size) for part, size in zip(box, shape, strict=False)]
    cut = [axis for axis, span in enumerate(cuts) if span != (0, shape[axis], 1)]
    if not cut:
        return Region.whole(prod(shape))
    first, last, step = cuts[cut[0]]
    if len(cut) > 1 or step != 1:
        return None
    axis, inner = cut[0], prod(shape[cut[0] + 1 :])
    return Region(
        rows=prod(shape[:axis]),
        columns=(last - first) * inner,
        stride=shape[axis] * inner,
        start=first * inner,
    )
