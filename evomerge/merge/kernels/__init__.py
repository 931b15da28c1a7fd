"""Kernels: what carries out an `ElementPass`, one file per kind of machine, equal to the bit.

Each has one function, `run(work, base, inputs, out, region) -> finite`, of which `reference` has
the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

import torch

from evomerge.merge.compiled import give_numba_a_place
from evomerge.merge.elements import ElementPass, Region

Kernel: TypeAlias = Callable[
    [ElementPass, "torch.Tensor | None", Sequence[torch.Tensor], torch.Tensor, Region], bool
]

give_numba_a_place()

_TRITON = (3, 4)

STORAGE = (torch.float32, torch.bfloat16, torch.float16)
"""Types that kernels read and write."""


def kernel_for(out: torch.Tensor) -> Kernel:
    """The fastest kernel where `out` lies."""
    if out.device.type == "cpu":
        from evomerge.merge.kernels import cpu

        return cpu.run
    if out.device.type == "cuda" and _has_triton():
        from evomerge.merge.kernels import gpu

        return gpu.run
    from evomerge.merge.kernels import reference

    return reference.run


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` flat and contiguous, in a type that kernels read."""
    flat = tensor if tensor.dim() == 1 else tensor.reshape(-1)
    flat = flat if flat.is_contiguous() else flat.contiguous()
    return flat if flat.dtype in STORAGE else flat.float()


@cache
def _has_triton() -> bool:
    """Whether there is a Triton that compiles the kernel; older ones do not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        major, minor = version("triton").split(".")[:2]
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= _TRITON
