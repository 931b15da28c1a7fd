"""Variables: the typed, bounded, named coordinates of a genome.

Each kind maps the unit interval onto its values (`from_unit`) and back (`to_unit`), so that
searchers work in the unit cube and never see a type. A discrete variable cuts the interval into
equal cells, one per value; `to_unit` gives the cell's centre.
"""

import math
from dataclasses import dataclass

from search_spaces.errors import InputError
from search_spaces.settings import Scalar

Genome = tuple[Scalar, ...]
"""One point of a search space: a value per variable, in the space's order."""


@dataclass(frozen=True, slots=True)
class Real:
    """A real number in [`low`, `high`].

    Raises:
        InputError: the bounds are not finite, or `low` is not below `high`.
    """

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise _empty(self.name, f"[{self.low}, {self.high}]")

    @property
    def domain(self) -> str:
        """Its values, in words."""
        return f"a number in [{self.low:g}, {self.high:g}]"

    def has(self, value: Scalar) -> bool:
        """Whether `value` is one of its values."""
        return not isinstance(value, (bool, str)) and self.low <= value <= self.high

    def from_unit(self, u: float) -> float:
        """The value at `u` in [0, 1]; 0 and 1 are exactly the bounds."""
        return min(max(self.low * (1.0 - u) + self.high * u, self.low), self.high)

    def to_unit(self, value: Scalar) -> float:
        """Where in [0, 1] `value` lies (`from_unit` gives it back up to rounding)."""
        return (float(value) - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in [`low`, `high`], both included.

    Raises:
        InputError: `low` is above `high`.
    """

    name: str
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise _empty(self.name, f"[{self.low}, {self.high}]")

    @property
    def domain(self) -> str:
        """Its values, in words."""
        return f"a whole number in [{self.low}, {self.high}]"

    def has(self, value: Scalar) -> bool:
        """Whether `value` is one of its values."""
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
        )

    def from_unit(self, u: float) -> int:
        """The value whose cell holds `u` in [0, 1]."""
        return self.low + _cell(u, self.high - self.low + 1)

    def to_unit(self, value: Scalar) -> float:
        """The centre of the cell of `value`, in [0, 1]."""
        return (int(value) - self.low + 0.5) / (self.high - self.low + 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several options without an order.

    Raises:
        InputError: no options, or one of them stands twice.
    """

    name: str
    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) < len(self.options):
            raise _empty(self.name, f"options {list(self.options)}")

    @property
    def domain(self) -> str:
        """Its values, in words."""
        return f"one of {', '.join(map(str, self.options))}"

    def has(self, value: Scalar) -> bool:
        """Whether `value` is one of its values (True is not 1)."""
        return any(value == option and type(value) is type(option) for option in self.options)

    def from_unit(self, u: float) -> Scalar:
        """The option whose cell holds `u` in [0, 1]."""
        return self.options[_cell(u, len(self.options))]

    def to_unit(self, value: Scalar) -> float:
        """The centre of the cell of `value`, in [0, 1]."""
        return (self.options.index(value) + 0.5) / len(self.options)


Variable = Real | Integer | Choice


def levels(variable: Variable) -> int:
    """How many options without an order it has; 0 for a number."""
    return len(variable.options) if isinstance(variable, Choice) else 0


def _cell(u: float, cells: int) -> int:
    return min(int(u * cells), cells - 1)


def _empty(name: str, passed: str) -> InputError:
    return InputError(
        f"{name} = {passed}",
        "a variable has at least one value, each once, and a range's low end is below its high end",
        "search space",
        "correct the range",
    )
