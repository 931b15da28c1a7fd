"""From a recipe to what is done for each tensor: every parameter resolved to a number.

A value is looked up in the source's own settings, then in the slice's, then in the recipe's, then
in the rule's default. Settings whose filters all miss a tensor fall through to the next place, so
the places together act as one list of clauses of which the first that selects the tensor wins. The
rule itself is looked up first, in the same way: its method and its stages may be settings too.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.composition import (
    CHOOSERS,
    check_composed,
    check_numbers,
    compares_numbers,
    compose,
    from_base_to_source,
)
from search_spaces.errors import InputError
from search_spaces.reach import Places
from search_spaces.roles import COMPONENTS, role, with_layer
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, RULES, Rule
from search_spaces.settings import Clause, Scalar
from search_spaces.stages import STAGES

if TYPE_CHECKING:
    from search_spaces.recipe import Input, Recipe, Slice


@dataclass(frozen=True, slots=True)
class TensorInput:
    """What one source contributes to one output tensor: its tensor's name and its parameters."""

    source: str
    tensor: str
    parameters: Mapping[str, Scalar]

    def number(self, name: str, otherwise: float | None = None) -> float:
        """The parameter `name` as a number; `otherwise` where the rule has no such parameter."""
        return _number(self.parameters, name, otherwise)


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one output tensor is made: a rule with every parameter resolved to a number.

    Attributes:
        tensor: the output tensor's name.
        rule: the rule in force for this tensor: each of its stages is as the recipe chose it
            (also by `normalize`, `rescale` and `rescale_norm`).
        base: the base's tensor, where the sources are seen from one; its parameters are empty.
        inputs: the others, in the recipe's order. The position keys the random masks.
        parameters: the tensor's own parameters (`lambda`, `t`, `normalize`, ...).
        seed: of the random masks.
        depth: place of the tensor's layer in the output: layer / (layers - 1) in [0, 1], 0 in a
            stack of one; None outside the stack.
    """

    tensor: str
    rule: Rule
    base: TensorInput | None
    inputs: tuple[TensorInput, ...]
    parameters: Mapping[str, Scalar]
    seed: int
    depth: float | None = None

    def choices(self) -> dict[str, str]:
        """Stage -> choice, as carried out."""
        return {stage: self.rule.choice(stage) for stage in STAGES}

    def number(self, name: str, otherwise: float | None = None) -> float:
        """The parameter `name` as a number; `otherwise` where the rule has no such parameter."""
        return _number(self.parameters, name, otherwise)

    def text(self, name: str) -> str:
        """The parameter `name`, one of several words."""
        return str(self.parameters[name])

    @property
    def merged(self) -> tuple[TensorInput, ...]:
        """What is combined: the inputs, for `slerp` from the base itself with the base first."""
        based = self.base is not None
        if self.base is None or not from_base_to_source(self.rule, based, len(self.inputs)):
            return self.inputs
        return (self.base, *self.inputs)


def _number(values: Mapping[str, Scalar], name: str, otherwise: float | None) -> float:
    value = values[name] if otherwise is None else values.get(name, otherwise)
    assert not isinstance(value, str), name
    return float(value)


def plans(recipe: "Recipe", tensors: Iterable[str], layers: int) -> Iterator[TensorPlan]:
    """What `Recipe.plans` returns (see there)."""
    parts = [_Part(recipe, part, layers) for part in recipe.slices]
    places = [(part, offset) for part in parts for offset in range(part.length)]
    deepest = max(len(places) - 1, 1)
    for tensor in tensors:
        place = role(tensor)
        if place.layer is None:
            part = parts[0] if place.component == "embed" else parts[-1]
            yield part.outside(tensor)
        elif place.layer < len(places):
            part, offset = places[place.layer]
            yield part.inside(tensor, place.layer, offset, place.layer / deepest)
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

    Args:
        name: the parameter's.
        places: the settings in the order in which they are asked.
        default: the value where none of them speaks; None: there is none.
        method: the rule's name, for the error.
    """

    __slots__ = ("_by_component", "_chosen", "_clauses", "_method", "_name")

    def __init__(self, name: str, places: Places, default: Scalar | None, method: str) -> None:
        settings = (setting for items in places for key, setting in items if key == name)
        silent = () if default is None else (Clause((default,)),)
        self._clauses: tuple[Clause, ...] = (
            *(c for setting in settings for c in setting.clauses),
            *silent,
        )
        self._name, self._method = name, method
        self._by_component = all(c.filter is None or c.filter in COMPONENTS for c in self._clauses)
        self._chosen: dict[str, Clause | None] = {}

    @property
    def constant(self) -> Scalar | None:
        """The value, if it is one and the same for every tensor."""
        if not self._clauses:
            return None
        first = self._clauses[0]
        return first.values[0] if first.filter is None and len(first.values) == 1 else None

    def at(self, tensor: str, depth: float) -> Scalar:
        """The value for `tensor` at `depth` in [0, 1] of the slice."""
        value = self.said(tensor, depth)
        if value is None:
            raise InputError(
                f"no value of '{self._name}'",
                f"method '{self._method}' needs one for every tensor",
                f"tensor {tensor}",
                f"set '{self._name}' under parameters, without a filter or for this tensor too",
            )
        return value

    def said(self, tensor: str, depth: float) -> Scalar | None:
        """The same, None where there is none."""
        key = role(tensor).component if self._by_component else tensor
        if key not in self._chosen:
            self._chosen[key] = next((c for c in self._clauses if c.selects(tensor)), None)
        clause = self._chosen[key]
        if clause is None:
            return None
        return clause.values[0] if len(clause.values) == 1 else clause.at(depth)


@dataclass(frozen=True, slots=True)
class _Laid:
    """A rule in force within a slice, with its parameters laid out for look-up."""

    rule: Rule
    own: list["_Table"]
    shared: "_Table"


class _Table:
    """Parameters by name; those that are the same for every tensor are looked up once."""

    __slots__ = ("_constants", "_varying")

    def __init__(self, values: Mapping[str, _Values]) -> None:
        constants = {name: found.constant for name, found in values.items()}
        # In the declaration's order, whichever vary.
        self._constants: dict[str, Scalar] = {
            name: 0.0 if value is None else value for name, value in constants.items()
        }
        self._varying = [(n, found) for n, found in values.items() if constants[n] is None]

    def at(self, tensor: str, depth: float) -> dict[str, Scalar]:
        """The parameters of `tensor` at `depth` in [0, 1] of the slice."""
        found = self._constants.copy()
        for name, values in self._varying:
            found[name] = values.at(tensor, depth)
        return found


class _Part:
    """A slice with its parameters laid out for look-up.

    Attributes:
        length: its number of layers.
    """

    def __init__(self, recipe: "Recipe", part: "Slice", layers: int) -> None:
        self._recipe, self._inputs = recipe, part.inputs
        self._based = recipe.based
        self._spans = [_span(entry, layers) for entry in part.inputs]
        self.length = self._spans[0][1] - self._spans[0][0]
        self._places: Places = (part.parameters, recipe.parameters)
        spoken = {name for items in self._places for name, _ in items}
        self._choosers = [
            (name, _Values(name, self._places, None, recipe.method))
            for name in CHOOSERS
            if name in spoken
        ]
        self._laid: dict[tuple[Scalar | None, ...], _Laid] = {}

    def outside(self, tensor: str) -> TensorPlan:
        """The plan of a tensor outside the stack."""
        return self._plan(tensor, [tensor] * len(self._inputs), 0.0, None)

    def inside(self, tensor: str, layer: int, offset: int, depth: float) -> TensorPlan:
        """The plan of a tensor of output layer `layer`, the slice's layer number `offset`."""
        names = [
            tensor if start + offset == layer else with_layer(tensor, start + offset)
            for start, _ in self._spans
        ]
        within = offset / (self.length - 1) if self.length > 1 else 1.0
        return self._plan(tensor, names, within, depth)

    def _plan(
        self, tensor: str, names: list[str], within: float, depth: float | None
    ) -> TensorPlan:
        laid = self._laid_for(tensor, within)
        base: TensorInput | None = None
        inputs: list[TensorInput] = []
        sees_base = self._based and laid.rule.takes_base
        for entry, name, own in zip(self._inputs, names, laid.own, strict=True):
            if self._is_base(entry, laid.rule):
                base = TensorInput(entry.source, name, {})
            else:
                # As in mergekit, a source's own settings see the name of its tensor.
                inputs.append(TensorInput(entry.source, name, own.at(name, within)))
        if sees_base and base is None and self._recipe.base is not None:
            base = TensorInput(self._recipe.base, inputs[0].tensor, {})
        shared = laid.shared.at(tensor, within)
        if compares_numbers(laid.rule):
            check_numbers(laid.rule, shared, [i.parameters for i in inputs], f"tensor {tensor}")
        seed = self._recipe.seed
        return TensorPlan(tensor, laid.rule, base, tuple(inputs), shared, seed, depth)

    def _laid_for(self, tensor: str, within: float) -> _Laid:
        """The rule in force for `tensor`."""
        key = tuple(values.said(tensor, within) for _, values in self._choosers)
        if key not in self._laid:
            names = [name for name, _ in self._choosers]
            pairs = zip(names, key, strict=True)
            said = {name: value for name, value in pairs if value is not None}
            rule = compose(RULES[str(said.get(METHOD, self._recipe.method))], self._based, said)
            others = sum(not self._is_base(entry, rule) for entry in self._inputs)
            check_composed(rule, self._based, others, f"tensor {tensor}")
            self._laid[key] = self._lay(rule)
        return self._laid[key]

    def _lay(self, rule: Rule) -> _Laid:
        names = [name for name in rule.parameters if name not in OVERRIDES]
        own = [name for name in names if PARAMETERS[name].per_source]

        def table(chosen: list[str], places: Places) -> _Table:
            return _Table(
                {name: _Values(name, places, rule.default(name), rule.name) for name in chosen}
            )

        return _Laid(
            rule,
            [table(own, (entry.parameters, *self._places)) for entry in self._inputs],
            table([name for name in names if name not in own], self._places),
        )

    def _is_base(self, entry: "Input", rule: Rule) -> bool:
        return self._based and rule.takes_base and entry.source == self._recipe.base


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
