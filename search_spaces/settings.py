"""A parameter's values over a model's tensors: clauses that depend on the tensor and the depth."""

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces.roles import COMPONENTS, role

Scalar = float | bool | str

_EXACT = 1e-9
"""A place this close to a gradient's value is that value: l / (L-1) * (L-1) is not always l."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One value of a parameter, for the tensors that `filter` selects.

    Attributes:
        values: one value, or several: a gradient over the slice's depth (numbers are interpolated
            linearly, other values switch), as in mergekit.
        filter: a component name (`attn`, `mlp`, `norm`, `embed`, `lm_head`: matched by tensor role)
            or any part of a tensor's name; None selects every tensor.
    """

    values: tuple[Scalar, ...]
    filter: str | None = None

    def selects(self, tensor: str) -> bool:
        """Whether this clause speaks of the tensor of that name."""
        if self.filter is None:
            return True
        if self.filter in COMPONENTS:
            return role(tensor).component == self.filter
        return self.filter in tensor

    def at(self, depth: float) -> Scalar:
        """The value at `depth` in [0, 1] (0: the slice's first layer, 1: its last)."""
        place = depth * (len(self.values) - 1)
        nearest = round(place)
        if abs(place - nearest) < _EXACT:
            return self.values[nearest]
        low = int(place)
        first, second = self.values[low], self.values[low + 1]
        if isinstance(first, (bool, str)) or isinstance(second, (bool, str)):
            return first
        return first + (place - low) * (second - first)


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter's values over a model's tensors: the first clause that selects a tensor wins."""

    clauses: tuple[Clause, ...]

    @classmethod
    def constant(cls, value: Scalar) -> "Setting":
        """The same value everywhere."""
        return cls((Clause((value,)),))


Parameters = tuple[tuple[str, Setting], ...]
"""Settings by parameter name, sorted by name (a mapping that can be hashed)."""


def parameters(settings: Mapping[str, Setting]) -> Parameters:
    """`settings` in the form recipes hold."""
    return tuple(sorted(settings.items()))
