"""How much of a GPU vLLM may take, so that sources lie beside it."""

from __future__ import annotations

from math import floor

VLLMS_OWN = 0.92
"""What vLLM 0.32 takes unless it is told otherwise (share of a GPU's memory)."""

_SOURCES = 0.9
"""Sources take at most this share of what is free when they come (`evomerge.merge.placement`)."""
_WORK = 1.5 * 2**30
"""Bytes for one module being loaded, kernels, and what vLLM does not count."""
_RUNNING = 2 * 2**30
"""Bytes for activations and CUDA graphs, which vLLM takes from its share."""
_CACHE = 0.08
"""Share of the memory that the cache of keys and values needs at least: with less, answering would
lose more than merging wins."""


def utilisation(total: int, free: int, sources: int, model: int) -> float:
    """The `gpu_memory_utilization` that leaves room for the sources where there is any.

    Where model, cache and sources do not fit together, vLLM gets what it would take alone, and the
    sources stay in host memory.

    Args:
        total: bytes of the GPU's memory.
        free: free bytes, before vLLM starts.
        sources: bytes that sources would take there; 0: none.
        model: bytes of the model's weights there.
    """
    alone = min(VLLMS_OWN * total, free - _WORK)
    beside = min(alone, free - _WORK - sources / _SOURCES)
    needed = model + _RUNNING + _CACHE * total
    share = beside if beside >= needed else alone
    return max(floor(1000 * share / total) / 1000, 0.001)
