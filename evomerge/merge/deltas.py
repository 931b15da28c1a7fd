"""What a source adds to the reference: tau = theta - r, read in pieces and never held whole.

Chunks keep the float32 working set in cache and bound memory: a merge never holds a float32 copy of
a source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch

CHUNK = 2**16
"""Elements worked on at a time (256 KB in float32)."""


class Origin(NamedTuple):
    """Where elements come from.

    Attributes:
        content: what stands for the files' contents (`Cache.contents`), or, where nothing outlives
            the process, the source's name.
        tensor: the tensor's name there.
        lasting: whether `content` means the same in another process.
    """

    content: str
    tensor: str
    lasting: bool = False


DeltaKey: TypeAlias = tuple[Origin, ...]
"""The origins of theta and of what the reference is the mean of. Equal keys, equal elements."""


def chunks(count: int) -> Iterator[tuple[int, int]]:
    """The (start, stop) of each chunk of `count` elements."""
    return ((start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


class Delta:
    """One source's difference from the reference: tau = theta - r, flat, float32, by chunk.

    Args:
        theta: the source's tensor, any shape and floating dtype.
        reference: r is the mean of these tensors of theta's shape; none: r = 0; one: the base.
        mask_name: what keys the random mask: seed, the input's position, the name of its tensor, which a
            layer keeps wherever it stands in a stack.
        key: identifies the delta in tables; None: not to be remembered.

    Attributes:
        theta, reference: flat and contiguous, in their storage dtypes.
        count: number of elements.
    """

    def __init__(
        self,
        theta: torch.Tensor,
        reference: Sequence[torch.Tensor] = (),
        mask_name: tuple[int, int, str] = (0, 0, ""),
        key: DeltaKey | None = None,
    ) -> None:
        self.theta = theta.reshape(-1).contiguous()
        self.reference = tuple(part.reshape(-1).contiguous() for part in reference)
        self.mask_name, self.key = mask_name, key
        self.count = self.theta.numel()

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """Elements `start` to `stop`. May share memory with the source: do not write to it."""
        theta = self.theta[start:stop].float()
        if not self.reference:
            return theta
        total = self.reference[0][start:stop].float()
        for part in self.reference[1:]:
            total = total + part[start:stop].float()
        if len(self.reference) > 1:  # by a tensor: some devices multiply by a number's reciprocal
            total = total / torch.full_like(total, len(self.reference))
        return theta - total
