"""Configurations of models of another depth than the sources': stacks, and engines that hold them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

from evomerge.merge.checkpoint import layer_key, text_config
from evomerge.merge.resolve import layers_of
from evomerge.merge.sources import Sources
from fitness.engine import Stack
from fitness.engines.stacks import LISTS, SPARSE, kind, layer_lists
from search_spaces.errors import InputError
from search_spaces.recipe import Input, Recipe
from search_spaces.roles import role, with_layer

Origin: TypeAlias = tuple[str, int]
"""A source and one of its layers."""

SAYS_KINDS = (
    *LISTS,
    *("sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern"),
    *("no_rope_layer_interval", "mlp_only_layers", "decoder_sparse_step"),
)
"""Keys that lay out kinds of layers."""


class LayerKinds:
    """What the sources' configurations say of each of their layers.

    Args:
        sources: opened; their configurations are read when they are asked for.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lists: dict[str, dict[str, list[object]]] = {}
        self._all: dict[str, Origin] = {}

    def stack(self, recipe: Recipe) -> Stack:
        """The layers of `recipe`'s result.

        Raises:
            InputError: layers of different kinds are merged with each other, or layers move of which
                the configuration does not say how they are built.
        """
        origins = origins_of(recipe, self._sources.layers)
        moved = not self.in_order(origins)
        self.check_merges(recipe, moved=moved)
        if moved:
            self.check_movable()
        if len(self.all()) < 2:
            return Stack(len(origins))
        return Stack(len(origins), tuple(self.of(*origin) for origin in origins))

    def in_order(self, origins: Sequence[Origin]) -> bool:
        """Whether every layer is where its source has it, and none is left out."""
        return [layer for _, layer in origins] == list(range(self._sources.layers))

    def said_alike(self, sources: Iterable[str]) -> bool:
        """Whether the configuration files of these sources say the same of their layers."""
        said = [text_config(self._sources.config(source)) for source in sources]
        return all(one.get(key) == said[0].get(key) for one in said for key in SAYS_KINDS)

    def of(self, source: str, layer: int) -> str:
        """The kind of one layer."""
        return kind({name: values[layer] for name, values in self.lists(source).items()})

    def all(self) -> dict[str, Origin]:
        """Every kind that there is, and the first layer of it."""
        if not self._all:
            for source in self._sources.names:
                for layer in range(self._sources.layers):
                    self._all.setdefault(self.of(source, layer), (source, layer))
        return self._all

    def lists(self, source: str) -> dict[str, list[object]]:
        """See `fitness.engines.stacks.layer_lists`.

        Raises:
            InputError: transformers cannot read the source's configuration.
        """
        if source not in self._lists:
            config = _as_read(self._sources.config(source), source)
            self._lists[source] = layer_lists(config, self._sources.layers)
        return self._lists[source]

    def check_movable(self) -> None:
        """Refuse models whose layers are built in several ways that the configuration cannot list.

        Raises:
            InputError: see above.
        """
        built: dict[int, dict[str, tuple[int, ...]]] = {}
        for name, shape in self._sources.shapes.items():
            layer = role(name).layer
            if layer is not None:
                built.setdefault(layer, {})[with_layer(name, 0)] = shape
        source = self._sources.names[0]
        first: dict[str, int] = {}
        for layer, tensors in built.items():
            other = first.setdefault(self.of(source, layer), layer)
            if tensors != built[other]:
                raise InputError(
                    f"layers {other} and {layer} of '{source}'",
                    "they hold other tensors, and config.json has no list by layer that says so",
                    "sources",
                    "keep every layer in its place: search parameters, not stacks",
                )

    def check_merges(self, recipe: Recipe, *, moved: bool = True) -> None:
        """Refuse merges of layers of different kinds.

        Args:
            recipe: of known sources.
            moved: layers leave their places. Where none does, sources whose layers differ in kind at
                the same place are merged as the first one's.

        Raises:
            InputError: see above.
        """
        for part in recipe.slices:
            first, *others = part.inputs
            for other in others:
                alike = not moved or self.said_alike((first.source, other.source))
                if other.layers != first.layers or not alike:
                    self._check_pairs(first, other)

    def _check_pairs(self, first: Input, other: Input) -> None:
        start, stop = first.layers or (0, self._sources.layers)
        shift = (other.layers or (0, 0))[0] - start
        for layer in range(start, stop):
            mine, theirs = self.of(first.source, layer), self.of(other.source, layer + shift)
            if mine != theirs:
                raise InputError(
                    f"layer {layer} of '{first.source}' ({mine}) and layer {layer + shift} of "
                    f"'{other.source}' ({theirs})",
                    "layers that are merged with each other are of one kind",
                    "slices",
                    "merge each layer with one of its own kind, or use passthrough",
                )


def origins_of(recipe: Recipe, layers: int) -> list[Origin]:
    """Per output layer, the layer that it (or the first of what it merges) is made of."""
    return [(part.inputs[0].source, layer) for part, layer in layers_of(recipe, layers)]


def at_layers(
    config: dict[str, Any], owner: str, origins: Sequence[Origin], kinds: LayerKinds
) -> dict[str, Any]:
    """A copy of `config` for a model with these layers, as every reader of it must see them.

    What transformers lays out by a pattern (every second layer slides, say) is listed, since the
    pattern does not hold for layers that have moved.

    Args:
        config: of a source.
        owner: that source.
        origins: per layer, where it comes from.
        kinds: of the sources.

    Raises:
        InputError: see `LayerKinds`.
    """
    config = copy.deepcopy(config)
    text = text_config(config)
    key = layer_key(config)
    if key is not None:
        text[key] = len(origins)
    if kinds.in_order(origins) and kinds.said_alike({owner, *(source for source, _ in origins)}):
        return config
    kinds.check_movable()
    for name in kinds.lists(owner):
        values = [kinds.lists(source)[name][layer] for source, layer in origins]
        if name == SPARSE:
            text["decoder_sparse_step"] = 1
            text["mlp_only_layers"] = [i for i, sparse in enumerate(values) if not sparse]
        else:
            text[name] = values
    if "max_window_layers" in text:  # of Qwen: how many at the bottom see everything
        types = text.get("layer_types", [])
        sliding = (i for i, value in enumerate(types) if value == "sliding_attention")
        text["max_window_layers"] = next(sliding, len(origins))
    return config


def slots_config(
    sources: Sources, layers: int | None, *, of_each_kind: bool = True
) -> dict[str, Any]:
    """The configuration of an engine's model with `layers` slots; see `skeleton.model_folder`."""
    first = sources.names[0]
    config = sources.config(first)
    if layers is None:
        return config
    kinds = LayerKinds(sources)
    found = list(kinds.all().values())
    origins = [(first, i % sources.layers) for i in range(layers)]
    if len(found) > 1 and of_each_kind:
        origins = [origin for _ in range(layers) for origin in found]
    elif len({kinds.of(*origin) for origin in origins}) < len(found):
        origins = [*found, *origins[len(found) :]]
    return at_layers(config, first, origins, kinds)


def _as_read(config: Mapping[str, Any], source: str) -> object:
    """The language model's configuration as transformers reads it, or as it stands where
    transformers has no such model."""
    from transformers import CONFIG_MAPPING

    name = str(config.get("model_type"))
    if name not in CONFIG_MAPPING:
        return SimpleNamespace(**text_config(dict(config)))
    try:
        return CONFIG_MAPPING[name].from_dict(dict(config)).get_text_config(decoder=True)
    except Exception as error:  # validators of configurations raise what they like
        raise InputError(
            "config.json",
            f"transformers cannot read it: {' '.join(str(error).split())[:200]}",
            f"source {source}",
            "download the model again, or update transformers",
        ) from error
