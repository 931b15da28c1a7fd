"""Whether a model fits the memory that is free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evomerge.config import Engine
    from evomerge.merge.sources import Sources
    from search_spaces.recipe import Recipe


def too_little_memory(recipe: Recipe, sources: Sources, engine: Engine) -> str:
    """Why a candidate cannot be loaded by transformers; empty: as far as can be told it can.

    A model for a GPU passes through the machine's memory, so it has to fit both. Room for what it
    computes with is not counted: where that runs out, an error says so.

    Args:
        recipe: the candidate's.
        sources: opened.
        engine: type and device.
    """
    import torch

    from evomerge.merge.host_memory import free_host_memory
    from fitness.engines.resident import DTYPES, pick_device

    device = pick_device(engine.device)
    needed = sources.parameters(recipe.depth(sources.layers)) * DTYPES[engine.dtype].itemsize
    room = {"": free_host_memory()}
    if not room[""]:  # the system does not say
        room.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what this process holds and does not use is free
        room[f" on {device}"] = torch.cuda.mem_get_info(device)[0]
    for where, free in room.items():
        if needed > free:
            return f"{needed / 1e9:.1f} GB to load, {free / 1e9:.1f} GB free{where}"
    return ""
