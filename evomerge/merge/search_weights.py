"""Weights for a search: tables of the sources instead of exact statistics, on the engine's device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch

from evomerge.merge.cache import Cache
from evomerge.merge.placement import Placement, place_here
from evomerge.merge.prepared import Prepared
from evomerge.merge.sources import Sources
from evomerge.merge.weights import MergedWeights


def search_weights(
    sources: Sources, device: torch.device, limit: int | None
) -> tuple[MergedWeights, Callable[[], None]]:
    """The weights of candidates, and what writes newly built tables to the cache on disk.

    Args:
        sources: opened.
        device: where the engine's model is; sources are placed when the first candidate comes, in
            the memory that the model has left.
        limit: most bytes that sources may take there or in pinned memory; None: what is free.
    """
    cache = Cache()
    tables = Prepared(cache)
    place: Callable[[], Placement] = partial(place_here, sources.held_bytes(), device, limit)

    @lru_cache
    def contents(files: tuple[Path, ...]) -> str:
        return " ".join(cache.contents(files))

    weights = MergedWeights(sources, tables, place=place, contents=contents)
    return weights, tables.save
