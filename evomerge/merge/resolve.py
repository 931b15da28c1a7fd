"""A recipe over opened sources: one plan per output tensor, of tensors that are there and fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from evomerge.merge.pipeline import check_plan
from evomerge.merge.sources import Sources
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe, Slice, TensorInput, TensorPlan
from search_spaces.roles import role, with_layer
from search_spaces.rules import RULES
from search_spaces.stages import INPUTS


def resolve(recipe: Recipe, sources: Sources) -> dict[str, TensorPlan]:
    """Plans by output tensor: embeddings, layers from the bottom, final norm and head.

    Raises:
        InputError: layers beyond the sources', a parameter without a value, weights that cannot be
            normalised, layers of other shapes merged with each other.
    """
    names = list(_output_names(recipe, sources))
    plans: dict[str, TensorPlan] = {}
    for plan in recipe.plans(names, sources.layers):
        held = _held(plan, sources)
        _check_shapes(held, sources)
        check_plan(held)
        plans[plan.tensor] = held
    return plans


def layers_of(recipe: Recipe, layers: int) -> Iterator[tuple[Slice, int]]:
    """Per output layer: its slice, and the layer of the slice's first input it comes from."""
    for part in recipe.slices:
        for layer in range(*(part.inputs[0].layers or (0, layers))):
            yield part, layer


def parts_of(plan: TensorPlan) -> tuple[TensorInput, ...]:
    """Everything that is read for a plan, the base first."""
    return (*((plan.base,) if plan.base else ()), *plan.inputs)


def _output_names(recipe: Recipe, sources: Sources) -> Iterator[str]:
    """Names of the output's tensors: each output layer has the tensors of its source layer."""
    inside: dict[int, list[str]] = {}
    outside: list[str] = []
    for name in sources.shapes:
        layer = role(name).layer
        (outside if layer is None else inside.setdefault(layer, [])).append(name)
    yield from (name for name in outside if role(name).component == "embed")
    for number, (part, layer) in enumerate(layers_of(recipe, sources.layers)):
        if layer not in inside:
            raise InputError(
                f"layer {layer}",
                f"the sources have layers 0 to {sources.layers - 1}",
                f"source {part.inputs[0].source}",
                "correct the layer_range",
            )
        yield from (with_layer(name, number) for name in inside[layer])
    yield from (name for name in outside if role(name).component != "embed")


def _held(plan: TensorPlan, sources: Sources) -> TensorPlan:
    """The plan without sources that lack the tensor; the others are merged without them.

    Where too few are left for the rule, the one that is left (or else the first source) is copied.
    """
    inputs = tuple(i for i in plan.inputs if sources.holds(i.source, i.tensor))
    base = plan.base if plan.base and sources.holds(plan.base.source, plan.base.tensor) else None
    if len(inputs) == len(plan.inputs) and base == plan.base:
        return plan
    left = replace(plan, inputs=inputs)
    least = max(plan.rule.sources[0], INPUTS.get(plan.rule.combine, (1, None))[0])
    if plan.rule.consensus == "support":
        least = max(least, int(plan.number("k")))
    if base == plan.base and len(left.merged) >= least:
        return left
    first = base or (inputs or (replace(plan.inputs[0], source=sources.names[0]),))[0]
    alone = TensorInput(first.source, first.tensor, {"scale": 1.0})
    return replace(plan, rule=RULES["passthrough"], base=None, inputs=(alone,), parameters={})


def _check_shapes(plan: TensorPlan, sources: Sources) -> None:
    first, *others = parts_of(plan)
    for other in others:
        if sources.shapes[other.tensor] != sources.shapes[first.tensor]:
            raise InputError(
                f"{first.tensor} of shape {list(sources.shapes[first.tensor])} and "
                f"{other.tensor} of shape {list(sources.shapes[other.tensor])}",
                "layers that are merged with each other have one shape",
                f"tensor {plan.tensor}, sources {first.source} and {other.source}",
                "merge each layer with the same one of the others, or use passthrough",
            )
