"""What a candidate costs whoever serves it, as its recipe and the sources' headers tell it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from math import prod
from typing import Any

from evomerge.merge.checkpoint import text_config
from evomerge.merge.resolve import layers_of
from evomerge.merge.sources import Sources
from fitness.objectives import EXACT_COSTS
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.roles import role

_APART = ("k_proj", "v_proj")
_TOGETHER = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack")
_OUTWARD = ("o_proj", "dense", "c_proj", "out_proj")
_WIDTHS = ("hidden_size", "n_embd", "d_model")


class RecipeCosts:
    """Costs of recipes over opened sources; reads no weight.

    Args:
        sources: opened.
        itemsize: bytes of a number in the engine's cache of keys and values.
    """

    def __init__(self, sources: Sources, itemsize: int) -> None:
        self._sources, self._itemsize = sources, itemsize

    def of(self, recipe: Recipe, names: Collection[str] = EXACT_COSTS) -> dict[str, float]:
        """Costs of what `recipe` makes, by name.

        Args:
            recipe: a candidate.
            names: of `EXACT_COSTS`, those that are wanted:

                - `layers`: of the stack.
                - `parameters`: of the exported model, a tied embedding once.
                - `kv_bytes`: of keys and values that one token leaves in the cache, over all
                  layers, each by its own heads. A layer that sees a window only keeps a token for
                  as long as it is in the window; until then it costs as much as any.

        Raises:
            InputError: layers that the sources do not have, an unknown tokenizer, or an
                architecture whose cache cannot be read off its tensors.
        """
        layers = [self._checked(layer) for _, layer in layers_of(recipe, self._sources.layers)]
        found: dict[str, float] = {}
        if "layers" in names:
            found["layers"] = len(layers)
        if "parameters" in names:
            sources = self._sources.with_tokenizer(recipe.tokenizer, recipe.base)
            inside = self._parameters
            outside = _elements(sources, [n for n in sources.shapes if role(n).layer is None])
            found["parameters"] = outside + sum(inside[layer] for layer in layers)
        if "kv_bytes" in names:
            found["kv_bytes"] = self._itemsize * sum(self._cached[layer] for layer in layers)
        return {name: float(found[name]) for name in names}

    def _checked(self, layer: int) -> int:
        if layer not in self._names:
            raise InputError(
                f"layer {layer}",
                f"the sources have layers 0 to {self._sources.layers - 1}",
                "recipe",
                "correct the layer_range",
            )
        return layer

    @cached_property
    def _names(self) -> Mapping[int, list[str]]:
        """Names of the tensors of each source layer."""
        found: dict[int, list[str]] = {}
        for name in self._sources.shapes:
            layer = role(name).layer
            if layer is not None:
                found.setdefault(layer, []).append(name)
        return found

    @cached_property
    def _parameters(self) -> Mapping[int, int]:
        return {layer: _elements(self._sources, names) for layer, names in self._names.items()}

    @cached_property
    def _cached(self) -> Mapping[int, int]:
        """Numbers that a token leaves in the cache of each source layer."""
        config = text_config(self._sources.config(self._sources.names[0]))
        shapes = self._sources.shapes
        found = {
            layer: _cached_by({name: shapes[name] for name in names}, config)
            for layer, names in self._names.items()
        }
        if config.get("num_kv_shared_layers") or not any(found.values()):
            raise InputError(
                f"kv_bytes of model_type '{config.get('model_type')}'",
                "what a layer keeps of a token cannot be read off its tensors: no key and value "
                "projections are known, or layers share them",
                "fitness.objectives",
                "use `layers` or `parameters` instead",
            )
        return found


def _elements(sources: Sources, names: Collection[str]) -> int:
    """Numbers in tensors that are learned."""
    return sum(prod(sources.shapes[name]) for name in names if sources.floating(name))


def _cached_by(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> int:
    """Numbers of keys and values per token of a layer with these tensors; 0: it keeps none.

    Where queries, keys and values are one matrix, the queries' part of it is as large as the matrix
    that leads out of the heads.
    """
    matrices = {name.split(".")[-2]: prod(shape) for name, shape in shapes.items() if _leads(name)}
    width = next((int(config[key]) for key in _WIDTHS if config.get(key)), 0)
    together = next((matrices[key] for key in _TOGETHER if key in matrices), 0)
    outward = next((matrices[key] for key in _OUTWARD if key in matrices), 0)
    if width and all(key in matrices for key in _APART):
        return sum(matrices[key] for key in _APART) // width
    if width and together and outward:
        return (together - outward) // width
    return 0


def _leads(name: str) -> bool:
    """Whether a tensor is a matrix of the attention."""
    return role(name).component == "attn" and name.endswith(".weight") and name.count(".") > 1
