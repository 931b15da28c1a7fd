"""A candidate's weights, one tensor at a time: what engines load and the writer exports."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from math import isfinite
from typing import Any

import torch

from evomerge.merge.checkpoint import layer_key, text_config
from evomerge.merge.deltas import MagnitudeTables
from evomerge.merge.pipeline import check_weights, merge_tensor
from evomerge.merge.sources import Sources
from fitness.engine import Box
from search_spaces.errors import InputError, nearest
from search_spaces.recipe import Recipe, Slice, TensorInput, TensorPlan
from search_spaces.roles import role, with_layer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Configuration lists with one entry per layer."""


class MergeError(RuntimeError):
    """A candidate's arithmetic failed. The evaluator's outcome is then "merge failed".

    Args:
        tensor: the output tensor.
        reason: what is wrong with it.
    """

    def __init__(self, tensor: str, reason: str) -> None:
        self.tensor, self.reason = tensor, reason
        super().__init__(f"tensor {tensor}: {reason}")


class MergedWeights:
    """Implements `fitness.engine.WeightProvider` for recipes over opened sources.

    Tensors are rounded to the recipe's storage dtype, so that what is scored is, bit for bit, what
    is exported; an engine copies them up to the type it computes in.

    Args:
        sources: opened and compatible; they stay mapped while this lives.
    """

    def __init__(self, sources: Sources) -> None:
        _keep_freed_memory()
        self._sources = sources
        self._tables = MagnitudeTables()
        self._plans: dict[str, TensorPlan] = {}
        self._recipe: Recipe | None = None
        self._whole: tuple[str, torch.Tensor] | None = None

    def prepare(self, payload: object) -> None:
        """Resolve a `Recipe` into one plan per output tensor. Touches no weight.

        Raises:
            InputError: a source that is not open, layers beyond the sources', a parameter without a
                value, weights that cannot be normalised.
            TypeError: `payload` is no recipe.
        """
        if not isinstance(payload, Recipe):
            raise TypeError(f"a {type(payload).__name__} was passed where a Recipe is needed")
        self._recipe, self._whole = None, None
        for name in payload.sources:
            if name not in self._sources.names:
                raise InputError(
                    f"source '{name}'",
                    "it is not open",
                    "recipe",
                    nearest(name, self._sources.names),
                )
        names = list(_output_names(payload, self._sources))
        plans = list(payload.plans(names, self._sources.layers))
        for plan in plans:
            check_weights(plan)
        self._plans = dict(zip(names, plans, strict=True))
        self._recipe = payload

    def names(self) -> tuple[str, ...]:
        """The output's tensors: embeddings, layers from the bottom, final norm and head."""
        self._prepared()
        return tuple(self._plans)

    @property
    def dtype(self) -> torch.dtype:
        """The storage dtype of the result."""
        recipe = self._prepared()
        return DTYPES[recipe.dtype] if recipe.dtype else self._sources.dtype(recipe.sources[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of output tensor `name`."""
        return self._sources.shapes[self._plans[name].inputs[0].tensor]

    def storage_dtype(self, name: str) -> torch.dtype:
        """The dtype `tensor(name)` has: tensors that do not merge keep their own."""
        source = _source(self._plans[name])
        if self._sources.floating(source.tensor):
            return self.dtype
        return self._sources.tensor(source.source, source.tensor).dtype

    def tensor(self, name: str, box: Box = ()) -> torch.Tensor:
        """The candidate's tensor `name` in storage dtype, or the part `box` of it.

        Where the head is tied to the embedding, its name gives the embedding. Norms, thresholds and
        masks are those of the whole tensor, so a part is the same numbers as in the whole; the last
        tensor that was asked for in parts is kept to serve the next part.

        Raises:
            MergeError: the result holds NaN or infinity in the storage dtype.
            KeyError: the model has no such tensor.
        """
        self._prepared()
        plan = self._plans[self._tied_name(name)]
        if not box:
            return self._merged(plan)
        if self._whole is None or self._whole[0] != plan.tensor:
            self._whole = plan.tensor, self._merged(plan)
        return self._whole[1][box]

    def output_config(self) -> dict[str, Any]:
        """The result's config.json: the base's (or first source's), with its depth and dtype."""
        recipe = self._prepared()
        config = copy.deepcopy(self._sources.config(recipe.sources[0]))
        text = text_config(config)
        origins = [layer for _, layer in _layers(recipe, self._sources.layers)]
        key = layer_key(config)
        if key is not None:
            text[key] = len(origins)
        for name in _PER_LAYER:
            if isinstance(text.get(name), list) and len(text[name]) == self._sources.layers:
                text[name] = [text[name][layer] for layer in origins]
        for part in (config, text):
            for name in ("dtype", "torch_dtype"):
                if name in part or (
                    part is config and name == "torch_dtype" and "dtype" not in part
                ):
                    part[name] = str(self.dtype).removeprefix("torch.")
        return config

    def _prepared(self) -> Recipe:
        if self._recipe is None:
            raise RuntimeError("prepare() comes first, and must have succeeded")
        return self._recipe

    def _tied_name(self, name: str) -> str:
        embedding = self._sources.embedding
        tied_head = self._sources.tied and role(name).component == "lm_head"
        return embedding if tied_head and name not in self._plans and embedding else name

    def _merged(self, plan: TensorPlan) -> torch.Tensor:
        source = _source(plan)
        if not self._sources.floating(source.tensor):
            return self._sources.tensor(source.source, source.tensor).clone()
        result = merge_tensor(
            plan,
            self._sources.tensor(plan.base.source, plan.base.tensor) if plan.base else None,
            [self._sources.tensor(i.source, i.tensor) for i in plan.inputs],
            dtype=self.dtype,
            tables=self._tables,
        )
        # One sum is much cheaper than isfinite; it may overflow where every element is finite.
        if not isfinite(result.sum(dtype=torch.float32).item()) and not result.isfinite().all():
            kind = str(self.dtype).removeprefix("torch.")
            raise MergeError(plan.tensor, f"the merged tensor holds NaN or infinity in {kind}")
        return result


def _keep_freed_memory() -> None:
    """Make glibc keep what chunks free instead of returning it to the system at every tensor.

    It adapts its thresholds to the largest block that was freed (up to 32 MB); without this, page
    faults cost a small model twice the arithmetic. The block is never touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _source(plan: TensorPlan) -> TensorInput:
    return plan.base or plan.inputs[0]


def _layers(recipe: Recipe, layers: int) -> Iterator[tuple[Slice, int]]:
    """Per output layer: its slice, and the layer of the slice's first input it comes from."""
    for part in recipe.slices:
        for layer in range(*(part.inputs[0].layers or (0, layers))):
            yield part, layer


def _output_names(recipe: Recipe, sources: Sources) -> Iterator[str]:
    """Names of the output's tensors: each output layer has the tensors of its source layer."""
    inside: dict[int, list[str]] = {}
    outside: list[str] = []
    for name in sources.names_of(recipe.sources[0]):
        layer = role(name).layer
        (outside if layer is None else inside.setdefault(layer, [])).append(name)
    yield from (name for name in outside if role(name).component == "embed")
    for number, (part, layer) in enumerate(_layers(recipe, sources.layers)):
        if layer not in inside:
            raise InputError(
                f"layer {layer}",
                f"the sources have layers 0 to {sources.layers - 1}",
                f"source {part.inputs[0].source}",
                "correct the layer_range",
            )
        yield from (with_layer(name, number) for name in inside[layer])
    yield from (name for name in outside if role(name).component != "embed")
