"""What a search space is, and what can be said of any of them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.settings import Scalar
from search_spaces.slots import Slots
from search_spaces.variables import Genome, Variable

Conditions = tuple[tuple[int, int] | None, ...]
"""Per variable of a space, when it is part of the recipe: the place of the `Choice` that governs it,
which always is, and the index of the option with which it is; None: always. (): all always are."""


class SearchSpace(Protocol):
    """Knows its variables and turns genomes into recipes."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables, in the genome's order; their names are unique."""
        ...

    def decode(self, genome: Genome) -> Recipe:
        """The recipe `genome` stands for; the same genome, the same recipe.

        Raises:
            InputError: the genome is none of this space (see `check_genome`).
        """
        ...

    def seeds(self) -> Mapping[str, Genome]:
        """Known good starting points by name: `uniform`, and each source alone by its name."""
        ...

    @property
    def slots(self) -> Slots | None:
        """Which variables form a list of variable length; None: each stands for itself."""
        ...

    @property
    def conditions(self) -> Conditions:
        """Which variables are part of the recipe only with some option of another."""
        ...

    @property
    def fragile(self) -> bool:
        """Whether almost all of its points are garbage, as stacks of layers in any order are.

        A search then begins with the seeds and small edits of them instead of random points, and
        the random baseline edits the seeds too; False: random points are worth something.
        """
        ...

    @property
    def most_layers(self) -> int:
        """Layers of the deepest recipe that it decodes to: an engine is built for so many."""
        ...


def from_unit(space: SearchSpace, u: NDArray[np.floating]) -> Genome:
    """The genome at a point of the unit cube.

    Args:
        space: the search space.
        u: shape [variables], each in [0, 1].

    Raises:
        InputError: another shape, or a coordinate outside [0, 1].
    """
    count = len(space.variables)
    inside = u.shape == (count,) and bool(np.all((u >= 0) & (u <= 1)))
    if not inside:
        raise InputError(
            f"a point of shape {u.shape}",
            f"it has {count} coordinates in [0, 1]",
            "search space",
            "clip it into the unit cube",
        )
    values: list[float] = u.tolist()
    return tuple(v.from_unit(x) for v, x in zip(space.variables, values, strict=True))


def to_unit(space: SearchSpace, genome: Sequence[Scalar]) -> NDArray[np.float64]:
    """The point of the unit cube that `genome` comes from, shape [variables].

    Raises:
        InputError: see `check_genome`.
    """
    check_genome(space, genome)
    units = [v.to_unit(x) for v, x in zip(space.variables, genome, strict=True)]
    return np.array(units, dtype=np.float64)


def named(space: SearchSpace, genome: Sequence[Scalar]) -> dict[str, Scalar]:
    """The genome's values by variable name.

    Raises:
        InputError: see `check_genome`.
    """
    check_genome(space, genome)
    return {v.name: x for v, x in zip(space.variables, genome, strict=True)}


def check_genome(space: SearchSpace, genome: Sequence[Scalar]) -> None:
    """Raise an `InputError` unless `genome` has one value per variable, of its kind and range."""
    if len(genome) != len(space.variables):
        raise InputError(
            f"a genome of {len(genome)} values",
            f"the space has {len(space.variables)} variables",
            "search space",
            "pass one value per variable",
        )
    for variable, value in zip(space.variables, genome, strict=True):
        if not variable.has(value):
            raise InputError(
                f"{variable.name} = {value!r}",
                f"it is {variable.domain}",
                "genome",
                "correct the value, or widen the space's range",
            )
