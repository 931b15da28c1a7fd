"""What a genome of one parameter space says of the weights that another space's variables speak of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from search_spaces.parameter import ParameterSpace
from search_spaces.places import Cell, Place
from search_spaces.rules import METHOD, OVERRIDES
from search_spaces.settings import Scalar
from search_spaces.variables import Genome, Real, Variable

_Owner = tuple[str, str | None]
"""A parameter, and whose it is."""


class LostError(Exception):
    """A genome says what the new space cannot; the message says what."""


def fitted_value(variable: Variable, value: Scalar) -> tuple[Scalar | None, bool]:
    """A value as `variable` can have it, and whether it was moved to get there.

    A number beyond a range becomes its nearest end; None: the variable has nothing near.
    """
    if variable.has(value):
        return value, False
    if isinstance(variable, Real) and not isinstance(value, (bool, str)):
        return min(max(float(value), variable.low), variable.high), True
    return None, False


@dataclass(frozen=True)
class Values:
    """From one parameter space to another.

    Attributes:
        old, new: the spaces.
        sources: old name -> new name, of the sources that both have.
    """

    old: ParameterSpace
    new: ParameterSpace
    sources: Mapping[str, str]

    def carried(self, genome: Genome, newcomers: float) -> tuple[Genome, list[str]]:
        """The new space's genome, and the variables whose values were moved into their range.

        Args:
            genome: of the old space.
            newcomers: the weight of sources that the old space does not have.

        Raises:
            LostError: a choice that the new space does not have.
        """
        moved = self._fixed(genome)
        found: list[Scalar] = []
        variables = zip(self.new.variables, self.new.places, self._plain, strict=True)
        for variable, place, plain in variables:
            value = self._value(genome, place, plain, newcomers)
            fits, was_moved = fitted_value(variable, value)
            if fits is None:
                raise LostError(f"{place.parameter} '{value}' is not searched here")
            found.append(fits)
            moved += [variable.name] if was_moved else []
        return tuple(found), moved

    def _value(self, genome: Genome, place: Place, plain: Scalar, newcomers: float) -> Scalar:
        """What the old genome says of a new variable's weights."""
        source = None if place.source is None else self._before.get(place.source)
        if place.source is not None and source is None:
            return newcomers if place.parameter == "weight" else plain
        owner = place.parameter, source
        same = self._same(owner, place)
        if same is not None:
            return genome[same]
        said = [self._at(genome, owner, cell) for cell in place.own]
        known = [value for value in said if value is not None]
        if known:
            return _between(known)
        return self._unvaried(place.parameter, plain)

    def _unvaried(self, parameter: str, plain: Scalar) -> Scalar:
        """A parameter that the old space does not vary: fixed, its rule's own, or as the plain point."""
        if parameter == METHOD:
            return self.old.rules[0].name
        if parameter in self.old.fixed:
            return self.old.fixed[parameter]
        if parameter in OVERRIDES:
            return self.old.rules[0].choice(parameter)
        default = self.old.rules[0].default(parameter)
        return plain if default is None else default

    def _fixed(self, genome: Genome) -> list[str]:
        """Parameters that the old genome varies and the new space fixes to another number.

        Raises:
            LostError: to another choice.
        """
        varied = {place.parameter for place in self.new.places}
        moved: list[str] = []
        for place, value in zip(self.old.places, genome, strict=True):
            name = place.parameter
            there = None if name in varied else self._fixed_to(name)
            if there is None or there == value:
                continue
            if isinstance(value, (bool, str)):
                raise LostError(f"{name} '{value}' is not searched here")
            moved.append(name)
        return list(dict.fromkeys(moved))

    def _fixed_to(self, parameter: str) -> Scalar | None:
        if parameter == METHOD:
            return self.new.rules[0].name
        if parameter in OVERRIDES and parameter not in self.new.fixed:
            return self.new.rules[0].choice(parameter)
        return self.new.fixed.get(parameter)

    def _same(self, owner: _Owner, place: Place) -> int | None:
        """The old variable that speaks of the very same weights."""
        for number in self._owned.get(owner, ()):
            if self.old.places[number].reach == place.reach:
                return number
        return None

    def _at(self, genome: Genome, owner: _Owner, cell: Cell) -> Scalar | None:
        """What the old genome says of a cell; None: nothing."""
        found: list[tuple[float, Scalar]] = []
        for number in self._owned.get(owner, ()):
            share = self.old.places[number].reach.get(cell)
            if share is not None:
                found.append((share, genome[number]))
        numbers = [(s, v) for s, v in found if not isinstance(v, (bool, str))]
        if not found:
            return None
        if len(numbers) < len(found) or len(found) == 1:
            return max(found, key=lambda pair: pair[0])[1]
        return sum(share * value for share, value in numbers)

    @cached_property
    def _owned(self) -> Mapping[_Owner, Sequence[int]]:
        found: dict[_Owner, list[int]] = {}
        for number, place in enumerate(self.old.places):
            found.setdefault((place.parameter, place.source), []).append(number)
        return found

    @cached_property
    def _before(self) -> Mapping[str, str]:
        """New name -> old name."""
        return {new: old for old, new in self.sources.items()}

    @cached_property
    def _plain(self) -> Genome:
        return self.new.seeds()["uniform"]


def _between(values: Sequence[Scalar]) -> Scalar:
    """The mean of numbers, the most frequent of anything else; exactly, where all are equal."""
    first = values[0]
    if len(set(values)) == 1:
        return first
    numbers = [value for value in values if not isinstance(value, (bool, str))]
    if len(numbers) == len(values):
        return sum(numbers) / len(numbers)
    return Counter(values).most_common(1)[0][0]
