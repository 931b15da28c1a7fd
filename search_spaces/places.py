"""Which weights of a model a variable of a parameter space speaks of, and how much of their value it is.

What two spaces of unlike granularity have in common are the weights: a variable for the whole stack
and one for its lowest layer both say something of that layer's attention. A *cell* is a layer and a
component; embeddings count to the lowest layer and the head to the highest, as in a recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.granularity import Depth, is_outer
from search_spaces.layout import Layout

Cell = tuple[int, str]
"""A layer, from 0, and a component."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variable's value goes.

    Attributes:
        parameter: what it is a value of.
        source: whose; None: the parameter is the tensor's, not a source's.
        reach: cell -> how much of the cell's value is this variable's, in (0, 1]; less than 1 between
            knots.
    """

    parameter: str
    source: str | None
    reach: Mapping[Cell, float]

    @property
    def own(self) -> list[Cell]:
        """The cells that it has the greatest share of: all of a group's, a knot's nearest."""
        most = max(self.reach.values(), default=0.0)
        return [cell for cell, share in self.reach.items() if share == most]


def places_of(
    layout: Layout, depth: Depth, groups: Sequence[tuple[str, tuple[str, ...]]], layers: int
) -> tuple[Place, ...]:
    """The place of each variable of a layout.

    Args:
        layout: of the space.
        depth: its cut along depth.
        groups: its cut across components: label and members.
        layers: of the model.
    """
    everything = tuple(component for _, members in groups for component in members)
    known = {"": _reach(everything, None, depth, layers)}
    for label, members in groups:
        levels = ("",) if is_outer(members) else depth.labels or ("",)
        for index, level in enumerate(levels):
            name = ".".join(filter(None, (level, label)))
            known[name] = _reach(members, index if level else None, depth, layers)
    return tuple(
        Place(parameter, source, known[group])
        for (parameter, source), group in zip(layout.owners, layout.groups, strict=True)
    )


def _reach(
    members: Sequence[str], index: int | None, depth: Depth, layers: int
) -> Mapping[Cell, float]:
    """The cells of some components that a value along depth (None: the only one) reaches."""
    found: dict[Cell, float] = {}
    for component in members:
        for layer in _layers_of(component, layers):
            share = 1.0 if index is None else _shares(depth, layer).get(index, 0.0)
            if share:
                found[layer, component] = share
    return found


def _layers_of(component: str, layers: int) -> Sequence[int]:
    outer = {"embed": [0], "lm_head": [layers - 1]}
    return outer.get(component, range(layers))


def _shares(depth: Depth, layer: int) -> Mapping[int, float]:
    """Value along depth -> its share of what a layer gets."""
    stretch = next(s for s in depth.stretches if s.start <= layer < s.stop)
    alone = len(stretch.mixes) == 1
    low, high, share = stretch.mixes[0 if alone else layer - stretch.start]
    return {low: 1.0 - share, high: share} if share else {low: 1.0}
