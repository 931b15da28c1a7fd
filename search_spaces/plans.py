"""From a recipe to what is done for each tensor: every parameter resolved to a number.

A value is looked up in the source's own settings, then in the slice's, then in the recipe's, then
in the rule's default. Settings whose filters all miss a tensor fall through to the next place, so
the places together act as one list of clauses of which the first that selects the tensor wins.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.errors import InputError
from search_spaces.roles import COMPONENTS, role, with_layer
from search_spaces.rules import PARAMETERS, Rule
from search_spaces.settings import Clause, Parameters, Scalar

if TYPE_CHECKING:
    from search_spaces.recipe import Input, Recipe, Slice


@dataclass(frozen=True, slots=True)
class TensorInput:
    """What one source contributes to one output tensor: its tensor's name and its parameters."""

    source: str
    tensor: str
    parameters: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one output tensor is made: a rule with every parameter resolved to a number.

    Attributes:
        tensor: the output tensor's name.
        base: the base's tensor, where the rule needs it; its parameters are empty.
        inputs: the others, in the recipe's order. The position keys the random masks.
        parameters: the rule's own parameters (`lambda`, `t`, `normalize`, ...).
    """

    tensor: str
    rule: Rule
    base: TensorInput | None
    inputs: tuple[TensorInput, ...]
    parameters: Mapping[str, Scalar]
    seed: int


def plans(recipe: "Recipe", tensors: Iterable[str], layers: int) -> Iterator[TensorPlan]:
    """What `Recipe.plans` returns (see there)."""
    parts = [_Part(recipe, part, layers) for part in recipe.slices]
    places = [(part, offset) for part in parts for offset in range(part.length)]
    for tensor in tensors:
        place = role(tensor)
        if place.layer is None:
            part = parts[0] if place.component == "embed" else parts[-1]
            yield part.outside(tensor)
        elif place.layer < len(places):
            part, offset = places[place.layer]
            yield part.inside(tensor, place.layer, offset)
        else:
            raise InputError(
                f"tensor '{tensor}'",
                f"the recipe's result has {len(places)} layers",
                "slices",
                f"plan tensors of layers 0 to {len(places) - 1}",
            )


class _Values:
    """The values of one parameter within a slice (of one source, if the parameter is per source).

    Which clause speaks of a tensor is looked up once per component, or once per tensor where a
    filter is a part of a name.
    """

    __slots__ = ("_by_component", "_chosen", "_clauses", "_method", "_name")

    def __init__(self, name: str, places: tuple[Parameters, ...], rule: Rule) -> None:
        settings = (setting for items in places for key, setting in items if key == name)
        default = rule.default(name)
        silent = () if default is None else (Clause((default,)),)
        self._clauses = (*(c for setting in settings for c in setting.clauses), *silent)
        self._name, self._method = name, rule.name
        self._by_component = all(c.filter is None or c.filter in COMPONENTS for c in self._clauses)
        self._chosen: dict[str, Clause] = {}

    def at(self, tensor: str, depth: float) -> Scalar:
        key = role(tensor).component if self._by_component else tensor
        clause = self._chosen.get(key)
        if clause is None:
            clause = self._chosen[key] = self._first(tensor)
        return clause.values[0] if len(clause.values) == 1 else clause.at(depth)

    def _first(self, tensor: str) -> Clause:
        for clause in self._clauses:
            if clause.selects(tensor):
                return clause
        raise InputError(
            f"no value of '{self._name}'",
            f"method '{self._method}' needs one for every tensor",
            f"tensor {tensor}",
            f"set '{self._name}' under parameters, without a filter or for this tensor too",
        )


class _Part:
    """A slice with its parameters laid out for look-up.

    Attributes:
        length: its number of layers.
    """

    def __init__(self, recipe: "Recipe", part: "Slice", layers: int) -> None:
        self._recipe, self._rule = recipe, recipe.rule
        self._spans = [_span(entry, layers) for entry in part.inputs]
        self.length = self._spans[0][1] - self._spans[0][0]
        self._inputs = part.inputs
        names = self._rule.parameters
        own = [name for name in names if PARAMETERS[name].per_source]
        self._own = [
            [
                (p, _Values(p, (i.parameters, part.parameters, recipe.parameters), self._rule))
                for p in own
            ]
            for i in part.inputs
        ]
        self._shared = [
            (p, _Values(p, (part.parameters, recipe.parameters), self._rule))
            for p in names
            if p not in own
        ]

    def outside(self, tensor: str) -> TensorPlan:
        """The plan of a tensor outside the stack."""
        return self._plan(tensor, [tensor] * len(self._inputs), 0.0)

    def inside(self, tensor: str, layer: int, offset: int) -> TensorPlan:
        """The plan of a tensor of output layer `layer`, the slice's layer number `offset`."""
        names = [
            tensor if start + offset == layer else with_layer(tensor, start + offset)
            for start, _ in self._spans
        ]
        return self._plan(tensor, names, offset / (self.length - 1) if self.length > 1 else 1.0)

    def _plan(self, tensor: str, names: list[str], depth: float) -> TensorPlan:
        base: TensorInput | None = None
        inputs: list[TensorInput] = []
        for entry, name, own in zip(self._inputs, names, self._own, strict=True):
            if self._rule.needs_base and entry.source == self._recipe.base:
                base = TensorInput(entry.source, name, {})
            else:
                # As in mergekit, a source's own settings see the name of its tensor.
                values = {p: resolver.at(name, depth) for p, resolver in own}
                inputs.append(TensorInput(entry.source, name, values))
        if self._rule.needs_base and base is None and self._recipe.base is not None:
            base = TensorInput(self._recipe.base, inputs[0].tensor, {})
        shared = {p: resolver.at(tensor, depth) for p, resolver in self._shared}
        return TensorPlan(tensor, self._rule, base, tuple(inputs), shared, self._recipe.seed)


def _span(entry: "Input", layers: int) -> tuple[int, int]:
    span = entry.layers or (0, layers)
    if span[1] > layers:
        raise InputError(
            f"layer_range [{span[0]}, {span[1]}]",
            f"the source has {layers} layers",
            f"source {entry.source}",
            f"end the range at {layers} or before",
        )
    return span
