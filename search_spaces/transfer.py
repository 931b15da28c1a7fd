"""Genomes of one search space as genomes of another: what a new search may begin with.

Two searches over nearly the same models have most of their variables in common, by name or by
meaning. What a genome of the *old* space says is said again in the *new* one:

- Parameter spaces: a variable gets what the old genome says of the weights it speaks of, so a value of
  four layers is that of each of them in a finer space, and values of a finer space are averaged. A
  source that is new has weight 0, which leaves the model as it was, or a small one; its other numbers,
  and parameters that the old rule does not have, are those of the plain starting point. Numbers beyond
  a range are moved to its end, and counted.
- Stacks of layers: variables by name, and the stack has to come out the same, layer by layer.
- Hybrids: both.

Nothing is said of how good a candidate is: that is for the new search to find out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import InputError
from search_spaces.hybrid import HybridSpace
from search_spaces.indicator import IndicatorSpace
from search_spaces.parameter import ParameterSpace
from search_spaces.path import PathSpace
from search_spaces.path_slots import scale_column
from search_spaces.recipe import Recipe
from search_spaces.rules import METHOD, OVERRIDES
from search_spaces.settings import Scalar
from search_spaces.space import SearchSpace, to_unit
from search_spaces.templates import TemplateSpace
from search_spaces.transfer_values import LostError, Values, fitted_value
from search_spaces.variables import Genome, Real, Variable

_PER_SLOT = "hybrid (weights per slot)"

_NEIGHBOURS = 8
"""Numbers on either side among which one is looked for that gives a value exactly."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of a genome.

    Attributes:
        genome: in the new space; None: it cannot be said there.
        reason: why not.
        moved: variables whose value was moved into the new space's range.
    """

    genome: Genome | None
    reason: str = ""
    moved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transfer:
    """The way from one space to another.

    Attributes:
        old: where genomes come from.
        new: where they go.
        sources: old name -> new name, of the sources that both have.

    Raises:
        InputError: spaces of different kinds, hybrids of which one has weights per slot, rules that
            have no parameter in common.
    """

    old: SearchSpace
    new: SearchSpace
    sources: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        kinds = [_kind(space) for space in (self.old, self.new)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"a {kinds[0]} space's candidates for a {kinds[1]} space",
                "a genome means something in a space of its own kind only",
                "space.kind",
                f"search a {kinds[0]} space, or begin without them",
            )
        merges = merging(self.old), merging(self.new)
        if merges[0] is not None and merges[1] is not None:
            _require_common(merges[0], merges[1])

    def carried(self, genome: Genome, newcomers: float = 0.0) -> Carried:
        """What `genome` of the old space is in the new one.

        Args:
            genome: valid in the old space.
            newcomers: the weight of sources that the old space does not have.
        """
        try:
            found, moved = self._values(genome, newcomers)
        except LostError as lost:
            return Carried(None, str(lost))
        if not isinstance(self.new, ParameterSpace):
            alone = isinstance(self.new, HybridSpace)
            recipes = self.old.decode(genome), self.new.decode(found)
            before = _stack(recipes[0], _layers(self.old), self.sources, layers_only=alone)
            if before != _stack(recipes[1], _layers(self.new), {}, layers_only=alone):
                return Carried(None, "its stack of layers is none of the new space's")
            # Where both search them, those that move are counted by their variables' names.
            both = _searches_scales(self.old) and _searches_scales(self.new)
            if not both and _scales(recipes[0], _layers(self.old)) != _scales(
                recipes[1], _layers(self.new)
            ):
                moved.append("input_scale")
        return Carried(found, moved=tuple(moved))

    @property
    def losses(self) -> tuple[str, ...]:
        """Sentences: what no candidate takes along, as the new merges read or have no such thing."""
        old, new = merging(self.old), merging(self.new)
        if old is None or new is None:
            return ()
        rules = [tuple(rule.name for rule in space.rules) for space in (old, new)]
        found = list[str]()
        if not {*rules[0]} <= {*rules[1]}:
            before, now = (" or ".join(names) for names in rules)
            found.append(f"that run merged by {before}, this one by {now}: other models come of it")
        kept = {place.parameter for place in new.places}
        if _kind(self.old) != _PER_SLOT:  # what is fixed is counted, or dropped, by candidate
            kept |= {*new.fixed, METHOD, *OVERRIDES}
        lost = dict.fromkeys(p.parameter for p in old.places if p.parameter not in kept)
        if lost:
            found.append(f"this run does not search that run's {', '.join(lost)}: left out")
        return tuple(found)

    def _values(self, genome: Genome, newcomers: float) -> tuple[Genome, list[str]]:
        """The new genome, and the names of variables that were moved."""
        old, new = merging(self.old), merging(self.new)
        if old is None or new is None:
            return self._by_name(genome, {})
        if _kind(self.old) == _PER_SLOT:
            return self._by_name(genome, {}, newcomers)
        merge, moved = Values(old, new, self.sources).carried(
            genome[: len(old.variables)], newcomers
        )
        if isinstance(self.new, ParameterSpace):
            return merge, moved
        known = {v.name: value for v, value in zip(new.variables, merge, strict=True)}
        found, more = self._by_name(genome, known)
        return found, [*moved, *more]

    def _by_name(
        self, genome: Genome, known: Mapping[str, Scalar], newcomers: float = 0.0
    ) -> tuple[Genome, list[str]]:
        """Values by their variables' names, those of `known` first.

        What only the new space has is as in its first starting point, but for weights.
        """
        said = self._renamed(genome)
        rest = next(iter(self.new.seeds().values()))
        found: list[Scalar] = []
        moved: list[str] = []
        for variable, other in zip(self.new.variables, rest, strict=True):
            value = known.get(variable.name, said.get(variable.name))
            if value is None:
                value = self._implied(variable, other, newcomers)
            fits, was_moved = fitted_value(variable, value)
            if fits is None and isinstance(self.new, HybridSpace):
                raise LostError(f"{variable.name} '{value}' is not searched here")
            # Elsewhere what counts and does not fit changes the stack, which is looked at afterwards.
            found.append(other if fits is None else fits)
            moved += [variable.name] if was_moved else []
        return tuple(found), moved

    def _renamed(self, genome: Genome) -> dict[str, Scalar]:
        """The old genome by the names that its variables have in the new space."""
        names = sorted(self.sources, key=len, reverse=True)
        pattern = re.compile(rf"(?<=\.)({'|'.join(map(re.escape, names))})(?=\.|$)")
        found: dict[str, Scalar] = {}
        for variable, value in zip(self.old.variables, genome, strict=True):
            name = variable.name
            if names:
                name = pattern.sub(lambda match: self.sources[match[0]], name)
            found[name] = value
            if isinstance(value, str) and name != "template":
                found[name] = self.sources.get(value, value)
        return found

    def _implied(self, variable: Variable, other: Scalar, newcomers: float) -> Scalar:
        """What the old space says of a variable that it does not have."""
        old = self.old
        if _kind(old) == _PER_SLOT and "weight" in variable.name.split("."):
            return newcomers
        if variable.name == "depth" and isinstance(old, (PathSpace, HybridSpace)):
            return old.depth[0]
        if variable.name.endswith(".model") and isinstance(old, PathSpace):
            return self.sources.get(old.sources[0], other)
        if variable.name == "template" and isinstance(old, TemplateSpace):
            return old.variables[0].name.split(".")[0]
        return other


def point_of(space: SearchSpace, genome: Sequence[Scalar]) -> NDArray[np.float64]:
    """The point of the unit cube that gives exactly `genome`, shape [variables].

    `to_unit` and back may change a number in its last digit, and the recipe's hash with it: its
    answers would be paid for again. Where no point does, the nearest.

    Raises:
        InputError: see `check_genome`.
    """
    point = to_unit(space, genome)
    for place, (variable, value) in enumerate(zip(space.variables, genome, strict=True)):
        if isinstance(variable, Real):
            point[place] = _exactly(variable, float(value), float(point[place]))
    return point


def _exactly(variable: Real, value: float, u: float) -> float:
    low = high = min(max(u, 0.0), 1.0)
    for _ in range(_NEIGHBOURS):
        for near in (low, high):
            if 0.0 <= near <= 1.0 and variable.from_unit(near) == value:
                return near
        low, high = math.nextafter(low, -1.0), math.nextafter(high, 2.0)
    return min(max(u, 0.0), 1.0)


def _kind(space: SearchSpace) -> str:
    """What the run file calls the kind of a space, as far as genomes differ by it."""
    name = type(space).__name__.removesuffix("Space").lower()
    return _PER_SLOT if isinstance(space, HybridSpace) and space.per_slot else name


def _layers(space: SearchSpace) -> int:
    """Of each source."""
    merges = merging(space)
    if merges is not None:
        return merges.layers
    assert isinstance(space, (PathSpace, IndicatorSpace, TemplateSpace))
    return space.layers


def merging(space: SearchSpace) -> ParameterSpace | None:
    """How a space merges layers; None: it takes them as they are."""
    if isinstance(space, HybridSpace):
        return space.parameter
    return space if isinstance(space, ParameterSpace) else None


def _require_common(old: ParameterSpace, new: ParameterSpace) -> None:
    """Refuse rules that share no searched parameter."""
    found = [{place.parameter for place in space.places} for space in (old, new)]
    if not found[0] & found[1]:
        raise InputError(
            f"candidates of rule {' or '.join(r.name for r in old.rules)}",
            f"it has no searched parameter in common with {' or '.join(r.name for r in new.rules)}",
            "space.rule",
            "search a rule that shares one, or begin without them",
        )


def _stack(
    recipe: Recipe, layers: int, names: Mapping[str, str], *, layers_only: bool
) -> list[tuple[tuple[str, int], ...]]:
    """Per layer of a model, bottom first, the sources' layers that it is of.

    Args:
        recipe: of a stack.
        layers: of each source.
        names: what sources are called; others keep their names.
        layers_only: do not look at the sources.
    """
    found: list[tuple[tuple[str, int], ...]] = []
    for part in recipe.slices:
        start, stop = part.inputs[0].layers or (0, layers)
        for step in range(stop - start):
            inputs = {
                ("" if layers_only else names.get(i.source, i.source), (i.layers or (0,))[0] + step)
                for i in part.inputs
            }
            found.append(tuple(sorted(inputs)))
    return found


def _searches_scales(space: SearchSpace) -> bool:
    stacks = isinstance(space, (PathSpace, IndicatorSpace, HybridSpace))
    return stacks and bool(scale_column(space.input_scale))


def _scales(recipe: Recipe, layers: int) -> list[float]:
    """Per layer of a model, bottom first, the factor on what flows into it."""
    found: list[float] = []
    for part in recipe.slices:
        start, stop = part.inputs[0].layers or (0, layers)
        found += [part.input_scale, *[1.0] * (stop - start - 1)]
    return found
