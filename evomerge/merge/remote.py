"""Merging in an engine's own processes: what crosses to them, and what they open.

A candidate crosses as its recipe, a few kilobytes of plain data; the sources are opened there, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.merge.locations import Location
from evomerge.merge.search_weights import search_weights
from evomerge.merge.sources import Sources, open_sources
from evomerge.merge.weights import Exactly, MergedWeights
from fitness.engine import Box, RemoteProvider, Stack
from search_spaces.recipe import Clause, Input, Parameters, Recipe, Setting, Slice

if TYPE_CHECKING:
    import torch

NAME = "evomerge"
"""Of the entry point in the group `evomerge.weight_providers`."""


def remote_provider(
    folders: Mapping[str, Location],
    sources: Sources,
    *,
    tokenizer: str | None = None,
    base: str | None = None,
    limit: int | None = None,
    slots: int | None = None,
) -> RemoteProvider:
    """What an engine needs to open these sources in its own processes.

    Args:
        folders: where each source lies; the same for the engine's processes.
        sources: the same, opened here.
        tokenizer, base: see `open_sources`.
        limit: most bytes that sources may take on the device or in pinned memory.
        slots: layers of the engine's model; None: the sources'.
    """
    places = {
        name: {
            "model": str(place.model.absolute()),
            "lora": str(place.lora.absolute()) if place.lora else None,
        }
        for name, place in folders.items()
    }
    arguments = {"sources": places, "tokenizer": tokenizer, "base": base, "limit": limit}
    size = sources.held_bytes()
    return RemoteProvider(
        NAME,
        arguments,
        encode,
        source_bytes=size if limit is None or size <= limit else 0,
        parameters=sources.parameters(slots),
    )


def open_weights(arguments: Mapping[str, Any]) -> RemoteWeights:
    """Open the sources in an engine's process: the provider's entry point.

    Args:
        arguments: those of `remote_provider`, and `device`, where the engine's model lies.

    Raises:
        InputError: see `open_sources`.
    """
    import torch

    places = {
        name: Location(Path(place["model"]), Path(place["lora"]) if place["lora"] else None)
        for name, place in arguments["sources"].items()
    }
    sources = open_sources(places, arguments["tokenizer"], arguments["base"])
    return RemoteWeights(
        *search_weights(sources, torch.device(arguments["device"]), arguments["limit"])
    )


class RemoteWeights:
    """The weights of candidates that come as plain data. Implements `fitness.engine.ListedWeights`.

    Args:
        weights: of recipes.
        save: writes what was learnt of the sources to disk.
    """

    def __init__(self, weights: MergedWeights, save: Callable[[], None]) -> None:
        self._weights = weights
        self._save = save

    def prepare(self, payload: object) -> None:
        """Resolve a candidate that `encode` made. Touches no weight.

        Raises:
            InputError: see `MergedWeights.prepare`.
        """
        assert isinstance(payload, Mapping)
        self._weights.prepare(decode(payload))

    def stack(self) -> Stack:
        """See `MergedWeights.stack`."""
        return self._weights.stack()

    def names(self) -> Sequence[str]:
        """See `MergedWeights`, also for what follows."""
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of tensor `name`."""
        return self._weights.shape(name)

    def storage_dtype(self, name: str) -> torch.dtype:
        """The dtype `tensor(name)` has."""
        return self._weights.storage_dtype(name)

    def tensor(self, name: str, box: Box = ()) -> torch.Tensor:
        """The candidate's tensor `name`, or the part `box` of it."""
        return self._weights.tensor(name, box)

    def write(self, name: str, out: torch.Tensor, box: Box = ()) -> None:
        """Put the same into `out`, in place."""
        self._weights.write(name, out, box)

    def keep(self) -> None:
        """Write tables that were built for this candidate to disk, for the next start."""
        self._save()


def encode(payload: object) -> tuple[dict[str, Any], str]:
    """A recipe, or one to be merged `Exactly`, as plain data, and the version of its weights.

    The version is the recipe's hash, with `-exact` where nothing is looked up in tables.

    Raises:
        TypeError: `payload` is neither.
    """
    exactly = isinstance(payload, Exactly)
    recipe = payload.recipe if isinstance(payload, Exactly) else payload
    if not isinstance(recipe, Recipe):
        raise TypeError(f"a {type(payload).__name__} was passed where a Recipe is needed")
    data = {"recipe": asdict(recipe), "exactly": exactly, "hash": recipe.hash}
    return data, recipe.hash + ("-exact" if exactly else "")


def decode(data: Mapping[str, Any]) -> Recipe | Exactly:
    """The reverse of `encode`; tuples may have become lists on the way.

    Raises:
        RuntimeError: the recipe is not the one that was sent.
    """
    fields = dict(data["recipe"])
    recipe = Recipe(
        **{
            **fields,
            "slices": tuple(
                Slice(
                    tuple(map(_input, part["inputs"])),
                    _parameters(part["parameters"]),
                    part["input_scale"],
                )
                for part in fields["slices"]
            ),
            "parameters": _parameters(fields["parameters"]),
        }
    )
    if recipe.hash != data["hash"]:
        raise RuntimeError(f"recipe {data['hash']} became {recipe.hash} on its way to the engine")
    return Exactly(recipe) if data["exactly"] else recipe


def _input(data: Mapping[str, Any]) -> Input:
    layers = data["layers"]
    return Input(
        data["source"], None if layers is None else tuple(layers), _parameters(data["parameters"])
    )


def _parameters(data: Sequence[Any]) -> Parameters:
    return tuple(
        (name, Setting(tuple(Clause(tuple(c["values"]), c["filter"]) for c in setting["clauses"])))
        for name, setting in data
    )
